// SPDX-License-Identifier: GPL-2.0
/*
 * updatebench [-d SECONDS] CLOCKSOURCE[:PARAMETERS]...: on the test host, what it costs that the
 * TSC or the mode changes under a running clock, in instructions: for an emulator that counts
 * them, and whose TSC runs at 1 GHz and so counts them too. Figures as those of clockbench, the
 * least of 16 turns, and ".most" the most:
 *
 * update.bracket	from before the driver has stopped the readers until they have gone on, in a
 *			migration, by the driver itself; ".bracket_4ghz" at another frequency
 * update.ack		from the migration, which interrupts at once, to its acknowledgment, by the host
 * update.to_page	as update.bracket, of the change of the mode from tsc to page, and back:
 * update.to_tsc	in ticks: with CONFIG_JUMP_LABEL the kernel's readers are patched as well
 *
 * and the same as "cpusN.*", with N CPUs online. With -d the clock is compared with the host's, over
 * so many seconds without a migration and over as many with one a second.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/bench.h"
#include "lib/clock.h"
#include "lib/files.h"
#include "lib/module.h"
#include "lib/status.h"
#include "lib/testhost.h"
#include "lib/track.h"

#define TURNS		16
/* Of which so many have to come to a figure. */
#define ENOUGH		12
/* What the emulator counts as one instruction: the TSC's frequency, in kHz. */
#define COUNTED_KHZ	1000000
/* The highest frequency that the tests know, of which the TSC counts four for one. */
#define FAST_KHZ	(4 * COUNTED_KHZ)
#define PATIENCE_S	5
/* Until the driver has looked at the page after an update, and is at rest. */
#define REST_NS		(NSEC_PER_SEC / 20)

#define MODE_PARAMETER	"/sys/module/" MODULE_NAME "/parameters/mode"

struct cost {
	__u64 least, most;
	int turns;
};

static void add(struct cost *cost, __u64 value)
{
	if (!cost->turns || value < cost->least)
		cost->least = value;
	if (value > cost->most)
		cost->most = value;
	cost->turns++;
}

/* One that few turns came to would be one of luck. */
static int tell(const char *before, const char *what, const char *unit, const struct cost *cost)
{
	char name[64];

	if (cost->turns < ENOUGH) {
		fprintf(stderr, "updatebench: %s, %s%s: expected %d turns or more, seen %d\n",
			bench_clock(), before, what, ENOUGH, cost->turns);
		return 1;
	}
	snprintf(name, sizeof(name), "%s%s", before, what);
	bench_figure(name, unit, cost->least);
	snprintf(name, sizeof(name), "%s%s.most", before, what);
	bench_figure(name, unit, cost->most);
	return 0;
}

/* The status file's numbers that tell one update from another. */
struct seen {
	long long brackets, migrations, cycles;
};

static long long number(const struct status *status, const char *key)
{
	char value[32];

	return status_get(status, key, value, sizeof(value)) ? strtoll(value, NULL, 10) : -1;
}

static struct seen look(void)
{
	struct seen seen = { -1, -1, -1 };
	struct status status;

	if (!status_read(&status)) {
		seen.brackets = number(&status, "brackets");
		seen.migrations = number(&status, "migrations");
		seen.cycles = number(&status, "bracket_last_cycles");
	}
	return seen;
}

/* One migration, and no return before the guest has acknowledged it. */
static int migrate(int khz, long long jump)
{
	__u32 generation = ruler_generation();

	if (!testhost_do("migrate khz=%d jump=%lld", khz, jump)) {
		fprintf(stderr, "updatebench: the host answers '%s'\n", testhost_reply());
		return 1;
	}
	if (!ruler_wait_generation(generation + 1, PATIENCE_S)) {
		fprintf(stderr, "updatebench: not acknowledged in %d s\n", PATIENCE_S);
		return 1;
	}
	return 0;
}

/*
 * The TSC jumps and goes on at the frequency that it had, so that it counts instructions before
 * and after. What the guest does about it is the same as with any other.
 */
static int migrations_at(const char *before, int khz, const char *bracket_name)
{
	bool is_tsc = bench_of_driver() && !strcmp(bench_mode(), "tsc");
	struct cost bracket = { 0 }, ack = { 0 };
	int turn;

	for (turn = 0; turn < TURNS; turn++) {
		struct seen was = look(), is;

		if (migrate(khz, turn % 2 ? -1000000000 : 1000000000))
			return 1;
		is = look();
		if (!testhost_do("trace count=1"))
			return 1;
		/* Of this clock's host nobody is asked. */
		if (!strstr(testhost_reply(), " why=ack "))
			return 0;
		add(&ack, testhost_value("hostns") - testhost_value("askedns"));
		/* Unless another update came between, that was the last one. */
		if (is.migrations == was.migrations + 1 && is.brackets == was.brackets + 1)
			add(&bracket, is.cycles / (khz / COUNTED_KHZ));
		sleep_ns(REST_NS);
	}
	if (khz == COUNTED_KHZ && tell(before, "update.ack", "instructions", &ack))
		return 1;
	return is_tsc && tell(before, bracket_name, "instructions", &bracket);
}

static int migrations(const char *before)
{
	return migrations_at(before, COUNTED_KHZ, "update.bracket");
}

/* How long it takes to find a multiplier depends on the frequency. */
static int migrations_fast(void)
{
	if (migrate(FAST_KHZ, 0))
		return 1;
	sleep_ns(REST_NS);
	return migrations_at("", FAST_KHZ, "update.bracket_4ghz") || migrate(COUNTED_KHZ, 0);
}

static int into(const char *mode, struct cost *cost)
{
	struct seen was = look(), is;
	char text[16];
	int err;

	snprintf(text, sizeof(text), "%s\n", mode);
	err = file_write(MODE_PARAMETER, text);
	if (err)
		return bench_complain(MODE_PARAMETER, err);
	is = look();
	if (is.brackets == was.brackets + 1)
		add(cost, is.cycles);
	sleep_ns(REST_NS);
	return 0;
}

static int modes(const char *before)
{
	struct cost to_page = { 0 }, to_tsc = { 0 };
	int turn;

	if (!bench_of_driver() || strcmp(bench_mode(), "tsc"))
		return 0;
	for (turn = 0; turn < TURNS; turn++)
		if (into("page", &to_page) || into("tsc", &to_tsc))
			return 1;
	return tell(before, "update.to_page", "ticks", &to_page) ||
	       tell(before, "update.to_tsc", "ticks", &to_tsc);
}

static __s64 off(void)
{
	return range_middle(track_reference(CLOCK_MONOTONIC_RAW));
}

static int drift(unsigned int seconds)
{
	static const int khz[] = { 3100000, 1200000, 4000000, 1000000, 2600000, 2000000 };
	static const char *const names[] = { "drift.off", "drift.migrated.off" };
	unsigned int i, with;

	bench_figure("drift.over", "s", seconds);
	for (with = 0; with < 2; with++) {
		__s64 before, worst = 0;

		/* At a frequency that no multiplier is exact for. */
		if (migrate(2100003, 0))
			return 1;
		sleep_ns(REST_NS);
		before = off();
		for (i = 0; i < seconds; i++) {
			__s64 now;

			sleep(1);
			now = off() - before;
			if (llabs(now) > llabs(worst))
				worst = now;
			if (with && migrate(khz[i % 6], i % 2 ? -1000000000 : 1000000000))
				return 1;
		}
		sleep_ns(REST_NS);
		bench_figure(names[with], "ns", off() - before);
		bench_figure(with ? "drift.migrated.worst" : "drift.worst", "ns", worst);
	}
	return migrate(COUNTED_KHZ, 0);
}

static int on_one_cpu(const char *what, unsigned int seconds)
{
	return bench_begin(what) || migrations("") || migrations_fast() || modes("") ||
	       (seconds && drift(seconds)) || bench_end();
}

static int on_cpus(const char *what, int online)
{
	char before[16];

	snprintf(before, sizeof(before), "cpus%d.", online);
	return bench_begin(what) || migrations(before) || modes(before) || bench_end();
}

int main(int argc, char **argv)
{
	unsigned int seconds = 0;
	int i, failed;

	if (!testhost_present()) {
		fprintf(stderr, "updatebench: not on the test host\n");
		return 1;
	}
	failed = bench_init(argc, argv, &seconds);
	if (failed)
		return failed;
	for (i = optind; i < argc; i++)
		failed |= on_one_cpu(argv[i], seconds);
	return bench_exit(failed || bench_on_cpus(argc, argv, on_cpus));
}
