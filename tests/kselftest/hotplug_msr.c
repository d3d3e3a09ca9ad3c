// SPDX-License-Identifier: GPL-2.0
/*
 * TSC_ADJUST on any host that has it, a real KVM for one: the guest itself plays the one who puts it
 * wrong, by writing the MSR. A socket that is off at load, one that is changed meanwhile, CPUs that
 * go and come back.
 */
#include "lib/hotplugfixture.h"

/* A host that runs one level of emulation upon the other takes its time from CPU to CPU. */
#define OFF		1000000
#define RIGHT		50000
#define TURNS		5

static int kmsg;

static bool near(int cpu, __s64 expected)
{
	__s64 seen = adjust_of(cpu);

	if (llabs(seen - expected) > RIGHT)
		ksft_print_msg("cpu%d: TSC_ADJUST expected %lld to %d, seen %lld\n", cpu, expected,
			       RIGHT, seen);
	return llabs(seen - expected) <= RIGHT;
}

/* As the register reads, so the driver says. */
static bool told_right(int cpu)
{
	char value[32];

	snprintf(value, sizeof(value), "set_to=%lld ", adjust_of(cpu));
	return driver_says(cpu, value);
}

int main(int argc, char **argv)
{
	struct options options = { 0 };
	bool right, sockets;
	long long before;
	__u64 value;
	int turn;

	options_parse(argc, argv, &options);
	ksft_print_header();
	if (geteuid())
		ksft_exit_skip("needs root\n");
	if (testhost_present())
		ksft_exit_skip("the test host has a test of its own for this\n");
	if (msr_read(0, MSR_IA32_TSC_ADJUST, &value))
		ksft_exit_skip("no TSC_ADJUST, or no /dev/cpu/0/msr\n");
	if (!file_exists("/sys/devices/system/cpu/cpu1/online"))
		ksft_exit_skip("needs two CPUs and CONFIG_HOTPLUG_CPU\n");
	require_clock(&options);
	if (strcmp(expected().mode, "tsc"))
		ksft_exit_skip("mode tsc does not come about here\n");
	/* The kernel would correct what is written here. */
	if (host_get()->tsc_invariant)
		ksft_exit_skip("the kernel verifies TSC_ADJUST itself\n");
	sockets = strstr(status_text("tsc_cpu1"), "socket=1 ");
	ksft_set_plan(6);

	right = is_mode("tsc") && adjust_is(0, 0) && told_right(0) && told_right(1) &&
		wait_for_status("tsc_in_step", "yes", LOOK_MS);
	ksft_test_result(right && (!sockets || status_number("tsc_checks") > 0),
			 "at load: TSC_ADJUST is as the driver says, %s checked, mode tsc\n",
			 sockets ? "CPU 1 was" : "none had to be");

	before = status_number("tsc_checks");
	for (turn = 0; right && turn < TURNS; turn++)
		right = switch_cpu(1, false) && switch_cpu(1, true) && told_right(1) &&
			wait_for_status("tsc_in_step", "yes", LOOK_MS);
	ksft_print_msg("%lld runs of the check\n", status_number("tsc_checks") - before);
	ksft_test_result(right && (!sockets || status_number("tsc_checks") - before >= TURNS) &&
			 is_mode("tsc"), "%d times offline and online: checked each time, in step\n",
			 turn);

	right = !paraclock_unload() && wrmsr(1, MSR_IA32_TSC_ADJUST, OFF);
	kmsg = kmsg_open();
	/* On a busy host it comes right in more than one session. */
	right = right && load_anew("") && wait_for_status("tsc_in_step", "yes", LOOK_MS) &&
		near(1, 0) && told_right(1) &&
		logged(kmsg, sockets ? "CPU1: TSC out of step, TSC_ADJUST moved by -" :
				       "CPU1: TSC_ADJUST 1000000 differs", true);
	ksft_test_result(right && is_mode("tsc"), "%d cycles ahead at load: %s\n", OFF,
			 sockets ? "moved" : "set as the other CPU of the socket");
	close(kmsg);

	before = status_number("tsc_adjust_restores");
	value = rdmsr(1, MSR_IA32_TSC_ADJUST);
	kmsg = kmsg_open();
	right = wrmsr(1, MSR_IA32_TSC_ADJUST, value + OFF);
	usleep(LOOK_MS * 1000 / 3);
	right = right && adjust_is(1, (__s64)value) &&
		status_number("tsc_adjust_restores") == before + 1 &&
		logged(kmsg, "CPU1: TSC_ADJUST was changed", true);
	ksft_test_result(right, "changed meanwhile: restored, and logged\n");
	right = wrmsr(1, MSR_IA32_TSC_ADJUST, value - OFF);
	usleep(LOOK_MS * 1000 / 3);
	right = right && adjust_is(1, (__s64)value) && logged(kmsg, "CPU1: TSC_ADJUST was", false);
	ksft_test_result(right, "... again: restored, and not logged\n");
	close(kmsg);
	result_still_current(&options);
	ksft_finished();
}
