/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests of updates in place begin with: the clock, everybody who reads it, and the
 * bounds that it is held to. In a header, as fixture.h.
 */
#ifndef PARACLOCK_UPDATEFIXTURE_H
#define PARACLOCK_UPDATEFIXTURE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/timex.h>

#include "hostfixture.h"
#include "hammer.h"
#include "readers.h"
#include "timens.h"
#include "timers.h"
#include "track.h"

#define AUX_ENABLE	"/sys/kernel/time/aux_clocks/0/aux_clock_enable"
#define MODE_PARAMETER	"/sys/module/" MODULE_NAME "/parameters/mode"

/* In each update, beyond what the brackets leave open; and after all of them, beyond q. */
#define EACH_NS		100
#define TOTAL_NS	1000

#define LEAST_KHZ	1000000
#define MOST_KHZ	4000000
/* Where the TSC is kept around: jumps of hundreds of seconds go both ways from there. */
#define TSC_HOME	20000000000000ll
#define TSC_AWAY	500000000000ll

/* The driver is tested, and not a C clock. */
static inline bool of_driver(const struct options *options)
{
	return !strcmp(options->clocksource, MODULE_NAME);
}

static inline void mode_now(char *mode, size_t size)
{
	struct status status;

	if (status_read(&status) || !status_get(&status, "mode", mode, size))
		snprintf(mode, size, "none");
}

/* A number of the status file; 0 where there is none. */
static inline long long status_number(const char *key)
{
	struct status status;
	char value[32];

	if (status_read(&status) || !status_get(&status, key, value, sizeof(value)))
		return 0;
	return strtoll(value, NULL, 10);
}

static inline bool mode_is(const char *expected)
{
	char mode[32];

	mode_now(mode, sizeof(mode));
	return !strcmp(mode, expected);
}

/* Waits by the ruler. */
static inline bool wait_for_mode(const char *expected, unsigned int ms)
{
	__u64 start = ruler_ns();

	while (!mode_is(expected)) {
		if (ruler_ns() - start > ms * 1000000ull)
			return false;
		sleep_ns(NSEC_PER_SEC / 1000);
	}
	return true;
}

/* The multiplier is made anew at each update, and has an error; else it is exact. */
static inline bool counts_tsc(const struct options *options)
{
	return of_driver(options) ? mode_is("tsc") : !strcmp(options->clocksource, "tsc");
}

/* Brings up the clock that is tested, the driver in the mode in which it has to be found. */
static inline void begin_update(const struct options *options)
{
	char mode[32];
	int err;

	/* Left by a test that asked for another mode, also if it is in this one for the moment. */
	if (of_driver(options)) {
		err = paraclock_unload();
		if (err)
			ksft_exit_fail_msg("unloading: expected success, got %s (%d)\n",
					   strerror(-err), -err);
	}
	require_clock(options);
	if (of_driver(options) && !wait_for_mode(expected().mode, 5000)) {
		mode_now(mode, sizeof(mode));
		ksft_exit_fail_msg("mode: expected %s, seen %s\n", expected().mode, mode);
	}
	if (file_exists(AUX_ENABLE))
		file_write(AUX_ENABLE, "1\n");
}

/* Ends the test unless the clock that it is for is there and selected, on a host that migrates. */
static inline void require_update(const struct options *options)
{
	require_testhost();
	if (!host_get()->hyperv)
		ksft_exit_skip("KVM asks nobody before the TSC changes\n");
	/* What promises that its TSC never changes is for the control. */
	if (host_get()->tsc_invariant && !options->expect_failure)
		ksft_exit_skip("the processor promises an invariant TSC\n");
	if (!host_get()->tsc_invariant && options->expect_failure)
		ksft_exit_skip("the kernel takes no TSC that may change\n");
	begin_update(options);
}

/* The same for the driver on KVM's clock, on a host that promises an invariant TSC. */
static inline void require_kvm_update(const struct options *options)
{
	require_testhost();
	if (host_get()->hyperv || !host_get()->kvm_msr)
		ksft_exit_skip("it is KVM's clock that is looked at\n");
	if (!of_driver(options))
		ksft_exit_skip("it is the driver's modes that are looked at\n");
	begin_update(options);
}

/*
 * From now on the TSC changes at once, and the guest is not asked. Where its clock is wrong it
 * cannot be: the kernel's work that acknowledges waits for a timer.
 */
static inline void unasked(void)
{
	if (host_get()->hyperv)
		wrmsr(0, HV_X64_MSR_TSC_EMULATION_CONTROL, 0);
}

/* Some frequency; the TSC jumps by hundreds of seconds, and stays around its home. */
static inline __u64 somewhere(const char *more)
{
	__u64 host_ns, tsc = ruler_tsc(&host_ns), khz;
	__s64 to = TSC_HOME + (__s64)below(2 * TSC_AWAY) - TSC_AWAY;

	khz = LEAST_KHZ + below(MOST_KHZ - LEAST_KHZ + 1);
	must("migrate khz=%llu jump=%lld %s", khz, (long long)(to - (__s64)tsc), more);
	return khz;
}

/* The host has done it, at once or when the guest has acknowledged. */
static inline bool wait_for_switch(__u32 from, unsigned int seconds)
{
	__u64 start = ruler_ns();

	while ((__s32)(ruler_generation() - from) <= 0) {
		if (ruler_ns() - start > seconds * 1000000000ull)
			return false;
		sleep_ns(50000);
	}
	return true;
}

/* Everybody who reads: on all CPUs, in user space, in the kernel, in its NMIs. */
struct everybody {
	struct readers *readers;
	struct timens timens;
	int timens_err;
	pthread_t thread;
	atomic_bool stop;
	int hammer_err;
	struct hammer_result hammer;
};

/* One second of it after the other, until there is no more need. */
static inline void *everybody_hammer(void *arg)
{
	struct everybody *e = arg;
	struct hammer_result one;
	unsigned int i;

	while (!atomic_load(&e->stop) && !e->hammer_err) {
		e->hammer_err = hammer_run(1, &one);
		if (e->hammer_err)
			break;
		e->hammer.reads += one.reads;
		e->hammer.backward += one.backward;
		if (one.worst_ns > e->hammer.worst_ns)
			e->hammer.worst_ns = one.worst_ns;
		for (i = 0; i < one.clocks; i++) {
			struct hammer_clock *sum = &e->hammer.clock[i];

			snprintf(sum->name, sizeof(sum->name), "%s", one.clock[i].name);
			sum->reads += one.clock[i].reads;
			sum->backward += one.clock[i].backward;
			if (one.clock[i].worst_ns > sum->worst_ns)
				sum->worst_ns = one.clock[i].worst_ns;
		}
		e->hammer.clocks = one.clocks;
	}
	return NULL;
}

static inline void everybody_start(struct everybody *e, bool self_test)
{
	*e = (struct everybody){ 0 };
	e->timens_err = timens_start(&e->timens, self_test);
	e->readers = readers_start(READERS_MIXED, self_test);
	if (!e->readers)
		ksft_exit_fail_perror("starting the readers");
	e->hammer_err = hammer_load();
	if (!e->hammer_err)
		e->hammer_err = -pthread_create(&e->thread, NULL, everybody_hammer, e);
	if (e->hammer_err)
		atomic_store(&e->stop, true);
	/* Only now: threads inherit it. */
	be_urgent();
}

static inline void result_clock(const char *name, __u64 reads, __u64 backward, __u64 worst,
				const char *what)
{
	if (backward || !reads)
		ksft_print_msg("%s: expected 0 backward, seen %llu of %llu, worst %llu ns\n", name,
			       backward, reads, worst);
	ksft_test_result(reads && !backward, "%s: %s: no step back in %llu readings\n", what, name,
			 reads);
}

#define EVERYBODY_RESULTS	(READER_CLOCKS_ALL + 2 + 7)

/*
 * An NMI in the middle of an update of the slope may see a clock that has one go back by what the
 * two slopes differ over a tick: see ktime_get_mono_fast_ns(). The clock's NTP adjustment takes
 * such a step at each tick, by 1/2^22 of 4 ms at most, and at the change by adjtimex() one of 400
 * ppm of what has passed since the tick, of which one of 4 ms has 1.6 us.
 */
#define NMI_SLOPE_NS	2000

static inline void everybody_results(struct everybody *e, const char *what)
{
	static const char * const kernel[] = {
		"mono", "raw", "boot", "snapshot", "aux", "nmi_raw", "nmi_mono",
	};
	struct reader_count count;
	unsigned int i, k;
	bool running;
	int clock;

	running = !atomic_exchange(&e->stop, true);
	readers_stop(e->readers);
	if (running)
		pthread_join(e->thread, NULL);
	for (clock = 0; clock < READER_CLOCKS_ALL; clock++) {
		const char *name = clock_name(reader_clocks[clock]);

		count = readers_count(e->readers, -1, clock);
		if (reader_clocks[clock] == CLOCK_AUX && !file_exists(AUX_ENABLE))
			ksft_test_result_skip("%s: %s: needs CONFIG_POSIX_AUX_CLOCKS\n", what,
					      name);
		else
			result_clock(name, count.reads, count.backward, count.worst_ns, what);
	}
	ksft_test_result(readers_least(e->readers, READER_VDSO) &&
			 readers_least(e->readers, READER_SYSCALL),
			 "%s: every CPU has read by the vDSO and by the system call\n", what);
	readers_free(e->readers);

	if (e->timens_err == -EOPNOTSUPP) {
		ksft_test_result_skip("%s: a time namespace: needs CONFIG_TIME_NS\n", what);
	} else {
		if (!e->timens_err)
			e->timens_err = timens_stop(&e->timens, &count);
		if (e->timens_err) {
			ksft_print_msg("a time namespace: expected success, got %s (%d)\n",
				       strerror(-e->timens_err), -e->timens_err);
			ksft_test_result_fail("%s: a time namespace\n", what);
		} else {
			result_clock("a time namespace", count.reads, count.backward,
				     count.worst_ns, what);
		}
	}

	for (k = 0; k < ARRAY_SIZE(kernel); k++) {
		char name[64];

		snprintf(name, sizeof(name), "in the kernel, %s", kernel[k]);
		for (i = 0; i < e->hammer.clocks; i++)
			if (!strcmp(e->hammer.clock[i].name, kernel[k]))
				break;
		if (e->hammer_err) {
			ksft_print_msg("paraclock_hammer: expected success, got %s (%d)\n",
				       strerror(-e->hammer_err), -e->hammer_err);
			ksft_test_result_fail("%s: %s\n", what, name);
		} else if (i == e->hammer.clocks) {
			ksft_test_result_fail("%s: %s: not read\n", what, name);
		} else if (!strcmp(kernel[k], "aux") && !file_exists(AUX_ENABLE)) {
			ksft_test_result_skip("%s: %s: needs CONFIG_POSIX_AUX_CLOCKS\n", what,
					      name);
		} else if (!strcmp(kernel[k], "nmi_mono")) {
			struct hammer_clock *c = &e->hammer.clock[i];

			ksft_print_msg("%s: %llu of %llu backward, worst %llu ns\n", name,
				       c->backward, c->reads, c->worst_ns);
			ksft_test_result(c->reads && c->worst_ns <= NMI_SLOPE_NS,
					 "%s: %s: no step back beyond %d ns in %llu readings\n",
					 what, name, NMI_SLOPE_NS, c->reads);
		} else {
			result_clock(name, e->hammer.clock[i].reads, e->hammer.clock[i].backward,
				     e->hammer.clock[i].worst_ns, what);
		}
	}
	hammer_unload();
}

#endif
