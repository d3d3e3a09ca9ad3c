/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests of the test host begin with. In a header, as fixture.h.
 */
#ifndef PARACLOCK_HOSTFIXTURE_H
#define PARACLOCK_HOSTFIXTURE_H

#include <stdlib.h>
#include <sys/resource.h>

#include "fixture.h"
#include "testhost.h"

#define HV_X64_MSR_VP_INDEX			0x40000002
#define HV_X64_MSR_TSC_FREQUENCY		0x40000022
#define HV_X64_MSR_APIC_FREQUENCY		0x40000023
#define HV_X64_MSR_REENLIGHTENMENT_CONTROL	0x40000106
#define HV_X64_MSR_TSC_EMULATION_CONTROL	0x40000107
#define HV_X64_MSR_TSC_EMULATION_STATUS		0x40000108
#define HV_X64_MSR_TSC_INVARIANT_CONTROL	0x40000118
#define MSR_IA32_TSC				0x10
#define MSR_IA32_TSC_ADJUST			0x3b
#define MSR_KVM_WALL_CLOCK_NEW			0x4b564d00

#define REENLIGHTENMENT_ENABLED			(1ull << 16)
#define REENLIGHTENMENT_VECTOR			0xee

/* Ends the test in a guest that runs anywhere else; told of the test host, that is a failure. */
static inline void require_testhost(void)
{
	if (testhost_present())
		return;
	if (told("PARACLOCK_TESTHOST") && host_has_clock())
		ksft_exit_fail_msg("told of the test host, but its leaf does not answer\n");
	ksft_exit_skip("not on the test host\n");
}

/* The clock that the kernel's own driver makes of this host's; NULL where it makes none. */
static inline const char *stock_clock(void)
{
	const struct host *host = host_get();

	if (cs_is_available("hyperv_clocksource_tsc_page"))
		return "hyperv_clocksource_tsc_page";
	if (host->kvm_msr && cs_is_available("kvm-clock"))
		return "kvm-clock";
	return NULL;
}

/* Commands come in time, between readers that take all the CPU there is. */
static inline void be_urgent(void)
{
	setpriority(PRIO_PROCESS, 0, -20);
}

static inline __u64 raw_ns(void)
{
	return vdso_ns(CLOCK_MONOTONIC_RAW);
}

/* A reading that failed is no value that an MSR has in these tests. */
#define MSR_FAILED	UINT64_MAX

static inline __u64 rdmsr(int cpu, __u32 msr)
{
	__u64 value;

	return msr_read(cpu, msr, &value) ? MSR_FAILED : value;
}

/* True if the write did not raise #GP. */
static inline bool wrmsr(int cpu, __u32 msr, __u64 value)
{
	return !msr_write(cpu, msr, value);
}

/* A command that has to be taken, or the test cannot go on. */
#define must(...) do {								\
	if (!testhost_do(__VA_ARGS__))						\
		ksft_exit_fail_msg("%s:%d: the host answers '%s'\n", __FILE__,	\
				   __LINE__, testhost_reply());			\
} while (0)

/* xorshift: the same sequence in each run. */
static inline __u64 below(__u64 n)
{
	static __u64 x = 88172645463325252ull;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return x % n;
}

/* Any frequency from 1.0 to 4.4 GHz, any jump of up to some seconds. */
static inline void migrate_somewhere(const char *more)
{
	must("migrate khz=%llu jump=%lld %s", 1000000 + below(3400000),
	     (long long)below(10000000000ull) - 100000, more);
}

#endif
