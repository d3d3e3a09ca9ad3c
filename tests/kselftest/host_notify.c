// SPDX-License-Identifier: GPL-2.0
/*
 * Reenlightenment notifications, as the kernel's own handler counts them: the vector that the
 * kernel has asked for, on the VP that it has asked for, once for each migration, and lost,
 * doubled, late, without a migration or on another VP where the host is told so; also where the
 * VP is offline.
 */
#include "lib/hostfixture.h"

/* More than the kernel's delayed work waits before it acknowledges. */
#define SETTLE_US	400000
/* An interrupt is there by then. */
#define SOON_US		3000
#define LATE_US		30000
#define DELAY_US	50000

static int cpus[MAX_CPUS], n_cpus;

/* How often the vector has come to a CPU, of /proc/interrupts. */
static int vectors(int cpu)
{
	char line[1024];
	int count = -1;
	FILE *file;

	file = fopen("/proc/interrupts", "re");
	if (!file)
		return -1;
	while (fgets(line, sizeof(line), file)) {
		char *at = strstr(line, "HRE:");
		int i;

		if (!at)
			continue;
		at += strlen("HRE:");
		for (i = 0; i <= cpu; i++)
			count = (int)strtol(at, &at, 10);
		break;
	}
	fclose(file);
	return count;
}

/* Of all CPUs before a command, and what has come since. */
static int before[MAX_CPUS];

static void mark(void)
{
	int i;

	for (i = 0; i < n_cpus; i++)
		before[i] = vectors(i);
}

/* The one CPU has had so many, all others none. */
static bool only(int cpu, int count)
{
	bool right = true;
	int i;

	for (i = 0; i < n_cpus; i++) {
		int expected = i == cpu ? count : 0, seen = vectors(i) - before[i];

		if (seen == expected)
			continue;
		ksft_print_msg("cpu%d: expected %d vectors, seen %d\n", i, expected, seen);
		right = false;
	}
	return right;
}

static __u64 control(int vp)
{
	return (__u64)vp << 32 | REENLIGHTENMENT_ENABLED | REENLIGHTENMENT_VECTOR;
}

static bool target_is(int vp)
{
	__u64 value = rdmsr(0, HV_X64_MSR_REENLIGHTENMENT_CONTROL);

	if (value == control(vp))
		return true;
	ksft_print_msg("control: expected %#llx, seen %#llx\n", control(vp), value);
	return false;
}

static bool pending(void)
{
	return rdmsr(0, HV_X64_MSR_TSC_EMULATION_STATUS) == 1;
}

/* As the kernel does it, but now. */
static bool acknowledge(void)
{
	return wrmsr(0, HV_X64_MSR_TSC_EMULATION_STATUS, 0);
}

/* Whatever the kernel still had to do has been done. */
static void settle(void)
{
	acknowledge();
	ruler_wait_us(SETTLE_US);
	mark();
}

static __u64 some_khz(void)
{
	return 1000000 + below(3400000);
}

static void results_cycle(int vp)
{
	__u64 khz = 3100000, begin, took;
	double seen;

	settle();
	must("migrate khz=2000000");
	settle();
	/* The kernel acknowledges at once. What comes before that takes a vector that is held back. */
	must("migrate khz=%llu notify=lost", khz);
	ksft_test_result(pending(), "after a migration the emulation is under way\n");
	ksft_test_result(rdmsr(0, HV_X64_MSR_TSC_FREQUENCY) == khz * 1000,
			 "the new frequency can be read at once\n");
	seen = ruler_khz();
	ksft_print_msg("meanwhile %.1f kHz\n", seen);
	ksft_test_result(seen > 1999900 && seen < 2000100 && pending(),
			 "the old frequency is there until it is acknowledged\n");
	must("heal");
	begin = ruler_ns();
	while (pending() && ruler_ns() - begin < 2 * (__u64)NSEC_PER_SEC)
		sleep_ns(NSEC_PER_SEC / 1000);
	took = ruler_ns() - begin;
	seen = ruler_khz();
	ksft_print_msg("acknowledged within %llu us, %.1f kHz\n", took / 1000, seen);
	ksft_test_result(only(vp, 1), "the vector has come once, to VP %d\n", vp);
	ksft_test_result(!pending() && seen > 3099800 && seen < 3100200,
			 "the kernel acknowledges, and the new one is there\n");
	ksft_test_result(!wrmsr(0, HV_X64_MSR_TSC_EMULATION_STATUS, 1),
			 "a guest cannot set the status\n");
}

static void results_notifications(int vp)
{
	int other = vp ? 0 : 1;
	__u64 begin, took;

	settle();
	must("migrate khz=%llu notify=lost", some_khz());
	ruler_wait_us(SETTLE_US);
	ksft_test_result(only(vp, 0) && pending(), "lost: no vector, and no acknowledgment\n");
	must("heal");
	ruler_wait_us(SOON_US);
	ksft_test_result(only(vp, 1), "heal: it comes after all\n");

	settle();
	must("migrate khz=%llu notify=double", some_khz());
	ruler_wait_us(4 * SOON_US);
	ksft_test_result(only(vp, 2), "double: two vectors\n");

	settle();
	begin = ruler_ns();
	must("migrate khz=%llu late_us=%d", some_khz(), LATE_US);
	ksft_test_result(only(vp, 0) && ruler_ns() - begin < LATE_US * 1000ull,
			 "late: not at once\n");
	while (vectors(vp) == before[vp] && ruler_ns() - begin < (__u64)NSEC_PER_SEC)
		sleep_ns(NSEC_PER_SEC / 1000);
	took = ruler_ns() - begin;
	ksft_print_msg("late by %llu us, %d expected or some more\n", took / 1000, LATE_US);
	ksft_test_result(only(vp, 1) && took >= LATE_US * 1000ull, "late: later\n");

	settle();
	must("migrate khz=%llu wrong_vp=%d", some_khz(), other);
	ruler_wait_us(SOON_US);
	ksft_test_result(only(other, 1), "wrong VP: the vector has come to VP %d\n", other);

	settle();
	must("spurious");
	ruler_wait_us(SOON_US);
	ksft_test_result(only(vp, 1) && !pending(), "spurious: a vector without a migration\n");
	settle();
	must("spurious vp=%d", other);
	ruler_wait_us(SOON_US);
	ksft_test_result(only(other, 1), "spurious: on another VP\n");

	settle();
	must("ack_delay us=%d", DELAY_US);
	must("migrate khz=%llu", some_khz());
	begin = ruler_ns();
	acknowledge();
	took = ruler_ns() - begin;
	must("ack_delay us=0");
	ksft_print_msg("the acknowledgment took %llu us, %d expected or more\n", took / 1000,
		       DELAY_US);
	ksft_test_result(took >= DELAY_US * 1000ull && !pending(),
			 "an acknowledgment that takes long\n");
}

static void results_emulation_off(void)
{
	__u32 from;

	settle();
	must("migrate khz=%llu notify=lost", some_khz());
	from = ruler_generation();
	wrmsr(0, HV_X64_MSR_TSC_EMULATION_CONTROL, 0);
	ksft_test_result(ruler_generation() == from + 1 && !pending(),
			 "the emulation switched off: the TSC changes\n");
	must("migrate khz=%llu notify=lost", some_khz());
	ksft_test_result(ruler_generation() == from + 2 && !pending(),
			 "without the emulation it changes at once\n");
	wrmsr(0, HV_X64_MSR_TSC_EMULATION_CONTROL, 1);
	must("heal");
}

/* The kernel moves the notification away from a CPU before it goes. */
static void results_offline(void)
{
	int last = n_cpus - 1, err, keeper;
	__u64 value, notified;
	__u32 from;

	settle();
	if (!last || !wrmsr(0, HV_X64_MSR_REENLIGHTENMENT_CONTROL, control(last)))
		ksft_exit_fail_msg("VP %d cannot be made the target\n", last);
	must("migrate khz=%llu", some_khz());
	ruler_wait_us(SOON_US);
	ksft_test_result(only(last, 1), "another target: the vector has come to VP %d\n", last);

	settle();
	from = ruler_generation();
	must("migrate khz=%llu late_us=%d", some_khz(), LATE_US);
	err = cpu_set_online(last, false);
	value = rdmsr(0, HV_X64_MSR_REENLIGHTENMENT_CONTROL);
	keeper = (int)(value >> 32);
	ksft_print_msg("cpu%d goes offline: %s; the target is VP %d\n", last,
		       err ? strerror(-err) : "done", keeper);
	ksft_test_result(!err && keeper != last, "the kernel has named another target\n");
	ksft_test_result(ruler_wait_generation(from + 1, 3),
			 "the migration that was under way is acknowledged\n");

	/* And now one whose target is offline, which the kernel never makes. */
	settle();
	wrmsr(0, HV_X64_MSR_REENLIGHTENMENT_CONTROL, control(last));
	notified = testhost_ask("stat", "notified");
	from = ruler_generation();
	must("migrate khz=%llu", some_khz());
	ruler_wait_us(10 * SOON_US);
	ksft_test_result((__u64)testhost_ask("stat", "notified") == notified && pending() &&
			 testhost_ask("state", "held") == 1,
			 "a target that is offline: the vector is kept\n");
	wrmsr(0, HV_X64_MSR_REENLIGHTENMENT_CONTROL, control(keeper));
	ksft_test_result(ruler_wait_generation(from + 1, 3) &&
			 testhost_ask("state", "held") == 0,
			 "a target that is online: it gets the vector\n");
	err = cpu_set_online(last, true);
	ksft_test_result(!err, "VP %d is back\n", last);
}

int main(void)
{
	int vp;

	ksft_print_header();
	require_testhost();
	if (!cs_is_available("hyperv_clocksource_tsc_page"))
		ksft_exit_skip("the kernel does not take this host for Hyper-V\n");
	if (geteuid())
		ksft_exit_skip("needs root\n");
	n_cpus = cpus_online(cpus, MAX_CPUS);
	if (vectors(0) < 0)
		ksft_exit_skip("no HRE in /proc/interrupts: the kernel counts no notifications\n");
	if (rdmsr(0, HV_X64_MSR_REENLIGHTENMENT_CONTROL) == MSR_FAILED)
		ksft_exit_fail_msg("no control: needs CONFIG_X86_MSR and the privilege\n");
	ksft_set_plan(26);
	be_urgent();

	vp = (int)(rdmsr(0, HV_X64_MSR_REENLIGHTENMENT_CONTROL) >> 32);
	ksft_test_result(target_is(vp) && vp < n_cpus,
			 "the kernel has asked for vector %#x on VP %d\n",
			 REENLIGHTENMENT_VECTOR, vp);
	ksft_test_result(rdmsr(0, HV_X64_MSR_TSC_EMULATION_CONTROL) == 1,
			 "and for the emulation\n");
	results_cycle(vp);
	results_notifications(vp);
	results_emulation_off();
	results_offline();
	must("migrate khz=2000000");
	settle();
	ksft_test_result(!pending(), "all is acknowledged in the end\n");
	ksft_finished();
}
