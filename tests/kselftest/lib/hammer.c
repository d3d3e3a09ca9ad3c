// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "files.h"
#include "hammer.h"
#include "module.h"
#include "status.h"

#define HAMMER_NAME "paraclock_hammer"
#define HAMMER_DIR DEBUGFS "/" HAMMER_NAME "/"

int hammer_load(void)
{
	const char *path = getenv("PARACLOCK_HAMMER_KO");
	int err;

	if (!path || !*path)
		path = MODULE_DIR "/" HAMMER_NAME ".ko";
	if (!module_is_loaded(HAMMER_NAME)) {
		err = module_load(path, "");
		if (err)
			return err;
	}
	return debugfs_mount();
}

void hammer_unload(void)
{
	module_unload(HAMMER_NAME);
}

int hammer_run(unsigned int seconds, struct hammer_result *result)
{
	char text[2048], *line;
	int err;

	*result = (struct hammer_result){ 0 };
	snprintf(text, sizeof(text), "%u\n", seconds);
	err = file_write(HAMMER_DIR "run", text);
	if (err)
		return err;
	err = file_read(HAMMER_DIR "result", text, sizeof(text));
	if (err < 0)
		return err;
	if (sscanf(text, "reads %llu backward %llu worst_ns %llu",
		   &result->reads, &result->backward, &result->worst_ns) != 3)
		return -EPROTO;
	for (line = strchr(text, '\n'); line && result->clocks < HAMMER_CLOCKS;
	     line = strchr(line + 1, '\n')) {
		struct hammer_clock *clock = &result->clock[result->clocks];

		if (sscanf(line, "\nclock %15s reads %llu backward %llu worst_ns %llu", clock->name,
			   &clock->reads, &clock->backward, &clock->worst_ns) == 4)
			result->clocks++;
	}
	return 0;
}

int hammer_agree(const char *backend, struct hammer_agreement *result)
{
	char path[128], text[256];
	int err;

	snprintf(path, sizeof(path), HAMMER_DIR "agree_%s", backend);
	err = file_read(path, text, sizeof(text));
	if (err < 0)
		return err;
	if (sscanf(text, "pairs %llu worst_ns %llu hw_outside %llu generic %llu", &result->pairs,
		   &result->worst_ns, &result->hw_outside, &result->generic) != 4)
		return -EPROTO;
	return 0;
}

int hammer_refcount(struct hammer_refcount *result)
{
	char text[256];
	int err;

	err = file_read(HAMMER_DIR "refcount", text, sizeof(text));
	if (err < 0)
		return err;
	if (sscanf(text, "pairs %llu worst_ns %llu narrowest_ns %llu low_ns %lld high_ns %lld",
		   &result->pairs, &result->worst_ns, &result->narrowest_ns, &result->low_ns,
		   &result->high_ns) != 5)
		return -EPROTO;
	return 0;
}
