// SPDX-License-Identifier: GPL-2.0
/*
 * A host that changes the TSC's frequency and lets its value go on, as KVM does with that of its
 * guest when its own has changed, while the driver reads the page. What the old page gives by the
 * new TSC is then near what the new one gives, and was given to nobody; the vDSO believes the new
 * page at once. No reading goes back, by the vDSO or by the system call, on any CPU.
 *
 * The TSC is between 1.0 and 4.0 GHz; every other time it jumps a little. Hyper-V's page is there
 * all the time, or away for a moment: half of the changes are announced, the other half are not.
 * Everybody reads from before the change on, or from some time after it. Between two changes nobody
 * does, until the driver believes the page: who goes by the clamp makes no new floor. A change in
 * which some reader came too late, on a busy machine, says less; nine in ten have to be others.
 * --loops: how many changes.
 */
#include "lib/updatefixture.h"

#define DEFAULT_CHANGES	200
#define SWITCH_SECONDS	10
#define READ_NS		15000000
#define LATE_US		1000
#define SETTLE_SECONDS	10
/* Of the changes, with every reader at work in them. */
#define WATCHED_PERCENT	90
/* In cycles: less than what the driver makes up for, at any frequency. */
#define JUMP		5000000

struct tally {
	struct reader_count path[READER_PATHS];
	unsigned int done, settled, watched;
};

static void change(unsigned int n)
{
	static const char * const page[] = { "", "page=invalid", "", "invalid_us=50" };
	__u64 khz = LEAST_KHZ + below(MOST_KHZ - LEAST_KHZ + 1);
	__s64 jump = n & 1 ? 0 : (__s64)below(2 * JUMP) - JUMP;

	must("migrate khz=%llu jump=%lld %s", khz, (long long)jump,
	     host_get()->hyperv ? page[n / 4 % ARRAY_SIZE(page)] : "");
}

static bool is_settled(void)
{
	struct status status;
	char value[8];

	return !status_read(&status) && status_get(&status, "stable", value, sizeof(value)) &&
	       !strcmp(value, "yes");
}

/* Until the driver believes the page again. */
static bool settle(void)
{
	__u64 start = ruler_ns();

	while (!is_settled()) {
		if (ruler_ns() - start > SETTLE_SECONDS * NSEC_PER_SEC)
			return false;
		sleep_ns(NSEC_PER_SEC / 1000);
		syscall_ns(CLOCK_MONOTONIC);
	}
	return true;
}

static struct readers *start(bool self_test)
{
	struct readers *readers = readers_start(READERS_MIXED, self_test);

	if (!readers)
		ksft_exit_fail_perror("starting the readers");
	return readers;
}

/* One change, and everybody who reads meanwhile. */
static bool turn(struct tally *t, bool self_test)
{
	__u32 generation = ruler_generation();
	struct readers *readers = NULL;
	bool switched;
	int path;

	if (t->done & 2)
		readers = start(self_test);
	sleep_ns(below(READ_NS));
	change(t->done);
	switched = wait_for_switch(generation, SWITCH_SECONDS);
	if (!readers) {
		ruler_wait_us(below(LATE_US));
		readers = start(self_test);
	}
	sleep_ns(READ_NS / 2 + below(READ_NS));
	readers_stop(readers);
	for (path = 0; path < READER_PATHS; path++) {
		struct reader_count count = readers_count(readers, path, -1);

		t->path[path].reads += count.reads;
		t->path[path].backward += count.backward;
		if (count.worst_ns > t->path[path].worst_ns)
			t->path[path].worst_ns = count.worst_ns;
	}
	t->watched += readers_least(readers, READER_VDSO) &&
		      readers_least(readers, READER_SYSCALL);
	readers_free(readers);
	if (!switched) {
		ksft_print_msg("change %u: not acknowledged in %d s\n", t->done, SWITCH_SECONDS);
		return false;
	}
	t->done++;
	t->settled += settle();
	return true;
}

int main(int argc, char **argv)
{
	struct options options = { .loops = DEFAULT_CHANGES };
	struct tally t = { 0 };
	__u64 control = 0;
	bool hyperv;
	__s64 khz;
	int path;

	options_parse(argc, argv, &options);
	ksft_print_header();
	require_testhost();
	hyperv = host_get()->hyperv;
	if (!of_driver(&options) || options.expect_failure)
		ksft_exit_skip("it is the driver that is looked at\n");
	if (hyperv ? host_get()->tsc_invariant : !host_get()->kvm_msr)
		ksft_exit_skip("the host has no page for a TSC that changes\n");
	setenv("PARACLOCK_ARGS", "mode=page", 1);
	setenv("PARACLOCK_MODE", "page", 1);
	setenv("PARACLOCK_VDSO", hyperv ? "hvclock" : "pvclock", 1);
	begin_update(&options);
	ksft_set_plan(READER_PATHS + 4);

	khz = testhost_ask("now", "khz");
	if (hyperv)
		control = rdmsr(0, HV_X64_MSR_TSC_EMULATION_CONTROL);
	be_urgent();
	settle();
	while (t.done < options.loops && turn(&t, options.self_test))
		if (t.done == options.loops / 2)
			unasked();
	must("migrate khz=%lld", (long long)khz);
	if (hyperv)
		wrmsr(0, HV_X64_MSR_TSC_EMULATION_CONTROL, control);

	ksft_print_msg("versions accepted: %lld; readings held: %lld\n", status_number("updates"),
		       status_number("clamped"));
	for (path = 0; path < READER_PATHS; path++)
		result_clock(reader_path_name(path), t.path[path].reads, t.path[path].backward,
			     t.path[path].worst_ns, "retune");
	ksft_test_result(t.done == options.loops, "%u changes of %u\n", t.done, options.loops);
	ksft_test_result(t.done && t.watched >= t.done * WATCHED_PERCENT / 100,
			 "every reader has read by both paths in %u changes of %u\n", t.watched, t.done);
	ksft_test_result(t.done && t.settled == t.done, "the page is believed again after %u of %u\n",
			 t.settled, t.done);
	result_still_current(&options);
	ksft_finished();
}
