// SPDX-License-Identifier: GPL-2.0
/*
 * What Hyper-V's clock, KVM's clock and the TSC's own MSRs are to a guest, fact by fact: the
 * specifications' (Hyper-V's TLFS; Documentation/virt/kvm/x86/msr.rst; the SDM's
 * IA32_TSC_ADJUST), of those that a guest can see. Every host has to fulfil them. The lines
 * "fact: NAME = yes|no|absent" are for whoever runs this on two hosts and compares.
 *
 * It works with pages of its own beside whatever driver is at work, and puts all back. The
 * kernel's clock stands still, at worst, for the moments in which its page is not kept, and may
 * not go back.
 */
#include <cpuid.h>

#include "lib/hostfixture.h"
#include "lib/page.h"
#include "lib/ram.h"

/* In no documentation, and in nobody's use. */
#define HV_MSR_UNKNOWN		0x40000024
#define KVM_MSR_UNKNOWN		0x4b564dfe
#define MSR_KVM_WALL_CLOCK	0x11
#define KVM_STABLE		1u
#define EARLY			1600000000u

#define SPAN_NS			(NSEC_PER_SEC / 20)
/* Rates are compared by the kernel's clock and over a short time. */
#define RATE_PERCENT		1
/* The page and the counter: 1 us. */
#define APART			10
#define POISON			0x5a
/* Backwards, so that the kernel's clock waits and does not run ahead; and what a step may take. */
#define TSC_STEP		(-1000000000ll)
#define TSC_SLACK		500000000ll
#define STEP_TURNS		5

static int cpus[MAX_CPUS], n_cpus;
static int facts;

static void __attribute__((format(printf, 3, 4)))
fact(bool there, bool holds, const char *fmt, ...)
{
	char name[128];
	va_list args;

	va_start(args, fmt);
	vsnprintf(name, sizeof(name), fmt, args);
	va_end(args);
	ksft_print_msg("fact: %s = %s\n", name, !there ? "absent" : holds ? "yes" : "no");
	if (there)
		ksft_test_result(holds, "%s\n", name);
	else
		ksft_test_result_skip("%s: the host does not have it\n", name);
	facts++;
}

/* All of what a host lacks. */
static void absent(const char *const *names)
{
	for (; *names; names++)
		fact(false, false, "%s", *names);
}

static bool poisoned(const void *page)
{
	const unsigned char *byte = page;
	int i;

	for (i = 0; i < 64; i++)
		if (byte[i] != POISON)
			return false;
	return true;
}

/*
 * A counter goes on by as many units as there should be in some time, give or take a percent.
 * Each reading of it lies between two of the kernel's clock, however far apart these are.
 */
static bool rate_is(__u64 (*counter)(void), double per_ns)
{
	__u64 before[2], after[2], first, units;
	double least, most;

	before[0] = raw_ns();
	first = counter();
	after[0] = raw_ns();
	sleep_ns(SPAN_NS);
	before[1] = raw_ns();
	units = counter() - first;
	after[1] = raw_ns();
	least = (before[1] - after[0]) * per_ns * (1 - RATE_PERCENT / 100.0);
	most = (after[1] - before[0]) * per_ns * (1 + RATE_PERCENT / 100.0);
	ksft_print_msg("expected %.0f to %.0f, seen %llu\n", least, most, units);
	return units >= least && units <= most;
}

static __u64 counter(void)
{
	return rdmsr(cpus[0], HV_X64_MSR_TIME_REF_COUNT);
}

static void counter_facts(bool there)
{
	__u64 first = there ? counter() : 0, last = there ? counter() : 0;
	bool order = true;
	int turn;

	fact(there, first != MSR_FAILED && last > first, "hv.counter.counts");
	for (turn = 0; there && turn < 100; turn++) {
		__u64 now = rdmsr(cpus[turn % n_cpus], HV_X64_MSR_TIME_REF_COUNT);

		order = order && now >= last;
		last = now;
	}
	fact(there, order, "hv.counter.never_goes_back_between_cpus");
	fact(there, there && rate_is(counter, 0.01), "hv.counter.is_100_ns");
	fact(there, !wrmsr(cpus[0], HV_X64_MSR_TIME_REF_COUNT, 0), "hv.counter.write_raises_gp");
}

/* The counter lies between two readings of the page, to 1 us; each CPU has its turn. */
static bool page_is_counter(const struct hv_page *page, int cpu)
{
	__s64 worst = 0;
	int turn;

	pin_to_cpu(cpu);
	for (turn = 0; turn < 200; turn++) {
		__u64 before = hv_count(page), now = rdmsr(cpu, HV_X64_MSR_TIME_REF_COUNT);
		__u64 after = hv_count(page);
		__s64 off = 0;

		if (before == HV_INVALID || after == HV_INVALID || now == MSR_FAILED)
			return false;
		if (now < before)
			off = before - now;
		else if (now > after)
			off = now - after;
		worst = off > worst ? off : worst;
	}
	ksft_print_msg("cpu%d: page and counter are at most %lld units of 100 ns apart\n", cpu,
		       worst);
	return worst <= APART;
}

static void hv_page_facts(bool there, bool counter_too)
{
	__u64 gpa = 0, saved = 0, other_gpa = 0;
	struct hv_page *page = NULL, *other = NULL;
	bool moved, agree = true;
	__u32 sequence;
	int i;

	if (!there) {
		absent((const char *const []){
			"hv.page.msr_reads", "hv.page.msr_reads_back_on_any_cpu",
			"hv.page.valid_after_the_write", "hv.page.sequence_is_not_all_ones",
			"hv.page.is_the_counter_to_1_us", "hv.page.sequence_changes_at_a_rewrite",
			"hv.page.moves_and_leaves_the_old_one", "hv.page.disabled_reads_0",
			"hv.page.disabled_is_not_written", "hv.page.is_put_back", NULL });
		return;
	}
	page = ram_page(&gpa);
	other = ram_page(&other_gpa);
	if (!page || !other)
		ksft_exit_fail_perror("a page and its address");
	saved = rdmsr(cpus[0], HV_X64_MSR_REFERENCE_TSC);
	fact(true, saved != MSR_FAILED, "hv.page.msr_reads");
	fact(true, wrmsr(cpus[0], HV_X64_MSR_REFERENCE_TSC, gpa | PAGE_MSR_ENABLED) &&
	     rdmsr(cpus[n_cpus - 1], HV_X64_MSR_REFERENCE_TSC) == (gpa | PAGE_MSR_ENABLED),
	     "hv.page.msr_reads_back_on_any_cpu");
	sequence = page->sequence;
	fact(true, sequence && page->scale, "hv.page.valid_after_the_write");
	fact(true, sequence != UINT32_MAX, "hv.page.sequence_is_not_all_ones");
	for (i = 0; counter_too && i < n_cpus; i++)
		agree = page_is_counter(page, cpus[i]) && agree;
	fact(counter_too, agree, "hv.page.is_the_counter_to_1_us");
	wrmsr(cpus[0], HV_X64_MSR_REFERENCE_TSC, gpa | PAGE_MSR_ENABLED);
	fact(true, page->sequence && page->sequence != sequence,
	     "hv.page.sequence_changes_at_a_rewrite");
	sequence = page->sequence;
	wrmsr(cpus[0], HV_X64_MSR_REFERENCE_TSC, other_gpa | PAGE_MSR_ENABLED);
	moved = other->sequence && page->sequence == sequence;
	fact(true, moved && other->scale == page->scale, "hv.page.moves_and_leaves_the_old_one");
	wrmsr(cpus[0], HV_X64_MSR_REFERENCE_TSC, 0);
	fact(true, rdmsr(cpus[0], HV_X64_MSR_REFERENCE_TSC) == 0, "hv.page.disabled_reads_0");
	memset((void *)page, POISON, 64);
	memset((void *)other, POISON, 64);
	sleep_ns(SPAN_NS);
	fact(true, poisoned(page) && poisoned(other), "hv.page.disabled_is_not_written");
	wrmsr(cpus[0], HV_X64_MSR_REFERENCE_TSC, saved);
	fact(true, rdmsr(cpus[0], HV_X64_MSR_REFERENCE_TSC) == saved, "hv.page.is_put_back");
}

static void hv_other_facts(bool there)
{
	__u64 hz = rdmsr(cpus[0], HV_X64_MSR_TSC_FREQUENCY), apic, saved;
	bool frequencies = there && hz != MSR_FAILED, index = true, reenlightenment;
	int i;

	for (i = 0; there && i < n_cpus; i++)
		index = index && rdmsr(cpus[i], HV_X64_MSR_VP_INDEX) == (__u64)cpus[i];
	fact(there, index, "hv.vp_index.is_the_cpus_number");
	fact(there, !wrmsr(cpus[0], HV_X64_MSR_VP_INDEX, 0), "hv.vp_index.write_raises_gp");

	fact(frequencies, rate_is(rdtsc_ordered, hz / 1e9), "hv.frequency.is_the_tscs");
	fact(frequencies, !wrmsr(cpus[0], HV_X64_MSR_TSC_FREQUENCY, hz),
	     "hv.frequency.write_raises_gp");
	apic = rdmsr(cpus[0], HV_X64_MSR_APIC_FREQUENCY);
	fact(frequencies, apic != MSR_FAILED && apic, "hv.apic_frequency.is_not_0");
	fact(frequencies, !wrmsr(cpus[0], HV_X64_MSR_APIC_FREQUENCY, apic),
	     "hv.apic_frequency.write_raises_gp");

	saved = rdmsr(cpus[0], HV_X64_MSR_REENLIGHTENMENT_CONTROL);
	reenlightenment = there && saved != MSR_FAILED;
	if (reenlightenment) {
		/* Not enabled, lest anybody gets it. */
		__u64 value = 1ull << 32 | REENLIGHTENMENT_VECTOR;

		wrmsr(cpus[0], HV_X64_MSR_REENLIGHTENMENT_CONTROL, value);
		fact(true, rdmsr(cpus[n_cpus - 1], HV_X64_MSR_REENLIGHTENMENT_CONTROL) == value,
		     "hv.reenlightenment.control_reads_back");
		wrmsr(cpus[0], HV_X64_MSR_REENLIGHTENMENT_CONTROL, saved);
		saved = rdmsr(cpus[0], HV_X64_MSR_TSC_EMULATION_CONTROL);
		wrmsr(cpus[0], HV_X64_MSR_TSC_EMULATION_CONTROL, 1);
		fact(true, rdmsr(cpus[n_cpus - 1], HV_X64_MSR_TSC_EMULATION_CONTROL) == 1,
		     "hv.emulation.control_reads_back");
		wrmsr(cpus[0], HV_X64_MSR_TSC_EMULATION_CONTROL, saved);
	} else {
		fact(false, false, "hv.reenlightenment.control_reads_back");
		fact(false, false, "hv.emulation.control_reads_back");
	}
	fact(reenlightenment, rdmsr(cpus[0], HV_X64_MSR_TSC_EMULATION_STATUS) == 0,
	     "hv.emulation.status_is_0");
	fact(reenlightenment, wrmsr(cpus[0], HV_X64_MSR_TSC_EMULATION_STATUS, 0),
	     "hv.emulation.status_can_be_cleared");
	fact(reenlightenment, !wrmsr(cpus[0], HV_X64_MSR_TSC_EMULATION_STATUS, 1),
	     "hv.emulation.status_set_raises_gp");
	fact(there && host_get()->hyperv_invariant,
	     rdmsr(cpus[0], HV_X64_MSR_TSC_INVARIANT_CONTROL) != MSR_FAILED,
	     "hv.invariant.control_reads");
	fact(there, rdmsr(cpus[0], HV_MSR_UNKNOWN) == MSR_FAILED, "hv.unknown_msr_raises_gp");
}

static const struct kvm_page *first_page;

static __u64 first_page_ns(void)
{
	return kvm_ns(first_page);
}

static void kvm_facts(__u32 msr)
{
	struct kvm_page *pages[MAX_CPUS];
	__u64 gpa[MAX_CPUS], saved[MAX_CPUS], last = 0;
	bool back = true, filled = true, even = true, normal = true, same = true, order = true;
	bool changes = true, stable = true, alias, poison = true;
	int i, turn;

	if (!msr) {
		absent((const char *const []){
			"kvm.page.msr_reads_back", "kvm.page.filled_after_the_write",
			"kvm.page.version_is_even", "kvm.page.version_changes_at_a_rewrite",
			"kvm.page.mul_has_its_high_bit", "kvm.page.scale_is_the_same_on_all_cpus",
			"kvm.page.is_stable", "kvm.page.never_goes_back_between_cpus",
			"kvm.page.is_in_ns", "kvm.page.both_msrs_are_one",
			"kvm.page.disabled_is_not_written", "kvm.page.is_put_back", NULL });
		return;
	}
	for (i = 0; i < n_cpus; i++) {
		pages[i] = ram_page(&gpa[i]);
		if (!pages[i])
			ksft_exit_fail_perror("a page and its address");
		saved[i] = rdmsr(cpus[i], msr);
		back = wrmsr(cpus[i], msr, gpa[i] | PAGE_MSR_ENABLED) &&
		       rdmsr(cpus[i], msr) == (gpa[i] | PAGE_MSR_ENABLED) && back;
		filled = pages[i]->version && pages[i]->mul && pages[i]->system && filled;
	}
	fact(true, back, "kvm.page.msr_reads_back");
	fact(true, filled, "kvm.page.filled_after_the_write");
	for (i = 0; i < n_cpus; i++) {
		__u32 version = pages[i]->version;

		even = even && !(version & 1);
		normal = normal && pages[i]->mul >= 1u << 31;
		same = same && pages[i]->mul == pages[0]->mul && pages[i]->shift == pages[0]->shift;
		wrmsr(cpus[i], msr, gpa[i] | PAGE_MSR_ENABLED);
		changes = changes && pages[i]->version != version && !(pages[i]->version & 1);
		stable = stable && pages[i]->flags & KVM_STABLE;
	}
	fact(true, even, "kvm.page.version_is_even");
	fact(true, changes, "kvm.page.version_changes_at_a_rewrite");
	fact(true, normal, "kvm.page.mul_has_its_high_bit");
	fact(true, same, "kvm.page.scale_is_the_same_on_all_cpus");
	fact(host_get()->kvm_stable, stable, "kvm.page.is_stable");
	for (turn = 0; turn < 50 * n_cpus; turn++) {
		__u64 now;

		pin_to_cpu(cpus[turn % n_cpus]);
		now = kvm_ns(pages[turn % n_cpus]);
		order = order && now && now >= last;
		last = now;
	}
	fact(true, order, "kvm.page.never_goes_back_between_cpus");
	pin_to_cpu(cpus[0]);
	first_page = pages[0];
	fact(true, rate_is(first_page_ns, 1), "kvm.page.is_in_ns");
	alias = msr != MSR_KVM_SYSTEM_TIME;
	fact(alias, rdmsr(cpus[0], MSR_KVM_SYSTEM_TIME) == (gpa[0] | PAGE_MSR_ENABLED),
	     "kvm.page.both_msrs_are_one");
	for (i = 0; i < n_cpus; i++) {
		wrmsr(cpus[i], msr, 0);
		memset((void *)pages[i], POISON, 64);
	}
	sleep_ns(SPAN_NS);
	for (i = 0; i < n_cpus; i++)
		poison = poison && poisoned(pages[i]);
	fact(true, poison && rdmsr(cpus[0], msr) == 0, "kvm.page.disabled_is_not_written");
	back = true;
	for (i = 0; i < n_cpus; i++)
		back = wrmsr(cpus[i], msr, saved[i]) && rdmsr(cpus[i], msr) == saved[i] && back;
	fact(true, back, "kvm.page.is_put_back");
}

static void kvm_wall_facts(__u32 msr)
{
	__u32 wall_msr = msr == MSR_KVM_SYSTEM_TIME ? MSR_KVM_WALL_CLOCK : MSR_KVM_WALL_CLOCK_NEW;
	struct kvm_wall *wall;
	__u64 gpa = 0;

	wall = ram_page(&gpa);
	if (!wall)
		ksft_exit_fail_perror("a page and its address");
	if (!msr) {
		absent((const char *const []){
			"kvm.wall_clock.filled_after_the_write", "kvm.wall_clock.is_a_time",
			"kvm.wall_clock.msr_reads_back", "kvm.unknown_msr_raises_gp", NULL });
		return;
	}
	fact(true, wrmsr(cpus[0], wall_msr, gpa) && wall->version && !(wall->version & 1),
	     "kvm.wall_clock.filled_after_the_write");
	fact(true, wall->sec > EARLY && wall->nsec < NSEC_PER_SEC, "kvm.wall_clock.is_a_time");
	fact(true, rdmsr(cpus[0], wall_msr) == gpa, "kvm.wall_clock.msr_reads_back");
	fact(true, rdmsr(cpus[0], KVM_MSR_UNKNOWN) == MSR_FAILED, "kvm.unknown_msr_raises_gp");
}

/* What a write to the MSR did: how far the TSC moved, and what TSC_ADJUST holds then. */
struct step {
	__s64 moved;
	__u64 adjust;
};

static struct step step_by(int cpu, __u32 msr, __u64 saved)
{
	struct step step;
	__u64 before;

	before = rdtsc_ordered();
	wrmsr(cpu, msr, (msr == MSR_IA32_TSC ? before : saved) + TSC_STEP);
	step.moved = rdtsc_ordered() - before;
	step.adjust = rdmsr(cpu, MSR_IA32_TSC_ADJUST);
	wrmsr(cpu, MSR_IA32_TSC_ADJUST, saved);
	return step;
}

static bool is_moved(const struct step *step)
{
	return step->moved >= TSC_STEP && step->moved < TSC_STEP + TSC_SLACK;
}

/* The write of the TSC itself: by the step, and by the time until it took effect. */
static bool adjust_follows(const struct step *step, __u64 saved)
{
	__s64 by = step->adjust - saved;

	return by <= TSC_STEP && by > TSC_STEP - TSC_SLACK;
}

/*
 * Once a second the driver looks at TSC_ADJUST of each CPU, and the kernel does at most so often
 * when the CPU goes idle; both set back what somebody else has written. Where one of them comes
 * between the write and the readings the host has done nothing wrong, and neither comes again at
 * once: a host that does not take the write fails each of the turns.
 */
static struct step step_undisturbed(int cpu, __u32 msr, __u64 saved)
{
	struct step step;
	int turn;

	for (turn = 0; turn < STEP_TURNS; turn++) {
		step = step_by(cpu, msr, saved);
		if (is_moved(&step) && adjust_follows(&step, saved))
			break;
		ksft_print_msg("MSR 0x%x, turn %d: the TSC moved by %lld, TSC_ADJUST by %lld\n",
			       msr, turn, step.moved, (__s64)(step.adjust - saved));
	}
	ksft_print_msg("the TSC: expected %lld and some more, seen %lld\n", TSC_STEP, step.moved);
	ksft_print_msg("TSC_ADJUST: expected %lld%s, seen %lld\n", TSC_STEP,
		       msr == MSR_IA32_TSC ? " or somewhat less" : "",
		       (__s64)(step.adjust - saved));
	return step;
}

/* On one CPU, which this thread does not leave: an idle one has its TSC_ADJUST looked at. */
static void tsc_facts(void)
{
	int cpu = cpus[n_cpus - 1];
	__u64 before, now, after, saved;
	bool there, between = true;
	struct step step;
	__u32 a, b, c, d;
	int turn;

	pin_to_cpu(cpu);
	for (turn = 0; turn < 100; turn++) {
		before = rdtsc_ordered();
		now = rdmsr(cpu, MSR_IA32_TSC);
		after = rdtsc_ordered();
		between = between && now >= before && now <= after;
	}
	fact(true, between, "tsc.msr_is_what_rdtsc_reads");

	__cpuid_count(7, 0, a, b, c, d);
	there = b & 1u << 1;
	saved = rdmsr(cpu, MSR_IA32_TSC_ADJUST);
	fact(there, saved != MSR_FAILED, "tsc.adjust.reads");
	fact(there, saved == rdmsr(cpus[0], MSR_IA32_TSC_ADJUST),
	     "tsc.adjust.is_the_same_on_all_cpus");
	fact(!there, saved == MSR_FAILED, "tsc.adjust.without_cpuid_raises_gp");
	if (!there) {
		absent((const char *const []){
			"tsc.adjust.reads_back", "tsc.adjust.write_moves_the_tsc",
			"tsc.write_moves_the_tsc", "tsc.write_moves_tsc_adjust",
			"tsc.adjust.is_put_back", NULL });
		return;
	}

	step = step_undisturbed(cpu, MSR_IA32_TSC_ADJUST, saved);
	fact(true, step.adjust == saved + TSC_STEP, "tsc.adjust.reads_back");
	fact(true, is_moved(&step), "tsc.adjust.write_moves_the_tsc");

	before = rdtsc_ordered();
	step = step_undisturbed(cpu, MSR_IA32_TSC, saved);
	fact(true, is_moved(&step), "tsc.write_moves_the_tsc");
	fact(true, adjust_follows(&step, saved), "tsc.write_moves_tsc_adjust");
	now = rdtsc_ordered();
	fact(true, rdmsr(cpu, MSR_IA32_TSC_ADJUST) == saved && now > before,
	     "tsc.adjust.is_put_back");
}

int main(void)
{
	const struct host *host = host_get();
	const char *mode;
	__u32 a, b, c, d;

	ksft_print_header();
	if (geteuid())
		ksft_exit_skip("needs root\n");
	if (!host_has_clock())
		ksft_exit_skip("CPUID shows no clock of a hypervisor\n");
	mode = getenv("PARACLOCK_MODE");
	if (mode && !strcmp(mode, "tsc"))
		ksft_exit_skip("writes the TSC, which is the clock here in mode tsc\n");
	if (clock_init())
		ksft_exit_skip("no vDSO in this process\n");
	n_cpus = cpus_online(cpus, MAX_CPUS);
	if (rdmsr(cpus[0], 0xfe) == MSR_FAILED)
		ksft_exit_skip("no /dev/cpu/0/msr: needs CONFIG_X86_MSR\n");

	__cpuid(1, a, b, c, d);
	fact(true, c & 1u << 31, "cpuid.says_hypervisor");
	counter_facts(host->hyperv_counter);
	hv_page_facts(host->hyperv_page, host->hyperv_counter);
	pin_to_cpu(cpus[0]);
	hv_other_facts(host->hyperv);
	kvm_facts(host->kvm_msr);
	kvm_wall_facts(host->kvm_msr);
	tsc_facts();
	/* It depends on the host how many there are. */
	ksft_set_plan(facts);
	ksft_finished();
}
