// SPDX-License-Identifier: GPL-2.0
/*
 * kexec_into kexec|crash KERNEL INITRD COMMAND_LINE: loads the second kernel and goes into
 * it, by kexec or by a panic. Returns only if that fails; the verdict is the second
 * kernel's (msr_clear).
 */
#include <linux/kexec.h>
#include <linux/reboot.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/files.h"

static int fail(const char *what, int err)
{
	fprintf(stderr, "kexec_into: %s: %s (%d)\n", what, strerror(err), err);
	return 1;
}

int main(int argc, char **argv)
{
	bool crash = argc == 5 && !strcmp(argv[1], "crash");
	int kernel, initrd, err;

	if (argc != 5 || (!crash && strcmp(argv[1], "kexec"))) {
		fprintf(stderr, "Usage: %s kexec|crash KERNEL INITRD COMMAND_LINE\n", argv[0]);
		return 2;
	}
	kernel = open(argv[2], O_RDONLY | O_CLOEXEC);
	if (kernel < 0)
		return fail(argv[2], errno);
	initrd = open(argv[3], O_RDONLY | O_CLOEXEC);
	if (initrd < 0)
		return fail(argv[3], errno);

	/* The length counts the terminating zero. */
	if (syscall(SYS_kexec_file_load, kernel, initrd, strlen(argv[4]) + 1, argv[4],
		    crash ? KEXEC_FILE_ON_CRASH : 0))
		return fail("kexec_file_load (CONFIG_KEXEC_FILE; to crash, crashkernel=)", errno);

	sync();
	if (!crash) {
		syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2,
			LINUX_REBOOT_CMD_KEXEC, NULL);
		return fail("reboot", errno);
	}
	file_write("/proc/sys/kernel/sysrq", "1");
	err = file_write("/proc/sysrq-trigger", "c");
	sleep_ns(5 * NSEC_PER_SEC);
	return fail("/proc/sysrq-trigger (needs CONFIG_MAGIC_SYSRQ)", -err);
}
