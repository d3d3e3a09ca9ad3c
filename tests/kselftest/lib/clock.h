/* SPDX-License-Identifier: GPL-2.0 */
/* Readings of the POSIX clocks, by the vDSO and by the system call. */
#ifndef PARACLOCK_CLOCK_H
#define PARACLOCK_CLOCK_H

#include <linux/types.h>
#include <stdint.h>
#include <sys/time.h>
#include <time.h>

#ifndef CLOCK_TAI
#define CLOCK_TAI 11
#endif
/* The first one. */
#ifndef CLOCK_AUX
#define CLOCK_AUX 16
#endif

#define NSEC_PER_SEC 1000000000LL

typedef int (*vdso_clock_gettime_t)(clockid_t id, struct timespec *ts);
typedef int (*vdso_gettimeofday_t)(struct timeval *tv, struct timezone *tz);

extern vdso_clock_gettime_t vdso_clock_gettime;
extern vdso_gettimeofday_t vdso_gettimeofday;

/*
 * Finds the vDSO's functions through AT_SYSINFO_EHDR: not the C library's, which
 * might go by the system call. 0, or -ENOENT without a vDSO.
 */
int clock_init(void);

int clock_gettime_syscall(clockid_t id, struct timespec *ts);
const char *clock_name(clockid_t id);
void sleep_ns(__s64 ns);

static inline __u64 timespec_ns(const struct timespec *ts)
{
	return (__u64)ts->tv_sec * NSEC_PER_SEC + ts->tv_nsec;
}

static inline __u64 vdso_ns(clockid_t id)
{
	struct timespec ts;

	vdso_clock_gettime(id, &ts);
	return timespec_ns(&ts);
}

static inline __u64 syscall_ns(clockid_t id)
{
	struct timespec ts;

	clock_gettime_syscall(id, &ts);
	return timespec_ns(&ts);
}

static inline __u64 rdtsc_ordered(void)
{
	__u32 low, high;

	__asm__ __volatile__("lfence\n\trdtsc\n\tlfence" : "=a" (low), "=d" (high) : : "memory");
	return (__u64)high << 32 | low;
}

#endif
