/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A host that goes wrong, one fault after the other, under everybody who reads the clocks: none
 * goes back; where the host takes back what mode tsc stands on, the driver leaves it within 100 ms,
 * and returns when the ground is back. Then a storm of such things, which a seed makes. In a
 * header, as fixture.h.
 */
#ifndef PARACLOCK_FAULTS_H
#define PARACLOCK_FAULTS_H

#include "updatefixture.h"

#define LEAVE_MS	100
/* The driver holds off, so that a host that flaps does not make it flap. */
#define RETURN_MS	20000
#define FAULT_NS	(NSEC_PER_SEC / 4)
/*
 * How often the mode is looked at, by a thread as urgent as the driver's poll. What it lacks of
 * its own turns the machine has taken, which has fewer CPUs than the guest: that is nobody's delay.
 */
#define TURN_NS		(NSEC_PER_SEC / 1000)
/* A notification that was lost is found by reading the status, at a slow pace. */
#define FOUND_SECONDS	10
#define STEP_NS		200000
#define HELD_SECONDS	20
#define SEED		42
#define STORM_RATE	100
#define STORM_COUNT	1000

enum mode_then {
	STAYS,		/* in the mode that it was in */
	LEAVES,		/* tsc */
	MAY,
};

struct fault {
	const char *name;
	/* Up to three commands; MIGRATE in front of one makes it a migration to somewhere. */
	const char *command[3];
	enum mode_then mode;
	/* Migrations that have to be through in the end. */
	unsigned int switches;
	/* ... though not before the host is healed. */
	bool after_heal;
	/* The page says what is not so: who reads it and nothing else is wrong, and cannot know. */
	bool lie;
	/* ... so that the kernel dies of its own sched_clock(), which reads it: when asked for. */
	bool deadly;
};

#define MIGRATE	"@"

/* Does a command that is not one of the host's own, or returns false. */
typedef bool (*play_fn)(const char *command);

static bool tsc;
/*
 * In mode page of Hyper-V's: once the page has failed the counter is read in its place for as long as
 * so many readers hold one another back. What was loaded anew begins with the page.
 */
static bool counter;

static __u64 backward(const struct everybody *e)
{
	return readers_count(e->readers, -1, -1).backward;
}

static void play(const char *command, play_fn special)
{
	if (*command == *MIGRATE)
		somewhere(command + 1);
	else if (!special(command))
		must("%s", command);
}

/* A module that was just loaded has no memory of what the host has done to it. */
static void reload(const struct options *options)
{
	int err = paraclock_unload();

	if (err)
		ksft_exit_fail_msg("unloading: expected success, got %s (%d)\n", strerror(-err),
				   -err);
	require_clock(options);
	if (!wait_for_mode(expected().mode, RETURN_MS))
		ksft_exit_fail_msg("loaded again: mode %s expected\n", expected().mode);
}

/* A kernel that watches its locks, as that of `make check-debug`, takes some times as long for everything. */
static unsigned int leave_ms(void)
{
	return file_exists("/proc/lockdep") ? 4 * LEAVE_MS : LEAVE_MS;
}

/* What the driver says of its mode. */
static void print_why(void)
{
	struct status status;
	char why[128];

	if (!status_read(&status) && status_get(&status, "why", why, sizeof(why)))
		ksft_print_msg("the driver says why: %s\n", why);
}

/* True if it was played. */
static bool one(const struct fault *fault, const struct everybody *e, play_fn special)
{
	__u64 stepped = backward(e), start, last, now, left = 0, taken = 0;
	__u32 generation = ruler_generation();
	bool right = true, was_away = false;
	char mode[32];
	size_t i;

	if (fault->deadly && !told("PARACLOCK_FAULT")) {
		ksft_test_result_skip("%s: the kernel's sched_clock() believes it, and dies of it\n",
				      fault->name);
		return false;
	}
	if (fault->lie && !tsc) {
		ksft_test_result_skip("%s: mode %s believes it\n", fault->name, expected().mode);
		return false;
	}
	start = ruler_ns();
	for (i = 0; i < ARRAY_SIZE(fault->command) && fault->command[i]; i++)
		play(fault->command[i], special);
	last = start;
	while (last - start < FAULT_NS + taken) {
		if (tsc && !was_away && !mode_is("tsc")) {
			left = ruler_ns() - start;
			was_away = true;
		}
		sleep_ns(TURN_NS);
		now = ruler_ns();
		if (!was_away && now - last > 2 * TURN_NS)
			taken += now - last - 2 * TURN_NS;
		last = now;
	}
	if (!fault->after_heal && fault->switches &&
	    !wait_for_switch(generation + fault->switches - 1, FOUND_SECONDS)) {
		ksft_print_msg("expected %u switches in %d s, seen %d\n", fault->switches,
			       FOUND_SECONDS, (int)(ruler_generation() - generation));
		right = false;
	}
	must("heal");
	if (fault->after_heal && fault->switches &&
	    !wait_for_switch(generation + fault->switches - 1, FOUND_SECONDS)) {
		ksft_print_msg("healed: expected %u switches in %d s, seen %d\n", fault->switches,
			       FOUND_SECONDS, (int)(ruler_generation() - generation));
		right = false;
	}
	if (tsc && fault->mode == LEAVES && (!was_away || left > leave_ms() * 1000000ull + taken)) {
		mode_now(mode, sizeof(mode));
		ksft_print_msg("mode: expected another than tsc within %u ms and the %llu that this machine took, seen %s after %llu ms\n",
			       leave_ms(), taken / 1000000, was_away ? "another" : mode,
			       (was_away ? left : last - start) / 1000000);
		print_why();
		right = false;
	}
	if (tsc && fault->mode == STAYS && was_away) {
		ksft_print_msg("mode: expected tsc all the time, left after %llu ms\n",
			       left / 1000000);
		right = false;
	}
	start = ruler_ns();
	if (!counter && !wait_for_mode(expected().mode, RETURN_MS)) {
		mode_now(mode, sizeof(mode));
		ksft_print_msg("mode: expected %s within %d ms from then on, seen %s\n",
			       expected().mode, RETURN_MS, mode);
		print_why();
		right = false;
	} else if (was_away) {
		ksft_print_msg("left after %llu ms, of which the machine took %llu, back %llu ms after the end\n",
			       left / 1000000, taken / 1000000, (ruler_ns() - start) / 1000000);
	}
	stepped = backward(e) - stepped;
	if (stepped)
		ksft_print_msg("0 backward expected, seen %llu\n", stepped);
	ksft_test_result(right && !stepped, "%s\n", fault->name);
	return true;
}

/* One after the other, or those alone whose names hold $PARACLOCK_FAULT. */
static void faults_play(const struct fault *faults, size_t n, const struct options *options,
			const struct everybody *e, play_fn special)
{
	size_t i;

	for (i = 0; i < n; i++) {
		if (told("PARACLOCK_FAULT") && !strstr(faults[i].name, told("PARACLOCK_FAULT")))
			ksft_test_result_skip("%s: not asked for\n", faults[i].name);
		else if (one(&faults[i], e, special))
			reload(options);
	}
}

/* Kinds of commands: see storm in guest-time.rst. */
static void storm(const struct everybody *e, const char *kinds)
{
	__u64 stepped = backward(e);
	unsigned int second;

	must("storm seed=%d rate=%d count=%d kinds=%s", SEED, STORM_RATE, STORM_COUNT, kinds);
	for (second = 0; second < STORM_COUNT / STORM_RATE + 20 &&
	     testhost_ask("storm", "running"); second++)
		sleep_ns(NSEC_PER_SEC);
	testhost_ask("storm", "done");
	ksft_print_msg("%s\n", testhost_reply());
	ksft_test_result(testhost_value("done") == STORM_COUNT &&
			 !testhost_value("running"),
			 "a storm of %d, seed %d, %d a second\n", STORM_COUNT, SEED, STORM_RATE);
	must("heal");
	sleep_ns(NSEC_PER_SEC / 2);
	ksft_test_result(wait_for_mode(expected().mode, 4 * RETURN_MS),
			 "after the storm the mode is %s\n", expected().mode);
	stepped = backward(e) - stepped;
	if (stepped)
		ksft_print_msg("0 backward expected, seen %llu\n", stepped);
	ksft_test_result(!stepped, "the storm takes no clock back\n");
}

/* Nothing is said of what the clocks show meanwhile; they go on at the host's rate in the end. */
static void reference_back(bool migrates)
{
	struct range first, last, moved;
	bool through = true;
	unsigned int waited;
	__u32 generation;

	must("ref_step ns=%d", -STEP_NS);
	generation = ruler_generation();
	if (migrates) {
		somewhere("");
		through = wait_for_switch(generation, FOUND_SECONDS);
	} else {
		/* Found by a poll. */
		sleep_ns(FAULT_NS);
	}
	must("heal");
	ksft_test_result(through && wait_for_mode(expected().mode, RETURN_MS),
			 "reference time goes back by %d us: %sthe mode is %s\n", STEP_NS / 1000,
			 migrates ? "a migration is acknowledged, " : "", expected().mode);
	/* A clock that is ahead does not go back, it is held a little in each update until then. */
	for (waited = 0; waited < HELD_SECONDS * 10 && status_number("ahead_ns") > 0; waited++)
		sleep_ns(NSEC_PER_SEC / 10);
	ksft_print_msg("no longer ahead after %u.%u s\n", waited / 10, waited % 10);
	sleep_ns(NSEC_PER_SEC / 10);
	first = track_reference(CLOCK_MONOTONIC_RAW);
	sleep_ns(NSEC_PER_SEC);
	last = track_reference(CLOCK_MONOTONIC_RAW);
	moved = range_less(last, first);
	ksft_print_msg("%lld to %lld ns in a second\n", moved.low, moved.high);
	ksft_test_result(!range_beyond(moved, 2000),
			 "... and the clock runs at the host's rate\n");
}

#endif
