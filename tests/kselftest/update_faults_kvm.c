// SPDX-License-Identifier: GPL-2.0
/*
 * All that the test host can do wrong to KVM's pages, with a TSC that it has called invariant: see
 * lib/faults.h. KVM asks nobody before it changes something, so what is said here of mode tsc is
 * that the driver finds out by itself.
 *
 * The pages are the driver's own: on one whose version stays odd the built-in driver's
 * sched_clock() waits for ever.
 */
#include "lib/faults.h"

#define STORM_KINDS	"stable,stopped,rewrite,kvm_version"

/* A page that is off by 100 ppm; a TSC that is faster by 1000 ppm, and the pages follow. */
#define RATE		"rate"
#define FASTER		"faster"

static const struct fault faults[] = {
	{
		.name = "the stable bit falls",
		.command = { "stable off" },
		.mode = LEAVES,
	},
	{
		.name = "the stable bit falls and is set again",
		.command = { "stable off", "stable on" },
		.mode = MAY,
	},
	{
		.name = "the stable bit flaps",
		.command = { "storm seed=1 rate=200 count=40 kinds=stable" },
		.mode = MAY,
	},
	{
		.name = "a version that stays odd",
		.command = { "kvm_version vcpu=0 odd=1" },
		.mode = LEAVES,
	},
	{
		.name = "a version that stays odd, of a page that nobody reads",
		.command = { "kvm_version vcpu=2 odd=1" },
	},
	{
		.name = "a multiplier without a notification",
		.command = { RATE },
		.mode = LEAVES,
		.lie = true,
	},
	{
		.name = "a multiplier of 0",
		.command = { "kvm_raw vcpu=0 field=mul value=0" },
		.mode = LEAVES,
	},
	{
		.name = "a shift out of range",
		.command = { "kvm_raw vcpu=0 field=shift value=100" },
		.mode = LEAVES,
	},
	{
		.name = "a TSC of the future",
		.command = { "kvm_raw vcpu=0 field=tsc value=0x7fffffffffffffff" },
		.mode = LEAVES,
	},
	{
		.name = "a page of garbage",
		.command = { "page_garbage" },
		.mode = LEAVES,
		.lie = true,
	},
	{
		.name = "a frequency without a notification",
		.command = { FASTER },
		.mode = LEAVES,
		.switches = 1,
	},
	{
		.name = "pages rewritten under the reader",
		.command = { "write_mid_read count=1000 gap_us=100 hold_us=5" },
		.mode = MAY,
	},
	{
		.name = "the guest was stopped",
		.command = { "stopped" },
	},
	{
		.name = "reference time goes on by 1 ms",
		.command = { "ref_step ns=1000000" },
		.mode = MAY,
	},
};

/* As kvm_get_time_scale() in arch/x86/kvm/x86.c makes it. */
static __u64 honest_mul(void)
{
	__u64 hz = (__u64)testhost_ask("now", "khz") * 1000;

	while (hz > 2 * NSEC_PER_SEC)
		hz >>= 1;
	while (hz <= NSEC_PER_SEC)
		hz <<= 1;
	return (NSEC_PER_SEC << 32) / hz;
}

static bool special(const char *command)
{
	__u64 mul, khz;

	if (!strcmp(command, RATE)) {
		mul = honest_mul();
		must("kvm_raw vcpu=0 field=mul value=%llu", mul + mul / 10000);
	} else if (!strcmp(command, FASTER)) {
		khz = testhost_ask("now", "khz");
		must("migrate khz=%llu", khz + khz / 1000);
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
	require_kvm_update(&options);
	tsc = expects_tsc();
	ksft_set_plan(ARRAY_SIZE(faults) + 3 + EVERYBODY_RESULTS + 3);

	everybody_start(&everybody, options.self_test);
	faults_play(faults, ARRAY_SIZE(faults), &options, &everybody, special);
	storm(&everybody, STORM_KINDS);
	everybody_results(&everybody, "faults");
	reference_back(false);
	result_still_current(&options);
	ksft_finished();
}
