// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"
#include "clock.h"
#include "clocksource.h"
#include "files.h"
#include "module.h"
#include "status.h"

/* How long a mode may take. */
#define PATIENCE_MS	5000

static char clock_now[CS_NAME], mode_now[16], original[CS_NAME];

const char *bench_clock(void)
{
	return clock_now;
}

const char *bench_mode(void)
{
	return mode_now;
}

bool bench_of_driver(void)
{
	return !strcmp(clock_now, MODULE_NAME);
}

const char *bench_parameters(const char *what)
{
	const char *params = strchr(what, ':');

	return params ? params + 1 : "";
}

void bench_figure(const char *name, const char *unit, long long value)
{
	printf("bench: clock=%s mode=%s name=%s unit=%s value=%lld\n", clock_now, mode_now, name,
	       unit, value);
}

int bench_complain(const char *what, int err)
{
	fprintf(stderr, "bench: %s: %s: %s\n", clock_now, what, strerror(-err));
	return 1;
}

/* Into the mode that is asked for, which the driver may take a while to enter. */
static int into_mode(const char *params)
{
	const char *asked = strstr(params, "mode=");
	struct status status;
	int err, i;

	for (i = 0; i < PATIENCE_MS; i++) {
		err = status_read(&status);
		if (!err && !status_get(&status, "mode", mode_now, sizeof(mode_now)))
			err = -EINVAL;
		if (err)
			return err;
		if (!asked || !strcmp(mode_now, asked + strlen("mode=")))
			return 0;
		sleep_ns(NSEC_PER_SEC / 1000);
	}
	status_print(&status);
	return -ETIMEDOUT;
}

int bench_begin(const char *what)
{
	int err;

	snprintf(clock_now, sizeof(clock_now), "%.*s", (int)strcspn(what, ":"), what);
	strcpy(mode_now, "-");
	if (bench_of_driver()) {
		err = paraclock_load(bench_parameters(what));
		if (err)
			return bench_complain("insmod", err);
		err = into_mode(bench_parameters(what));
		if (err)
			return bench_complain("the mode that was asked for", err);
	}
	err = cs_is_available(clock_now) ? cs_select(clock_now) : -ENOENT;
	return err ? bench_complain("cannot be selected", err) : 0;
}

int bench_end(void)
{
	int err = cs_is_current(clock_now) ? paraclock_unload() : -EAGAIN;

	return err ? bench_complain("is not current any more", err) : 0;
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
			fprintf(stderr, "bench: cpu%d: %s\n", cpu, strerror(-err));
			return 1;
		}
	}
}

int bench_init(int argc, char **argv, unsigned int *seconds)
{
	pthread_t ticker;
	int option, err;

	while ((option = getopt(argc, argv, "d:")) == 'd')
		*seconds = atoi(optarg);
	if (option != -1 || optind == argc) {
		fprintf(stderr, "Usage: %s [-d SECONDS] CLOCKSOURCE[:PARAMETERS]...\n", argv[0]);
		return 2;
	}
	if (clock_init()) {
		fprintf(stderr, "bench: no vDSO in this process\n");
		return 1;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	debugfs_mount();
	cs_current(original, sizeof(original));
	err = paraclock_unload();
	if (err) {
		fprintf(stderr, "bench: rmmod: %s\n", strerror(-err));
		return 1;
	}
	/* One CPU, so that no run is split between two. */
	pin_to_cpu(0);
	if (pthread_create(&ticker, NULL, tick, NULL)) {
		fprintf(stderr, "bench: no thread\n");
		return 1;
	}
	/* The first time costs more than any other. */
	return all_cpus(true) || all_cpus(false);
}

int bench_exit(int failed)
{
	cs_select(original);
	return failed;
}

int bench_on_cpus(int argc, char **argv, int (*each)(const char *what, int online))
{
	int online, err, i, failed = 0;
	char path[64];

	/* One after the other, and they stay. */
	for (online = 2; !failed; online++) {
		snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", online - 1);
		if (!file_exists(path))
			break;
		/* By a clock that is cheap to read: the kernel waits for the CPU, and looks at it. */
		err = cs_select(original);
		if (!err)
			err = cpu_set_online(online - 1, true);
		if (err)
			failed |= bench_complain("a CPU does not come up", err);
		/* Powers of 2. */
		for (i = optind; !(online & (online - 1)) && i < argc; i++)
			failed |= each(argv[i], online);
	}
	return failed;
}
