// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vDSO/parse_vdso.h"
#include "clock.h"

vdso_clock_gettime_t vdso_clock_gettime;
vdso_gettimeofday_t vdso_gettimeofday;

int clock_init(void)
{
	unsigned long base = getauxval(AT_SYSINFO_EHDR);

	if (!base)
		return -ENOENT;
	vdso_init_from_sysinfo_ehdr(base);
	vdso_clock_gettime = (vdso_clock_gettime_t)vdso_sym("LINUX_2.6", "__vdso_clock_gettime");
	vdso_gettimeofday = (vdso_gettimeofday_t)vdso_sym("LINUX_2.6", "__vdso_gettimeofday");
	return vdso_clock_gettime && vdso_gettimeofday ? 0 : -ENOENT;
}

int clock_gettime_syscall(clockid_t id, struct timespec *ts)
{
	return (int)syscall(SYS_clock_gettime, id, ts);
}

const char *clock_name(clockid_t id)
{
	switch (id) {
	case CLOCK_REALTIME:
		return "CLOCK_REALTIME";
	case CLOCK_MONOTONIC:
		return "CLOCK_MONOTONIC";
	case CLOCK_MONOTONIC_RAW:
		return "CLOCK_MONOTONIC_RAW";
	case CLOCK_BOOTTIME:
		return "CLOCK_BOOTTIME";
	case CLOCK_TAI:
		return "CLOCK_TAI";
	case CLOCK_MONOTONIC_COARSE:
		return "CLOCK_MONOTONIC_COARSE";
	case CLOCK_REALTIME_COARSE:
		return "CLOCK_REALTIME_COARSE";
	case CLOCK_AUX:
		return "CLOCK_AUX";
	default:
		return "?";
	}
}

void sleep_ns(__s64 ns)
{
	struct timespec ts = {
		.tv_sec = ns / NSEC_PER_SEC,
		.tv_nsec = ns % NSEC_PER_SEC,
	};

	while (nanosleep(&ts, &ts) && errno == EINTR)
		;
}
