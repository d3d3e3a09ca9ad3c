// SPDX-License-Identifier: GPL-2.0
/*
 * The control: a guest that takes the TSC for what it promises to be, and reads nothing else,
 * goes wrong when the host changes it. If it does not, the host changes nothing, or nobody would
 * notice.
 */
#include "lib/hostfixture.h"
#include "lib/readers.h"

#define SWITCHES	8
#define PATIENCE_MS	5000
#define DWELL_NS	(NSEC_PER_SEC / 20)
/* Before the first change the clock is right to that; after them it is off by ten times as much. */
#define RIGHT_PPM	10000

static __s64 ppm_off(void)
{
	__u64 clock = raw_ns(), host = ruler_ns();

	ruler_wait_us(100000);
	clock = raw_ns() - clock;
	host = ruler_ns() - host;
	return ((__s64)(clock - host)) * 1000000 / (__s64)host;
}

int main(int argc, char **argv)
{
	struct options options = { .clocksource = "any" };
	struct reader_count before, after;
	struct readers *readers;
	__s64 ppm, off;
	__u32 from;
	int i;

	options_parse(argc, argv, &options);
	ksft_print_header();
	require_testhost();
	if (host_has_clock())
		ksft_exit_skip("the host shows a clock, and the TSC is not alone\n");
	if (clock_init())
		ksft_exit_skip("no vDSO in this process\n");
	ksft_set_plan(6);
	be_urgent();

	/* It has tsc-early until it has measured the frequency once more, for a second or so. */
	for (i = 0; i < PATIENCE_MS && !cs_is_current("tsc"); i++)
		ruler_wait_us(1000);
	ksft_test_result(cs_is_current("tsc"), "the kernel has picked tsc\n");
	ksft_test_result(host_get()->tsc_invariant, "the processor promises an invariant TSC\n");
	ppm = ppm_off();
	ksft_print_msg("off by %lld ppm\n", ppm);
	ksft_test_result(llabs(ppm) < RIGHT_PPM, "with the TSC left alone the clock is right\n");

	readers = readers_start(READERS_VDSO | READERS_SYSCALL, false);
	if (!readers)
		ksft_exit_fail_perror("starting the readers");
	sleep_ns(NSEC_PER_SEC / 5);
	before = readers_count(readers, -1, -1);
	from = ruler_generation();
	for (i = 0; i < SWITCHES; i++) {
		/* In both directions: forwards it jumps, backwards it steps back. */
		must("migrate khz=%d jump=%lld", i & 1 ? 1500000 : 3000000,
		     i & 1 ? -1000000000ll : 1000000000ll);
		ruler_wait_us(DWELL_NS / 1000);
	}
	readers_stop(readers);
	after = readers_count(readers, -1, -1);
	ksft_test_result(ruler_generation() - from == SWITCHES && !before.backward,
			 "%d switches, and no step back before them\n", SWITCHES);
	must("migrate khz=3000000");
	off = ppm_off();
	ksft_print_msg("%llu of %llu readings backward, worst %llu ns; now off by %lld ppm\n",
		       after.backward, after.reads, after.worst_ns, off);
	ksft_test_result(after.backward > 0, "steps back are seen\n");
	ksft_test_result(llabs(off) > 10 * RIGHT_PPM, "the clock runs at a wrong rate\n");
	readers_free(readers);
	must("migrate khz=2000000");
	ksft_finished();
}
