// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clocksource.h"
#include "files.h"
#include "module.h"

int module_load(const char *path, const char *params)
{
	int fd, err;

	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	err = syscall(SYS_finit_module, fd, params ? params : "", 0) ? -errno : 0;
	close(fd);
	return err;
}

int module_unload(const char *name)
{
	return syscall(SYS_delete_module, name, O_NONBLOCK) ? -errno : 0;
}

bool module_is_loaded(const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/module/%s/initstate", name);
	return file_exists(path);
}

const char *paraclock_ko(void)
{
	const char *path = getenv("PARACLOCK_KO");

	return path && *path ? path : MODULE_DIR "/" MODULE_NAME ".ko";
}

const char *paraclock_args(void)
{
	const char *args = getenv("PARACLOCK_ARGS");

	return args ? args : "";
}

int paraclock_load(const char *more)
{
	char args[256];

	snprintf(args, sizeof(args), "%s %s", paraclock_args(), more);
	return module_load(paraclock_ko(), args);
}

int paraclock_unload(void)
{
	char other[CS_NAME];
	int err;

	if (!module_is_loaded(MODULE_NAME))
		return 0;
	if (cs_is_current(MODULE_NAME)) {
		err = cs_other(MODULE_NAME, other, sizeof(other));
		if (!err)
			err = cs_select(other);
		if (err)
			return err;
	}
	return module_unload(MODULE_NAME);
}
