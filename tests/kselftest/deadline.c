// SPDX-License-Identifier: GPL-2.0
/*
 * Timers on every CPU while the TSC, in whose cycles the TSC-deadline timer is armed, changes
 * under them by hundreds of seconds both ways; while the driver's mode and the clocksource
 * change, so that a deadline is computed from the clock's own count or from a distance in ns; and
 * while CPUs go offline and come back. Each fires when it is due, by the host's own time, and
 * none before.
 *
 * Nothing else runs. A CPU is woken by its timer and by nothing else for most of the time, lest
 * an interrupt that comes for another reason makes good what was missed.
 *
 * Without the test host the TSC does not change, and the rest is done by the clock itself.
 */
#include <sys/timerfd.h>

#include "lib/updatefixture.h"

#define DEFAULT_SWITCHES	40
#define CLOCKEVENT		"lapic-deadline"
#define EACH_CPU		2
/* How far ahead they are armed: from 1 ms to 2 s, as many of 1 to 2 ms as of 1 to 2 s. */
#define LEAST_SHIFT		20
#define SHIFTS			11
#define SAMPLES			4096
/* From one event to the next. */
#define LEAST_DWELL_NS		40000000ull
#define MORE_DWELL_NS		100000000ull
#define SWITCH_SECONDS		10
/* What is overdue by that much has been lost. */
#define LOST_NS			(5 * NSEC_PER_SEC)
/* The clock may be so much slower than the host's reference, see quantisation(). */
#define EARLY_NS		2000
/* Of HZ 250. */
#define TICK_NS			4000000ll
#define TICKS			250
/*
 * One of ten may be late by more, for a vCPU that is not run is not missed by anybody. It is less
 * than what an idle CPU is without an interrupt that comes for another reason.
 */
#define TENTH_NS		50000000ll
#define SHOWN			5
#define MSR_IA32_TSC_DEADLINE	0x6e0
/* Some seconds. */
#define FAR_CYCLES		20000000000ull
/* Of the self-test, which makes timers late. */
#define SELF_TEST_NS		(NSEC_PER_SEC / 2)

enum phase {
	QUIET,
	SWITCH,
	/* Before the mode: what is coupled when it is selected has to come apart when that changes. */
	SOURCE,
	MODE,
	HOTPLUG,
	PHASES,
};

static const struct {
	const char *what;
	/* Of a whole test's number of switches. */
	unsigned int percent;
} phases[PHASES] = {
	[QUIET]		= { "nothing", 75 },
	[SWITCH]	= { "a switch of the TSC", 100 },
	[SOURCE]	= { "a change of the clocksource", 50 },
	[MODE]		= { "a change of the mode", 50 },
	[HOTPLUG]	= { "a CPU that goes and comes", 30 },
};

struct sample {
	__s64 late;
	enum phase phase;
};

struct timer {
	pthread_t thread;
	int cpu, fd;
	__u64 seed;
	atomic_bool ended;
	/* By the host's time; 0 where none is armed. */
	_Atomic __u64 due;
	unsigned int fired, early, n;
	__s64 earliest;
	struct sample sample[SAMPLES];
};

static struct timer timers[MAX_CPUS * EACH_CPU];
static int cpus[MAX_CPUS], n_cpus, n_timers;
static atomic_bool stop;
static _Atomic enum phase phase_now;
static atomic_uint events;
static bool on_testhost, self_test;
/* Interrupts of the timer, in a second. */
static double rate[PHASES];
/* The longest that one event took. */
static __s64 longest[PHASES];

/* The host's time, which no clock of the guest has a part in, where it can be had. */
static __u64 truth(void)
{
	return on_testhost ? ruler_ns() : vdso_ns(CLOCK_MONOTONIC);
}

static void spin_ns(__u64 ns)
{
	__u64 start = truth();

	while (truth() - start < ns)
		;
}

static __u64 pick(struct timer *timer)
{
	__u64 span;

	timer->seed ^= timer->seed << 13;
	timer->seed ^= timer->seed >> 7;
	timer->seed ^= timer->seed << 17;
	span = 1ull << (LEAST_SHIFT + timer->seed % SHIFTS);
	return span + (timer->seed >> 16) % span;
}

static void wait_until(const struct timer *timer, __u64 deadline)
{
	struct itimerspec spec = { 0 };
	__u64 fired;

	spec.it_value.tv_sec = deadline / NSEC_PER_SEC;
	spec.it_value.tv_nsec = deadline % NSEC_PER_SEC;
	if (timer->fd < 0) {
		while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &spec.it_value,
				       NULL) == EINTR)
			;
		return;
	}
	timerfd_settime(timer->fd, TFD_TIMER_ABSTIME, &spec, NULL);
	while (read(timer->fd, &fired, sizeof(fired)) < 0 && errno == EINTR)
		;
}

static void *timer_main(void *arg)
{
	struct sched_param param = { .sched_priority = 10 };
	struct timer *timer = arg;

	pthread_setschedparam(pthread_self(), SCHED_FIFO, &param);
	while (!atomic_load(&stop)) {
		unsigned int before = atomic_load(&events);
		enum phase phase = atomic_load(&phase_now);
		__u64 ahead = pick(timer), least, most, clock, now;
		__s64 early;

		/* Again and again: a CPU that goes offline loses those that are pinned to it. */
		pin_to_cpu(timer->cpu);
		least = truth();
		clock = vdso_ns(CLOCK_MONOTONIC) + ahead;
		most = truth() + ahead;
		least += ahead;
		atomic_store(&timer->due, most);
		wait_until(timer, clock);
		now = truth();
		atomic_store(&timer->due, 0);
		early = (__s64)(clock - vdso_ns(CLOCK_MONOTONIC));
		if ((__s64)(least - now) - EARLY_NS > early)
			early = (__s64)(least - now) - EARLY_NS;
		if (early > 0) {
			timer->early++;
			if (early > timer->earliest)
				timer->earliest = early;
		}
		timer->fired++;
		if (atomic_load(&events) == before || atomic_load(&phase_now) != phase ||
		    timer->n == SAMPLES)
			continue;
		timer->sample[timer->n++] = (struct sample){
			.late = (__s64)(now - most) +
				(self_test && phase == SWITCH ? SELF_TEST_NS : 0),
			.phase = phase,
		};
	}
	atomic_store(&timer->ended, true);
	return NULL;
}

static void start(void)
{
	int i;

	for (i = 0; i < n_timers; i++) {
		struct timer *timer = &timers[i];

		timer->cpu = cpus[i / EACH_CPU];
		timer->seed = 88172645463325252ull + i;
		timer->fd = i % EACH_CPU ? timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC) : -1;
		if (i % EACH_CPU && timer->fd < 0)
			ksft_exit_fail_perror("timerfd_create");
		if (pthread_create(&timer->thread, NULL, timer_main, timer))
			ksft_exit_fail_perror("starting a thread");
	}
}

/* How many are overdue, and by much more than anything in this machine takes. */
static unsigned int lost(bool tell)
{
	unsigned int n = 0;
	int i;

	for (i = 0; i < n_timers; i++) {
		__u64 due = atomic_load(&timers[i].due), now = truth();

		if (!due || (__s64)(now - due) < LOST_NS)
			continue;
		if (tell && n < SHOWN)
			ksft_print_msg("cpu%d: a timer is overdue by %llu ms\n", timers[i].cpu,
				       (now - due) / 1000000);
		n++;
	}
	return n;
}

/*
 * Those that are lost hold up whatever comes after this test. Their CPUs look at what is due when
 * the TSC is beyond all that they can have been armed for.
 */
static void find_again(void)
{
	if (on_testhost)
		must("migrate khz=2000000 jump=%lld", 4 * TSC_AWAY);
}

/* True if each has fired that was armed. */
static bool finish(void)
{
	__u64 begun = truth();
	unsigned int n = 0;
	bool all = true;
	int i;

	atomic_store(&stop, true);
	for (i = 0; i < n_timers; i++) {
		while (!atomic_load(&timers[i].ended) && truth() - begun < 2 * LOST_NS)
			sched_yield();
		all = all && atomic_load(&timers[i].ended);
	}
	if (all) {
		for (i = 0; i < n_timers; i++)
			pthread_join(timers[i].thread, NULL);
		return true;
	}
	n = lost(true);
	ksft_print_msg("expected 0 timers lost, seen %u\n", n);
	find_again();
	return false;
}

static bool refused(const char *what, int err)
{
	if (err)
		ksft_print_msg("%s: expected success, got %s (%d)\n", what, strerror(-err), -err);
	return err;
}

static bool switch_tsc(void)
{
	__u32 generation = ruler_generation();

	somewhere("");
	if (ruler_wait_generation(generation + 1, SWITCH_SECONDS))
		return true;
	ksft_print_msg("a migration is not acknowledged in %d s\n", SWITCH_SECONDS);
	return false;
}

/* From the TSC to the page, whose counts are others, and back. */
static bool change_mode(unsigned int turn)
{
	return !refused("mode", file_write(MODE_PARAMETER, turn % 2 ? "auto" : "page"));
}

static bool change_source(unsigned int turn)
{
	char other[CS_NAME];

	if (turn % 2)
		return !refused("selecting " MODULE_NAME, cs_select(MODULE_NAME));
	return !refused("another clocksource", cs_other(MODULE_NAME, other, sizeof(other))) &&
	       !refused(other, cs_select(other));
}

/* With a switch while it is away, of which nobody tells it. */
static bool change_cpu(unsigned int turn)
{
	int cpu = cpus[1 + turn % (n_cpus - 1)];
	bool done;

	if (refused("offline", cpu_set_online(cpu, false)))
		return false;
	done = !on_testhost || switch_tsc();
	return !refused("online", cpu_set_online(cpu, true)) && done;
}

static bool event(enum phase phase, unsigned int turn)
{
	switch (phase) {
	case SWITCH:
		return switch_tsc();
	case MODE:
		/* The clock that was changed to has one, too. */
		return change_mode(turn) && (!on_testhost || turn % 4 < 2 || switch_tsc());
	case SOURCE:
		return change_source(turn) && (!on_testhost || turn % 4 < 2 || switch_tsc());
	case HOTPLUG:
		return change_cpu(turn);
	default:
		return true;
	}
}

/* How many interrupts of its local timer a CPU has had, by its place among those online. */
static unsigned long timer_interrupts(int column)
{
	FILE *file = fopen("/proc/interrupts", "r");
	unsigned long n = 0;
	char line[4096];

	while (file && fgets(line, sizeof(line), file)) {
		char *at = strstr(line, "LOC:");

		if (!at)
			continue;
		for (at += 4; column-- >= 0; )
			n = strtoul(at, &at, 10);
		break;
	}
	if (file)
		fclose(file);
	return n;
}

/* Of all that are online. */
static unsigned long all_timer_interrupts(void)
{
	unsigned long n = 0;
	int i;

	for (i = 0; i < n_cpus; i++)
		n += timer_interrupts(i);
	return n;
}

/* False if it had to be given up. */
static bool rounds(enum phase phase, unsigned int n)
{
	unsigned long interrupts = all_timer_interrupts();
	__u64 begun = truth(), took;
	bool done = true;
	unsigned int i;

	atomic_store(&phase_now, phase);
	for (i = 0; i < n && done; i++) {
		/* Where this thread spins, timers are on a busy CPU. */
		pin_to_cpu(phase == HOTPLUG ? cpus[0] : cpus[i % n_cpus]);
		spin_ns(LEAST_DWELL_NS + below(MORE_DWELL_NS));
		/* A timer that is armed in the midst of it has it under it as well. */
		atomic_fetch_add(&events, 1);
		took = truth();
		done = event(phase, i);
		took = truth() - took;
		atomic_fetch_add(&events, 1);
		if ((__s64)took > longest[phase])
			longest[phase] = took;
		done = done && !lost(true);
	}
	rate[phase] = (all_timer_interrupts() - interrupts) * 1e9 / (truth() - begun);
	if (!done)
		ksft_print_msg("given up after %u of %u times %s\n", i, n, phases[phase].what);
	return done;
}

static int compare(const void *a, const void *b)
{
	__s64 x = *(const __s64 *)a, y = *(const __s64 *)b;

	return (x > y) - (x < y);
}

struct count {
	unsigned int n;
	__s64 median, most, worst;
};

static struct count count(enum phase phase)
{
	struct count c = { 0 };
	__s64 *late = calloc((size_t)n_timers * SAMPLES, sizeof(*late));
	unsigned int k;
	int i;

	if (!late)
		ksft_exit_fail_perror("memory");
	for (i = 0; i < n_timers; i++)
		for (k = 0; k < timers[i].n; k++)
			if (timers[i].sample[k].phase == phase)
				late[c.n++] = timers[i].sample[k].late;
	qsort(late, c.n, sizeof(*late), compare);
	if (c.n) {
		c.median = late[c.n / 2];
		c.most = late[c.n - 1 - c.n / 10];
		c.worst = late[c.n - 1];
	}
	free(late);
	ksft_print_msg("timers with %s under them: %u, half of them late by %lld us at most, nine of ten by %lld, all by %lld\n",
		       phases[phase].what, c.n, c.median / 1000, c.most / 1000, c.worst / 1000);
	return c;
}

/*
 * How late a timer is without anything to disturb it is this machine's doing, on which there are
 * more vCPUs than CPUs. So it is compared: half of those with an event under them are late by a
 * tick more at most than what nine of ten of those without one are late by, which is the noise,
 * and than what such an event takes: where it stops all CPUs that is what they are stopped for, and
 * it tells what else the machine has to do. What is not armed again is late by what is left until
 * an interrupt comes for another reason.
 *
 * A deadline that is computed too early goes unnoticed, as the kernel then finds nothing to do and
 * computes it again, but for the number of interrupts. One CPU is busy and has its ticks.
 */
static void result_phase(enum phase phase, struct count base, bool done)
{
	struct count c = count(phase);
	__s64 more = TICK_NS + longest[phase];

	ksft_print_msg("%s takes %lld us at most; %.0f interrupts of the timer a second, %.0f with nothing\n",
		       phases[phase].what, longest[phase] / 1000, rate[phase], rate[QUIET]);
	ksft_test_result(done && c.n && c.median <= base.most + more &&
			 c.most <= 2 * base.most + more + TENTH_NS &&
			 rate[phase] <= 2 * rate[QUIET] + TICKS,
			 "%u timers armed across %s fire as others do, to a tick and what it takes, %lld us, and a noise of %lld\n",
			 c.n, phases[phase].what, more / 1000, base.most / 1000);
}

static void result_none_early(bool all)
{
	unsigned int early = 0, fired = 0;
	__s64 earliest = 0;
	int i;

	for (i = 0; i < n_timers; i++) {
		fired += timers[i].fired;
		early += timers[i].early;
		if (timers[i].earliest > earliest)
			earliest = timers[i].earliest;
	}
	if (early)
		ksft_print_msg("expected 0 early, seen %u, by %lld ns at most\n", early, earliest);
	ksft_test_result(all && fired && !early, "%u timers fired, none is lost or early\n", fired);
}

/* Every CPU's ticks come from the TSC-deadline timer. */
static bool clockevents_are_deadline(bool tell)
{
	char path[96], name[64];
	bool all = true;
	int i;

	for (i = 0; i < n_cpus; i++) {
		snprintf(path, sizeof(path),
			 "/sys/devices/system/clockevents/clockevent%d/current_device", cpus[i]);
		if (file_read(path, name, sizeof(name)) < 0)
			snprintf(name, sizeof(name), "none");
		if (!strcmp(name, CLOCKEVENT))
			continue;
		all = false;
		if (tell)
			ksft_print_msg("cpu%d: clockevent: expected " CLOCKEVENT ", seen %s\n",
				       cpus[i], name);
	}
	return all;
}

/*
 * What IA32_TSC_DEADLINE does by itself, under the kernel's hands: it reads back, 0 disarms it, and
 * one that is past fires at once, whereupon the kernel arms it for what is due. Should the kernel
 * arm it in between, once more.
 */
static void result_msr(void)
{
	int column = n_cpus - 1, cpu = cpus[column];
	__u64 far = 0, seen = 0, none = 1, again = 0;
	unsigned long before = 0, after = 0;
	bool holds = false;
	int i;

	if (rdmsr(cpu, MSR_IA32_TSC_DEADLINE) == MSR_FAILED) {
		ksft_test_result_skip("IA32_TSC_DEADLINE: no /dev/cpu/%d/msr: needs CONFIG_X86_MSR\n",
				      cpu);
		return;
	}
	pin_to_cpu(cpu);
	for (i = 0; i < 20 && !holds; i++) {
		far = rdtsc_ordered() + FAR_CYCLES;
		wrmsr(cpu, MSR_IA32_TSC_DEADLINE, far);
		seen = rdmsr(cpu, MSR_IA32_TSC_DEADLINE);
		wrmsr(cpu, MSR_IA32_TSC_DEADLINE, 0);
		none = rdmsr(cpu, MSR_IA32_TSC_DEADLINE);
		before = timer_interrupts(column);
		wrmsr(cpu, MSR_IA32_TSC_DEADLINE, 1);
		after = timer_interrupts(column);
		again = rdmsr(cpu, MSR_IA32_TSC_DEADLINE);
		holds = seen == far && !none && after > before && again > 1 && again < far;
	}
	if (!holds)
		ksft_print_msg("expected %#llx, 0, an interrupt, and another deadline, seen %#llx, %#llx, %lu, %#llx\n",
			       far, seen, none, after - before, again);
	ksft_test_result(holds, "IA32_TSC_DEADLINE reads back, 0 disarms it, and what is past fires\n");
}

int main(int argc, char **argv)
{
	struct options options = { .loops = DEFAULT_SWITCHES };
	struct timex timex = { .modes = ADJ_FREQUENCY };
	bool begun[PHASES] = { 0 }, done[PHASES] = { 0 }, all = true;
	enum phase phase;
	struct count base;

	options_parse(argc, argv, &options);
	ksft_print_header();
	n_cpus = cpus_online(cpus, MAX_CPUS);
	n_timers = n_cpus * EACH_CPU;
	on_testhost = testhost_present();
	self_test = options.self_test;
	if (!clockevents_are_deadline(false) && !told("PARACLOCK_CLOCKEVENT"))
		ksft_exit_skip("no TSC-deadline timer at work\n");
	if (told("PARACLOCK_BACKEND") && !expects_tsc())
		ksft_exit_skip("mode tsc is not expected\n");
	if (!of_driver(&options) || n_cpus < 2)
		ksft_exit_skip("it is the driver's modes that change, and a CPU that goes\n");
	if (on_testhost)
		require_update(&options);
	else
		require_clock(&options);
	ksft_set_plan(2 + PHASES + 2);
	ksft_test_result(clockevents_are_deadline(true), "every CPU's clockevent is " CLOCKEVENT "\n");
	result_msr();
	adjtimex(&timex);

	start();
	if (on_testhost)
		switch_tsc();
	for (phase = 0; phase < PHASES && all; phase++) {
		if (phase == SWITCH && !on_testhost)
			continue;
		begun[phase] = true;
		done[phase] = rounds(phase, options.loops * phases[phase].percent / 100);
		all = done[phase];
	}
	pin_to_cpu(cpus[0]);
	all = finish();

	base = count(QUIET);
	for (phase = SWITCH; phase < PHASES; phase++) {
		if (phase == SWITCH && !on_testhost)
			ksft_test_result_skip("not on the test host: the TSC does not change\n");
		else if (!begun[phase])
			ksft_test_result_skip("%s: given up before\n", phases[phase].what);
		else
			result_phase(phase, base, done[phase]);
	}
	result_none_early(all);
	ksft_test_result(mode_is("tsc"), "in the end the mode is tsc\n");
	result_still_current(&options);
	ksft_finished();
}
