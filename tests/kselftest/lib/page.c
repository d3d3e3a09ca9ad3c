// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "page.h"

#define PAGE_SIZE	4096

/*
 * An access to the mapping raises SIGBUS where the kernel does not back it. The
 * outcome of a child's access tells, without a handler in this process.
 */
static bool page_is_backed(const char *page)
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid) {
		(void)READ_ONCE(*page);
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return false;
	return WIFEXITED(status) && !WEXITSTATUS(status);
}

bool page_clock_open(struct page_clock *clock, const char *backend)
{
	bool hyperv = !strcmp(backend, "hyperv");
	unsigned long start = 0;
	const char *page;
	char line[256];
	FILE *maps;

	*clock = (struct page_clock){ 0 };
	maps = fopen("/proc/self/maps", "re");
	if (!maps)
		return false;
	while (fgets(line, sizeof(line), maps)) {
		if (strstr(line, "[vvar_vclock]") && sscanf(line, "%lx-", &start) == 1)
			break;
		start = 0;
	}
	fclose(maps);
	if (!start) {
		errno = ENOENT;
		return false;
	}

	page = (const char *)start + (hyperv ? PAGE_SIZE : 0);
	if (!page_is_backed(page)) {
		errno = EFAULT;
		return false;
	}
	clock->page = page;
	clock->read = hyperv ? hv_page_read : pvclock_read;
	return true;
}

bool page_clock_read(const struct page_clock *clock, struct page_reading *reading)
{
	return clock->read(clock->page, reading);
}

void agreement_init(struct agreement *a)
{
	memset(a, 0, sizeof(*a));
	a->low = INT64_MIN;
	a->high = INT64_MAX;
	a->narrowest = UINT64_MAX;
}

void agreement_sample(struct agreement *a, const struct page_clock *page,
		      __u64 (*clock_read)(clockid_t id), __s64 fake)
{
	struct page_reading before, after;
	__s64 low, high;
	__u64 raw;

	if (!page_clock_read(page, &before)) {
		a->stuck++;
		return;
	}
	raw = clock_read(CLOCK_MONOTONIC_RAW);
	if (!page_clock_read(page, &after)) {
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
