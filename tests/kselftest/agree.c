// SPDX-License-Identifier: GPL-2.0
/*
 * The driver's readings agree with the C clock's.
 *
 * CLOCK_MONOTONIC_RAW counts the current clocksource without NTP's correction (KVM's clocks are
 * registered at 1 GHz and Hyper-V's at 2.56 GHz, for which the core's multiplier is exactly
 * 1 or 25/64), so its distance from page time, computed here as the C clock computes it, has
 * to be one constant: on every CPU, by the vDSO (vCPU 0's page) and by the system call (the
 * CPU's own page), for as long as it is looked at. lib/page.h says how the brackets
 * are intersected, and why 2 ns is the bound. What the test can resolve is the width of
 * the narrowest bracket, printed beside it: a drift of that much in the whole run is seen.
 *
 * In mode msr the page that is read here is the C driver's, of which the counter that the
 * driver reads gives whole units.
 *
 * The control is the same measurement with the C clock itself selected.
 */
#include "lib/fixture.h"
#include "lib/hammer.h"
#include "lib/page.h"

#define DEFAULT_SECONDS	5
#define SLICE_NS	(NSEC_PER_SEC / 10)
/* One reading here and one in the kernel, each rounded down to a nanosecond. */
#define HAMMER_BOUND_NS	2
/* A frequency error that the self-test adds to page time, in parts per million. */
#define SELF_TEST_PPM	50

static const struct {
	const char *clocksource;
	const char *backend;
} c_clocks[] = {
	{ "kvm-clock", "kvm" },
	{ "hyperv_clocksource_tsc_page", "hyperv" },
};

/* Goes round the CPUs and both paths, a slice each, so that all are spread over the run. */
static void measure(const struct page_clock *page, unsigned int seconds,
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

static bool in_step(const struct agreement *a, const char *what, int bound)
{
	__s64 gap = agreement_gap(a);

	ksft_print_msg("%s: %llu samples, %llu torn by a new page, %llu of no valid page\n",
		       what, a->samples, a->torn, a->stuck);
	ksft_print_msg("%s: narrowest bracket %llu ns; gap expected at most %d ns, seen %lld ns\n",
		       what, a->narrowest, bound, gap);
	return a->samples > 1000 && gap <= bound;
}

static void result_hammer(const struct options *options)
{
	const char *what = "the driver's read is bracketed by the C clock's, in the kernel";
	const char *what_hw = "its snapshots carry the TSC that they were computed from";
	struct hammer_agreement seen = { 0 };
	int bound = HAMMER_BOUND_NS;
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
		err = hammer_agree(expected().backend, &seen);
		hammer_unload();
	}
	if (err == -ENOENT) {
		ksft_test_result_skip("%s: paraclock_hammer.ko does not offer it\n", what);
		ksft_test_result_skip("%s: paraclock_hammer.ko does not offer it\n", what_hw);
		return;
	}
	if (!expects_page())
		bound += AGREEMENT_UNIT_NS;
	if (err)
		ksft_print_msg("paraclock_hammer: %s (%d)\n", strerror(-err), -err);
	else
		ksft_print_msg("kernel: %llu pairs, outside by at most %d ns expected, %llu seen\n",
			       seen.pairs, bound, seen.worst_ns);
	ksft_test_result(!err && seen.pairs && seen.worst_ns <= (__u64)bound, "%s\n", what);

	if (!expects_page()) {
		ksft_print_msg("snapshots: expected %llu without a hardware counter, seen %llu\n",
			       seen.pairs, seen.generic);
		ksft_test_result(!err && seen.pairs && seen.generic == seen.pairs,
				 "its snapshots carry no TSC, as they were not computed from one\n");
		return;
	}
	if (!err)
		ksft_print_msg("snapshots: expected 0 without a TSC reading of that moment, seen %llu\n",
			       seen.hw_outside);
	ksft_test_result(!err && seen.pairs && !seen.hw_outside, "%s\n", what_hw);
}

/* The C clock of this host, by its own page. */
static void result_control(const struct options *options)
{
	unsigned int seconds = options->seconds / 2 ? options->seconds / 2 : 1;
	struct page_clock page;
	struct agreement a;
	size_t i;
	int err;

	for (i = 0; i < ARRAY_SIZE(c_clocks); i++)
		if (cs_is_available(c_clocks[i].clocksource) &&
		    page_clock_open(&page, c_clocks[i].backend))
			break;
	if (options_any(options) || i == ARRAY_SIZE(c_clocks)) {
		ksft_test_result_skip("the same under the C clock: not available here\n");
		return;
	}
	err = cs_select(c_clocks[i].clocksource);
	errno_is("selecting the C clock", err, 0);
	measure(&page, seconds, false, &a);
	ksft_test_result(!err && in_step(&a, c_clocks[i].clocksource, AGREEMENT_ROUNDING_NS),
			 "the same under %s\n", c_clocks[i].clocksource);
	cs_select(options->clocksource);
}

int main(int argc, char **argv)
{
	struct options options = { .seconds = DEFAULT_SECONDS };
	const char *what = "CLOCK_MONOTONIC_RAW and page time run in step";
	int bound = AGREEMENT_ROUNDING_NS;
	struct page_clock page;
	struct agreement a;
	bool open;

	options_parse(argc, argv, &options);
	ksft_print_header();
	require_clock(&options);
	if (!strcmp(options.clocksource, MODULE_NAME) && expects_tsc())
		ksft_exit_skip("mode tsc has a multiplier of its own: see the update tests\n");
	open = page_clock_open(&page, expected().backend);
	if (!open && options_any(&options))
		ksft_exit_skip("no page in [vvar_vclock]\n");
	ksft_set_plan(5);
	if (!open)
		ksft_print_msg("page in [vvar_vclock]: %s (%d)\n", strerror(errno), errno);
	ksft_test_result(open, "user space can read the page\n");

	if (!options_any(&options) && !expects_page())
		bound += AGREEMENT_UNIT_NS;
	if (open) {
		measure(&page, options.seconds, options.self_test, &a);
		ksft_test_result(in_step(&a, options.clocksource, bound), "%s\n", what);
	} else {
		ksft_test_result_fail("%s\n", what);
	}
	result_control(&options);
	result_hammer(&options);
	ksft_finished();
}
