// SPDX-License-Identifier: GPL-2.0
/*
 * Whose pages the host writes to, as the MSR says on every CPU: pages of the C driver stay
 * where they are (adopted); where there are none, the driver registers its own and leaves
 * nothing registered behind; in mode msr it leaves the MSR alone. A page that cannot be the
 * guest's is refused, and so is one in memory that neither the C driver nor this one registered.
 */
#include <fcntl.h>
#include <sys/mman.h>

#include "lib/fixture.h"
#include "lib/kmsg.h"

/*
 * SeaBIOS keeps time by a kvmclock page of its own, in its segment below 1 MiB, and leaves
 * it enabled on the boot CPU. With no-kvmclock it is still there when the driver is loaded.
 * Nobody reads it any more: it is no page to adopt, and no reason to refuse the load. Of
 * Hyper-V's clock the firmware knows nothing.
 */
#define FIRMWARE_END	0x100000

#define PAGEMAP_PRESENT	(1ull << 63)
#define PAGEMAP_PFN	((1ull << 55) - 1)

static int cpus[MAX_CPUS], n_cpus;
static __u32 msr;
static bool hyperv;

static bool is_enabled(__u64 value)
{
	return value & PAGE_MSR_ENABLED && (hyperv || value >= FIRMWARE_END);
}

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

/* No CPU's MSR names a page; Hyper-V lets the address of one that is disabled stay. */
static bool none_enabled(void)
{
	__u64 seen[MAX_CPUS];
	int i;

	if (!read_all(seen))
		return false;
	for (i = 0; i < n_cpus; i++) {
		if (hyperv ? !(seen[i] & PAGE_MSR_ENABLED) : !seen[i])
			continue;
		ksft_print_msg("cpu%d: MSR expected no page, seen %#llx\n", cpus[i], seen[i]);
		return false;
	}
	return true;
}

/* Each CPU's MSR names a page that is not the firmware's. */
static bool all_enabled(void)
{
	__u64 seen[MAX_CPUS];
	int i;

	if (!read_all(seen))
		return false;
	for (i = 0; i < n_cpus; i++) {
		if (is_enabled(seen[i]))
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
	struct status_page line;
	__u64 values[MAX_CPUS];
	int i, err = status_read(&status);

	if (err) {
		ksft_print_msg("%s: %s (%d)\n", STATUS_PATH, strerror(-err), -err);
		return false;
	}
	if (!read_all(values))
		return false;
	for (i = 0; i < n_cpus; i++) {
		if (!status_page(&status, cpus[i], &line)) {
			ksft_print_msg("cpu%d: no page in the status file\n", cpus[i]);
			return false;
		}
		ksft_print_msg("cpu%d: MSR %#llx, status: owner %s, gpa %#llx\n", cpus[i],
			       values[i], line.owner, line.gpa);
		if (values[i] != (line.gpa | PAGE_MSR_ENABLED) || strcmp(line.owner, owner))
			return false;
	}
	return true;
}

/* The status file says that no page is read, and names none. */
static bool status_names_none(void)
{
	struct status status = { 0 };
	struct status_page line;
	int err = status_read(&status);

	return errno_is(STATUS_PATH, err, 0) && status_is(&status, "page_owner", "none") &&
	       !status_page(&status, 0, &line);
}

/* Has the host write to this address; what the MSR then is, or 0 if the host does not take it. */
static __u64 write_page(__u64 gpa)
{
	__u64 value = gpa | PAGE_MSR_ENABLED, seen;

	return !msr_write(0, msr, value) && !msr_read(0, msr, &seen) && seen == value ? value : 0;
}

/* An address that the host takes, and that is no RAM of this guest. */
static __u64 write_bogus(void)
{
	static const __u64 gpas[] = { 1ull << 45, 1ull << 38, 0xfee00000 };
	__u64 value;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(gpas); i++) {
		value = write_page(gpas[i]);
		if (value)
			return value;
	}
	return 0;
}

/* RAM of the guest that is neither the driver's nor the C driver's: a page of this process. */
static __u64 write_foreign(void)
{
	size_t size = sysconf(_SC_PAGESIZE);
	__u64 entry = 0;
	void *page;
	int fd;

	page = mmap(NULL, size, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED | MAP_POPULATE, -1, 0);
	fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (page == MAP_FAILED || fd < 0 ||
	    pread(fd, &entry, sizeof(entry), (uintptr_t)page / size * sizeof(entry)) !=
		    sizeof(entry))
		entry = 0;
	if (fd >= 0)
		close(fd);
	if (!(entry & PAGEMAP_PRESENT) || !(entry & PAGEMAP_PFN))
		return 0;
	/* It stays mapped: the host may write to it as long as this process is there. */
	return write_page((entry & PAGEMAP_PFN) * size);
}

/* Four results. */
static void results_refused(const char *what, __u64 value)
{
	int log = kmsg_open(), err;
	__u64 seen = 0;

	if (!value) {
		ksft_test_result_skip("%s: the host takes no such address\n", what);
		ksft_test_result_skip("%s: the log names the reason\n", what);
		ksft_test_result_skip("%s: nothing has changed\n", what);
		ksft_test_result_skip("%s: load works again\n", what);
		return;
	}
	err = paraclock_load("");
	ksft_test_result(errno_is("load", err, EIO), "%s (%#llx) is refused with EIO\n", what,
			 value);
	ksft_test_result(kmsg_find(log, NULL), "%s: the log names the reason\n", what);
	msr_read(0, msr, &seen);
	if (seen != value)
		ksft_print_msg("cpu0: MSR expected %#llx, seen %#llx\n", value, seen);
	ksft_test_result(seen == value && !module_is_loaded(MODULE_NAME) &&
			 !cs_is_available(MODULE_NAME), "%s: nothing has changed\n", what);

	if (!err)
		paraclock_unload();
	msr_write(0, msr, 0);
	err = paraclock_load("");
	ksft_test_result(errno_is("load with the MSR at 0", err, 0), "%s: load works again\n",
			 what);
	paraclock_unload();
}

static void results_skipped(const char *what, const char *why)
{
	int i;

	for (i = 0; i < 4; i++)
		ksft_test_result_skip("%s: %s\n", what, why);
}

int main(void)
{
	const char *out_of_ram = "a page out of RAM", *foreign = "a page in foreign RAM";
	const char *owner = expected_owner();
	__u64 before[MAX_CPUS];
	bool enabled, own, reads;
	int err;

	ksft_print_header();
	require_host_clock();
	n_cpus = cpus_online(cpus, MAX_CPUS);
	hyperv = !strcmp(expected().backend, "hyperv");
	reads = expects_page();
	msr = host_page_msr(expected().backend);
	if (!msr)
		ksft_exit_skip("this host has no MSR that names a page\n");
	err = paraclock_unload();
	if (err)
		ksft_exit_fail_msg("unloading the driver: %s (%d)\n", strerror(-err), -err);
	err = msr_read(0, msr, &before[0]);
	if (err && !guest_is_known())
		ksft_exit_skip("no /dev/cpu/0/msr: needs CONFIG_X86_MSR\n");
	ksft_set_plan(13);

	if (!read_all(before))
		ksft_exit_fail_msg("MSR %#x cannot be read\n", msr);
	enabled = is_enabled(before[0]);
	if (!owner)
		owner = !reads ? "none" : enabled ? "adopted" : "own";
	own = !strcmp(owner, "own");
	ksft_print_msg("MSR %#x on cpu0 without the driver: %#llx; owner expected: %s\n", msr,
		       before[0], owner);
	if (before[0] & PAGE_MSR_ENABLED && !enabled)
		ksft_print_msg("that is the firmware's page\n");
	if (reads)
		ksft_test_result(enabled == !own,
				 "without the driver, the kernel has %s pages enabled\n",
				 enabled ? "its" : "no");
	else
		ksft_test_result_pass("whether the kernel has pages is nothing to mode msr\n");

	err = paraclock_load("");
	ksft_test_result(errno_is("load", err, 0), "the module loads\n");
	if (own)
		ksft_test_result(all_enabled(), "load registers a page on every CPU\n");
	else
		ksft_test_result(same(before, "after load"), "load leaves the MSR as it was\n");
	if (reads)
		ksft_test_result(status_names_them(owner),
				 "the status file names each CPU's page, %s\n", owner);
	else
		ksft_test_result(status_names_none(), "the status file names no page\n");
	err = paraclock_unload();
	ksft_test_result(errno_is("unload", err, 0) &&
			 (own ? none_enabled() : same(before, "after unload")),
			 "unload leaves %s\n", own ? "no page registered" : "the MSR as it was");

	/*
	 * With the C driver's page in use, a bogus address would take the page away from
	 * sched_clock and the rest of the kernel.
	 */
	if (!own) {
		results_skipped(out_of_ram, "needs an owner of its own");
		results_skipped(foreign, "needs an owner of its own");
		ksft_finished();
	}
	results_refused(out_of_ram, write_bogus());
	results_refused(foreign, write_foreign());
	ksft_finished();
}
