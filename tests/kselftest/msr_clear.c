// SPDX-License-Identifier: GPL-2.0
/*
 * After a kexec or a crash out of a guest whose driver had pages of its own, the host no
 * longer writes to them: the MSR is 0 on every CPU. Run by the second kernel's init, which
 * has to be started with no-kvmclock, or its own clock registers before this looks.
 */
#include "lib/fixture.h"

int main(void)
{
	int cpus[MAX_CPUS], n = cpus_online(cpus, MAX_CPUS), i;
	__u32 msr = kvm_clock_msr();
	char cmdline[4096];
	__u64 value;

	ksft_print_header();
	if (!msr)
		ksft_exit_skip("CPUID shows no KVM clock\n");
	if (file_read("/proc/cmdline", cmdline, sizeof(cmdline)) < 0 ||
	    !strstr(cmdline, "no-kvmclock"))
		ksft_exit_skip("this kernel was started without no-kvmclock\n");
	ksft_set_plan(n);

	for (i = 0; i < n; i++) {
		int err = msr_read(cpus[i], msr, &value);

		if (err)
			ksft_print_msg("cpu%d: reading MSR %#x: %s (%d)\n", cpus[i], msr,
				       strerror(-err), -err);
		else
			ksft_print_msg("cpu%d: MSR %#x: expected 0, seen %#llx\n", cpus[i], msr,
				       value);
		ksft_test_result(!err && !value, "no page is registered on cpu%d\n", cpus[i]);
	}
	ksft_finished();
}
