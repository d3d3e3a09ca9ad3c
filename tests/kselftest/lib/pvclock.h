/* SPDX-License-Identifier: GPL-2.0 */
/*
 * vCPU 0's kvmclock page, which the kernel maps for the vDSO at the start of
 * [vvar_vclock], and the C clock's arithmetic over it.
 */
#ifndef PARACLOCK_PVCLOCK_H
#define PARACLOCK_PVCLOCK_H

#include <linux/types.h>
#include <stdbool.h>

#define PVCLOCK_TSC_STABLE_BIT	(1 << 0)
#define PVCLOCK_GUEST_STOPPED	(1 << 1)

/* The host's interface: arch/x86/include/asm/pvclock-abi.h. */
struct pvclock_vcpu_time_info {
	__u32 version;
	__u32 pad0;
	__u64 tsc_timestamp;
	__u64 system_time;
	__u32 tsc_to_system_mul;
	__s8 tsc_shift;
	__u8 flags;
	__u8 pad[2];
};

_Static_assert(sizeof(struct pvclock_vcpu_time_info) == 32, "the host's layout");

/* What a reading was computed from. */
struct pvclock_reading {
	__u64 ns;
	__u64 tsc;
	__u32 version;
	__u8 flags;
};

/*
 * The page, or NULL with the reason in errno: ENOENT where there is no such
 * mapping, EFAULT where the kernel does not back it (no clock with pages was
 * ever enabled, or its pages are not for user space).
 */
const struct pvclock_vcpu_time_info *pvclock_page(void);

/*
 * pvclock_clocksource_read_nowd() by hand, clamp excepted. False if the version
 * would not settle.
 */
bool pvclock_read(const struct pvclock_vcpu_time_info *page, struct pvclock_reading *reading);

/*
 * How far CLOCK_MONOTONIC_RAW is from the page's time.
 *
 * Each sample takes page time, CLOCK_MONOTONIC_RAW, page time. The constant offset
 * between the two, if it is one, lies in [raw - after, raw - before]; so it lies in
 * the intersection of all these intervals. While the two run in step, the
 * intersection cannot become empty, whatever the brackets' widths, and a drift or
 * a step larger than the narrowest brackets empties it.
 */
struct agreement {
	__s64 low;
	__s64 high;
	__u64 narrowest;	/* ns, the narrowest bracket */
	__u64 samples;
	__u64 torn;		/* left out: the host rewrote the page in the bracket */
	__u64 stuck;		/* left out: the version did not settle */
};

/*
 * CLOCK_MONOTONIC_RAW and page time are each rounded down to a nanosecond: each end
 * of an interval can be off by less than 1 ns, and an empty intersection by less than 2.
 */
#define AGREEMENT_ROUNDING_NS 2

void agreement_init(struct agreement *a);
/* One sample by clock_read(CLOCK_MONOTONIC_RAW). fake is added to page time: self-test. */
void agreement_sample(struct agreement *a, const struct pvclock_vcpu_time_info *page,
		      __u64 (*clock_read)(clockid_t id), __s64 fake);
/* By how much the intervals miss each other: not positive if they intersect. */
__s64 agreement_gap(const struct agreement *a);

#endif
