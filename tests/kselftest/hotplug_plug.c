// SPDX-License-Identifier: GPL-2.0
/*
 * vCPUs that were never there are plugged in (ACPI): the first two CPUs of a socket, with a
 * TSC_ADJUST that is wrong. Whoever runs the guest plugs them in when the test asks for it.
 */
#include "lib/hotplugfixture.h"

#define SOCKET		2
#define CPU		4
#define PLUG_MS		20000
#define FOREIGN		12345
#define RIGHT		2000

static bool plug(int core)
{
	char path[64], line[64];
	unsigned int waited;

	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", CPU + core);
	/* Not by the runner, which keeps lines back. */
	snprintf(line, sizeof(line), "\n@host plug %d %d\n", SOCKET, core);
	if (file_write("/dev/console", line))
		return false;
	for (waited = 0; !file_exists(path); waited++) {
		if (waited >= PLUG_MS) {
			ksft_print_msg("cpu%d: did not come within %d ms\n", CPU + core, PLUG_MS);
			return false;
		}
		usleep(1000);
	}
	return true;
}

int main(int argc, char **argv)
{
	struct options options = { 0 };
	bool right, with_adjust;
	long long before;
	int kmsg;

	options_parse(argc, argv, &options);
	ksft_print_header();
	require_testhost();
	if (!told("PARACLOCK_TESTHOST"))
		ksft_exit_skip("nobody is there to plug a vCPU in\n");
	if (!file_exists("/sys/devices/system/cpu/cpu3"))
		ksft_exit_skip("needs four CPUs, and two to be plugged in\n");
	require_clock(&options);
	if (!load_anew("tsc_reliable=never") || !is_mode("tsc"))
		ksft_exit_fail_msg("mode tsc expected\n");
	with_adjust = strstr(status_text("tsc_cpu0"), "set_to=");
	ksft_set_plan(4);
	kmsg = kmsg_open();

	before = status_number("tsc_checks");
	right = plug(0);
	if (right && with_adjust)
		must("adjust_on_start vcpu=%d value=%d", CPU, FOREIGN);
	right = right && start_checked(CPU) && driver_says(CPU, "socket=2 ") &&
		status_number("tsc_checks") > before &&
		wait_for_status("tsc_in_step", "yes", LOOK_MS);
	if (right && with_adjust)
		right = llabs(adjust_of(CPU)) <= RIGHT &&
			logged(kmsg, "TSC_ADJUST moved by -", true);
	ksft_test_result(right && is_mode("tsc"),
			 "the first CPU of a new socket: checked%s\n",
			 with_adjust ? ", and moved into step" : "");

	right = right && plug(1);
	if (right && with_adjust)
		must("adjust_on_start vcpu=%d value=%d", CPU + 1, FOREIGN * 2);
	right = right && switch_cpu(CPU + 1, true) && driver_says(CPU + 1, "socket=2 ") &&
		wait_for_status("tsc_in_step", "yes", LOOK_MS);
	if (right && with_adjust)
		right = adjust_is(CPU + 1, adjust_of(CPU)) && driver_says(CPU + 1, "as its socket");
	ksft_test_result(right && is_mode("tsc"), "its sibling: %s\n",
			 with_adjust ? "set as the first one" : "checked");

	/* Who has the value goes, and who has come after it stays. */
	right = right && switch_cpu(CPU, false) && driver_says(CPU + 1, "in step") &&
		start_checked(CPU) && wait_for_status("tsc_in_step", "yes", LOOK_MS);
	if (right && with_adjust)
		right = adjust_is(CPU, adjust_of(CPU + 1)) && driver_says(CPU, "as its socket");
	ksft_test_result(right && is_mode("tsc"), "the first one goes, and comes back as the second\n");

	must("adjust_on_start vcpu=%d value=honest", CPU);
	must("adjust_on_start vcpu=%d value=honest", CPU + 1);
	switch_cpu(CPU + 1, false);
	switch_cpu(CPU, false);
	close(kmsg);
	result_still_current(&options);
	ksft_finished();
}
