// SPDX-License-Identifier: GPL-2.0
/*
 * Migrations of the guest between hosts whose TSCs differ, from 1.0 to 4.0 GHz and by hundreds of
 * seconds both ways, one after the other, while everybody reads the clocks: none goes back, each
 * update keeps the clock with the host's to 100 ns and all of them together to 1 us, timers fire
 * on time and NTP's rate stays what adjtimex() has set.
 *
 * By default the driver is tested; --clocksource NAME tests a C clock by the same measures, and
 * with --expect-failure the test passes if they find that clock to be wrong. --loops: how many
 * migrations.
 */
#include <math.h>

#include "lib/updatefixture.h"

#define DEFAULT_MIGRATIONS	400
#define PPM			400
/* From one to the next, beyond what they take themselves. */
#define DWELL_NS		20000000
/* As many rounds without a migration before, for the timers to be compared with. */
#define DRY			100
#define RATE_NS			(NSEC_PER_SEC)
/* The driver's poll, POLL_MS in src/control/mod.rs. */
#define POLL_NS			25000000
#define SWITCH_SECONDS		10
/* NTP's rate is measured to that: two brackets of a microsecond in a second. */
#define RATE_PPM		3.0
/* Of timers: a tick, HZ being 250. */
#define TICK_NS			4000000ull
/* No bracket counts that is wider; there have to be that many in a hundred. */
#define WIDE_NS			1000
#define NARROW_PERCENT		90
#define SHOWN			5
/* Of the self-test, in every tenth update. */
#define SELF_TEST_NS		300
#define SELF_TEST_EVERY		10

/* What is known of a migration. */
struct step {
	struct range before, after;	/* CLOCK_MONOTONIC_RAW less reference time */
	struct range slope_before, slope_after;	/* CLOCK_MONOTONIC less CLOCK_MONOTONIC_RAW */
	__u64 khz;
	double drift;			/* the multipliers' share, ns */
};

struct tally {
	unsigned int done;
	double allowed;			/* by quantisation, ns */
	__u64 counted;			/* ... up to this moment */
	__u64 slowest;			/* from the request to the switch, ns */
	struct step *steps;
	unsigned int told;
	long long by_counter;		/* updates for which the page was not there */
	bool exact;			/* the multiplier has no error */
	bool self_test;
};

/* Of the multiplier of now. */
static double q_now;

static void set_khz(__u64 khz, bool exact)
{
	q_now = exact ? 0 : quantisation(khz);
}

/* What the multiplier of now may have lost or gained. */
static void allow(struct tally *t, __u64 now)
{
	t->allowed += (now - t->counted) * q_now;
	t->counted = now;
}

/* CLOCK_MONOTONIC against CLOCK_MONOTONIC_RAW, in ppm. */
static double rate(struct range first, struct range last)
{
	return (double)(range_middle(last) - range_middle(first)) * 1e6 /
	       (double)(last.at - first.at);
}

/* What the driver has to say, while it is still about this update. */
static void tell_status(struct tally *t, const struct step *step)
{
	struct range moved = range_less(step->after, step->before);
	struct range slope = range_less(step->slope_after, step->slope_before);
	struct status status;
	__s64 ntp = (step->slope_after.at - step->slope_before.at) * (PPM / 1e6);

	if (t->told >= SHOWN || (llabs(range_middle(moved)) <= EACH_NS + range_width(moved) &&
				 llabs(range_middle(slope) - ntp) <= EACH_NS + range_width(slope)))
		return;
	t->told++;
	ksft_print_msg("migration %u: %lld ns, CLOCK_MONOTONIC another %lld, measured over %llu us\n",
		       t->done, range_middle(moved), range_middle(slope) - ntp,
		       (step->after.at - step->before.at) / 1000);
	if (!status_read(&status))
		status_print(&status);
}

/*
 * A page that is not back in time is no page, and by the counter the time is known to what it takes
 * to read that. The driver makes it good when the page is there: its poll is given time for two.
 */
static void made_good(struct tally *t)
{
	long long by_counter = t->exact ? 0 : status_number("migrations_by_counter");

	if (by_counter == t->by_counter)
		return;
	t->by_counter = by_counter;
	sleep_ns(2 * POLL_NS);
}

/* One migration, or all that belongs to one, and none. */
static bool migrate(struct tally *t, struct timers *timers, bool dry)
{
	struct step *step = &t->steps[t->done];
	__u32 generation = ruler_generation();
	__u64 asked;

	step->slope_before = track_raw(CLOCK_MONOTONIC, PPM);
	step->before = track_reference(CLOCK_MONOTONIC_RAW);
	if (dry) {
		timers_mark(timers);
	} else {
		asked = ruler_ns();
		step->khz = somewhere(t->done % 4 == 1 ? "page=invalid" :
				      t->done % 4 == 3 ? "invalid_us=50" : "");
		if (!wait_for_switch(generation, SWITCH_SECONDS)) {
			ksft_print_msg("migration %u to %llu kHz: not acknowledged in %d s\n",
				       t->done, step->khz, SWITCH_SECONDS);
			return false;
		}
		if (ruler_ns() - asked > t->slowest)
			t->slowest = ruler_ns() - asked;
		made_good(t);
	}
	step->after = track_reference(CLOCK_MONOTONIC_RAW);
	step->slope_after = track_raw(CLOCK_MONOTONIC, PPM);
	if (dry)
		return true;
	tell_status(t, step);
	step->drift = (step->after.at - step->before.at) *
		      (q_now + (t->exact ? 0 : quantisation(step->khz)));
	allow(t, step->after.at);
	set_khz(step->khz, t->exact);
	if (t->self_test && t->done % SELF_TEST_EVERY == 0) {
		step->after.low += SELF_TEST_NS;
		step->after.high += SELF_TEST_NS;
	}
	t->done++;
	return true;
}

static void rounds(struct tally *t, struct timers *timers, unsigned int n, bool dry)
{
	unsigned int i;

	for (i = 0; i < n && migrate(t, timers, dry); i++) {
		if (!dry && t->done % 1000 == 0)
			ksft_print_msg("%u migrations\n", t->done);
		sleep_ns(below(DWELL_NS));
	}
}

/*
 * A range is as wide as the path from the one reading of the ruler to the other takes at least,
 * and where in it the clock itself is read is the same before and after. So of the width of a
 * difference of two that which is more than twice the least one is not known; the rest is.
 */
static __s64 beyond(struct range after, struct range before, __u64 least, __s64 bound)
{
	struct range step = range_less(after, before);
	__s64 middle = range_middle(step), open = range_width(step) / 2 - (__s64)least;

	return llabs(middle) - (open > 0 ? open : 0) - bound;
}

static __u64 least_width(const struct tally *t, bool slope)
{
	__u64 least = UINT64_MAX;
	unsigned int i;

	for (i = 0; i < t->done; i++) {
		const struct step *s = &t->steps[i];
		__s64 before = range_width(slope ? s->slope_before : s->before);
		__s64 after = range_width(slope ? s->slope_after : s->after);

		if (before >= 0 && (__u64)before < least)
			least = before;
		if (after >= 0 && (__u64)after < least)
			least = after;
	}
	return least;
}

/* Each update by itself: how many are wrong. */
static unsigned int judge(const struct tally *t, bool slope, bool tell, __s64 *worst_ns,
			  unsigned int *not_judged)
{
	__u64 least = least_width(t, slope), widest = 0;
	__s64 low = INT64_MAX, high = INT64_MIN, worst = INT64_MIN;
	unsigned int wide = 0, over = 0, i;

	for (i = 0; i < t->done; i++) {
		const struct step *s = &t->steps[i];
		struct range before = slope ? s->slope_before : s->before;
		struct range after = slope ? s->slope_after : s->after;
		struct range step = range_less(after, before);
		__s64 drift = s->drift, more;

		if (slope) {
			/* In the short term the multiplier goes up and down by 1. */
			drift = (after.at - before.at) * RATE_PPM / 1e6;
			step.low -= (after.at - before.at) * (PPM / 1e6);
			step.high -= (after.at - before.at) * (PPM / 1e6);
			after.low -= (after.at - before.at) * (PPM / 1e6);
			after.high -= (after.at - before.at) * (PPM / 1e6);
		}
		if (range_width(before) < 0 || range_width(after) < 0) {
			/* No distance at all fits: the clock runs at another rate. */
			over++;
			continue;
		}
		if (range_width(before) > WIDE_NS || range_width(after) > WIDE_NS) {
			wide++;
			continue;
		}
		if ((__u64)range_width(step) / 2 > widest)
			widest = range_width(step) / 2;
		if (range_middle(step) < low)
			low = range_middle(step);
		if (range_middle(step) > high)
			high = range_middle(step);
		more = beyond(after, before, least, drift);
		if (more > worst)
			worst = more;
		if (more > EACH_NS && over++ < SHOWN && tell)
			ksft_print_msg("migration %u to %llu kHz: expected %d ns at most, seen %lld to %lld\n",
				       i, s->khz, EACH_NS, step.low, step.high);
	}
	if (tell)
		ksft_print_msg("%s: %lld to %lld ns; brackets %llu ns wide, %llu at most; %u wider ones not judged\n",
			       slope ? "CLOCK_MONOTONIC against _RAW and NTP's rate" :
				       "CLOCK_MONOTONIC_RAW against the host's reference",
			       low, high, least, widest, wide);
	*worst_ns = worst;
	*not_judged = wide;
	return over;
}

static void result_each(const struct tally *t, bool slope)
{
	unsigned int wide, over;
	__s64 worst;

	over = judge(t, slope, true, &worst, &wide);
	ksft_test_result(t->done && !over && t->done - wide >= t->done * NARROW_PERCENT / 100,
			 "each update keeps %s, to %d ns: worst %lld\n",
			 slope ? "CLOCK_MONOTONIC with _RAW and NTP's rate" :
				 "the clock with the host's", EACH_NS, worst);
}

static void result_total(const struct tally *t, struct range first, struct range last)
{
	struct range total = range_less(last, first);
	__s64 more = beyond(last, first, least_width(t, false), (__s64)t->allowed);

	ksft_print_msg("all migrations: %lld to %lld ns in %llu ms; q is %.0f ns, the time at each frequency times its 2^-n\n",
		       total.low, total.high, (last.at - first.at) / 1000000, t->allowed);
	ksft_test_result(range_width(total) <= 2 * WIDE_NS && more <= TOTAL_NS,
			 "all updates keep the clock with the host's, to %d ns and q: %lld beyond q\n",
			 TOTAL_NS, more > 0 ? more : 0);
}

static int ntp(struct timex *timex, unsigned int modes)
{
	timex->modes = modes;
	return adjtimex(timex);
}

static bool same_ntp(const struct timex *a, const struct timex *b)
{
	bool same = a->freq == b->freq && a->offset == b->offset && a->status == b->status &&
		    a->constant == b->constant && a->tick == b->tick && a->tai == b->tai;

	if (!same)
		ksft_print_msg("adjtimex: expected freq %ld offset %ld status %#x constant %ld tick %ld tai %d, seen %ld %ld %#x %ld %ld %d\n",
			       a->freq, a->offset, a->status, a->constant, a->tick, a->tai, b->freq,
			       b->offset, b->status, b->constant, b->tick, b->tai);
	return same;
}

static void print_timers(const char *what, struct timer_count c)
{
	ksft_print_msg("timers, %s: %u, half of them late by %llu us at most, nine of ten by %llu, all by %llu; %u early\n",
		       what, c.fired, c.median_ns / 1000, c.most_ns / 1000, c.worst_ns / 1000,
		       c.early);
}

/*
 * A timer that an update loses fires hundreds of seconds late, or with a tick that comes for
 * another reason; one that is early, before its clock says so. How late the others are is this
 * machine's doing, on which there are more vCPUs than CPUs, so it is compared: half of those that
 * are armed across a switch are late by a tick more at most than what nine of ten of those
 * without one are late by, which is the noise; and nine of ten by that as much again.
 */
static void result_timers(const struct timers *timers, bool all)
{
	struct timer_count base = timers_count(timers, TIMER_MARK);
	struct timer_count across = timers_count(timers, TIMER_SWITCH);
	struct timer_count others = timers_count(timers, TIMER_NOTHING);
	unsigned int early = base.early + across.early + others.early;

	print_timers("nothing happens", others);
	print_timers("a mark", base);
	print_timers("a switch", across);
	if (early)
		ksft_print_msg("expected 0 early, seen %u, by %llu ns at most\n", early,
			       across.earliest_ns);
	ksft_test_result(all && !early, "no timer is lost or early\n");
	ksft_test_result(across.fired && base.fired &&
			 across.median_ns <= base.most_ns + TICK_NS &&
			 across.most_ns <= 2 * base.most_ns + TICK_NS,
			 "%u timers armed across a switch fire as others do, to a tick of %llu us and a noise of %llu\n",
			 across.fired, TICK_NS / 1000, base.most_ns / 1000);
}

/*
 * A clock that nobody tells. Nothing here may wait by it: it jumps by seconds, and a timer that
 * it is asked for then fires as much later.
 */
static void control(const struct options *options, struct tally *t)
{
	struct reader_count before, after;
	struct readers *readers;
	unsigned int wide, over;
	__s64 worst;

	readers = readers_start(READERS_MIXED, false);
	if (!readers)
		ksft_exit_fail_perror("starting the readers");
	be_urgent();
	unasked();
	ruler_wait_us(200000);
	before = readers_count(readers, -1, -1);
	while (t->done < options->loops) {
		struct step *step = &t->steps[t->done];

		step->before = track_reference(CLOCK_MONOTONIC_RAW);
		step->khz = LEAST_KHZ + below(MOST_KHZ - LEAST_KHZ + 1);
		must("migrate khz=%llu jump=%lld", step->khz,
		     t->done & 1 ? -1000000000ll : 1000000000ll);
		ruler_wait_us(1000);
		step->after = track_reference(CLOCK_MONOTONIC_RAW);
		t->done++;
		ruler_wait_us(DWELL_NS / 1000);
	}
	readers_stop(readers);
	after = readers_count(readers, -1, -1);
	readers_free(readers);
	over = judge(t, false, false, &worst, &wide);
	ksft_print_msg("control: %llu of %llu readings backward, worst %llu ns; %u of %u updates off by more than %d ns\n",
		       after.backward, after.reads, after.worst_ns, over + wide, t->done, EACH_NS);
	ksft_test_result(!before.backward, "no step back before the TSC changes\n");
	ksft_test_result(after.backward > 0, "the control: steps back are seen\n");
	ksft_test_result(over + wide >= t->done / 2, "the control: updates are seen to be wrong\n");
	must("migrate khz=2000000");
}

int main(int argc, char **argv)
{
	struct options options = { .loops = DEFAULT_MIGRATIONS };
	struct timex before = { 0 }, after = { 0 };
	struct range first, last, slope[4];
	struct everybody everybody;
	struct timers *timers;
	struct tally t = { 0 };
	double rates[3];
	__u32 generation;
	bool all;
	__u64 began;

	options_parse(argc, argv, &options);
	ksft_print_header();
	require_update(&options);
	t.steps = calloc(options.loops + 1, sizeof(*t.steps));
	if (!t.steps)
		ksft_exit_fail_perror("memory");
	if (options.expect_failure) {
		ksft_set_plan(4);
		control(&options, &t);
		result_still_current(&options);
		ksft_finished();
	}
	ksft_set_plan(EVERYBODY_RESULTS + 9);
	t.exact = !counts_tsc(&options);
	t.self_test = options.self_test;

	/* From a home of the TSC's, so that its jumps are the same in each run. */
	generation = ruler_generation();
	set_khz(somewhere(""), t.exact);
	if (!wait_for_switch(generation, SWITCH_SECONDS))
		ksft_exit_fail_msg("the first migration is not acknowledged in %d s\n",
				   SWITCH_SECONDS);
	before.freq = PPM << 16;
	if (ntp(&before, ADJ_FREQUENCY) < 0)
		ksft_exit_fail_perror("adjtimex");
	ntp(&before, 0);
	/* The slope follows with the next tick. */
	sleep_ns(NSEC_PER_SEC / 10);

	slope[0] = track_raw(CLOCK_MONOTONIC, PPM);
	sleep_ns(RATE_NS);
	slope[1] = track_raw(CLOCK_MONOTONIC, PPM);

	everybody_start(&everybody, options.self_test);
	timers = timers_start();
	if (!timers)
		ksft_exit_fail_perror("starting the timers");
	rounds(&t, timers, DRY, true);

	first = track_reference(CLOCK_MONOTONIC_RAW);
	t.counted = first.at;
	began = ruler_ns();
	rounds(&t, timers, options.loops, false);
	last = track_reference(CLOCK_MONOTONIC_RAW);
	allow(&t, last.at);
	ksft_print_msg("%u migrations in %llu ms, acknowledged in %llu us at most\n", t.done,
		       (ruler_ns() - began) / 1000000, t.slowest / 1000);
	if (t.by_counter)
		ksft_print_msg("%lld without a page in time, judged after the poll\n", t.by_counter);
	slope[2] = track_raw(CLOCK_MONOTONIC, PPM);
	all = timers_stop(timers);
	everybody_results(&everybody, options.clocksource);
	sleep_ns(RATE_NS);
	slope[3] = track_raw(CLOCK_MONOTONIC, PPM);
	ntp(&after, 0);

	ksft_test_result(t.done == options.loops, "%u migrations of %u\n", t.done, options.loops);
	result_each(&t, false);
	result_total(&t, first, last);
	result_each(&t, true);
	result_timers(timers, all);
	rates[0] = rate(slope[0], slope[1]);
	rates[1] = rate(slope[1], slope[2]);
	rates[2] = rate(slope[2], slope[3]);
	ksft_print_msg("CLOCK_MONOTONIC is faster than _RAW by %.3f ppm before, %.3f during, %.3f after\n",
		       rates[0], rates[1], rates[2]);
	ksft_test_result(fabs(rates[0] - PPM) <= RATE_PPM && fabs(rates[1] - PPM) <= RATE_PPM &&
			 fabs(rates[2] - PPM) <= RATE_PPM,
			 "NTP's rate is %d ppm before, during and after the migrations\n", PPM);
	ksft_test_result(same_ntp(&before, &after), "adjtimex() reads back what was set\n");
	after.freq = 0;
	ntp(&after, ADJ_FREQUENCY);
	/* A thread that still waits has them. */
	if (all)
		timers_free(timers);
	free(t.steps);
	result_still_current(&options);
	ksft_finished();
}
