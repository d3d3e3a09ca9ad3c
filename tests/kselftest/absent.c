// SPDX-License-Identifier: GPL-2.0
/* Without a clock of a hypervisor every load is refused with ENODEV, and the log says why. */
#include "lib/fixture.h"
#include "lib/kmsg.h"

static const struct {
	const char *params;
	const char *log;
} loads[] = {
	{ "", "no " },
	{ "backend=kvm", "KVM" },
	{ "backend=hyperv", "Hyper-V" },
	{ "mode=page", "no " },
	{ "mode=msr", "Hyper-V" },
};

int main(void)
{
	size_t i;
	int log;

	ksft_print_header();
	if (geteuid())
		ksft_exit_skip("needs root\n");
	if (host_has_clock()) {
		if (no_clock_expected())
			ksft_exit_fail_msg("no clock expected, but CPUID shows one\n");
		ksft_exit_skip("CPUID shows a clock of a hypervisor\n");
	}
	require_module();
	ksft_set_plan(2 * ARRAY_SIZE(loads) + 2);

	log = kmsg_open();
	if (log < 0)
		ksft_exit_fail_msg("/dev/kmsg: %s (%d)\n", strerror(-log), -log);

	for (i = 0; i < ARRAY_SIZE(loads); i++) {
		int err = module_load(paraclock_ko(), loads[i].params);

		ksft_test_result(errno_is("load", err, ENODEV),
				 "load with '%s' is refused with ENODEV\n", loads[i].params);
		ksft_test_result(kmsg_find(log, loads[i].log), "the log says '%s'\n",
				 loads[i].log);
		if (!err)
			paraclock_unload();
	}
	ksft_test_result(!module_is_loaded(MODULE_NAME), "the module has not stayed\n");
	ksft_test_result(!cs_is_available(MODULE_NAME), "no clocksource has stayed\n");
	ksft_finished();
}
