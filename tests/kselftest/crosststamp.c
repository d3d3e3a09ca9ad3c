// SPDX-License-Identifier: GPL-2.0
/*
 * KVM's PTP clock gives cross timestamps with the driver's clocksource current, and the
 * guest's side of them lies between readings taken before and after the call. The control
 * is the same with kvm-clock.
 *
 * The PTP clock stamps in kvmclock's time. With Hyper-V's clock current the core has no way
 * from there to the clock's own count, and a stamp would be wrong: it has to be refused.
 */
#include "lib/fixture.h"
#include "lib/ptp.h"

#define STAMPS	100
/*
 * The stamp is computed from the instant's cycle count, the readings from their own, each
 * rounded down to a nanosecond, and once more where the core interpolates back into an
 * interval that has already been accumulated.
 */
#define ROUNDING_NS 2

struct bracket {
	unsigned int stamps;
	unsigned int outside;
	__s64 worst_ns;
	__u64 narrowest_ns;
};

static void check(struct bracket *b, __s64 before, __s64 stamp, __s64 after)
{
	__s64 miss = 0;

	if (stamp < before - ROUNDING_NS)
		miss = before - stamp;
	else if (stamp > after + ROUNDING_NS)
		miss = stamp - after;
	b->stamps++;
	if (miss)
		b->outside++;
	if (miss > b->worst_ns)
		b->worst_ns = miss;
	if ((__u64)(after - before) < b->narrowest_ns)
		b->narrowest_ns = after - before;
}

static bool inside(const struct bracket *b, const char *cs, const char *clock)
{
	ksft_print_msg("%s: %s: %u stamps, narrowest bracket %llu ns\n", cs, clock, b->stamps,
		       b->narrowest_ns);
	ksft_print_msg("%s: %s: outside their brackets: expected 0, seen %u, worst by %lld ns\n",
		       cs, clock, b->outside, b->worst_ns);
	return b->stamps && !b->outside;
}

/* Three results. */
static void results(int ptp, const char *cs, bool fake)
{
	struct bracket raw = { .narrowest_ns = UINT64_MAX };
	struct bracket realtime = { .narrowest_ns = UINT64_MAX };
	struct cross_timestamp stamp;
	int i, err = 0;

	for (i = 0; i < STAMPS; i++) {
		__s64 real_before = vdso_ns(CLOCK_REALTIME);
		__s64 raw_before = vdso_ns(CLOCK_MONOTONIC_RAW);
		__s64 raw_after, real_after;

		err = ptp_cross_timestamp(ptp, &stamp);
		raw_after = vdso_ns(CLOCK_MONOTONIC_RAW);
		real_after = vdso_ns(CLOCK_REALTIME);
		if (err)
			break;
		if (fake) {
			stamp.raw_ns = raw_after + 1000;
			stamp.realtime_ns = real_before - 1000;
		}
		check(&raw, raw_before, stamp.raw_ns, raw_after);
		check(&realtime, real_before, stamp.realtime_ns, real_after);
	}
	if (err)
		ksft_print_msg("%s: PTP_SYS_OFFSET_PRECISE: expected success, got %s (%d)\n", cs,
			       strerror(-err), -err);
	ksft_test_result(!err, "%s: cross timestamps are given\n", cs);
	ksft_test_result(inside(&raw, cs, "CLOCK_MONOTONIC_RAW"),
			 "%s: CLOCK_MONOTONIC_RAW lies in its bracket\n", cs);
	ksft_test_result(inside(&realtime, cs, "CLOCK_REALTIME"),
			 "%s: CLOCK_REALTIME lies in its bracket\n", cs);
}

/* Three results. */
static void results_refused(int ptp, const char *cs)
{
	struct cross_timestamp stamp;
	int err = ptp_cross_timestamp(ptp, &stamp);

	ksft_test_result(errno_is("PTP_SYS_OFFSET_PRECISE", err, ENODEV),
			 "%s: cross timestamps in kvmclock's time are refused with ENODEV\n", cs);
	ksft_test_result_skip("%s: CLOCK_MONOTONIC_RAW: no stamps\n", cs);
	ksft_test_result_skip("%s: CLOCK_REALTIME: no stamps\n", cs);
}

int main(int argc, char **argv)
{
	struct options options = { 0 };
	int ptp, err;

	options_parse(argc, argv, &options);
	ksft_print_header();
	require_clock(&options);
	ptp = ptp_open();
	if (ptp == -ENODEV)
		ksft_exit_skip("no ptp_kvm device: needs kvm-clock and CONFIG_PTP_1588_CLOCK_KVM\n");
	if (ptp < 0)
		ksft_exit_fail_msg("opening ptp_kvm's device: %s (%d)\n", strerror(-ptp), -ptp);
	ksft_set_plan(7);

	if (!strcmp(options.clocksource, MODULE_NAME) && strcmp(expected().backend, "kvm"))
		results_refused(ptp, options.clocksource);
	else
		results(ptp, options.clocksource, options.self_test);
	result_still_current(&options);

	if (options_any(&options) || !strcmp(options.clocksource, "kvm-clock") ||
	    !cs_is_available("kvm-clock")) {
		ksft_test_result_skip("kvm-clock: not available as a control\n");
		ksft_test_result_skip("kvm-clock: CLOCK_MONOTONIC_RAW\n");
		ksft_test_result_skip("kvm-clock: CLOCK_REALTIME\n");
	} else {
		err = cs_select("kvm-clock");
		errno_is("selecting kvm-clock", err, 0);
		results(ptp, "kvm-clock", false);
		cs_select(options.clocksource);
	}
	ksft_finished();
}
