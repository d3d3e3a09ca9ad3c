// SPDX-License-Identifier: GPL-2.0
/*
 * The kernel's own driver of the host's clock, which knows the protocol of its pages, under 1,000
 * changes of the TSC's frequency, asked for by this program, by the rig over the host's monitor,
 * and, on Hyper-V, with reenlightenment in full: reference time steps by nothing at a change, no
 * reader on any CPU sees time go back, and the clock stays with the host's.
 *
 * The last ones are a fault on purpose: a page left valid over a change has to be seen, or this
 * test sees nothing. It is one that the guest survives: see STALE_JUMP.
 */
#include "lib/hostfixture.h"
#include "lib/readers.h"

#define AT_ONCE		1000
#define BY_RIG		300
#define BY_RIG_DWELL_NS	(NSEC_PER_SEC / 20)
#define BY_RIG_TURNS	(60 * 20)
#define REENLIGHTENED	8
#define STALE		8
#define STALE_DWELL_NS	(NSEC_PER_SEC / 50)
/*
 * Cycles, either way. KVM's arithmetic takes tsc_timestamp from the TSC without a sign: of a TSC
 * that is earlier it makes 146 years, in sched_clock() as well, and the scheduler of a CPU that has
 * read it stands still. What passes between two of these migrations is four times as much, at 1
 * GHz, so that the TSC never gets there, and yet time goes back.
 */
#define STALE_JUMP	5000000
/* What the scheduler may be ahead of the clock. */
#define AHEAD_MS	1000
#define PACE		400
/* Switches a second that have to be sustained. */
#define RATE		200
/* The bracket of a reading that counts, and what the clock may be off within it. */
#define BRACKET_NS	5000
#define BOUND_NS	1000
#define TRACE_CHUNK	64

static bool hyperv;

/* Without an acknowledgment to wait for, the TSC changes at once. */
static void reenlightenment(bool on)
{
	if (hyperv)
		wrmsr(0, HV_X64_MSR_TSC_EMULATION_CONTROL, on);
}

/* How many of the switches from this one on have a step of reference time; -1 if one is missing. */
static int steps_in_trace(__u32 from, __u32 end, __s64 *worst)
{
	int steps = 0;

	*worst = 0;
	while (from < end) {
		const char *at;
		__u32 n = 0;

		must("trace from=%u count=%d", from, TRACE_CHUNK);
		for (at = strchr(testhost_reply(), ';'); at; at = strchr(at + 1, ';'), n++) {
			__s64 step = testhost_value_in(at, "ref_after") -
				     testhost_value_in(at, "ref_before");

			if (testhost_value_in(at, "n") != from + n)
				return -1;
			steps += !!step;
			if (llabs(step) > llabs(*worst))
				*worst = step;
		}
		if (!n)
			return -1;
		from += n;
	}
	return steps;
}

static void result_readers(struct readers *readers, const char *what)
{
	struct reader_count count;

	readers_stop(readers);
	count = readers_count(readers, -1, -1);
	if (count.backward)
		ksft_print_msg("0 backward expected, seen %llu, worst %llu ns\n", count.backward,
			       count.worst_ns);
	ksft_test_result(!count.backward && readers_least(readers, READER_VDSO),
			 "%s: no step back in %llu readings\n", what, count.reads);
	readers_free(readers);
}

static struct readers *start(bool self_test)
{
	struct readers *readers = readers_start(READERS_VDSO | READERS_SYSCALL, self_test);

	if (!readers)
		ksft_exit_fail_perror("starting the readers");
	return readers;
}

/* With the readers at rest, or no bracket is narrow. */
static void result_with_host(struct deviation before, const char *what)
{
	struct deviation after = ruler_against(raw_ns);
	__s64 off = after.ns - before.ns;

	ksft_print_msg("CLOCK_MONOTONIC_RAW is off by %lld ns more, brackets %llu and %llu ns\n",
		       off, before.bracket, after.bracket);
	ksft_test_result(before.bracket < BRACKET_NS && after.bracket < BRACKET_NS &&
			 llabs(off) <= BOUND_NS + (__s64)(before.bracket + after.bracket) / 2,
			 "%s: the clock stays with the host's, to %d ns\n", what, BOUND_NS);
}

static void at_once(bool self_test)
{
	struct deviation before = ruler_against(raw_ns);
	struct readers *readers = start(self_test);
	__u32 from = ruler_generation(), i, done;
	__u64 begin, took;
	__s64 worst;
	double rate;
	int steps;

	reenlightenment(false);
	begin = ruler_ns();
	for (i = 0; i < AT_ONCE; i++) {
		/* Invalid for a moment, in every other one. */
		migrate_somewhere(hyperv && i & 1 ? "invalid_us=50" : "");
		while (ruler_ns() - begin < (i + 1ull) * NSEC_PER_SEC / PACE)
			sleep_ns(200000);
	}
	took = ruler_ns() - begin;
	done = ruler_generation() - from;
	rate = done * 1e9 / took;
	ksft_print_msg("%u switches in %llu ms\n", done, took / 1000000);
	ksft_test_result(done == AT_ONCE && rate >= RATE,
			 "%u migrations at once: %.0f a second, at least %d expected\n", done,
			 rate, RATE);
	result_readers(readers, "migrations at once");
	steps = steps_in_trace(from, from + done, &worst);
	if (steps)
		ksft_print_msg("0 steps expected, seen %d, worst %lld units\n", steps, worst);
	ksft_test_result(!steps, "migrations at once: reference time steps by nothing\n");
	result_with_host(before, "migrations at once");
}

static void by_rig(void)
{
	struct deviation before = ruler_against(raw_ns);
	__u32 from = ruler_generation();
	struct readers *readers;
	bool come = false;
	int turn;

	if (!told("PARACLOCK_TESTHOST")) {
		ksft_test_result_skip("migrations by the monitor: nobody is told to make them\n");
		ksft_test_result_skip("migrations by the monitor: readers\n");
		ksft_test_result_skip("migrations by the monitor: the clock\n");
		return;
	}
	readers = start(false);
	/* Whoever watches the console hears it. */
	ksft_print_msg("@host migrate %d\n", BY_RIG);
	/* The runner's sed keeps a line until it has the next one. */
	ksft_print_msg("waiting for them\n");
	fflush(stdout);
	for (turn = 0; turn < BY_RIG_TURNS && !come; turn++) {
		sleep_ns(BY_RIG_DWELL_NS);
		come = ruler_generation() - from >= BY_RIG;
	}
	ksft_test_result(come, "%d migrations have come by the monitor\n",
			 (int)(ruler_generation() - from));
	result_readers(readers, "migrations by the monitor");
	result_with_host(before, "migrations by the monitor");
}

/* The kernel's driver acknowledges, as it would on Hyper-V. */
static void reenlightened(void)
{
	struct deviation before = ruler_against(raw_ns);
	struct readers *readers;
	__u64 least = UINT64_MAX, most = 0;
	bool all = true;
	int i;

	if (!hyperv || !(rdmsr(0, HV_X64_MSR_REENLIGHTENMENT_CONTROL) & REENLIGHTENMENT_ENABLED)) {
		ksft_test_result_skip("reenlightenment: the kernel has not asked for it\n");
		ksft_test_result_skip("reenlightenment: readers\n");
		ksft_test_result_skip("reenlightenment: the clock\n");
		return;
	}
	reenlightenment(true);
	readers = start(false);
	for (i = 0; i < REENLIGHTENED && all; i++) {
		__u32 from = ruler_generation();
		__u64 begin = ruler_ns(), took;

		migrate_somewhere(i & 1 ? "page=invalid" : "");
		while (ruler_generation() == from && ruler_ns() - begin < 5ull * NSEC_PER_SEC)
			sleep_ns(NSEC_PER_SEC / 1000);
		took = ruler_ns() - begin;
		all = ruler_generation() == from + 1;
		least = took < least ? took : least;
		most = took > most ? took : most;
	}
	ksft_print_msg("acknowledged after %llu to %llu ms\n", least / 1000000, most / 1000000);
	ksft_test_result(all, "%d migrations that the kernel's driver acknowledged\n", i);
	result_readers(readers, "reenlightenment");
	result_with_host(before, "reenlightenment");
}

/* By the host's clock, and not asleep by the guest's, which may be wrong. */
static void dwell(__u64 ns)
{
	__u64 begin = ruler_ns();

	while (ruler_ns() - begin < ns)
		;
}

static void left_valid(void)
{
	struct readers *readers = start(false);
	struct reader_count count;
	int i;

	reenlightenment(false);
	for (i = 0; i < STALE; i++) {
		dwell(STALE_DWELL_NS);
		must("migrate khz=%llu jump=%d page=stale invalid_us=3000",
		     1000000 + below(3400000), i & 1 ? STALE_JUMP : -STALE_JUMP);
	}
	dwell(STALE_DWELL_NS);
	readers_stop(readers);
	count = readers_count(readers, -1, -1);
	ksft_print_msg("control: %llu of %llu readings backward, worst %llu ns\n", count.backward,
		       count.reads, count.worst_ns);
	ksft_test_result(count.backward > 0, "a page left valid over a change is noticed\n");
	readers_free(readers);
	reenlightenment(true);
}

/*
 * sched_clock() reads the same page, and the scheduler never believes that it went back: one
 * reading from far ahead is there for good.
 */
static void result_scheduler(void)
{
	double now_ms = syscall_ns(CLOCK_BOOTTIME) / 1e6, clock_ms;
	int cpu = -1, seen = 0, ahead = 0;
	char line[256];
	FILE *file;

	file = fopen("/sys/kernel/debug/sched/debug", "re");
	if (!file) {
		ksft_test_result_skip("the scheduler's clocks: the kernel does not show them\n");
		return;
	}
	while (fgets(line, sizeof(line), file)) {
		/* Of each runqueue. */
		if (sscanf(line, "cpu#%d", &cpu) == 1)
			continue;
		if (sscanf(line, " .clock : %lf", &clock_ms) != 1)
			continue;
		seen++;
		if (clock_ms <= now_ms + AHEAD_MS)
			continue;
		ahead++;
		ksft_print_msg("cpu%d: at most %.0f ms expected, seen %.0f\n", cpu,
			       now_ms + AHEAD_MS, clock_ms);
	}
	fclose(file);
	ksft_test_result(seen && !ahead, "no CPU's scheduler is ahead of its time\n");
}

int main(int argc, char **argv)
{
	struct options options = { .clocksource = "any" };
	const char *clock;

	options_parse(argc, argv, &options);
	ksft_print_header();
	require_testhost();
	if (clock_init())
		ksft_exit_skip("no vDSO in this process\n");
	clock = stock_clock();
	if (!clock)
		ksft_exit_skip("the kernel makes no clock of this host's\n");
	hyperv = !strcmp(clock, "hyperv_clocksource_tsc_page");
	ksft_set_plan(14);
	be_urgent();

	ksft_test_result(cs_is_current(clock), "the kernel has picked %s\n", clock);
	at_once(options.self_test);
	by_rig();
	reenlightened();
	left_valid();
	must("heal");
	ksft_test_result(cs_is_current(clock), "%s is still the current clocksource\n", clock);
	result_scheduler();
	ksft_finished();
}
