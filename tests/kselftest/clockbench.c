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
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

/* The clock whose turn it is. */
static char clock_name_now[CS_NAME], mode_now[16];

static void figure(const char *name, const char *unit, long long value)
{
	printf("bench: clock=%s mode=%s name=%s unit=%s value=%lld\n", clock_name_now, mode_now,
	       name, unit, value);
}

static int complain(const char *what, int err)
{
	fprintf(stderr, "clockbench: %s: %s: %s\n", clock_name_now, what, strerror(-err));
	return 1;
}

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
		figure(name, "instructions", least_ticks(vdso_clock_gettime, ids[i].id));
		snprintf(name, sizeof(name), "syscall.%s", ids[i].name);
		figure(name, "instructions", least_ticks(clock_gettime_syscall, ids[i].id));
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
		return complain(KBENCH_RESULT, err);
	snprintf(own, sizeof(own), "read:%s", clock_name_now);
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		value = strrchr(line, ' ');
		if (!value)
			return complain(KBENCH_RESULT, -EINVAL);
		*value++ = '\0';
		if (!strcmp(line, own))
			snprintf(name, sizeof(name), "kernel.read");
		else if (strncmp(line, "read:", 5))
			snprintf(name, sizeof(name), "kernel.%s", line);
		else
			continue;
		figure(name, "instructions", atoll(value));
	}
	return 0;
}

/* What a CPU costs, the last one of those online, and what a reading costs beside as many. */
static int hotplug(int online)
{
	__u64 start, down = UINT64_MAX, up = UINT64_MAX;
	char name[64];
	int err, turn;

	for (turn = 0; turn < TURNS; turn++) {
		start = rdtsc_ordered();
		err = cpu_set_online(online - 1, false);
		start = rdtsc_ordered() - start;
		down = start < down ? start : down;
		if (err)
			return complain("a CPU does not go down", err);
		start = rdtsc_ordered();
		err = cpu_set_online(online - 1, true);
		start = rdtsc_ordered() - start;
		up = start < up ? start : up;
		if (err)
			return complain("a CPU does not come up", err);
	}
	snprintf(name, sizeof(name), "cpus%d.down", online);
	figure(name, "ticks", down);
	snprintf(name, sizeof(name), "cpus%d.up", online);
	figure(name, "ticks", up);
	snprintf(name, sizeof(name), "cpus%d.vdso.monotonic", online);
	figure(name, "instructions", least_ticks(vdso_clock_gettime, CLOCK_MONOTONIC));
	snprintf(name, sizeof(name), "cpus%d.syscall.monotonic", online);
	figure(name, "instructions", least_ticks(clock_gettime_syscall, CLOCK_MONOTONIC));
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
	figure("drift.over", "s", seconds);
	figure("drift.off", "ns", off);
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
		return complain("no other clocksource", err);
	for (turn = 0; turn < TURNS; turn++) {
		start = rdtsc_ordered();
		err = paraclock_load(params);
		start = rdtsc_ordered() - start;
		if (err)
			return complain("insmod", err);
		load = start < load ? start : load;
		if (turn == 0 &&
		    file_read("/sys/module/" MODULE_NAME "/coresize", size, sizeof(size)) > 0)
			figure("module.core", "bytes", atoll(size));
		start = rdtsc_ordered();
		err = module_unload(MODULE_NAME);
		start = rdtsc_ordered() - start;
		if (err)
			return complain("rmmod", err);
		unload = start < unload ? start : unload;
	}
	figure("module.insmod", "ticks", load);
	figure("module.rmmod", "ticks", unload);
	return 0;
}

/* Whose turn it is: loads it where it is the driver's, and selects it. */
static int begin(const char *what, bool first)
{
	const char *params = strchr(what, ':');
	struct status status;
	int err;

	snprintf(clock_name_now, sizeof(clock_name_now), "%.*s", (int)strcspn(what, ":"), what);
	strcpy(mode_now, "-");
	params = params ? params + 1 : "";
	if (!strcmp(clock_name_now, MODULE_NAME)) {
		err = paraclock_load(params);
		if (!err)
			err = status_read(&status);
		if (!err && !status_get(&status, "mode", mode_now, sizeof(mode_now)))
			err = -EINVAL;
		if (err)
			return complain("insmod", err);
		if (first) {
			err = paraclock_unload();
			if (err)
				return complain("rmmod", err);
			if (module_turns(params))
				return 1;
			err = paraclock_load(params);
			if (err)
				return complain("insmod", err);
		}
	}
	err = cs_is_available(clock_name_now) ? cs_select(clock_name_now) : -ENOENT;
	return err ? complain("cannot be selected", err) : 0;
}

/* A figure that is not of this clock is none. */
static int end(void)
{
	int err = cs_is_current(clock_name_now) ? paraclock_unload() : -EAGAIN;

	return err ? complain("is not current any more", err) : 0;
}

static int on_one_cpu(const char *what, unsigned int seconds)
{
	if (begin(what, true))
		return 1;
	readings();
	if (kernel_readings())
		return 1;
	if (seconds)
		drift(seconds);
	return end();
}

static int on_cpus(const char *what, int online)
{
	return begin(what, false) || hotplug(online) || end();
}

/*
 * Wakes up now and then on the first CPU. Where all CPUs of the guest share one of a host that is
 * emulated, a CPU that comes up may otherwise spin until the next timer of another one fires.
 */
static void *tick(void *arg)
{
	pin_to_cpu(0);
	for (;;)
		sleep_ns(NSEC_PER_SEC / 50);
	return arg;
}

/* Brings all CPUs up, or all but the first down. */
static int all_cpus(bool online)
{
	char path[64];
	int cpu, err;

	for (cpu = 1; ; cpu++) {
		snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", cpu);
		if (!file_exists(path))
			return 0;
		err = cpu_set_online(cpu, online);
		if (err) {
			fprintf(stderr, "clockbench: cpu%d: %s\n", cpu, strerror(-err));
			return 1;
		}
	}
}

int main(int argc, char **argv)
{
	char original[CS_NAME] = "", path[64];
	unsigned int seconds = 0;
	int option, err, i, online, failed = 0;
	pthread_t ticker;

	while ((option = getopt(argc, argv, "d:")) == 'd')
		seconds = atoi(optarg);
	if (option != -1 || optind == argc) {
		fprintf(stderr, "Usage: %s [-d SECONDS] CLOCKSOURCE[:PARAMETERS]...\n", argv[0]);
		return 2;
	}
	if (clock_init()) {
		fprintf(stderr, "clockbench: no vDSO in this process\n");
		return 1;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	debugfs_mount();
	err = module_load(KBENCH_KO, "");
	if (err && err != -EEXIST) {
		fprintf(stderr, "clockbench: %s: %s\n", KBENCH_KO, strerror(-err));
		return 1;
	}
	cs_current(original, sizeof(original));
	err = paraclock_unload();
	if (err) {
		fprintf(stderr, "clockbench: rmmod: %s\n", strerror(-err));
		return 1;
	}
	/* One CPU, so that no run is split between two. */
	pin_to_cpu(0);
	if (pthread_create(&ticker, NULL, tick, NULL)) {
		fprintf(stderr, "clockbench: no thread\n");
		return 1;
	}
	/* The first time costs more than any other. */
	failed |= all_cpus(true) || all_cpus(false);
	for (i = optind; i < argc; i++)
		failed |= on_one_cpu(argv[i], seconds);
	/* The others come up one after the other, and stay. */
	for (online = 2; !failed; online++) {
		snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", online - 1);
		if (!file_exists(path))
			break;
		/* By a clock that is cheap to read: the kernel waits for the CPU, and looks at it. */
		err = cs_select(original);
		if (!err)
			err = cpu_set_online(online - 1, true);
		if (err)
			failed |= complain("a CPU does not come up", err);
		/* Powers of 2. */
		for (i = optind; !(online & (online - 1)) && i < argc; i++)
			failed |= on_cpus(argv[i], online);
	}
	cs_select(original);
	return failed;
}
