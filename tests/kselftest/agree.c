// SPDX-License-Identifier: GPL-2.0
/*
 * The driver's readings agree with the C clock's.
 *
 * CLOCK_MONOTONIC_RAW counts the current clocksource's nanoseconds without NTP's
 * correction (both clocks are registered at 1 GHz, so the core's multiplier is exactly
 * one), so its distance from page time, computed here as kvm-clock computes it, has to
 * be one constant: on every CPU, by the vDSO (vCPU 0's page) and by the system call (the
 * CPU's own page), for as long as it is looked at. lib/pvclock.h says how the brackets
 * are intersected, and why 2 ns is the bound. What the test can resolve is the width of
 * the narrowest bracket, printed beside it: a drift of that much in the whole run is seen.
 *
 * The control is the same measurement with kvm-clock itself selected.
 */
#include "lib/fixture.h"
#include "lib/hammer.h"
#include "lib/pvclock.h"

#define DEFAULT_SECONDS	10
#define SLICE_NS	(NSEC_PER_SEC / 10)
/* One reading here and one in the kernel, each rounded down to a nanosecond. */
#define HAMMER_BOUND_NS	2
/* A frequency error that the self-test adds to page time, in parts per million. */
#define SELF_TEST_PPM	50

/* Goes round the CPUs and both paths, a slice each, so that all are spread over the run. */
static void measure(const struct pvclock_vcpu_time_info *page, unsigned int seconds,
		    bool fake, struct agreement *total)
{
	int cpus[MAX_CPUS], n = cpus_online(cpus, MAX_CPUS), turn = 0;
	__u64 start = vdso_ns(CLOCK_MONOTONIC), end = start + seconds * NSEC_PER_SEC;
	__u64 now = start, slice;

	agreement_init(total);
	while (now < end) {
		pin_to_cpu(cpus[turn % n]);
		slice = now + SLICE_NS;
		while (now < slice) {
			__s64 error = fake ? (now - start) / 1000000 * SELF_TEST_PPM : 0;

			agreement_sample(total, page, turn / n % 2 ? syscall_ns : vdso_ns, error);
			now = vdso_ns(CLOCK_MONOTONIC);
		}
		turn++;
	}
}

static bool in_step(const struct agreement *a, const char *what)
{
	__s64 gap = agreement_gap(a);

	ksft_print_msg("%s: %llu samples, %llu left out for a new page, %llu for a stuck one\n",
		       what, a->samples, a->torn, a->stuck);
	ksft_print_msg("%s: narrowest bracket %llu ns; gap expected at most %d ns, seen %lld ns\n",
		       what, a->narrowest, AGREEMENT_ROUNDING_NS, gap);
	return a->samples > 1000 && gap <= AGREEMENT_ROUNDING_NS;
}

static void result_hammer(const struct options *options)
{
	const char *what = "the driver's read is bracketed by the C clock's, in the kernel";
	const char *what_hw = "its snapshots carry the TSC that they were computed from";
	struct hammer_agreement seen = { 0 };
	int err;

	if (strcmp(options->clocksource, MODULE_NAME)) {
		ksft_test_result_skip("%s: not testing " MODULE_NAME "\n", what);
		ksft_test_result_skip("%s: not testing " MODULE_NAME "\n", what_hw);
		return;
	}
	err = hammer_load();
	if (err == -ENOENT) {
		ksft_test_result_skip("%s: no paraclock_hammer.ko\n", what);
		ksft_test_result_skip("%s: no paraclock_hammer.ko\n", what_hw);
		return;
	}
	if (!err) {
		err = hammer_agree(&seen);
		hammer_unload();
	}
	if (err == -ENOENT) {
		ksft_test_result_skip("%s: paraclock_hammer.ko does not offer it\n", what);
		ksft_test_result_skip("%s: paraclock_hammer.ko does not offer it\n", what_hw);
		return;
	}
	if (err)
		ksft_print_msg("paraclock_hammer: %s (%d)\n", strerror(-err), -err);
	else
		ksft_print_msg("kernel: %llu pairs, outside by at most %d ns expected, %llu seen\n",
			       seen.pairs, HAMMER_BOUND_NS, seen.worst_ns);
	ksft_test_result(!err && seen.pairs && seen.worst_ns <= HAMMER_BOUND_NS, "%s\n", what);

	if (!err)
		ksft_print_msg("snapshots: expected 0 without a TSC reading of that moment, seen %llu\n",
			       seen.hw_outside);
	ksft_test_result(!err && seen.pairs && !seen.hw_outside, "%s\n", what_hw);
}

int main(int argc, char **argv)
{
	struct options options = { .seconds = DEFAULT_SECONDS };
	const struct pvclock_vcpu_time_info *page;
	struct agreement a;

	options_parse(argc, argv, &options);
	ksft_print_header();
	require_clock(&options);
	page = pvclock_page();
	if (!page && options_any(&options))
		ksft_exit_skip("no kvmclock page in [vvar_vclock]\n");
	ksft_set_plan(5);
	if (!page)
		ksft_print_msg("kvmclock page in [vvar_vclock]: %s (%d)\n", strerror(errno), errno);
	ksft_test_result(page, "user space can read vCPU 0's page\n");

	if (page) {
		measure(page, options.seconds, options.self_test, &a);
		ksft_test_result(in_step(&a, options.clocksource),
				 "CLOCK_MONOTONIC_RAW and page time run in step\n");
	} else {
		ksft_test_result_fail("CLOCK_MONOTONIC_RAW and page time run in step\n");
	}

	if (!page || options_any(&options) || !cs_is_available("kvm-clock")) {
		ksft_test_result_skip("the same under kvm-clock: not available here\n");
	} else {
		int err = cs_select("kvm-clock");

		errno_is("selecting kvm-clock", err, 0);
		measure(page, options.seconds / 2 ? options.seconds / 2 : 1, false, &a);
		ksft_test_result(!err && in_step(&a, "kvm-clock"), "the same under kvm-clock\n");
		cs_select(options.clocksource);
	}
	result_hammer(&options);
	ksft_finished();
}
