// SPDX-License-Identifier: GPL-2.0
/*
 * Every CPU but the first goes offline and comes back, again and again, under readers; the
 * readers of a CPU return to it the moment it is up. After each return its MSR and the
 * status file name its page again.
 */
#include "lib/hotplugfixture.h"

#define DEFAULT_LOOPS	20
#define DWELL_NS	(NSEC_PER_SEC / 50)

static int cpus[MAX_CPUS], n_cpus;
static bool with_msr, with_status;
static char owner[64];
static __u32 msr;

/* The CPU's page is registered, and it is the one that the status file names. */
static bool page_is_back(int cpu, unsigned int turn)
{
	struct status status = { 0 };
	struct status_page line;
	__u64 value = 0;
	int err;

	if (with_status) {
		err = status_read(&status);
		if (err || !status_page(&status, cpu, &line)) {
			ksft_print_msg("turn %u: cpu%d: no page in the status file: %s (%d)\n",
				       turn, cpu, strerror(-err), -err);
			return false;
		}
		if (strcmp(line.owner, owner)) {
			ksft_print_msg("turn %u: cpu%d: owner expected %s, seen %s\n", turn, cpu,
				       owner, line.owner);
			return false;
		}
	}
	if (with_msr) {
		err = msr_read(cpu, msr, &value);
		if (err || value != (line.gpa | PAGE_MSR_ENABLED)) {
			ksft_print_msg("turn %u: cpu%d: MSR expected %#llx, seen %#llx (%d)\n",
				       turn, cpu, line.gpa | PAGE_MSR_ENABLED, value, err);
			return false;
		}
	}
	return true;
}

static bool set_online(int cpu, bool online, unsigned int turn)
{
	int err = cpu_set_online(cpu, online);

	if (err)
		ksft_print_msg("turn %u: cpu%d %s: %s (%d)\n", turn, cpu,
			       online ? "online" : "offline", strerror(-err), -err);
	return !err;
}

/* Even if something has failed, so that the next test finds all CPUs. */
static void all_online(void)
{
	int i;

	for (i = 0; i < n_cpus; i++)
		if (!cpu_is_online(cpus[i]))
			cpu_set_online(cpus[i], true);
}

int main(int argc, char **argv)
{
	struct options options = { .loops = DEFAULT_LOOPS };
	const char *loops = getenv("PARACLOCK_HOTPLUG_LOOPS");
	bool switched = true, pages = true, is_ours;
	struct status status = { 0 };
	struct readers *readers;
	struct reader_count count;
	unsigned int turn = 0;
	int i;

	if (loops && atoi(loops) > 0)
		options.loops = atoi(loops);
	options_parse(argc, argv, &options);
	ksft_print_header();
	if (geteuid())
		ksft_exit_skip("needs root\n");
	n_cpus = cpus_online(cpus, MAX_CPUS);
	if (n_cpus < 2)
		ksft_exit_skip("needs two CPUs\n");
	if (!file_exists("/sys/devices/system/cpu/cpu1/online"))
		ksft_exit_skip("needs CONFIG_HOTPLUG_CPU\n");
	require_clock(&options);
	is_ours = !strcmp(options.clocksource, MODULE_NAME);
	if (is_ours && testhost_present() && !begin_honest(n_cpus))
		ksft_exit_fail_msg("no beginning without a fault\n");
	ksft_set_plan(5);
	/* What is read is worth to know. */
	if (is_ours && guest_is_known() && !is_mode(expected().mode))
		ksft_exit_fail_msg("not in the mode that is to be tested\n");

	if (is_ours && expects_page()) {
		__u64 value;

		with_status = true;
		if (!status_read(&status))
			status_get(&status, "page_owner", owner, sizeof(owner));
		if (expected_owner())
			snprintf(owner, sizeof(owner), "%s", expected_owner());
		msr = host_page_msr(expected().backend);
		with_msr = !msr_read(0, msr, &value);
		if (!with_msr && guest_is_known())
			ksft_exit_fail_msg("no /dev/cpu/0/msr: needs CONFIG_X86_MSR\n");
		if (!with_msr)
			ksft_print_msg("no /dev/cpu/0/msr: only the status file is looked at\n");
	}

	readers = readers_start(READERS_VDSO | READERS_SYSCALL, options.self_test);
	if (!readers)
		ksft_exit_fail_perror("starting the readers");
	while (turn < options.loops && switched && pages) {
		turn++;
		for (i = 1; i < n_cpus && switched; i++) {
			switched = set_online(cpus[i], false, turn);
			sleep_ns(DWELL_NS);
		}
		for (i = 1; i < n_cpus && switched; i++) {
			switched = set_online(cpus[i], true, turn);
			sleep_ns(DWELL_NS);
			pages = pages && page_is_back(cpus[i], turn);
		}
		if (turn % 5 == 0)
			ksft_print_msg("%u of %u turns, %llu readings\n", turn, options.loops,
				       readers_count(readers, -1, -1).reads);
	}
	all_online();
	/* Readers that lost their CPU in the last turn return before the verdict. */
	sleep_ns(NSEC_PER_SEC / 5);
	readers_stop(readers);

	ksft_test_result(switched && turn == options.loops,
			 "%u times offline and online, every CPU but the first\n", turn);
	if (with_status)
		ksft_test_result(pages, "each time its page was registered again (%s%s)\n", owner,
				 with_msr ? ", by the MSR too" : "");
	else
		ksft_test_result_skip("pages: " MODULE_NAME " does not read one here\n");

	count = readers_count(readers, -1, -1);
	ksft_print_msg("%llu readings, expected 0 backward, seen %llu, worst %llu ns\n",
		       count.reads, count.backward, count.worst_ns);
	if (count.backward && is_ours && !status_read(&status))
		status_print(&status);
	ksft_test_result(!count.backward, "no reader saw a step back meanwhile\n");
	ksft_test_result(readers_least(readers, READER_VDSO) &&
			 readers_least(readers, READER_SYSCALL),
			 "every CPU's readers have read\n");
	readers_free(readers);
	result_still_current(&options);
	ksft_finished();
}
