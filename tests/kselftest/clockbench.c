// SPDX-License-Identifier: GPL-2.0
/*
 * clockbench [-d SECONDS] CLOCKSOURCE[:PARAMETERS]...: what the clocks cost, each in its turn, in
 * TSC ticks. Under an emulator whose TSC counts instructions, that is instructions. The driver is
 * loaded for its own turn, with these parameters.
 *
 * A figure is a line "bench: clock=NAME mode=MODE name=FIGURE unit=UNIT value=VALUE": of readings
 * the least of 48 runs of 100 calls; of what can be done once at a time the least of three turns,
 * in ticks: it waits as well, and the TSC counts that. CPUs that are offline at first come up for
 * the figures "cpusN.*", when N are online. With -d the clock is compared with the TSC over so many
 * seconds, on the assumption that the TSC counts nanoseconds.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/bench.h"
#include "lib/clock.h"
#include "lib/clocksource.h"
#include "lib/files.h"
#include "lib/module.h"
#include "lib/status.h"

/* A second is gone through in so many sets of runs, of so many calls. */
#define SETS	8
#define RUNS	6
#define CALLS	100
/* Of what is done once at a time. */
#define TURNS	3

#define KBENCH_KO	MODULE_DIR "/paraclock_bench.ko"
#define KBENCH_RESULT	DEBUGFS "/paraclock_bench/result"

/*
 * A reading of the clocks by the kernel carries nanoseconds over to the second or does not, by what
 * part of a second it is, which takes some instructions: hence the sets.
 */
static __u64 least_ticks(vdso_clock_gettime_t clock, clockid_t id)
{
	__u64 least = UINT64_MAX;
	struct timespec ts;
	int run, call;

	for (run = 0; run < SETS * RUNS; run++) {
		__u64 start, ticks;

		if (run && run % RUNS == 0)
			sleep_ns(NSEC_PER_SEC / SETS);
		start = rdtsc_ordered();
		for (call = 0; call < CALLS; call++)
			clock(id, &ts);
		ticks = rdtsc_ordered() - start;
		if (ticks < least)
			least = ticks;
	}
	return least / CALLS;
}

static void readings(void)
{
	static const struct {
		clockid_t id;
		const char *name;
	} ids[] = {
		{ CLOCK_MONOTONIC, "monotonic" },
		{ CLOCK_REALTIME, "realtime" },
		{ CLOCK_BOOTTIME, "boottime" },
		{ CLOCK_MONOTONIC_RAW, "monotonic_raw" },
	};
	char name[64];
	size_t i;

	for (i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
		snprintf(name, sizeof(name), "vdso.%s", ids[i].name);
		bench_figure(name, "instructions", least_ticks(vdso_clock_gettime, ids[i].id));
		snprintf(name, sizeof(name), "syscall.%s", ids[i].name);
		bench_figure(name, "instructions", least_ticks(clock_gettime_syscall, ids[i].id));
	}
}

/* What the module in the kernel has measured. */
static int kernel_readings(void)
{
	char text[4096], own[CS_NAME + 8], *line, *save, *value;
	char name[64];
	int err;

	err = file_read(KBENCH_RESULT, text, sizeof(text));
	if (err < 0)
		return bench_complain(KBENCH_RESULT, err);
	snprintf(own, sizeof(own), "read:%s", bench_clock());
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		value = strrchr(line, ' ');
		if (!value)
			return bench_complain(KBENCH_RESULT, -EINVAL);
		*value++ = '\0';
		if (!strcmp(line, own))
			snprintf(name, sizeof(name), "kernel.read");
		else if (strncmp(line, "read:", 5))
			snprintf(name, sizeof(name), "kernel.%s", line);
		else
			continue;
		bench_figure(name, "instructions", atoll(value));
	}
	return 0;
}

/* What the driver did when the last CPU started, which is all that it adds to that. */
static __u64 starting(void)
{
	struct status status;
	char value[32];

	if (status_read(&status) ||
	    !status_get(&status, "starting_last_cycles", value, sizeof(value)))
		return UINT64_MAX;
	return strtoull(value, NULL, 10);
}

/* What a CPU costs, the last one of those online, and what a reading costs beside as many. */
static int hotplug(int online)
{
	__u64 start, down = UINT64_MAX, up = UINT64_MAX, ours = UINT64_MAX;
	char name[64];
	int err, turn;

	for (turn = 0; turn < TURNS; turn++) {
		start = rdtsc_ordered();
		err = cpu_set_online(online - 1, false);
		start = rdtsc_ordered() - start;
		down = start < down ? start : down;
		if (err)
			return bench_complain("a CPU does not go down", err);
		start = rdtsc_ordered();
		err = cpu_set_online(online - 1, true);
		start = rdtsc_ordered() - start;
		up = start < up ? start : up;
		if (err)
			return bench_complain("a CPU does not come up", err);
		start = bench_of_driver() ? starting() : UINT64_MAX;
		ours = start < ours ? start : ours;
	}
	snprintf(name, sizeof(name), "cpus%d.down", online);
	bench_figure(name, "ticks", down);
	snprintf(name, sizeof(name), "cpus%d.up", online);
	bench_figure(name, "ticks", up);
	if (bench_of_driver()) {
		snprintf(name, sizeof(name), "cpus%d.starting", online);
		bench_figure(name, "instructions", ours);
	}
	snprintf(name, sizeof(name), "cpus%d.vdso.monotonic", online);
	bench_figure(name, "instructions", least_ticks(vdso_clock_gettime, CLOCK_MONOTONIC));
	snprintf(name, sizeof(name), "cpus%d.syscall.monotonic", online);
	bench_figure(name, "instructions", least_ticks(clock_gettime_syscall, CLOCK_MONOTONIC));
	return 0;
}

/* The clock, in ns, between two readings of the TSC that are as close as can be. */
static __u64 anchored(__u64 *tsc)
{
	__u64 best = UINT64_MAX, ns = 0;
	int i;

	for (i = 0; i < 1000; i++) {
		__u64 before = rdtsc_ordered();
		__u64 now = vdso_ns(CLOCK_MONOTONIC);
		__u64 width = rdtsc_ordered() - before;

		if (width < best) {
			best = width;
			ns = now;
			*tsc = before + width / 2;
		}
	}
	return ns;
}

static void drift(unsigned int seconds)
{
	__u64 tsc_before, tsc_after, before, after;
	__s64 off;

	before = anchored(&tsc_before);
	sleep(seconds);
	after = anchored(&tsc_after);
	off = (__s64)((after - before) - (tsc_after - tsc_before));
	bench_figure("drift.over", "s", seconds);
	bench_figure("drift.off", "ns", off);
}

/* What it takes to load and to unload the driver, while it is not selected. */
static int module_turns(const char *params)
{
	__u64 load = UINT64_MAX, unload = UINT64_MAX, start;
	char other[CS_NAME], size[32];
	int err, turn;

	err = cs_other(MODULE_NAME, other, sizeof(other));
	if (!err)
		err = cs_select(other);
	if (err)
		return bench_complain("no other clocksource", err);
	for (turn = 0; turn < TURNS; turn++) {
		start = rdtsc_ordered();
		err = paraclock_load(params);
		start = rdtsc_ordered() - start;
		if (err)
			return bench_complain("insmod", err);
		load = start < load ? start : load;
		if (turn == 0 &&
		    file_read("/sys/module/" MODULE_NAME "/coresize", size, sizeof(size)) > 0)
			bench_figure("module.core", "bytes", atoll(size));
		start = rdtsc_ordered();
		err = module_unload(MODULE_NAME);
		start = rdtsc_ordered() - start;
		if (err)
			return bench_complain("rmmod", err);
		unload = start < unload ? start : unload;
	}
	bench_figure("module.insmod", "ticks", load);
	bench_figure("module.rmmod", "ticks", unload);
	return 0;
}

static int on_one_cpu(const char *what, unsigned int seconds)
{
	if (bench_begin(what))
		return 1;
	if (bench_of_driver() &&
	    (bench_end() || module_turns(bench_parameters(what)) || bench_begin(what)))
		return 1;
	readings();
	if (kernel_readings())
		return 1;
	if (seconds)
		drift(seconds);
	return bench_end();
}

static int on_cpus(const char *what, int online)
{
	return bench_begin(what) || hotplug(online) || bench_end();
}

int main(int argc, char **argv)
{
	unsigned int seconds = 0;
	int err, i, failed;

	failed = bench_init(argc, argv, &seconds);
	if (failed)
		return failed;
	err = module_load(KBENCH_KO, "");
	if (err && err != -EEXIST) {
		fprintf(stderr, "clockbench: %s: %s\n", KBENCH_KO, strerror(-err));
		return bench_exit(1);
	}
	for (i = optind; i < argc; i++)
		failed |= on_one_cpu(argv[i], seconds);
	return bench_exit(failed || bench_on_cpus(argc, argv, on_cpus));
}
