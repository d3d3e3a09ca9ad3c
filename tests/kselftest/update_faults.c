// SPDX-License-Identifier: GPL-2.0
/*
 * All that the test host can do wrong to its notifications, pages and MSRs, under everybody who
 * reads the clocks: none goes back; where the host takes back what mode tsc stands on, the driver
 * leaves it within 100 ms, and returns when the ground is back.
 *
 * Then a storm of such things, which a seed makes. What takes reference time itself back is
 * played last, with nobody who reads: the guest and the clock go on.
 */
#include "lib/updatefixture.h"

#define LEAVE_MS	100
/* The driver holds off, so that a host that flaps does not make it flap. */
#define RETURN_MS	20000
#define FAULT_NS	(NSEC_PER_SEC / 4)
/* A notification that was lost is found by reading the status, at a slow pace. */
#define SWITCH_SECONDS	10
#define STEP_NS		200000
#define HELD_SECONDS	20
#define SEED		42
#define STORM_RATE	100
#define STORM_COUNT	400
#define STORM_KINDS	"migrate,notify,spurious,page_invalid,rewrite,freq_msr,ack_delay"
/* A sequence that stays what it is while the rest of the page changes is a lie as well. */
#define LYING_KINDS	",seq"

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
	/* Nobody hears of it who does not ask. */
	bool unheard;
	/* The page says what is not so: who reads it and nothing else is wrong, and cannot know. */
	bool lie;
	/* ... so that the kernel dies of its own sched_clock(), which reads it: when asked for. */
	bool deadly;
};

#define MIGRATE	"@"
/* Lies that the kernel's sched_clock() survives, by which it is off by a second or so. */
#define SCALE	"scale"
#define OFFSET	"offset"
#define STALE	"stale"

static const struct fault faults[] = {
	{
		.name = "a notification lost",
		.command = { MIGRATE "notify=lost" },
		.switches = 1,
		.unheard = true,
	},
	{
		.name = "a notification twice",
		.command = { MIGRATE "notify=double" },
		.switches = 1,
	},
	{
		.name = "a notification late",
		.command = { MIGRATE "late_us=30000" },
		.switches = 1,
	},
	{
		.name = "a notification on another VP",
		.command = { MIGRATE "wrong_vp=1" },
		.switches = 1,
	},
	{
		.name = "notifications for nothing",
		.command = { "spurious", "spurious", "spurious vp=1" },
	},
	{
		.name = "a second migration during the first",
		.command = { "ack_delay us=20000", MIGRATE, MIGRATE },
		.switches = 1,
	},
	{
		.name = "a slow acknowledgement",
		.command = { "ack_delay us=50000", MIGRATE },
		.switches = 1,
	},
	{
		.name = "a page invalid until acknowledged",
		.command = { MIGRATE "page=invalid" },
		.mode = MAY,
		.switches = 1,
	},
	{
		.name = "a page invalid for long after",
		.command = { MIGRATE "invalid_us=150000" },
		.mode = MAY,
		.switches = 1,
	},
	{
		.name = "a page not rewritten at the switch",
		.command = { STALE },
		.mode = MAY,
		.switches = 1,
		.lie = true,
	},
	{
		.name = "a page invalid for a while",
		.command = { "page_invalid us=200000" },
		.mode = LEAVES,
	},
	{
		.name = "sequence 0",
		.command = { "seq value=0" },
		.mode = LEAVES,
	},
	{
		.name = "sequence 0xffffffff",
		.command = { "seq value=0xffffffff" },
		.mode = LEAVES,
	},
	{
		.name = "a scale without a notification",
		.command = { SCALE },
		.mode = LEAVES,
		.lie = true,
	},
	{
		.name = "scale 0",
		.command = { "scale value=0" },
		.mode = LEAVES,
		.lie = true,
		.deadly = true,
	},
	{
		.name = "an offset without a notification",
		.command = { OFFSET },
		.mode = MAY,
		.lie = true,
	},
	{
		.name = "pages rewritten under the reader",
		.command = { "write_mid_read count=1000 gap_us=100 hold_us=5" },
		.mode = MAY,
	},
	{
		.name = "a page of garbage",
		.command = { "page_garbage" },
		.mode = LEAVES,
		.lie = true,
		.deadly = true,
	},
	{
		.name = "a frequency MSR of 0",
		.command = { "freq_msr value=0x0", MIGRATE },
		.mode = MAY,
		.switches = 1,
	},
	{
		.name = "a frequency MSR of 1 THz",
		.command = { "freq_msr value=1000000000000", MIGRATE },
		.mode = MAY,
		.switches = 1,
	},
	{
		.name = "a frequency MSR that is wrong",
		.command = { "freq_msr value=1234567890", MIGRATE },
		.mode = LEAVES,
		.switches = 1,
	},
	{
		.name = "#GP on the frequency MSR",
		.command = { "gp msr=0x40000022 on", MIGRATE },
		.mode = MAY,
		.switches = 1,
	},
	{
		.name = "#GP on the counter",
		.command = { "gp msr=0x40000020 on", MIGRATE },
		.mode = MAY,
		.switches = 1,
	},
	{
		.name = "#GP on the status when it is read",
		.command = { "gp msr=0x40000108 on read", MIGRATE },
		.mode = MAY,
		.switches = 1,
		.after_heal = true,
		.unheard = true,
	},
	{
		.name = "reference time goes on by 1 ms",
		.command = { "ref_step ns=1000000" },
		.mode = MAY,
	},
};

static bool tsc;

static __u64 backward(const struct everybody *e)
{
	return readers_count(e->readers, -1, -1).backward;
}

/* 2^64 in units of 100 ns for each cycle. */
static __u64 honest_scale(void)
{
	return (__u64)(((unsigned __int128)10000 << 64) / (__u64)testhost_ask("now", "khz"));
}

static void play(const char *command)
{
	__u64 scale, tsc;
	__s64 count;

	if (*command == *MIGRATE) {
		somewhere(command + 1);
	} else if (!strcmp(command, SCALE)) {
		scale = honest_scale();
		must("scale value=%llu", scale + scale / 10000);
	} else if (!strcmp(command, OFFSET)) {
		scale = honest_scale();
		must("now");
		tsc = testhost_value("tsc0");
		count = testhost_value("ref100ns");
		count -= (__s64)(((unsigned __int128)tsc * scale) >> 64);
		must("offset value=%lld", count - 10000000);
	} else if (!strcmp(command, STALE)) {
		must("migrate khz=%lld jump=200000000 page=stale invalid_us=50000",
		     testhost_ask("now", "khz") / 2 + LEAST_KHZ);
	} else {
		must("%s", command);
	}
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

/* What the driver says of its mode. */
static void print_why(void)
{
	struct status status;
	char why[128];

	if (!status_read(&status) && status_get(&status, "why", why, sizeof(why)))
		ksft_print_msg("the driver says why: %s\n", why);
}

/* True if it was played. */
static bool one(const struct fault *fault, const struct everybody *e)
{
	__u64 stepped = backward(e), start, left = 0;
	__u32 generation = ruler_generation();
	/* Nothing that mode page reads waits for a notification to be found again. */
	unsigned int switches = tsc || !fault->unheard ? fault->switches : 0;
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
		play(fault->command[i]);
	while (ruler_ns() - start < FAULT_NS) {
		if (tsc && !was_away && !mode_is("tsc")) {
			left = ruler_ns() - start;
			was_away = true;
		}
		sleep_ns(NSEC_PER_SEC / 1000);
	}
	if (!fault->after_heal && switches &&
	    !wait_for_switch(generation + switches - 1, SWITCH_SECONDS)) {
		ksft_print_msg("expected %u switches in %d s, seen %d\n", switches,
			       SWITCH_SECONDS, (int)(ruler_generation() - generation));
		right = false;
	}
	must("heal");
	if (fault->after_heal && switches &&
	    !wait_for_switch(generation + switches - 1, SWITCH_SECONDS)) {
		ksft_print_msg("healed: expected %u switches in %d s, seen %d\n", switches,
			       SWITCH_SECONDS, (int)(ruler_generation() - generation));
		right = false;
	}
	if (tsc && fault->mode == LEAVES && (!was_away || left > LEAVE_MS * 1000000ull)) {
		mode_now(mode, sizeof(mode));
		ksft_print_msg("mode: expected another than tsc within %d ms, seen %s after %llu ms\n",
			       LEAVE_MS, was_away ? "another" : mode,
			       was_away ? left / 1000000 : FAULT_NS / 1000000ull);
		print_why();
		right = false;
	}
	if (tsc && fault->mode == STAYS && was_away) {
		ksft_print_msg("mode: expected tsc all the time, left after %llu ms\n",
			       left / 1000000);
		right = false;
	}
	start = ruler_ns();
	if (!wait_for_mode(expected().mode, RETURN_MS)) {
		mode_now(mode, sizeof(mode));
		ksft_print_msg("mode: expected %s within %d ms from then on, seen %s\n",
			       expected().mode, RETURN_MS, mode);
		print_why();
		right = false;
	} else if (was_away) {
		ksft_print_msg("left after %llu ms, back %llu ms after the end\n", left / 1000000,
			       (ruler_ns() - start) / 1000000);
	}
	stepped = backward(e) - stepped;
	if (stepped)
		ksft_print_msg("0 backward expected, seen %llu\n", stepped);
	ksft_test_result(right && !stepped, "%s\n", fault->name);
	return true;
}

static void storm(const struct everybody *e)
{
	__u64 stepped = backward(e);
	unsigned int second;

	must("storm seed=%d rate=%d count=%d kinds=" STORM_KINDS "%s", SEED, STORM_RATE,
	     STORM_COUNT, tsc ? LYING_KINDS : "");
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
static void reference_back(void)
{
	struct range first, last, moved;
	unsigned int waited;
	__u32 generation;
	bool through;

	must("ref_step ns=%d", -STEP_NS);
	generation = ruler_generation();
	somewhere("");
	through = wait_for_switch(generation, SWITCH_SECONDS);
	must("heal");
	ksft_test_result(through && wait_for_mode(expected().mode, RETURN_MS),
			 "reference time goes back by %d us: a migration is acknowledged, the mode is %s\n",
			 STEP_NS / 1000, expected().mode);
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

int main(int argc, char **argv)
{
	struct options options = { 0 };
	struct everybody everybody;
	size_t i;

	options_parse(argc, argv, &options);
	ksft_print_header();
	require_update(&options);
	if (!of_driver(&options))
		ksft_exit_skip("it is the driver's modes that are looked at\n");
	if (strcmp(expected().backend, "hyperv"))
		ksft_exit_skip("these are Hyper-V's notifications and pages\n");
	tsc = !strcmp(expected().mode, "tsc");
	ksft_set_plan(ARRAY_SIZE(faults) + 3 + EVERYBODY_RESULTS + 3);

	everybody_start(&everybody, options.self_test);
	for (i = 0; i < ARRAY_SIZE(faults); i++) {
		if (told("PARACLOCK_FAULT") && !strstr(faults[i].name, told("PARACLOCK_FAULT"))) {
			ksft_test_result_skip("%s: not asked for\n", faults[i].name);
			continue;
		}
		if (one(&faults[i], &everybody))
			reload(&options);
	}
	storm(&everybody);
	everybody_results(&everybody, "faults");
	reference_back();
	result_still_current(&options);
	ksft_finished();
}
