// SPDX-License-Identifier: GPL-2.0
/* Without a KVM clock the load is refused with ENODEV, and the log says why. */
#include "lib/fixture.h"
#include "lib/kmsg.h"

int main(void)
{
	const char *owner = expected_owner();
	int log, err;

	ksft_print_header();
	if (geteuid())
		ksft_exit_skip("needs root\n");
	if (kvm_clock_msr()) {
		if (owner && !strcmp(owner, "none"))
			ksft_exit_fail_msg("no KVM clock expected, but CPUID shows one\n");
		ksft_exit_skip("CPUID shows a KVM clock\n");
	}
	if (!file_exists(paraclock_ko())) {
		if (owner)
			ksft_exit_fail_msg("no module %s\n", paraclock_ko());
		ksft_exit_skip("no module %s\n", paraclock_ko());
	}
	ksft_set_plan(4);

	log = kmsg_open();
	if (log < 0)
		ksft_exit_fail_msg("/dev/kmsg: %s (%d)\n", strerror(-log), -log);

	err = module_load(paraclock_ko(), "");
	ksft_test_result(errno_is("load", err, ENODEV), "load is refused with ENODEV\n");
	ksft_test_result(kmsg_find(log, "kvm"), "the log says that there is no KVM clock\n");
	ksft_test_result(!module_is_loaded(MODULE_NAME), "the module has not stayed\n");
	ksft_test_result(!cs_is_available(MODULE_NAME), "no clocksource has stayed\n");
	ksft_finished();
}
