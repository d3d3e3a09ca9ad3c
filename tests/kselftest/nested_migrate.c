// SPDX-License-Identifier: GPL-2.0
/*
 * This guest as a host: migrations of it, between 1.0 and 4.0 GHz and with the TSC jumping by
 * hundreds of seconds both ways, while a guest of its own, L2, reads kvmclock on all vCPUs. None of
 * L2's readings goes back, its clock stays with the host's reference time to 1 us, its timers fire
 * on time, and the host's word that its clock is stable holds.
 *
 * The driver is this guest's clock, in each of its modes, and with CPUs going off- and online. By
 * default L2 has the built-in kvm-clock; --guest paraclock loads the driver there, too, and with
 * --interface hyperv L2's host, that is L1's KVM, calls itself Hyper-V.
 * --clocksource NAME tests a C clock in this guest, and with --expect-failure the test passes if it
 * finds L2's clock to be wrong. --loops: how many migrations in mode tsc.
 */
#include <math.h>

#include "lib/nested.h"
#include "lib/updatefixture.h"

#define DEFAULT_MIGRATIONS	400
/* From one to the next. */
#define DWELL_NS		40000000
#define SWITCH_SECONDS		10
/* Of L2's clock against reference time: in each migration, and over all, beyond the rate error. */
#define BOUND_NS		1000
/* Where KVM has no master clock: it reads counter and TSC again if they are further apart. */
#define LOOSE_NS		10000
/* No range counts that is wider; of those that could be judged that many in a hundred have to. */
#define WIDE_NS			2000
/* Where L2 may have to ask for the reference counter: that leaves it twice, to be emulated. */
#define WIDE_COUNTER_NS		100000
#define NARROW_PERCENT		80
/* A timer of L2's that is later is lost: a vCPU is not kept waiting for so long by any scheduler. */
#define LOST_NS			3000000000ull
/* Until L2 has looked at the stable bit again, and KVM has been asked for it. */
#define SETTLE_NS		100000000
#define STABLE_MS		2000
/* The readers of L2's kernel end within one. */
#define REST_SECONDS		10
#define SHOWN			5
/* What L2 counts in cycles of its TSC. */
#define DEADLINE_CLOCKEVENT	"lapic-deadline"

struct phase {
	const char *name;
	const char *mode;	/* that this guest's clock shall be in, NULL: as it is */
	unsigned int percent;	/* of --loops */
	bool hotplug;
	bool idle;		/* L2's vCPU 0 has nothing to do, and so does not write its page */
	bool modes;		/* the mode changes as well, all the time */
	bool unstable;		/* KVM has no master clock by this mode */
};

/* The clock of L1 has to be told of the TSC's changes itself, except in the control. */
static const struct phase phases[] = {
	{ .name = "L1 in mode tsc", .mode = "tsc", .percent = 100 },
	{ .name = "L2's vCPU 0 idle", .mode = "tsc", .percent = 25, .idle = true },
	{ .name = "L1 in mode page", .mode = "page", .percent = 15 },
	{ .name = "L1 in mode msr", .mode = "msr", .percent = 10, .unstable = true },
	{ .name = "L1 back in mode tsc", .mode = "tsc", .percent = 10 },
	{ .name = "L1 in and out of mode tsc", .mode = "tsc", .percent = 15, .modes = true },
	{ .name = "CPUs of L1 off- and online", .mode = "tsc", .percent = 25, .hotplug = true },
};
#define PHASE_RESULTS		6

/* L2's clock is the reference TSC page, and the counter where that is invalid. */
static bool by_hyperv;
/* Of this machine's TSC. */
static __u64 khz_now;
/* L2's clock, since a migration in which L1 had no page to go by. */
static bool inexact_now;

static const struct phase control = { .name = "control", .percent = 100 };

/* Plain numbers of a moment. */
struct tally {
	__u64 reads[NESTED_PATHS], backward[NESTED_PATHS], worst_ns[NESTED_PATHS];
	__u64 kernel_reads, kernel_backward, kernel_worst_ns;
	__u64 timers, early;
	__u32 stable, unstable;
};

/* What a phase has found. */
struct found {
	unsigned int done, judged, wide, over;
	unsigned int by_counter;	/* not judged, as L1 had no page to go by */
	bool begun;			/* first is known */
	__s64 low, high;		/* of all steps */
	__s64 worst;			/* of what is sure of a step */
	double allowed;			/* the rate error, ns */
	struct range first, last;
	__u64 counted;
	__u64 slowest;
};

struct churn {
	pthread_t thread;
	atomic_bool stop;
	unsigned int rounds;
	const struct phase *phase;
};

static struct tally tally_now(const struct nested *guest)
{
	const struct nested_page *page = guest->page;
	struct tally t = { 0 };
	int path;

	for (path = 0; path < NESTED_PATHS; path++) {
		t.reads[path] = atomic_load(&page->tally.path[path].reads);
		t.backward[path] = atomic_load(&page->tally.path[path].backward);
		t.worst_ns[path] = atomic_load(&page->tally.path[path].worst_ns);
	}
	t.kernel_reads = atomic_load(&page->tally.kernel.reads);
	t.kernel_backward = atomic_load(&page->tally.kernel.backward);
	t.kernel_worst_ns = atomic_load(&page->tally.kernel.worst_ns);
	t.timers = atomic_load(&page->tally.timers);
	t.early = atomic_load(&page->tally.early);
	t.stable = atomic_load(&page->stable);
	t.unstable = atomic_load(&page->unstable);
	return t;
}

/* What else happens all the time: a CPU goes and comes back, or the clock changes its mode. */
static void *churn_main(void *arg)
{
	static const char * const modes[] = { "page", "auto", "msr", "auto" };
	struct churn *churn = arg;
	int cpus[MAX_CPUS], n = cpus_online(cpus, MAX_CPUS);

	while (!atomic_load(&churn->stop)) {
		if (churn->phase->hotplug && n > 1) {
			cpu_set_online(cpus[n - 1], false);
			sleep_ns(churn->rounds * 7919 % 20000000);
			cpu_set_online(cpus[n - 1], true);
		}
		if (churn->phase->modes)
			file_write(MODE_PARAMETER,
				   modes[churn->rounds % ARRAY_SIZE(modes)]);
		churn->rounds++;
		sleep_ns(20000000);
	}
	return NULL;
}

/* By how much a step is sure to be more than nothing. */
static __s64 at_least(struct range step)
{
	return range_beyond(step, 0);
}

static bool narrow(struct range r, const struct phase *phase)
{
	bool counter = by_hyperv && (phase->unstable || phase->modes);

	return range_width(r) <= (counter ? WIDE_COUNTER_NS : WIDE_NS);
}

static __s64 bound(const struct phase *phase)
{
	return BOUND_NS + (phase->unstable || phase->modes ? LOOSE_NS : 0);
}

static void judge(struct found *f, struct range before, struct range after, double drift,
		  __u64 khz, const struct phase *phase)
{
	struct range step = range_less(after, before);
	__s64 more = at_least(step) - (__s64)drift;

	if (!narrow(before, phase) || !narrow(after, phase)) {
		f->wide++;
		return;
	}
	f->judged++;
	if (range_middle(step) < f->low)
		f->low = range_middle(step);
	if (range_middle(step) > f->high)
		f->high = range_middle(step);
	if (more > f->worst)
		f->worst = more;
	if (more > bound(phase) && f->over++ < SHOWN)
		ksft_print_msg("%s: migration %u to %llu kHz: expected %lld ns at most, seen %lld to %lld\n",
			       phase->name, f->done, khz, bound(phase), step.low, step.high);
}

/* One migration; without a churn, one that nobody is asked for. Each other one is measured by the system call. */
static bool migrate(struct nested *guest, const struct phase *phase, struct found *f, double *q,
		    struct churn *churn)
{
	enum nested_path path = f->done & 1 ? NESTED_SYSCALL : NESTED_VDSO;
	__u32 generation = ruler_generation();
	struct range before, after;
	long long by_counter;
	__u64 asked, khz;
	double drift;
	bool inexact;

	by_counter = churn ? status_number("migrations_by_counter") : 0;
	before = nested_track(guest, path, khz_now);
	if (!f->begun && !inexact_now && narrow(before, phase)) {
		f->first = before;
		f->begun = true;
		f->counted = before.at;
		f->allowed = 0;
	}
	asked = ruler_ns();
	if (!churn) {
		khz = LEAST_KHZ + below(MOST_KHZ - LEAST_KHZ + 1);
		must("migrate khz=%llu jump=%lld", khz,
		     f->done & 1 ? -1000000000ll : 1000000000ll);
	} else {
		khz = somewhere(f->done % 4 == 1 ? "page=invalid" :
				f->done % 4 == 3 ? "invalid_us=50" : "");
	}
	while ((__s32)(ruler_generation() - generation) <= 0) {
		if (ruler_ns() - asked > SWITCH_SECONDS * 1000000000ull) {
			ksft_print_msg("%s: migration %u to %llu kHz: not acknowledged in %d s\n",
				       phase->name, f->done, khz, SWITCH_SECONDS);
			return false;
		}
		if (churn)
			sleep_ns(50000);
	}
	if (ruler_ns() - asked > f->slowest)
		f->slowest = ruler_ns() - asked;
	khz_now = khz;
	after = nested_track(guest, path, khz);
	drift = (after.at - before.at) * (*q + quantisation(khz));
	f->allowed += (after.at - f->counted) * (*q > quantisation(khz) ? *q : quantisation(khz));
	f->counted = after.at;
	*q = quantisation(khz);
	/*
	 * By the counter L1's clock is as exact as that is read. It is made good when the page is
	 * there, and L2's with the next master clock, that of the next migration.
	 */
	inexact = churn && status_number("migrations_by_counter") != by_counter;
	if (inexact || inexact_now)
		f->by_counter++;
	else
		judge(f, before, after, drift, khz, phase);
	inexact_now = inexact;
	if (narrow(after, phase) && !inexact)
		f->last = after;
	f->done++;
	return true;
}

static bool switch_mode(const struct phase *phase)
{
	char mode[32];

	if (!phase->mode || mode_is(phase->mode))
		return true;
	file_write(MODE_PARAMETER, strcmp(phase->mode, "tsc") ? phase->mode : "auto");
	if (wait_for_mode(phase->mode, 60000))
		return true;
	mode_now(mode, sizeof(mode));
	ksft_print_msg("%s: expected mode %s, seen %s\n", phase->name, phase->mode, mode);
	return false;
}

/* As to its vCPU 0. */
static bool let_rest(struct nested *guest, bool rest)
{
	__u64 start = ruler_ns();

	atomic_store(&guest->page->rest, rest);
	while (atomic_load(&guest->page->rests) != rest) {
		if (ruler_ns() - start > REST_SECONDS * 1000000000ull) {
			ksft_print_msg("L2: expected its vCPU 0 to be %s within %d s\n",
				       rest ? "idle" : "busy", REST_SECONDS);
			return false;
		}
		sleep_ns(SETTLE_NS);
	}
	return true;
}

/* KVM learns of it when L2 next leaves its guest. */
static bool wait_for_stable(struct nested *guest)
{
	__u64 start = ruler_ns();

	while (ruler_ns() - start < STABLE_MS * 1000000ull) {
		__u32 before = atomic_load(&guest->page->unstable), stable;

		stable = atomic_load(&guest->page->stable);
		sleep_ns(SETTLE_NS);
		if (atomic_load(&guest->page->unstable) == before &&
		    atomic_load(&guest->page->stable) != stable)
			return true;
	}
	return false;
}

/*
 * L2 publishes what it has found every 5 ms, and its kernel's readers do so with all that they have
 * read in a second, clock by clock: those that were at it when the phase ended have its last
 * readings. False if they do not.
 */
static bool let_publish(const struct nested *guest, const struct phase *phase, struct tally *tally)
{
	__u64 end = tally_now(guest).kernel_reads, start = ruler_ns();
	bool published = true;

	while (!phase->idle && tally_now(guest).kernel_reads == end) {
		published = ruler_ns() - start < REST_SECONDS * 1000000000ull;
		if (!published)
			break;
		sleep_ns(SETTLE_NS);
	}
	sleep_ns(SETTLE_NS);
	*tally = tally_now(guest);
	return published;
}

static void result_steps_back(const struct nested_page *page, const struct phase *phase,
			      struct tally a, struct tally b, bool published)
{
	int path;

	for (path = 0; path < NESTED_PATHS; path++) {
		__u64 reads = b.reads[path] - a.reads[path];
		__u64 backward = b.backward[path] - a.backward[path];

		if (backward || !reads)
			ksft_print_msg("expected 0 backward, seen %llu of %llu, the worst of all phases %llu ns\n",
				       backward, reads, b.worst_ns[path]);
		ksft_test_result(reads && !backward,
				 "%s: L2 by %s: no step back in %llu readings\n", phase->name,
				 NESTED_NAME(path), reads);
	}
	if (b.kernel_backward != a.kernel_backward)
		ksft_print_msg("expected 0 backward, seen %llu of %llu, the worst of all phases %llu ns, of %.16s\n",
			       b.kernel_backward - a.kernel_backward,
			       b.kernel_reads - a.kernel_reads, b.kernel_worst_ns,
			       page->kernel_clock);
	if (!published)
		ksft_print_msg("expected readings in the kernel, seen none within %d s\n",
			       REST_SECONDS);
	ksft_test_result(published && b.kernel_backward == a.kernel_backward,
			 "%s: L2 in its kernel: no step back in %llu readings\n", phase->name,
			 b.kernel_reads - a.kernel_reads);
}

static void result_distance(const struct phase *phase, unsigned int loops, const struct found *f)
{
	struct range total = range_less(f->last, f->first);
	__s64 more = at_least(total) - (__s64)f->allowed;
	bool enough = f->done == loops && f->begun && f->judged && f->judged >= loops / 2 &&
		      f->judged >= (loops - f->by_counter) * NARROW_PERCENT / 100;

	ksft_print_msg("%s: %u migrations, acknowledged in %llu us at most; L2's clock in each %lld to %lld ns, %u not judged, another %u by the counter; in all %lld to %lld ns, rate error %.0f\n",
		       phase->name, f->done, f->slowest / 1000, f->judged ? f->low : 0,
		       f->judged ? f->high : 0, f->wide, f->by_counter, total.low, total.high,
		       f->allowed);
	ksft_test_result(enough && !f->over && more <= bound(phase),
			 "%s: L2's clock stays with the host's through %u of %u migrations, to %lld ns and the rate error: worst %lld, in all %lld\n",
			 phase->name, f->done, loops, bound(phase), f->judged ? f->worst : 0,
			 more > 0 ? more : 0);
}

static void run_phase(struct nested *guest, const struct phase *phase, unsigned int loops)
{
	struct found f = { .low = INT64_MAX, .high = INT64_MIN, .worst = INT64_MIN };
	struct churn churn = { .phase = phase };
	bool has_page = atomic_load(&guest->page->has_page), stable = true, switched = true;
	bool published;
	double q = quantisation(MOST_KHZ);
	struct tally before, after;
	unsigned int unstable;
	long long left;
	__u64 late;

	if (!switch_mode(phase) || !nested_alive(guest) || !let_rest(guest, phase->idle)) {
		nested_print_log();
		for (int i = 0; i < PHASE_RESULTS; i++)
			ksft_test_result_fail("%s\n", phase->name);
		return;
	}
	if (has_page && !phase->unstable)
		stable = wait_for_stable(guest);
	atomic_store(&guest->page->tally.late_ns, 0);
	before = tally_now(guest);
	if (phase->hotplug || phase->modes) {
		int err = pthread_create(&churn.thread, NULL, churn_main, &churn);

		if (err)
			ksft_exit_fail_msg("a thread: %s\n", strerror(err));
	}
	left = status_number("left_tsc");
	f.counted = ruler_read().ref_ns;
	while (f.done < loops && migrate(guest, phase, &f, &q, &churn))
		sleep_ns(below(DWELL_NS));
	if (phase->hotplug || phase->modes) {
		atomic_store(&churn.stop, true);
		pthread_join(churn.thread, NULL);
		/* It has left the clock in any. */
		switched = switch_mode(phase);
	}
	published = let_publish(guest, phase, &after);
	late = atomic_load(&guest->page->tally.late_ns);

	result_steps_back(guest->page, phase, before, after, published);
	result_distance(phase, loops, &f);
	if (churn.rounds)
		ksft_print_msg("%s: %u times\n", phase->name, churn.rounds);
	left = status_number("left_tsc") - left;
	if (left) {
		struct status status;

		ksft_print_msg("%s: L1's clock has left mode tsc %lld times\n", phase->name, left);
		if (!phase->modes && !status_read(&status))
			status_print(&status);
	}
	ksft_print_msg("%s: %llu timers of L2, late by %llu us at most, %llu early\n", phase->name,
		       after.timers - before.timers, late / 1000, after.early - before.early);
	ksft_test_result(after.timers > before.timers && after.early == before.early &&
			 late < LOST_NS, "%s: no timer of L2 is lost or early\n", phase->name);
	if (!has_page) {
		ksft_test_result_skip("%s: L2's stable bit: no page to see it in\n", phase->name);
	} else if (phase->unstable || phase->modes) {
		/* Until KVM is asked for it L2 is told nothing new. */
		ksft_print_msg("%s: stable bit set at %u looks, clear at %u\n", phase->name,
			       after.stable - before.stable, after.unstable - before.unstable);
		ksft_test_result(phase->unstable || (switched && wait_for_stable(guest)),
				 "%s: L2's stable bit is told\n", phase->name);
	} else {
		unstable = after.unstable - before.unstable;
		if (!stable || unstable)
			ksft_print_msg("expected the stable bit set, seen clear at %u of %u looks\n",
				       unstable, unstable + after.stable - before.stable);
		/* In mode page there is no master clock while there is no page. */
		ksft_test_result(stable && (!unstable || left == 1) &&
				 after.stable > before.stable,
				 "%s: L2's stable bit stays set\n", phase->name);
	}
	if (!nested_alive(guest))
		nested_print_log();
}

/* The clock of L1 that nobody tells: L2 is given the same wrong time. */
static void run_control(struct nested *guest, unsigned int loops)
{
	struct found f = { .low = INT64_MAX, .high = INT64_MIN, .worst = INT64_MIN };
	double q = quantisation(MOST_KHZ);
	struct tally before, after;
	__u64 backward = 0, reads = 0;
	int path;

	be_urgent();
	unasked();
	khz_now = ruler_khz() + 0.5;
	before = tally_now(guest);
	ruler_wait_us(200000);
	ksft_test_result(tally_now(guest).backward[NESTED_VDSO] == before.backward[NESTED_VDSO],
			 "no step back before the TSC changes\n");
	before = tally_now(guest);
	f.counted = ruler_read().ref_ns;
	while (f.done < loops && migrate(guest, &control, &f, &q, NULL))
		ruler_wait_us(DWELL_NS / 1000);
	ruler_wait_us(SETTLE_NS / 1000);
	after = tally_now(guest);
	for (path = 0; path < NESTED_PATHS; path++) {
		backward += after.backward[path] - before.backward[path];
		reads += after.reads[path] - before.reads[path];
	}
	ksft_print_msg("control: %llu of %llu readings of L2 backward; %u of %u migrations off by more than %d ns\n",
		       backward, reads, f.over + f.wide, f.done, BOUND_NS);
	ksft_test_result(f.over + f.wide >= f.done / 2,
			 "the control: L2's clock is seen to be wrong\n");
	must("migrate khz=2000000");
}

/* The option's value, which is not for options_parse(); or @otherwise. */
static const char *take(int *argc, char **argv, const char *option, const char *otherwise)
{
	int i, left = 1;

	for (i = 1; i < *argc; i++) {
		if (!strcmp(argv[i], option) && i + 1 < *argc)
			otherwise = argv[++i];
		else
			argv[left++] = argv[i];
	}
	*argc = left;
	return otherwise;
}

int main(int argc, char **argv)
{
	const char *clock = take(&argc, argv, "--guest", "kvm-clock");
	const char *interface = take(&argc, argv, "--interface", "kvm");
	struct options options = { .loops = DEFAULT_MIGRATIONS };
	struct nested guest;
	__u32 generation;
	unsigned int i;
	int err;

	options_parse(argc, argv, &options);
	by_hyperv = !strcmp(interface, "hyperv");
	ksft_print_header();
	require_update(&options);
	ksft_set_plan(options.expect_failure ? 3 :
		      (int)ARRAY_SIZE(phases) * PHASE_RESULTS + 2);
	/* The TSC's jumps are about its home, of which L2's TSC has no part. */
	if (!options.expect_failure) {
		generation = ruler_generation();
		khz_now = somewhere("");
		if (!wait_for_switch(generation, SWITCH_SECONDS))
			ksft_exit_fail_msg("the first migration is not acknowledged in %d s\n",
					   SWITCH_SECONDS);
	}
	err = nested_start(&guest, clock, interface);
	if (err)
		ksft_exit_fail_msg("starting L2: expected success, got %s (%d)\n", strerror(-err),
				   -err);
	be_urgent();
	sleep_ns(NSEC_PER_SEC / 5);
	ksft_print_msg("L2's clocksource: %s, its timers: %s\n", guest.page->clocksource,
		       guest.page->clockevent);
	if (by_hyperv == !!atomic_load(&guest.page->has_page))
		ksft_print_msg("L2: expected %s kvmclock page, seen %s\n",
			       by_hyperv ? "no" : "a", by_hyperv ? "one" : "none");
	ksft_test_result(nested_alive(&guest) && !strcmp(guest.page->clocksource, clock) &&
			 !strcmp(guest.page->clockevent, DEADLINE_CLOCKEVENT) &&
			 by_hyperv != !!atomic_load(&guest.page->has_page),
			 "L2 runs, by %s, the interface %s and the TSC-deadline timer\n", clock,
			 interface);

	if (options.expect_failure) {
		run_control(&guest, options.loops);
	} else {
		for (i = 0; i < ARRAY_SIZE(phases); i++) {
			unsigned int loops = options.loops * phases[i].percent / 100;

			run_phase(&guest, &phases[i], loops ? loops : 1);
		}
	}
	nested_stop(&guest);
	/* KVM may find out by itself that the TSC went backwards, and have the kernel give it up. */
	if (!options.expect_failure)
		result_still_current(&options);
	ksft_finished();
}
