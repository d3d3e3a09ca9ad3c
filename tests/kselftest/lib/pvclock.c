// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "pvclock.h"

/* x86 keeps loads in order: only the compiler has to be held back. */
#define READ_ONCE(x)	(*(const volatile typeof(x) *)&(x))
#define barrier()	__asm__ __volatile__("" : : : "memory")

/*
 * An access to the mapping raises SIGBUS where the kernel does not back it. The
 * outcome of a child's access tells, without a handler in this process.
 */
static bool page_is_backed(const struct pvclock_vcpu_time_info *page)
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid) {
		(void)READ_ONCE(page->version);
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return false;
	return WIFEXITED(status) && !WEXITSTATUS(status);
}

const struct pvclock_vcpu_time_info *pvclock_page(void)
{
	const struct pvclock_vcpu_time_info *page;
	unsigned long start = 0;
	char line[256];
	FILE *maps;

	maps = fopen("/proc/self/maps", "re");
	if (!maps)
		return NULL;
	while (fgets(line, sizeof(line), maps)) {
		if (strstr(line, "[vvar_vclock]") && sscanf(line, "%lx-", &start) == 1)
			break;
		start = 0;
	}
	fclose(maps);
	if (!start) {
		errno = ENOENT;
		return NULL;
	}

	page = (const struct pvclock_vcpu_time_info *)start;
	if (!page_is_backed(page)) {
		errno = EFAULT;
		return NULL;
	}
	return page;
}

static __u64 scale_delta(__u64 delta, __u32 mul, __s8 shift)
{
	if (shift < 0)
		delta >>= -shift;
	else
		delta <<= shift;
	return (__u64)(((unsigned __int128)delta * mul) >> 32);
}

bool pvclock_read(const struct pvclock_vcpu_time_info *page, struct pvclock_reading *reading)
{
	int tries;

	for (tries = 0; tries < 1000000; tries++) {
		/* An odd version, an update under way, never compares equal below. */
		__u32 version = READ_ONCE(page->version) & ~(__u32)1;

		barrier();
		reading->tsc = rdtsc_ordered();
		reading->ns = page->system_time +
			      scale_delta(reading->tsc - page->tsc_timestamp,
					  page->tsc_to_system_mul, page->tsc_shift);
		reading->flags = page->flags;
		reading->version = version;
		barrier();
		if (READ_ONCE(page->version) == version)
			return true;
	}
	return false;
}

void agreement_init(struct agreement *a)
{
	memset(a, 0, sizeof(*a));
	a->low = INT64_MIN;
	a->high = INT64_MAX;
	a->narrowest = UINT64_MAX;
}

void agreement_sample(struct agreement *a, const struct pvclock_vcpu_time_info *page,
		      __u64 (*clock_read)(clockid_t id), __s64 fake)
{
	struct pvclock_reading before, after;
	__s64 low, high;
	__u64 raw;

	if (!pvclock_read(page, &before)) {
		a->stuck++;
		return;
	}
	raw = clock_read(CLOCK_MONOTONIC_RAW);
	if (!pvclock_read(page, &after)) {
		a->stuck++;
		return;
	}
	if (before.version != after.version) {
		a->torn++;
		return;
	}

	low = (__s64)(raw - after.ns) - fake;
	high = (__s64)(raw - before.ns) - fake;
	if (low > a->low)
		a->low = low;
	if (high < a->high)
		a->high = high;
	if (after.ns - before.ns < a->narrowest)
		a->narrowest = after.ns - before.ns;
	a->samples++;
}

__s64 agreement_gap(const struct agreement *a)
{
	return a->samples ? a->low - a->high : 0;
}
