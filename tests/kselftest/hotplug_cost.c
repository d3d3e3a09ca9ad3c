// SPDX-License-Identifier: GPL-2.0
/*
 * What the driver adds to the time that it takes to bring a CPU up, where its TSC is not checked:
 * many times with it and many times without, in turn, on a CPU whose socket is up.
 */
#include <stdlib.h>

#include "lib/hotplugfixture.h"

#define BLOCKS		5
#define UPS		12
#define WHOLE		(BLOCKS * UPS)
/* In percent. */
#define BOUND		5

static int ascending(const void *a, const void *b)
{
	__u64 x = *(const __u64 *)a, y = *(const __u64 *)b;

	return (x > y) - (x < y);
}

/* In ns; the driver's own part as well, where it is there. */
static bool measure(__u64 *ns, __u64 *ours)
{
	__u64 start;
	int i;

	for (i = 0; i < UPS; i++) {
		if (!switch_cpu(1, false))
			return false;
		usleep(2000);
		start = ruler_ns();
		if (!switch_cpu(1, true))
			return false;
		ns[i] = ruler_ns() - start;
		if (ours)
			ours[i] = status_number("starting_last_cycles") * 1e6 / ruler_khz();
	}
	return true;
}

int main(int argc, char **argv)
{
	static __u64 with[WHOLE], without[WHOLE], ours[WHOLE];
	struct options options = { 0 };
	double median, least, share;
	long long skipped = 0;
	int block;

	options_parse(argc, argv, &options);
	ksft_print_header();
	require_testhost();
	if (!file_exists("/sys/devices/system/cpu/cpu1/online"))
		ksft_exit_skip("needs two CPUs and CONFIG_HOTPLUG_CPU\n");
	require_clock(&options);
	if (host_get()->tsc_invariant || !strstr(status_text("tsc_cpu0"), "set_to="))
		ksft_exit_skip("measured where TSC_ADJUST is the driver's alone\n");
	ksft_set_plan(3);
	be_urgent();
	for (block = 0; block < BLOCKS; block++) {
		if (paraclock_unload() || !measure(without + block * UPS, NULL))
			ksft_exit_fail_msg("without the driver\n");
		if (!load_anew("tsc_reliable=always") ||
		    !measure(with + block * UPS, ours + block * UPS))
			ksft_exit_fail_msg("with the driver\n");
		skipped += status_number("tsc_checks_skipped");
	}
	ksft_test_result(skipped == WHOLE && !status_number("tsc_checks"),
			 "%lld CPUs started, and none was checked\n", skipped);
	qsort(with, WHOLE, sizeof(*with), ascending);
	qsort(without, WHOLE, sizeof(*without), ascending);
	qsort(ours, WHOLE, sizeof(*ours), ascending);
	median = 100.0 * with[WHOLE / 2] / without[WHOLE / 2] - 100;
	least = 100.0 * with[0] / without[0] - 100;
	ksft_print_msg("bringing a CPU up, %d times each: median %llu ns, %llu without the driver (%+.1f %%), least %llu, %llu (%+.1f %%)\n",
		       WHOLE, with[WHOLE / 2], without[WHOLE / 2], median, with[0], without[0],
		       least);
	share = 100.0 * ours[WHOLE / 2] / without[WHOLE / 2];
	ksft_print_msg("the driver's own part: median %llu ns, %llu at most, %.2f %% of it\n",
		       ours[WHOLE / 2], ours[WHOLE - 1], share);
	/*
	 * Others compute on this machine, and the whole differs by more from one time to the next than what
	 * is to be found. All that the driver adds is its callback, and that is measured by itself.
	 */
	ksft_test_result(share < BOUND,
			 "a CPU that is not checked comes up in at most %d %% more time\n", BOUND);
	paraclock_unload();
	require_clock(&options);
	result_still_current(&options);
	ksft_finished();
}
