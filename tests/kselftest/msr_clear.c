// SPDX-License-Identifier: GPL-2.0
/*
 * After a kexec or a crash out of a guest whose driver had pages of its own, the host no
 * longer writes to them: the MSR is 0 on every CPU, Hyper-V's at least not enabled. Run by the
 * second kernel's init, which has to be started with no-kvmclock, or its own clock registers
 * before this looks. A built-in driver for Hyper-V is at work only where KVM hides.
 */
#include "lib/fixture.h"

int main(void)
{
	int cpus[MAX_CPUS], n = cpus_online(cpus, MAX_CPUS), i;
	const char *backend = told("PARACLOCK_BACKEND");
	__u32 msr = host_page_msr(backend ? backend : "kvm");
	bool hyperv = msr == HV_X64_MSR_REFERENCE_TSC;
	char cmdline[4096];
	__u64 value;

	ksft_print_header();
	if (!msr && backend)
		ksft_exit_fail_msg("CPUID shows no clock of backend %s\n", backend);
	if (!msr)
		ksft_exit_skip("CPUID shows no KVM clock\n");
	if (hyperv && cs_is_available("hyperv_clocksource_tsc_page"))
		ksft_exit_skip("this kernel's own clock has registered a page\n");
	if (!hyperv && (file_read("/proc/cmdline", cmdline, sizeof(cmdline)) < 0 ||
			!strstr(cmdline, "no-kvmclock")))
		ksft_exit_skip("this kernel was started without no-kvmclock\n");
	ksft_set_plan(n);

	for (i = 0; i < n; i++) {
		__u64 checked = hyperv ? PAGE_MSR_ENABLED : ~0ull;
		int err = msr_read(cpus[i], msr, &value);

		if (err)
			ksft_print_msg("cpu%d: reading MSR %#x: %s (%d)\n", cpus[i], msr,
				       strerror(-err), -err);
		else
			ksft_print_msg("cpu%d: MSR %#x: expected 0 in bits %#llx, seen %#llx\n",
				       cpus[i], msr, checked, value);
		ksft_test_result(!err && !(value & checked), "no page is registered on cpu%d\n",
				 cpus[i]);
	}
	ksft_finished();
}
