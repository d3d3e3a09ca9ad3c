// SPDX-License-Identifier: GPL-2.0
/*
 * The program of an L2 whose host, L1, is migrated: it reads the clock in every way, all the time,
 * counts steps back and timers that are not on time, and answers L1, which has the ruler, what time
 * it is. See lib/nested.h.
 *
 *   nested_guest MAGIC CLOCKSOURCE
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/clocksource.h"
#include "lib/files.h"
#include "lib/hammer.h"
#include "lib/module.h"
#include "lib/nested.h"
#include "lib/page.h"
#include "lib/readers.h"

#define CLOCKEVENT	"/sys/devices/system/clockevents/clockevent0/current_device"
#define BEAT_NS		5000000
#define BEAT_PRIORITY	5
/* vCPU 0 is not to be woken for more than it has to do. */
#define REST_NS		100000000
/* How often a request is looked for. */
#define NAP_NS		500000
#define TRIES		20
#define TIMERS		2
#define TIMER_LEAST_NS	1000000
#define TIMER_MOST_NS	20000000

static struct nested_page *page;
/* What readers have counted that are no more, and the one that there is while vCPU 0 rests. */
static struct nested_count earlier[NESTED_PATHS];
static atomic_bool hammer_rests;

static void fail(const char *what, int err)
{
	snprintf(page->failed, sizeof(page->failed), "%s", what);
	atomic_store(&page->error, err ? err : -EIO);
	fprintf(stderr, "nested_guest: %s: %s\n", what, strerror(-err));
	pause();
}

static void be_urgent(int priority)
{
	struct sched_param param = { .sched_priority = priority };

	pthread_setschedparam(pthread_self(), priority ? SCHED_FIFO : SCHED_OTHER, &param);
}

/* The time between two readings of the TSC: the closest of some that were tried. */
static void answer(__u32 request)
{
	__u64 least = UINT64_MAX;
	int i;

	for (i = 0; i < TRIES; i++) {
		__u64 before, ns, after;

		before = rdtsc_ordered();
		ns = request & 1 ? syscall_ns(CLOCK_MONOTONIC_RAW) : vdso_ns(CLOCK_MONOTONIC_RAW);
		after = rdtsc_ordered();
		/* Not across a change of the TSC, whose cycles are others. */
		if (after < before || after - before >= least)
			continue;
		least = after - before;
		atomic_store(&page->ns, ns);
		atomic_store(&page->tsc_before, before);
		atomic_store(&page->tsc_after, after);
	}
	atomic_store(&page->answer, request);
}

static void *answer_main(void *arg)
{
	__u32 seen = 0, request;

	(void)arg;
	pin_to_cpu(NESTED_ANSWERING);
	be_urgent(20);
	for (;;) {
		request = atomic_load(&page->request);
		if (request != seen)
			answer(request);
		seen = request;
		sleep_ns(NAP_NS);
	}
	return NULL;
}

static void *timer_main(void *arg)
{
	__u64 seed = 88172645463325252ull + (unsigned long)arg;
	int cpus[MAX_CPUS], n = cpus_online(cpus, MAX_CPUS);
	struct nested_tally *tally = &page->tally;

	pin_to_cpu(cpus[(unsigned long)arg % n]);
	/* Before the one that answers, which does not sleep while it is asked. */
	be_urgent(30);
	for (;;) {
		struct timespec until;
		__u64 deadline, late;
		__s64 passed;

		while (atomic_load(&page->rest) && cpus[(unsigned long)arg % n] != NESTED_ANSWERING)
			sleep_ns(REST_NS);
		seed ^= seed << 13;
		seed ^= seed >> 7;
		seed ^= seed << 17;
		deadline = vdso_ns(CLOCK_MONOTONIC) + TIMER_LEAST_NS +
			   seed % (TIMER_MOST_NS - TIMER_LEAST_NS);
		until.tv_sec = deadline / NSEC_PER_SEC;
		until.tv_nsec = deadline % NSEC_PER_SEC;
		while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
			;
		passed = (__s64)(vdso_ns(CLOCK_MONOTONIC) - deadline);
		atomic_fetch_add(&tally->timers, 1);
		if (passed < 0) {
			atomic_fetch_add(&tally->early, 1);
			continue;
		}
		late = atomic_load(&tally->late_ns);
		while ((__u64)passed > late &&
		       !atomic_compare_exchange_weak(&tally->late_ns, &late, (__u64)passed))
			;
	}
	return NULL;
}

/*
 * The one by its own documentation. The other with kvm-clock: each CPU reads its own page, and
 * kvm_clock_get_cycles_snapshot() does not order what they read while the clock is not stable, as
 * pvclock_clocksource_read() does.
 */
static bool may_step_back(const char *name)
{
	return !strcmp(name, "nmi_mono") ||
	       (!strcmp(name, "snapshot") && !strcmp(page->clocksource, "kvm-clock"));
}

static void *hammer_main(void *arg)
{
	struct nested_count *count = &page->tally.kernel;
	struct hammer_result one;

	(void)arg;
	pin_to_cpu(NESTED_ANSWERING);
	for (;;) {
		int err, i;

		while (atomic_load(&page->rest)) {
			atomic_store(&hammer_rests, true);
			sleep_ns(REST_NS);
		}
		atomic_store(&hammer_rests, false);
		err = hammer_run(1, &one);
		if (err)
			fail("paraclock_hammer", err);
		for (i = 0; i < (int)one.clocks; i++) {
			if (may_step_back(one.clock[i].name))
				continue;
			atomic_fetch_add(&count->reads, one.clock[i].reads);
			atomic_fetch_add(&count->backward, one.clock[i].backward);
			if (one.clock[i].worst_ns > atomic_load(&count->worst_ns)) {
				atomic_store(&count->worst_ns, one.clock[i].worst_ns);
				snprintf(page->kernel_clock, sizeof(page->kernel_clock), "%s",
					 one.clock[i].name);
			}
		}
	}
	return NULL;
}

/* By vCPU 0's page and by that of the own vCPU, in turns, while vCPU 0 rests. */
static void *lone_main(void *arg)
{
	__u64 last = 0, now;
	int path;

	(void)arg;
	pin_to_cpu(NESTED_ANSWERING);
	while (atomic_load(&page->rests)) {
		for (path = 0; path < NESTED_PATHS; path++) {
			now = path == NESTED_VDSO ? vdso_ns(CLOCK_MONOTONIC) :
						    syscall_ns(CLOCK_MONOTONIC);
			atomic_fetch_add(&earlier[path].reads, 1);
			if (now < last) {
				atomic_fetch_add(&earlier[path].backward, 1);
				if (last - now > atomic_load(&earlier[path].worst_ns))
					atomic_store(&earlier[path].worst_ns, last - now);
			}
			last = now;
		}
	}
	return NULL;
}

static void thread(void *(*main)(void *arg), unsigned long arg)
{
	pthread_t t;
	int err = pthread_create(&t, NULL, main, (void *)arg);

	if (err)
		fail("a thread", -err);
}

static struct readers *start(void)
{
	struct readers *readers = readers_start(READERS_MIXED, false);

	if (!readers)
		fail("starting the readers", -errno);
	return readers;
}

static struct nested_count counted(const struct readers *readers, int path)
{
	struct reader_count count = { 0 };
	struct nested_count sum;

	if (readers)
		count = readers_count(readers, path, -1);
	sum.reads = count.reads + atomic_load(&earlier[path].reads);
	sum.backward = count.backward + atomic_load(&earlier[path].backward);
	sum.worst_ns = atomic_load(&earlier[path].worst_ns);
	if (count.worst_ns > sum.worst_ns)
		sum.worst_ns = count.worst_ns;
	return sum;
}

/* As L1 wants it. Those who read all the time are as urgent as who starts them: not at all. */
static struct readers *rest(struct readers *readers)
{
	int path;

	if (!readers == !!atomic_load(&page->rest))
		return readers;

	be_urgent(0);
	if (readers) {
		readers_stop(readers);
		for (path = 0; path < NESTED_PATHS; path++)
			earlier[path] = counted(readers, path);
		readers_free(readers);
		readers = NULL;
		while (!atomic_load(&hammer_rests))
			sleep_ns(REST_NS);
		atomic_store(&page->rests, 1);
		thread(lone_main, 0);
	} else {
		atomic_store(&page->rests, 0);
		readers = start();
	}
	be_urgent(BEAT_PRIORITY);
	return readers;
}

static void beat(const struct readers *readers, const struct page_clock *clock)
{
	int path;

	for (path = 0; path < NESTED_PATHS; path++) {
		struct nested_count count = counted(readers, path);

		atomic_store(&page->tally.path[path].reads, count.reads);
		atomic_store(&page->tally.path[path].backward, count.backward);
		atomic_store(&page->tally.path[path].worst_ns, count.worst_ns);
	}
	if (clock->page) {
		atomic_store(&page->has_page, 1);
		atomic_fetch_add(pvclock_is_stable(clock->page) ? &page->stable : &page->unstable,
				 1);
	}
	atomic_fetch_add(&page->beat, 1);
}

int main(int argc, char **argv)
{
	struct page_clock clock;
	struct readers *readers;
	__u64 magic;
	int err;

	if (argc != 3)
		return 2;
	magic = strtoull(argv[1], NULL, 16);
	page = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | MAP_LOCKED, -1, 0);
	if (page == MAP_FAILED || mlockall(MCL_CURRENT))
		return 1;

	err = clock_init();
	if (!err && !strcmp(argv[2], MODULE_NAME))
		err = paraclock_load("");
	if (!err)
		err = cs_select(argv[2]);
	/* What does not come about is told in the page, so that is found in any case. */
	atomic_store(&page->magic[1], ~magic);
	atomic_store(&page->magic[0], magic);
	if (err)
		fail(argv[2], err);
	cs_current(page->clocksource, sizeof(page->clocksource));
	file_read(CLOCKEVENT, page->clockevent, sizeof(page->clockevent));
	err = hammer_load();
	if (err)
		fail("loading paraclock_hammer", err);
	page_clock_open(&clock, "kvm");

	readers = start();
	thread(answer_main, 0);
	for (unsigned long i = 0; i < TIMERS; i++)
		thread(timer_main, i);
	thread(hammer_main, 0);
	pin_to_cpu(NESTED_ANSWERING);
	be_urgent(BEAT_PRIORITY);
	for (;;) {
		readers = rest(readers);
		beat(readers, &clock);
		sleep_ns(BEAT_NS);
	}
}
