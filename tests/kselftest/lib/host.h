/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The clocks that the hypervisor offers, by CPUID and not by what the kernel or the
 * driver say of it, and what a load of the driver has to come to on such a host.
 */
#ifndef PARACLOCK_HOST_H
#define PARACLOCK_HOST_H

#include <linux/types.h>
#include <stdbool.h>

#define MSR_KVM_SYSTEM_TIME		0x00000012
#define MSR_KVM_SYSTEM_TIME_NEW		0x4b564d01
#define HV_X64_MSR_TIME_REF_COUNT	0x40000020
#define HV_X64_MSR_REFERENCE_TSC	0x40000021

struct host {
	__u32 kvm_msr;		/* of KVM's clock; 0 where there is none */
	bool kvm_stable;	/* KVM may vouch for its clock on all CPUs at once */
	bool hyperv;		/* Hyper-V's interface */
	bool hyperv_page;	/* ... grants the reference TSC page */
	bool hyperv_counter;	/* ... grants the reference counter */
	bool hyperv_invariant;	/* ... keeps the TSC's frequency over a migration */
	bool hyperv_reenlightenment; /* ... or tells before it changes, and waits */
	bool tsc_invariant;	/* by the processor's own word */
};

const struct host *host_get(void);
/* Whether there is a clock that the driver reads. */
bool host_has_clock(void);

/* What a load has to come to. */
struct prospect {
	int err;		/* 0, or a positive errno, and then: */
	const char *log;	/* ... a word of the line that names the reason */
	const char *backend;
	const char *mode;
	const char *vdso;
	int rating;		/* the default one */
};

/* backend and mode: as the parameters, "auto" where not given. */
struct prospect host_prospect(const char *backend, const char *mode);
/* The same for a list of parameters, "backend=hyperv mode=msr". */
struct prospect host_prospect_args(const char *args);

/* The MSR that names the page or, on KVM, this CPU's page; 0 where there is none. */
__u32 host_page_msr(const char *backend);
/* Bit 0 of both. The rest is the page's address; the two reserve what is in between. */
#define PAGE_MSR_ENABLED	1ull

#endif
