// SPDX-License-Identifier: GPL-2.0
/*
 * Whose pages the host writes to, as the MSR says on every CPU: pages of the C driver stay
 * where they are (adopted); where there are none, the driver registers its own and leaves
 * nothing registered behind. A page that cannot be the guest's is refused.
 */
#include "lib/fixture.h"
#include "lib/kmsg.h"

/*
 * SeaBIOS keeps time by a kvmclock page of its own, in its segment below 1 MiB, and leaves
 * it enabled on the boot CPU. With no-kvmclock it is still there when the driver is loaded.
 * Nobody reads it any more: it is no page to adopt, and no reason to refuse the load.
 */
#define FIRMWARE_END	0x100000

static const __u64 none[MAX_CPUS];

static int cpus[MAX_CPUS], n_cpus;
static __u32 msr;

static bool read_all(__u64 *values)
{
	bool ok = true;
	int i;

	for (i = 0; i < n_cpus; i++) {
		int err = msr_read(cpus[i], msr, &values[i]);

		if (err) {
			ksft_print_msg("cpu%d: reading MSR %#x: %s (%d)\n", cpus[i], msr,
				       strerror(-err), -err);
			ok = false;
		}
	}
	return ok;
}

static bool same(const __u64 *expected, const char *when)
{
	__u64 seen[MAX_CPUS];
	bool ok = read_all(seen);
	int i;

	for (i = 0; i < n_cpus && ok; i++) {
		if (seen[i] == expected[i])
			continue;
		ksft_print_msg("cpu%d %s: MSR expected %#llx, seen %#llx\n", cpus[i], when,
			       expected[i], seen[i]);
		return false;
	}
	return ok;
}

/* Each CPU's MSR names a page that is not the firmware's. */
static bool all_enabled(void)
{
	__u64 seen[MAX_CPUS];
	int i;

	if (!read_all(seen))
		return false;
	for (i = 0; i < n_cpus; i++) {
		if (seen[i] & KVM_SYSTEM_TIME_ENABLED && seen[i] >= FIRMWARE_END)
			continue;
		ksft_print_msg("cpu%d: MSR expected a page in RAM, enabled, seen %#llx\n", cpus[i],
			       seen[i]);
		return false;
	}
	return true;
}

/* The status file names, for each CPU, the page that the MSR names. */
static bool status_names_them(const char *owner)
{
	struct status status = { 0 };
	struct status_cpu line;
	__u64 values[MAX_CPUS];
	int i, err = status_read(&status);

	if (err) {
		ksft_print_msg("%s: %s (%d)\n", STATUS_PATH, strerror(-err), -err);
		return false;
	}
	if (!read_all(values))
		return false;
	for (i = 0; i < n_cpus; i++) {
		if (!status_cpu(&status, cpus[i], &line)) {
			ksft_print_msg("cpu%d: no page in the status file\n", cpus[i]);
			return false;
		}
		ksft_print_msg("cpu%d: MSR %#llx, status: owner %s, gpa %#llx\n", cpus[i],
			       values[i], line.owner, line.gpa);
		if (values[i] != (line.gpa | KVM_SYSTEM_TIME_ENABLED) || strcmp(line.owner, owner))
			return false;
	}
	return true;
}

/* An address that KVM takes, and that is no RAM of this guest. */
static __u64 write_bogus(void)
{
	static const __u64 gpas[] = { 1ull << 45, 1ull << 38, 0xfee00000 };
	__u64 seen;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(gpas); i++) {
		__u64 value = gpas[i] | KVM_SYSTEM_TIME_ENABLED;

		if (!msr_write(0, msr, value) && !msr_read(0, msr, &seen) && seen == value)
			return value;
	}
	return 0;
}

static void results_refused(void)
{
	__u64 seen = 0, bogus = write_bogus();
	int log = kmsg_open(), err;

	if (!bogus) {
		ksft_test_result_skip("a page out of RAM: the host takes no such address\n");
		ksft_test_result_skip("the log names the reason\n");
		ksft_test_result_skip("nothing has changed\n");
		ksft_test_result_skip("load works again\n");
		return;
	}
	err = module_load(paraclock_ko(), "");
	ksft_test_result(errno_is("load", err, EIO),
			 "a page out of RAM (%#llx) is refused with EIO\n", bogus);
	ksft_test_result(kmsg_find(log, NULL), "the log names the reason\n");
	msr_read(0, msr, &seen);
	if (seen != bogus)
		ksft_print_msg("cpu0: MSR expected %#llx, seen %#llx\n", bogus, seen);
	ksft_test_result(seen == bogus && !module_is_loaded(MODULE_NAME) &&
			 !cs_is_available(MODULE_NAME), "nothing has changed\n");

	if (!err)
		paraclock_unload();
	msr_write(0, msr, 0);
	err = module_load(paraclock_ko(), "");
	ksft_test_result(errno_is("load with the MSR at 0", err, 0), "load works again\n");
	paraclock_unload();
}

int main(void)
{
	const char *owner = expected_owner();
	__u64 before[MAX_CPUS];
	bool enabled, own;
	int err;

	ksft_print_header();
	require_kvm_clock();
	n_cpus = cpus_online(cpus, MAX_CPUS);
	msr = kvm_clock_msr();
	err = paraclock_unload();
	if (err)
		ksft_exit_fail_msg("unloading the driver: %s (%d)\n", strerror(-err), -err);
	err = msr_read(0, msr, &before[0]);
	if (err && !owner)
		ksft_exit_skip("no /dev/cpu/0/msr: needs CONFIG_X86_MSR\n");
	ksft_set_plan(9);

	if (!read_all(before))
		ksft_exit_fail_msg("MSR %#x cannot be read\n", msr);
	enabled = before[0] & KVM_SYSTEM_TIME_ENABLED && before[0] >= FIRMWARE_END;
	if (!owner)
		owner = enabled ? "adopted" : "own";
	own = !strcmp(owner, "own");
	ksft_print_msg("MSR %#x on cpu0 without the driver: %#llx; owner expected: %s\n", msr,
		       before[0], owner);
	if (before[0] && !enabled)
		ksft_print_msg("that is the firmware's page\n");
	ksft_test_result(enabled == !own, "without the driver, the kernel has %s pages enabled\n",
			 enabled ? "its" : "no");

	err = module_load(paraclock_ko(), "");
	ksft_test_result(errno_is("load", err, 0), "the module loads\n");
	if (own)
		ksft_test_result(all_enabled(), "load registers a page on every CPU\n");
	else
		ksft_test_result(same(before, "after load"), "load leaves the MSR as it was\n");
	ksft_test_result(status_names_them(owner), "the status file names each CPU's page, %s\n",
			 owner);
	err = paraclock_unload();
	ksft_test_result(errno_is("unload", err, 0) && same(own ? none : before, "after unload"),
			 "unload leaves %s\n", own ? "no page registered" : "the MSR as it was");

	/*
	 * With the C driver's page in use, a bogus address would take the page away from
	 * sched_clock and the rest of the kernel.
	 */
	if (own) {
		results_refused();
	} else {
		ksft_test_result_skip("a page out of RAM: needs an owner of its own\n");
		ksft_test_result_skip("the log names the reason\n");
		ksft_test_result_skip("nothing has changed\n");
		ksft_test_result_skip("load works again\n");
	}
	ksft_finished();
}
