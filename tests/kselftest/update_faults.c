// SPDX-License-Identifier: GPL-2.0
/*
 * All that the test host can do wrong to Hyper-V's notifications, pages and MSRs: see lib/faults.h.
 * What takes reference time itself back is played last, with nobody who reads: the guest and the
 * clock go on.
 */
#include "lib/faults.h"

#define STORM_KINDS	"migrate,notify,spurious,page_invalid,rewrite,freq_msr,ack_delay"
/* A sequence that stays what it is while the rest of the page changes is a lie as well. */
#define LYING_KINDS	",seq"

/* Lies that the kernel's sched_clock() survives, by which it is off by a second or so. */
#define SCALE	"scale"
/*
 * By 5 ppm. Whoever runs when sched_clock() jumps is charged with that by the scheduler. If it is the
 * driver's poll it has to wait until all others have had as much, and a page is of a TSC that has
 * counted for minutes: by 100 ppm that was some 100 ms.
 */
#define SCALE_PART	200000
#define OFFSET	"offset"
#define STALE	"stale"

static const struct fault faults[] = {
	{
		.name = "a notification lost",
		.command = { MIGRATE "notify=lost" },
		.switches = 1,
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
		.name = "a page invalid until acknowledged, a notification lost",
		.command = { MIGRATE "page=invalid notify=lost" },
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
	},
	{
		.name = "reference time goes on by 1 ms",
		.command = { "ref_step ns=1000000" },
		.mode = MAY,
	},
};

/* 2^64 in units of 100 ns for each cycle. */
static __u64 honest_scale(void)
{
	return (__u64)(((unsigned __int128)10000 << 64) / (__u64)testhost_ask("now", "khz"));
}

static bool special(const char *command)
{
	__u64 scale, tsc;
	__s64 count;

	if (!strcmp(command, SCALE)) {
		scale = honest_scale();
		must("scale value=%llu", scale + scale / SCALE_PART);
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
		return false;
	}
	return true;
}

int main(int argc, char **argv)
{
	struct options options = { 0 };
	struct everybody everybody;

	options_parse(argc, argv, &options);
	ksft_print_header();
	require_update(&options);
	if (!of_driver(&options))
		ksft_exit_skip("it is the driver's modes that are looked at\n");
	tsc = !strcmp(expected().mode, "tsc");
	counter = !tsc;
	ksft_set_plan(ARRAY_SIZE(faults) + 3 + EVERYBODY_RESULTS + 3);

	everybody_start(&everybody, options.self_test);
	faults_play(faults, ARRAY_SIZE(faults), &options, &everybody, special);
	storm(&everybody, tsc ? STORM_KINDS LYING_KINDS : STORM_KINDS);
	everybody_results(&everybody, "faults");
	reference_back(true);
	result_still_current(&options);
	ksft_finished();
}
