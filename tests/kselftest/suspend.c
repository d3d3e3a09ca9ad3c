// SPDX-License-Identifier: GPL-2.0
/*
 * Suspend to RAM up to the last step and back (pm_test "core": all but the firmware's
 * part, with the other CPUs offline and timekeeping suspended): time goes on, nothing steps
 * back, and every CPU's page is registered as before. With --s3 all of it, woken by the RTC.
 */
#include "lib/fixture.h"

#define POWER		"/sys/power/"
#define WAKE_ALARM	"/sys/class/rtc/rtc0/wakealarm"
#define TEST_DELAY	"/sys/module/suspend/parameters/pm_test_delay"
#define CALIBRATE_NS	(NSEC_PER_SEC / 5)
/* The TSC may start anew in S3, so that only this says when something is far off. */
#define S3_MOST_NS	(60 * NSEC_PER_SEC)

/*
 * How much more than the time that really went by, taken from the TSC, a clock may show. The
 * TSC's rate is measured beforehand, to much better than 1 percent. CLOCK_BOOTTIME gets the
 * time asleep from the persistent clock, which may count whole seconds at both ends.
 */
static const struct {
	clockid_t id;
	__s64 slack_ns;
} clocks[] = {
	{ CLOCK_MONOTONIC, 0 },
	{ CLOCK_MONOTONIC_RAW, 0 },
	{ CLOCK_BOOTTIME, 2 * NSEC_PER_SEC },
};

static double ticks_per_ns(void)
{
	__u64 ns = vdso_ns(CLOCK_MONOTONIC), ticks = rdtsc_ordered();

	sleep_ns(CALIBRATE_NS);
	ns = vdso_ns(CLOCK_MONOTONIC) - ns;
	ticks = rdtsc_ordered() - ticks;
	return (double)ticks / ns;
}

static int cpus[MAX_CPUS], n_cpus;
static __u32 msr;

static bool msrs(__u64 *values)
{
	int i;

	for (i = 0; i < n_cpus; i++)
		if (msr_read(cpus[i], msr, &values[i]))
			return false;
	return true;
}

static void require_suspend(bool s3)
{
	char text[256];
	int err;

	/* Suspend to idle leaves timekeeping and the pages alone. */
	if (file_read(POWER "mem_sleep", text, sizeof(text)) < 0 || !strstr(text, "deep"))
		ksft_exit_skip("no suspend to RAM (CONFIG_ACPI_SLEEP, S3); mem_sleep: %s\n", text);
	err = file_write(POWER "mem_sleep", "deep");
	if (err)
		ksft_exit_fail_msg(POWER "mem_sleep: %s (%d)\n", strerror(-err), -err);

	if (s3) {
		if (!file_exists(WAKE_ALARM))
			ksft_exit_skip("no " WAKE_ALARM ": needs CONFIG_RTC_DRV_CMOS\n");
		file_write(WAKE_ALARM, "0");
		err = file_write(WAKE_ALARM, "+3");
		if (err)
			ksft_exit_fail_msg(WAKE_ALARM ": %s (%d)\n", strerror(-err), -err);
		return;
	}
	if (file_read(POWER "pm_test", text, sizeof(text)) < 0 || !strstr(text, "core"))
		ksft_exit_skip("no " POWER "pm_test: needs CONFIG_PM_SLEEP_DEBUG\n");
	err = file_write(POWER "pm_test", "core");
	if (err)
		ksft_exit_fail_msg(POWER "pm_test: %s (%d)\n", strerror(-err), -err);
	file_write(TEST_DELAY, "1");
}

/*
 * kvm-clock, at work beside another clock that is tested: pm_test leaves out the step that
 * registers the boot CPU's page again, and the tests after this one would run without it.
 */
static void restore_kvm_clock(__u64 before)
{
	__u64 after = 0;

	if (!before || msr_read(0, host_get()->kvm_msr, &after) || after)
		return;
	ksft_print_msg("kvm-clock's page on cpu0 is registered again, which pm_test leaves out\n");
	msr_write(0, host_get()->kvm_msr, before);
}

static void result_pages(const __u64 *before, bool s3)
{
	const char *what = "every CPU's page is registered as before";
	__u64 after[MAX_CPUS];
	bool same, left_out = false;
	char owner[64] = "";
	struct status status;
	int i;

	if (!status_read(&status))
		status_get(&status, "page_owner", owner, sizeof(owner));
	same = msrs(after);
	for (i = 0; i < n_cpus; i++) {
		if (after[i] == before[i])
			continue;
		ksft_print_msg("cpu%d: MSR expected %#llx, seen %#llx\n", cpus[i], before[i],
			       after[i]);
		same = false;
		if (i || after[i] || s3 || !strcmp(owner, "own") ||
		    msr == HV_X64_MSR_REFERENCE_TSC)
			continue;
		/*
		 * kvm-clock registers the boot CPU's page again when the processor's
		 * state is restored, a step that pm_test leaves out. What it has lost by
		 * that is given back, or the next test takes it for a guest without pages.
		 */
		left_out = !msr_write(cpus[i], msr, before[i]);
	}
	if (!same && left_out)
		ksft_test_result_xfail("%s: the C driver's page, left out by pm_test\n", what);
	else
		ksft_test_result(same, "%s\n", what);
}

int main(int argc, char **argv)
{
	__u64 before[ARRAY_SIZE(clocks)], after[ARRAY_SIZE(clocks)], ticks;
	__u64 msr_before[MAX_CPUS], kvm_before = 0;
	struct options options = { 0 };
	struct status status = { 0 };
	bool with_msr;
	double rate;
	size_t i;
	int err;

	options_parse(argc, argv, &options);
	ksft_print_header();
	require_clock(&options);
	require_suspend(options.s3);
	ksft_set_plan(4 + ARRAY_SIZE(clocks));

	n_cpus = cpus_online(cpus, MAX_CPUS);
	msr = host_page_msr(expected().backend);
	with_msr = msr && msrs(msr_before);
	if (host_get()->kvm_msr && msr != host_get()->kvm_msr && !options.s3)
		msr_read(0, host_get()->kvm_msr, &kvm_before);

	rate = ticks_per_ns();
	ticks = rdtsc_ordered();
	for (i = 0; i < ARRAY_SIZE(clocks); i++)
		before[i] = vdso_ns(clocks[i].id);
	err = file_write(POWER "state", "mem");
	for (i = 0; i < ARRAY_SIZE(clocks); i++)
		after[i] = vdso_ns(clocks[i].id);
	ticks = rdtsc_ordered() - ticks;
	file_write(POWER "pm_test", "none");
	restore_kvm_clock(kvm_before);

	ksft_test_result(errno_is("suspend", err, 0), "suspend and resume, %s\n",
			 options.s3 ? "S3" : "up to the core");
	for (i = 0; i < ARRAY_SIZE(clocks); i++) {
		__s64 step = after[i] - before[i];
		__s64 most = (__s64)(ticks / rate * 1.01) + clocks[i].slack_ns;

		if (options.s3)
			most = S3_MOST_NS;
		if (options.self_test)
			step = -step;
		ksft_print_msg("%s: expected to go on by 1 to %lld ns, seen %lld ns\n",
			       clock_name(clocks[i].id), most, step);
		ksft_test_result(step > 0 && step <= most, "%s goes on\n",
				 clock_name(clocks[i].id));
	}

	if (with_msr)
		result_pages(msr_before, options.s3);
	else
		ksft_test_result_skip("pages: no clock with pages, or no /dev/cpu/0/msr\n");

	if (strcmp(options.clocksource, MODULE_NAME)) {
		ksft_test_result_skip("status file: not testing " MODULE_NAME "\n");
	} else {
		err = status_read(&status);
		ksft_test_result(errno_is(STATUS_PATH, err, 0) &&
				 status_is(&status, "mode", expected().mode) &&
				 (!expected_owner() ||
				  status_is(&status, "page_owner", expected_owner())),
				 "the mode is %s, as before\n", expected().mode);
	}
	result_still_current(&options);
	ksft_finished();
}
