// SPDX-License-Identifier: GPL-2.0
/*
 * Every command of the test host, as its guest sees it: MSRs, pages, #GP, the TSC of each CPU.
 * The program registers pages of its own, so that the kernel must not use the host's clocks; its
 * clock is one that no command touches.
 */
#include "lib/hostfixture.h"
#include "lib/ram.h"

#define KVM_STABLE		1u
#define KVM_STOPPED		2u
#define HV_UNIT_NS		100
/* KVM's clock, whose arithmetic rounds; the page's is exact. */
#define KVM_OFF_NS		20
#define PPM			20
/* What a TSC offset is measured to, in cycles. */
#define SKEW			20000
#define JUMP			5000000000ll
#define TRIES			100
#define SAME			500

static struct hv_page *hv;
static struct kvm_page *kvm[2];
static __u64 hv_gpa, kvm_gpa[2];

static bool near_khz(double khz, double expected)
{
	bool is = khz > expected * (1 - PPM / 1e6) && khz < expected * (1 + PPM / 1e6);

	if (!is)
		ksft_print_msg("expected %.1f kHz to %d ppm, seen %.1f\n", expected, PPM, khz);
	return is;
}

/* By how many ns a clock lies outside of its bracket, in the narrowest of some. */
static __s64 outside(__u64 (*clock)(void), __u64 (*truth)(void), int unit)
{
	__u64 narrowest = UINT64_MAX;
	__s64 off = 0;
	int i;

	for (i = 0; i < TRIES; i++) {
		__u64 before = truth(), now = clock(), after = truth();

		if (after - before >= narrowest)
			continue;
		narrowest = after - before;
		off = now < before ? (__s64)(now - before) : now > after ? (__s64)(now - after) : 0;
	}
	if (off)
		ksft_print_msg("%lld ns off\n", off * unit);
	return off * unit;
}

static __u64 ref_ns(void)
{
	return ruler_read().ref_ns;
}

static __u64 page_count(void)
{
	return hv_count(hv);
}

static __u64 msr_count(void)
{
	return rdmsr(0, HV_X64_MSR_TIME_REF_COUNT);
}

static __u64 kvm0_ns(void)
{
	return kvm_ns(kvm[0]);
}

static __u64 kvm1_ns(void)
{
	return kvm_ns(kvm[1]);
}

/* The page is valid, and not what it was; the device's timer comes late on a busy machine. */
static bool hv_is_rewritten(__u32 sequence)
{
	__u64 begin = ruler_ns();

	while (ruler_ns() - begin < NSEC_PER_SEC)
		if (hv->sequence && hv->sequence != sequence)
			return true;
	return false;
}

static bool hv_is_right(void)
{
	return hv->sequence && !outside(page_count, ruler_count, HV_UNIT_NS);
}

static bool kvm_is_right(void)
{
	__s64 first, second;

	pin_to_cpu(1);
	second = outside(kvm1_ns, ref_ns, 1);
	pin_to_cpu(0);
	first = outside(kvm0_ns, ref_ns, 1);
	return llabs(first) <= KVM_OFF_NS && llabs(second) <= KVM_OFF_NS;
}

/* By how much CPU 1's TSC is ahead of CPU 0's. */
static __s64 skew(double khz)
{
	__u64 t0, t1, at0, at1;

	pin_to_cpu(0);
	t0 = ruler_tsc(&at0);
	pin_to_cpu(1);
	t1 = ruler_tsc(&at1);
	pin_to_cpu(0);
	return (__s64)(t1 - t0) - (__s64)((at1 - at0) * khz / 1e6);
}

static bool skew_is(double khz, __s64 expected)
{
	__s64 seen = skew(khz);

	if (llabs(seen - expected) > SKEW)
		ksft_print_msg("skew: expected %lld cycles to %d, seen %lld\n", expected, SKEW,
			       seen);
	return llabs(seen - expected) <= SKEW;
}

static bool adjust_is(int cpu, __s64 expected)
{
	__s64 seen = (__s64)rdmsr(cpu, MSR_IA32_TSC_ADJUST);

	if (seen != expected)
		ksft_print_msg("TSC_ADJUST: expected %lld, seen %lld\n", expected, seen);
	return seen == expected;
}

/* 14 results */
static void results_ruler_and_migrate(void)
{
	__u64 narrowest = UINT64_MAX, last = 0;
	int i, steps = 0, wrong = 0;
	bool back = false;
	__u32 sequence;

	for (i = 0; i < 100000; i++) {
		__u64 a = ruler_ns(), b = ruler_ns();

		back = back || a < last || b < a;
		narrowest = b - a < narrowest ? b - a : narrowest;
		last = b;
	}
	ksft_print_msg("the ruler's bracket is %llu ns\n", narrowest);
	ksft_test_result(narrowest < 1000 && !back, "ruler: narrow, and never back\n");
	last = ruler_ns();
	ksft_test_result(testhost_ask("now", "hostns") > (__s64)last &&
			 testhost_value("hostns") < (__s64)ruler_ns(),
			 "now: the ruler's time\n");

	ksft_test_result(hv_is_right() && !outside(msr_count, ruler_count, HV_UNIT_NS),
			 "page, counter and ruler agree\n");
	ksft_test_result(kvm_is_right(), "KVM's pages and the ruler agree\n");

	sequence = hv->sequence;
	must("migrate khz=3000000 jump=%lld", JUMP);
	ksft_test_result(!testhost_value("pending"), "migrate: at once without reenlightenment\n");
	must("trace count=1");
	ksft_test_result(testhost_value("ref_before") == testhost_value("ref_after") &&
			 testhost_value("tsc_after") - testhost_value("tsc_before") == JUMP &&
			 testhost_value("khz_before") == 2000000 &&
			 testhost_value("khz_after") == 3000000, "migrate: so says the trace\n");
	ksft_test_result(near_khz(ruler_khz(), 3e6), "migrate: the new frequency\n");
	ksft_test_result(hv->sequence != sequence && hv_is_right(),
			 "migrate: Hyper-V's page follows\n");
	ksft_test_result(kvm_is_right(), "migrate: KVM's pages follow\n");
	must("migrate khz=2500000 jump=%lld invalid_us=3000", -JUMP / 5);
	ksft_test_result(!hv->sequence && !outside(msr_count, ruler_count, HV_UNIT_NS),
			 "invalid_us: the page is invalid, and the counter goes on\n");
	ksft_test_result(hv_is_rewritten(0) && hv_is_right(), "invalid_us: valid again\n");
	/* Both sides of a switch keep their distance then, and may agree at no instant. */
	for (i = 0; i < SAME; i++) {
		must("migrate khz=2500000 jump=%d", i & 1 ? i : 0);
		must("trace count=1");
		steps += testhost_value("ref_before") != testhost_value("ref_after");
		wrong += !hv_is_right();
	}
	if (steps || wrong)
		ksft_print_msg("expected no step, seen %d; %d times off the ruler\n", steps, wrong);
	ksft_test_result(!steps && !wrong,
			 "migrate: %d times to the same frequency, reference time steps by nothing\n",
			 SAME);
	sequence = hv->sequence;
	must("migrate khz=2000000 page=stale invalid_us=3000");
	ksft_test_result(hv->sequence == sequence && !hv_is_right(),
			 "page=stale: left as it was\n");
	ksft_test_result(hv_is_rewritten(sequence) && hv_is_right(), "page=stale: not for ever\n");
}

/* 16 results */
static void results_hyperv(void)
{
	__u64 scale = hv->scale, before, after, end;
	unsigned int wrong = 0, torn = 0;

	must("page_invalid us=3000");
	ksft_test_result(!hv->sequence, "page_invalid: it is\n");
	ksft_test_result(hv_is_rewritten(0) && hv_is_right(), "page_invalid: it is over\n");
	must("seq value=0xffffffff");
	ksft_test_result(hv->sequence == UINT32_MAX, "seq: as asked for\n");
	must("seq value=honest");
	must("scale value=0");
	ksft_test_result(!hv->scale && hv->sequence, "scale: as asked for\n");
	must("scale value=honest");
	must("offset value=-5");
	ksft_test_result(hv->offset == -5, "offset: as asked for\n");
	must("offset value=honest");
	ksft_test_result(hv_is_right(), "seq, scale, offset: honest again\n");
	must("freq_msr value=0x0");
	ksft_test_result(rdmsr(0, HV_X64_MSR_TSC_FREQUENCY) == 0, "freq_msr: 0 Hz\n");
	must("freq_msr value=1000000000000");
	ksft_test_result(rdmsr(0, HV_X64_MSR_TSC_FREQUENCY) == 1000000000000ull,
			 "freq_msr: 1 THz\n");
	must("freq_msr value=honest");
	ksft_test_result(rdmsr(0, HV_X64_MSR_TSC_FREQUENCY) == 2000000000,
			 "freq_msr: honest again\n");
	must("page_garbage");
	ksft_test_result(hv->scale != scale, "page_garbage: it is\n");
	must("heal");
	ksft_test_result(hv_is_right() && hv->scale == scale, "heal: the page is right\n");
	before = msr_count();
	must("ref_step ns=-500000000");
	after = msr_count();
	ksft_test_result(after < before && hv_is_right() && kvm_is_right(),
			 "ref_step: back, for all clocks\n");
	before = msr_count();
	must("ref_step ns=500000000");
	ksft_test_result(msr_count() >= before + 5000000, "ref_step: and forth\n");

	/* A reader that ignores the protocol is caught, one that follows it is not. */
	must("write_mid_read count=20000 gap_us=0 hold_us=2");
	end = ruler_ns() + NSEC_PER_SEC / 20;
	while (ruler_ns() < end) {
		__u64 low, high, now;

		wrong += hv->scale != scale;
		low = ruler_count();
		now = page_count();
		high = ruler_count();
		torn += now != HV_INVALID && (now < low || now > high + 1);
	}
	must("heal");
	ksft_print_msg("%u wrong fields seen, %u readings wrong by the protocol\n", wrong, torn);
	ksft_test_result(wrong > 0, "write_mid_read: fields are wrong while they are written\n");
	ksft_test_result(!torn, "write_mid_read: no reading by the protocol is\n");
	ksft_test_result(testhost_ask("stat", "rewrites") > 0 && hv_is_right(),
			 "write_mid_read: counted, and over\n");
}

/* 17 results */
static void results_kvm(void)
{
	__u32 version;
	int i;

	must("stable off");
	ksft_test_result(!(kvm[0]->flags & KVM_STABLE) && !(kvm[1]->flags & KVM_STABLE),
			 "stable off: on all CPUs\n");
	must("stable on");
	ksft_test_result(kvm[0]->flags & KVM_STABLE && kvm[1]->flags & KVM_STABLE, "stable on\n");
	must("stopped vcpu=1");
	ksft_test_result(kvm[1]->flags & KVM_STOPPED && !(kvm[0]->flags & KVM_STOPPED),
			 "stopped: on that CPU\n");
	must("migrate khz=2100000");
	ksft_test_result(kvm[1]->flags & KVM_STOPPED, "stopped: until the guest clears it\n");
	kvm[1]->flags &= ~KVM_STOPPED;
	must("migrate khz=2000000");
	ksft_test_result(!(kvm[1]->flags & KVM_STOPPED), "stopped: and no longer\n");

	must("kvm_version vcpu=1 odd=1");
	version = kvm[1]->version;
	must("migrate khz=2100000");
	ksft_test_result(version & 1 && kvm[1]->version & 1 && !(kvm[0]->version & 1),
			 "kvm_version: stuck odd, on that CPU\n");
	must("kvm_version vcpu=1 odd=0");
	ksft_test_result(!(kvm[1]->version & 1) && kvm[1]->version != version && kvm_is_right(),
			 "kvm_version: repaired\n");
	must("kvm_raw vcpu=0 field=mul value=7");
	ksft_test_result(kvm[0]->mul == 7 && kvm[1]->mul != 7, "kvm_raw: mul\n");
	must("kvm_raw vcpu=0 field=shift value=-77");
	ksft_test_result(kvm[0]->shift == -77, "kvm_raw: shift\n");
	must("kvm_raw vcpu=0 field=tsc value=5");
	ksft_test_result(kvm[0]->tsc == 5, "kvm_raw: tsc\n");
	must("kvm_raw vcpu=0 field=system value=-1");
	ksft_test_result(kvm[0]->system == UINT64_MAX, "kvm_raw: system\n");
	must("kvm_raw vcpu=0 field=flags value=0xf1");
	ksft_test_result(kvm[0]->flags == 0xf1, "kvm_raw: flags\n");
	must("kvm_raw vcpu=0 field=mul value=honest");
	ksft_test_result(kvm[0]->mul == kvm[1]->mul && kvm[0]->shift == -77,
			 "kvm_raw: one honest again, the others not\n");
	must("page_garbage");
	ksft_test_result(kvm[1]->mul != kvm[0]->mul || kvm[1]->tsc != kvm[0]->tsc,
			 "page_garbage: KVM's pages are\n");
	for (i = 0; i < 2; i++)
		kvm[i]->flags = 0;
	must("heal");
	for (i = 0; i < 2; i++)
		kvm[i]->flags &= ~KVM_STOPPED;
	ksft_test_result(kvm_is_right(), "heal: KVM's pages are right\n");
	must("write_mid_read count=5000 gap_us=0");
	ksft_test_result(kvm_is_right(), "write_mid_read: KVM's pages are right by the protocol\n");
	must("heal");
	ksft_test_result(kvm[0]->flags & KVM_STABLE && kvm_is_right(), "heal: stable\n");
}

/* 17 results */
static void results_tsc(void)
{
	__u64 before, moved;
	__s64 adjust;
	int err;

	must("migrate khz=2000000");
	ksft_test_result(skew_is(2e6, 0), "the CPUs' TSCs are together\n");
	must("tsc_offset vcpu=1 cycles=1000000");
	ksft_test_result(skew_is(2e6, 1000000) && adjust_is(1, 0), "tsc_offset: one is off\n");
	ksft_test_result(kvm_is_right(), "tsc_offset: its page knows\n");
	must("tsc_offset vcpu=1 cycles=0");
	must("tsc_offset vcpu=1 cycles=2000000 page=stale");
	pin_to_cpu(1);
	adjust = outside(kvm1_ns, ref_ns, 1);
	pin_to_cpu(0);
	ksft_test_result(adjust > 900000 && adjust < 1100000,
			 "tsc_offset page=stale: its page does not know, %lld ns\n", adjust);
	must("heal");
	ksft_test_result(skew_is(2e6, 0) && kvm_is_right(), "tsc_offset: healed\n");
	must("tsc_offset socket=0 cycles=3000000");
	ksft_test_result(skew_is(2e6, 0), "tsc_offset socket=: both are on it\n");
	ksft_test_result(!testhost_do("tsc_offset socket=9 cycles=5"),
			 "tsc_offset socket=: one that is not there is refused\n");
	must("heal");

	must("tsc_drift vcpu=1 ppb=1000000");
	pin_to_cpu(1);
	ksft_test_result(near_khz(ruler_khz(), 2.002e6), "tsc_drift: 1000 ppm, on that CPU\n");
	pin_to_cpu(0);
	ksft_test_result(near_khz(ruler_khz(), 2e6), "tsc_drift: not on the other\n");
	must("heal");
	ksft_test_result(skew_is(2e6, 0), "tsc_drift: healed\n");

	wrmsr(1, MSR_IA32_TSC_ADJUST, 1000000);
	ksft_test_result(adjust_is(1, 1000000) && adjust_is(0, 0) && skew_is(2e6, 1000000),
			 "TSC_ADJUST: moves that CPU's TSC by as much\n");
	before = rdmsr(1, MSR_IA32_TSC);
	wrmsr(1, MSR_IA32_TSC, before + 3000000000ull);
	adjust = (__s64)rdmsr(1, MSR_IA32_TSC_ADJUST);
	moved = skew(2e6);
	ksft_print_msg("TSC_ADJUST %lld, skew %lld\n", adjust, (__s64)moved);
	ksft_test_result(adjust > 2900000000ll && adjust <= 3001000000ll &&
			 llabs((__s64)moved - adjust) <= SKEW,
			 "TSC: a write moves TSC_ADJUST by as much\n");
	must("tsc_adjust vcpu=1 value=-4000000");
	ksft_test_result(adjust_is(1, -4000000) && skew_is(2e6, -4000000),
			 "tsc_adjust: behind the guest's back\n");
	must("migrate khz=2500000 jump=1000");
	ksft_test_result(adjust_is(1, -4000000) && skew_is(2.5e6, -4000000),
			 "migrate: TSC_ADJUST and what it means stay\n");
	must("migrate khz=2000000");
	must("tsc_adjust vcpu=1 value=0");
	ksft_test_result(skew_is(2e6, 0) && kvm_is_right(), "tsc_adjust: none\n");

	/* Linux looks at it where a CPU starts, and sets it right. */
	must("adjust_on_start vcpu=1 value=12345");
	wrmsr(1, MSR_KVM_SYSTEM_TIME_NEW, 0);
	err = cpu_set_online(1, false);
	err = err ? err : cpu_set_online(1, true);
	ksft_print_msg("found on the CPU that started: %lld\n",
		       (__s64)rdmsr(1, MSR_IA32_TSC_ADJUST));
	must("state");
	ksft_test_result(!err && testhost_ask("stat", "wr_adjust") > 0 &&
			 (adjust_is(1, 12345) || adjust_is(1, 0)),
			 "adjust_on_start: a CPU starts with it, or the kernel has set it right\n");
	must("adjust_on_start vcpu=1 value=honest");
	must("tsc_adjust vcpu=1 value=0");
	wrmsr(1, MSR_KVM_SYSTEM_TIME_NEW, kvm_gpa[1] | PAGE_MSR_ENABLED);
	ksft_test_result(skew_is(2e6, 0) && kvm_is_right(), "adjust_on_start: over\n");
}

/* 6 results */
static void results_gp(void)
{
	must("gp msr=%#x on write", MSR_KVM_SYSTEM_TIME_NEW);
	ksft_test_result(!wrmsr(0, MSR_KVM_SYSTEM_TIME_NEW, 0) &&
			 rdmsr(0, MSR_KVM_SYSTEM_TIME_NEW) == (kvm_gpa[0] | PAGE_MSR_ENABLED),
			 "gp write: a write raises it, a read does not\n");
	must("gp msr=%#x on read", HV_X64_MSR_REFERENCE_TSC);
	ksft_test_result(rdmsr(0, HV_X64_MSR_REFERENCE_TSC) == MSR_FAILED &&
			 wrmsr(0, HV_X64_MSR_REFERENCE_TSC, hv_gpa | PAGE_MSR_ENABLED),
			 "gp read: a read raises it, a write does not\n");
	must("gp msr=%#x on", MSR_IA32_TSC_ADJUST);
	ksft_test_result(rdmsr(0, MSR_IA32_TSC_ADJUST) == MSR_FAILED &&
			 !wrmsr(0, MSR_IA32_TSC_ADJUST, 0), "gp: both raise it\n");
	must("gp msr=%#x off", MSR_IA32_TSC_ADJUST);
	ksft_test_result(adjust_is(0, 0), "gp off: neither does\n");
	must("heal");
	ksft_test_result(rdmsr(0, HV_X64_MSR_REFERENCE_TSC) == (hv_gpa | PAGE_MSR_ENABLED),
			 "heal: no MSR does\n");
	/* KVM grants what it does not announce, unless it is told otherwise. */
	ksft_test_result(!host_get()->hyperv_invariant &&
			 rdmsr(0, HV_X64_MSR_TSC_INVARIANT_CONTROL) == MSR_FAILED,
			 "an MSR without its privilege raises it\n");
}

static const char * const bad[] = {
	"", "nonsense", "migrate", "migrate khz=1", "migrate khz=abc",
	"migrate khz=2000000 speed=3", "migrate khz=2000000 page=half",
	"migrate khz=2000000 jump=-9223372036854775808", "spurious", "ack_delay",
	"seq value=x", "seq value=0x100000000", "kvm_version vcpu=9 odd=1",
	"kvm_raw vcpu=0 field=foo value=1", "kvm_raw vcpu=0 field=shift value=200", "stable",
	"stable on off", "tsc_offset cycles=1", "tsc_drift vcpu=0", "gp msr=1", "heal now",
	"storm seed=1", "storm seed=1 rate=1 count=1 kinds=x", "write_mid_read",
	"page_invalid us=0", "ref_step ns=x",
};

/* 4 results */
static void results_commands(void)
{
	unsigned int i, accepted = 0, said_nothing = 0;

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		bool done = testhost_do("%s", bad[i]);

		if (done)
			ksft_print_msg("'%s' is accepted: %s\n", bad[i], testhost_reply());
		accepted += done;
		said_nothing += strlen(testhost_reply()) < strlen("error x needs y");
	}
	ksft_test_result(!accepted && !said_nothing,
			 "%zu lines that are no commands are refused, with a reason\n",
			 ARRAY_SIZE(bad));
	ksft_test_result(hv_is_right() && kvm_is_right(), "and nothing came of them\n");
	must("storm seed=3 rate=500 count=500 kinds=migrate");
	for (i = 0; i < 50 && testhost_ask("storm", "running"); i++)
		ruler_wait_us(100000);
	ksft_test_result(testhost_ask("storm", "done") == 500 && !testhost_value("running"),
			 "a storm of 500 comes to its end\n");
	must("storm seed=3 rate=10 count=500");
	must("storm stop");
	ksft_test_result(!testhost_value("running"), "a storm is stopped\n");
	must("heal");
}

static void register_pages(void)
{
	int i;

	hv = ram_page(&hv_gpa);
	for (i = 0; hv && i < 2; i++)
		kvm[i] = ram_page(&kvm_gpa[i]);
	if (!hv || !kvm[0] || !kvm[1])
		ksft_exit_fail_perror("a page and its address");
	if (!wrmsr(0, HV_X64_MSR_REFERENCE_TSC, hv_gpa | PAGE_MSR_ENABLED))
		ksft_exit_fail_msg("Hyper-V's page is refused: needs CONFIG_X86_MSR\n");
	for (i = 0; i < 2; i++)
		if (!wrmsr(i, MSR_KVM_SYSTEM_TIME_NEW, kvm_gpa[i] | PAGE_MSR_ENABLED))
			ksft_exit_fail_msg("KVM's page of CPU %d is refused\n", i);
}

int main(void)
{
	const struct host *host = host_get();
	int cpus[MAX_CPUS], i;

	ksft_print_header();
	require_testhost();
	if (!host->hyperv_page || !host->kvm_msr)
		ksft_exit_skip("the host does not show both clocks\n");
	if (geteuid())
		ksft_exit_skip("needs root\n");
	if (stock_clock())
		ksft_exit_skip("the kernel uses the host's clock, and would suffer\n");
	if (cpus_online(cpus, MAX_CPUS) < 2)
		ksft_exit_skip("needs two CPUs\n");
	ksft_set_plan(74);

	pin_to_cpu(0);
	must("heal");
	must("migrate khz=2000000");
	register_pages();
	results_ruler_and_migrate();
	results_hyperv();
	results_kvm();
	results_tsc();
	results_gp();
	results_commands();
	wrmsr(0, HV_X64_MSR_REFERENCE_TSC, 0);
	for (i = 0; i < 2; i++)
		wrmsr(i, MSR_KVM_SYSTEM_TIME_NEW, 0);
	ksft_finished();
}
