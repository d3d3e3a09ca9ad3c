// SPDX-License-Identifier: GPL-2.0
/*
 * The driver's readings agree with HV_X64_MSR_TIME_REF_COUNT, the host's own reading of the
 * time that the page is about: paraclock_hammer.ko reads the driver, the counter and the driver
 * again, with preemption off, on each CPU in turn. The counter is known to one unit, 100 ns, in
 * which it must overlap with the bracket, or be less than 1 us from it.
 *
 * A read of the counter is an exit to the host, and the bracket is as wide as that takes. The
 * narrowest one is what the test resolves; it is printed, and must not be out of proportion.
 */
#include "lib/fixture.h"
#include "lib/hammer.h"

#define DEFAULT_SECONDS	5
#define BOUND_NS	1000
/* An exit in an emulated host takes tens of microseconds. */
#define WIDEST_NS	200000
#define SELF_TEST_NS	1500

static void merge(struct hammer_refcount *total, const struct hammer_refcount *seen)
{
	if (!total->pairs) {
		*total = *seen;
		return;
	}
	total->pairs += seen->pairs;
	if (seen->worst_ns > total->worst_ns)
		total->worst_ns = seen->worst_ns;
	if (seen->narrowest_ns < total->narrowest_ns)
		total->narrowest_ns = seen->narrowest_ns;
	if (seen->low_ns > total->low_ns)
		total->low_ns = seen->low_ns;
	if (seen->high_ns < total->high_ns)
		total->high_ns = seen->high_ns;
}

/* All CPUs, again and again, so that a drift has its time. */
static int measure(unsigned int seconds, struct hammer_refcount *total, unsigned int *turns)
{
	int cpus[MAX_CPUS], n = cpus_online(cpus, MAX_CPUS), err;
	__u64 end = vdso_ns(CLOCK_MONOTONIC) + seconds * NSEC_PER_SEC;

	for (*turns = 0; *turns < (unsigned int)n || vdso_ns(CLOCK_MONOTONIC) < end; (*turns)++) {
		struct hammer_refcount seen = { 0 };

		err = pin_to_cpu(cpus[*turns % n]);
		if (!err)
			err = hammer_refcount(&seen);
		if (err)
			return err;
		merge(total, &seen);
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct options options = { .seconds = DEFAULT_SECONDS };
	struct hammer_refcount seen = { 0 };
	unsigned int turns = 0;
	int err;

	options_parse(argc, argv, &options);
	ksft_print_header();
	require_clock(&options);
	if (strcmp(options.clocksource, MODULE_NAME))
		ksft_exit_skip("only of " MODULE_NAME " it is known in what it counts\n");
	if (strcmp(expected().backend, "hyperv"))
		ksft_exit_skip("backend %s: its clock is not Hyper-V's reference time\n",
			       expected().backend);
	if (expects_tsc())
		ksft_exit_skip("in mode tsc it counts the TSC: see the update tests\n");
	err = hammer_load();
	if (err == -ENOENT && !guest_is_known())
		ksft_exit_skip("no paraclock_hammer.ko\n");
	if (err)
		ksft_exit_fail_msg("paraclock_hammer.ko: %s (%d)\n", strerror(-err), -err);
	ksft_set_plan(3);

	err = measure(options.seconds, &seen, &turns);
	hammer_unload();
	if (options.self_test)
		seen.worst_ns += SELF_TEST_NS;

	ksft_print_msg("%llu brackets in %u turns of the CPUs\n", seen.pairs, turns);
	ksft_print_msg("the counter outside of its bracket: expected at most %d ns, seen %llu ns\n",
		       BOUND_NS, seen.worst_ns);
	ksft_print_msg("the counter's distance, if constant, lies between %lld and %lld ns\n",
		       seen.low_ns, seen.high_ns);
	ksft_test_result(errno_is("the measurement", err, 0) && seen.pairs &&
			 seen.worst_ns <= BOUND_NS,
			 "the reference counter lies in its bracket, to 1 us\n");
	ksft_print_msg("narrowest bracket: expected at most %d ns, seen %llu ns\n", WIDEST_NS,
		       seen.narrowest_ns);
	ksft_test_result(seen.pairs && seen.narrowest_ns <= WIDEST_NS,
			 "the brackets are narrow enough to tell\n");
	result_still_current(&options);
	ksft_finished();
}
