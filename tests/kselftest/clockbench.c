// SPDX-License-Identifier: GPL-2.0
/*
 * clockbench CLOCKSOURCE[:PARAMETERS]...: what one clock_gettime(CLOCK_MONOTONIC) costs, in
 * TSC ticks: the least of 200 runs of 100 calls, by the vDSO and by the system call. Under
 * an emulator whose TSC counts instructions, that is instructions. The driver is loaded for its
 * own turn, with these parameters.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "lib/clock.h"
#include "lib/clocksource.h"
#include "lib/files.h"
#include "lib/module.h"

#define RUNS	200
#define CALLS	100

static __u64 least_ticks(vdso_clock_gettime_t clock)
{
	__u64 least = UINT64_MAX;
	struct timespec ts;
	int run, call;

	for (run = 0; run < RUNS; run++) {
		__u64 start = rdtsc_ordered(), ticks;

		for (call = 0; call < CALLS; call++)
			clock(CLOCK_MONOTONIC, &ts);
		ticks = rdtsc_ordered() - start;
		if (ticks < least)
			least = ticks;
	}
	return least / CALLS;
}

static int run_clock(const char *what)
{
	const char *params = strchr(what, ':');
	char name[CS_NAME];
	bool ours;
	int err = 0;

	snprintf(name, sizeof(name), "%.*s", (int)strcspn(what, ":"), what);
	ours = !strcmp(name, MODULE_NAME);
	if (ours)
		err = paraclock_unload();
	if (ours && !err)
		err = paraclock_load(params ? params + 1 : "");
	if (!err)
		err = cs_is_available(name) ? cs_select(name) : -ENOENT;
	if (err) {
		fprintf(stderr, "clockbench: %s: %s\n", what, strerror(-err));
		return 1;
	}
	printf("bench: clock=%s path=vdso ticks=%llu\n", what, least_ticks(vdso_clock_gettime));
	printf("bench: clock=%s path=syscall ticks=%llu\n", what,
	       least_ticks(clock_gettime_syscall));
	return 0;
}

int main(int argc, char **argv)
{
	char original[CS_NAME] = "";
	int i, failed = 0;

	if (argc < 2) {
		fprintf(stderr, "Usage: %s CLOCKSOURCE[:PARAMETERS]...\n", argv[0]);
		return 2;
	}
	if (clock_init()) {
		fprintf(stderr, "clockbench: no vDSO in this process\n");
		return 1;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	cs_current(original, sizeof(original));
	/* One CPU, so that no run is split between two. */
	pin_to_cpu(0);
	for (i = 1; i < argc; i++)
		failed |= run_clock(argv[i]);
	cs_select(original);
	return failed;
}
