// SPDX-License-Identifier: GPL-2.0
#include <linux/ptp_clock.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "clock.h"
#include "files.h"
#include "module.h"
#include "ptp.h"

#define PTP_KVM_NAME	"KVM virtual PTP"
#define PTP_MAX		8

int ptp_open(void)
{
	char path[64], name[64];
	int i, fd;

	if (!module_is_loaded("ptp_kvm"))
		module_load(MODULE_DIR "/ptp_kvm.ko", "");

	for (i = 0; i < PTP_MAX; i++) {
		snprintf(path, sizeof(path), "/sys/class/ptp/ptp%d/clock_name", i);
		if (file_read(path, name, sizeof(name)) <= 0 || strcmp(name, PTP_KVM_NAME))
			continue;
		snprintf(path, sizeof(path), "/dev/ptp%d", i);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		return fd < 0 ? -errno : fd;
	}
	return -ENODEV;
}

static __s64 ptp_ns(const struct ptp_clock_time *time)
{
	return time->sec * NSEC_PER_SEC + time->nsec;
}

int ptp_cross_timestamp(int fd, struct cross_timestamp *stamp)
{
	struct ptp_sys_offset_precise precise = { 0 };

	if (ioctl(fd, PTP_SYS_OFFSET_PRECISE, &precise))
		return -errno;
	stamp->host_ns = ptp_ns(&precise.device);
	stamp->realtime_ns = ptp_ns(&precise.sys_realtime);
	stamp->raw_ns = ptp_ns(&precise.sys_monoraw);
	return 0;
}
