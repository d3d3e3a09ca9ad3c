// SPDX-License-Identifier: GPL-2.0
#include <cpuid.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "host.h"

#define LEAF_FIRST	0x40000000u
#define LEAF_LAST	0x4000ff00u
#define LEAF_STEP	0x100u

#define KVM_FEATURE_CLOCKSOURCE			(1u << 0)
#define KVM_FEATURE_CLOCKSOURCE2		(1u << 3)
#define KVM_FEATURE_CLOCKSOURCE_STABLE_BIT	(1u << 24)

/* The interface "Hv#1", and its partition privileges: Hyper-V's TLFS, 2.4 and 4.2.2. */
#define HV_INTERFACE				0x31237648u
#define HV_ACCESS_REFERENCE_COUNTER		(1u << 1)
#define HV_ACCESS_REFERENCE_TSC			(1u << 9)
#define HV_ACCESS_REENLIGHTENMENT		(1u << 13)
#define HV_ACCESS_TSC_INVARIANT			(1u << 15)

#define RATING_STEP		50
/* The C drivers' ratings: the page's, and the counter's between the two. */
#define RATING_HV_PAGE		500
#define RATING_HV_MSR		499
#define RATING_HV_INVARIANT	250
#define RATING_TSC		300

static bool signature_is(__u32 leaf, const char *expected)
{
	__u32 max, sign[3];

	__cpuid(leaf, max, sign[0], sign[1], sign[2]);
	return !memcmp(sign, expected, sizeof(sign));
}

static void find_kvm(struct host *host)
{
	__u32 a, b, c, d, leaf;

	for (leaf = LEAF_FIRST; leaf <= LEAF_LAST; leaf += LEAF_STEP)
		if (signature_is(leaf, "KVMKVMKVM\0\0\0"))
			break;
	if (leaf > LEAF_LAST)
		return;
	__cpuid(leaf + 1, a, b, c, d);
	if (a & KVM_FEATURE_CLOCKSOURCE2)
		host->kvm_msr = MSR_KVM_SYSTEM_TIME_NEW;
	else if (a & KVM_FEATURE_CLOCKSOURCE)
		host->kvm_msr = MSR_KVM_SYSTEM_TIME;
	host->kvm_stable = host->kvm_msr && a & KVM_FEATURE_CLOCKSOURCE_STABLE_BIT;
}

static void find_hyperv(struct host *host)
{
	__u32 a, b, c, d;

	if (!signature_is(LEAF_FIRST, "Microsoft Hv"))
		return;
	__cpuid(LEAF_FIRST + 1, a, b, c, d);
	if (a != HV_INTERFACE)
		return;
	__cpuid(LEAF_FIRST + 3, a, b, c, d);
	host->hyperv = true;
	host->hyperv_page = a & HV_ACCESS_REFERENCE_TSC;
	host->hyperv_counter = a & HV_ACCESS_REFERENCE_COUNTER;
	host->hyperv_invariant = a & HV_ACCESS_TSC_INVARIANT;
	host->hyperv_reenlightenment = a & HV_ACCESS_REENLIGHTENMENT;
}

const struct host *host_get(void)
{
	static struct host host;
	static bool known;
	__u32 a, b, c, d;

	if (known)
		return &host;
	known = true;
	__cpuid(0x80000000, a, b, c, d);
	if (a >= 0x80000007) {
		__cpuid(0x80000007, a, b, c, d);
		host.tsc_invariant = d & (1u << 8);
	}
	/* Without a hypervisor its leaves repeat some other leaf. */
	__cpuid(1, a, b, c, d);
	if (c & (1u << 31)) {
		find_kvm(&host);
		find_hyperv(&host);
	}
	return &host;
}

bool host_has_clock(void)
{
	const struct host *host = host_get();

	return host->kvm_msr || host->hyperv_page || host->hyperv_counter;
}

static struct prospect refused(int err, const char *log)
{
	return (struct prospect){ .err = err, .log = log };
}

static bool may_be_tsc(const char *mode)
{
	return !strcmp(mode, "auto") || !strcmp(mode, "tsc");
}

static struct prospect kvm(const char *mode)
{
	const struct host *host = host_get();
	bool tsc = host->kvm_stable && host->tsc_invariant;

	if (!host->kvm_msr)
		return refused(ENODEV, "KVM");
	if (!tsc && !strcmp(mode, "tsc"))
		return refused(ENODEV, "invariant");
	tsc = tsc && may_be_tsc(mode);
	return (struct prospect){
		.backend = "kvm",
		.mode = tsc ? "tsc" : "page",
		.vdso = tsc ? "tsc" : "pvclock",
		.rating = (host->tsc_invariant ? 299 : 400) + RATING_STEP,
	};
}

/* By Hyper-V's word; the processor's alone is not enough there. */
static bool hyperv_never_changes(void)
{
	return host_get()->hyperv_invariant && host_get()->tsc_invariant;
}

static struct prospect hyperv(const char *mode)
{
	const struct host *host = host_get();
	bool page = host->hyperv_page && strcmp(mode, "msr");
	bool tsc = hyperv_never_changes() || host->hyperv_reenlightenment;
	int rating = page ? RATING_HV_PAGE + RATING_STEP : RATING_HV_MSR;

	if (!host->hyperv || (!page && !host->hyperv_counter) ||
	    (!page && !strcmp(mode, "page")))
		return refused(ENODEV, "Hyper-V");
	if (!tsc && !strcmp(mode, "tsc"))
		return refused(ENODEV, "AccessReenlightenmentControls");
	tsc = tsc && may_be_tsc(mode);
	if (host->hyperv_invariant)
		rating = tsc ? RATING_TSC + RATING_STEP : rating - RATING_HV_INVARIANT;
	/* Linux arms reenlightenment where it takes itself for a guest of Hyper-V alone. */
	if (tsc && !hyperv_never_changes() && host->kvm_msr) {
		if (!strcmp(mode, "tsc"))
			return refused(EOPNOTSUPP, "mode=tsc");
		tsc = false;
	}
	return (struct prospect){
		.backend = "hyperv",
		.mode = tsc ? "tsc" : page ? "page" : "msr",
		.vdso = tsc ? "tsc" : page ? "hvclock" : "none",
		.rating = rating,
	};
}

struct prospect host_prospect(const char *backend, const char *mode)
{
	const struct host *host = host_get();
	bool kvm_tsc = host->kvm_stable && host->tsc_invariant;

	if (!strcmp(backend, "kvm"))
		return strcmp(mode, "msr") ? kvm(mode) : refused(EINVAL, "msr");
	if (!strcmp(backend, "hyperv") || !strcmp(mode, "msr"))
		return hyperv(mode);
	/* The driver's rule for two interfaces. */
	if (host->kvm_stable && (kvm_tsc || strcmp(mode, "tsc")))
		return kvm(mode);
	if (host->hyperv_page)
		return hyperv(mode);
	if (host->kvm_msr)
		return kvm(mode);
	if (host->hyperv_counter)
		return hyperv(mode);
	/* Of nothing at all, any line will do. */
	return refused(ENODEV, NULL);
}

static void value_of(const char *args, const char *key, char *value, size_t size)
{
	const char *at;

	snprintf(value, size, "auto");
	/* The last one counts. */
	for (at = strstr(args, key); at; at = strstr(at, key)) {
		at += strlen(key);
		snprintf(value, size, "%.*s", (int)strcspn(at, " "), at);
	}
}

struct prospect host_prospect_args(const char *args)
{
	char backend[16], mode[16];

	value_of(args, "backend=", backend, sizeof(backend));
	value_of(args, "mode=", mode, sizeof(mode));
	return host_prospect(backend, mode);
}

__u32 host_page_msr(const char *backend)
{
	if (!strcmp(backend, "kvm"))
		return host_get()->kvm_msr;
	if (!strcmp(backend, "hyperv") && host_get()->hyperv_page)
		return HV_X64_MSR_REFERENCE_TSC;
	return 0;
}
