/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The host's page as the kernel maps it for the vDSO in [vvar_vclock], and the C clocks'
 * arithmetic over it: KVM's of vCPU 0 first, Hyper-V's after it.
 */
#ifndef PARACLOCK_PAGE_H
#define PARACLOCK_PAGE_H

#include <linux/types.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

/* x86 keeps loads in order: only the compiler has to be held back. */
#define READ_ONCE(x)	(*(const volatile typeof(x) *)&(x))
#define barrier()	__asm__ __volatile__("" : : : "memory")

/* What a reading was computed from. */
struct page_reading {
	__u64 ns;
	__u64 tsc;
	__u32 version;
};

struct page_clock {
	const void *page;
	bool (*read)(const void *page, struct page_reading *reading);
};

/*
 * The backend's page. False with the reason in errno: ENOENT where there is no such
 * mapping, EFAULT where the kernel does not back it (no clock with pages was ever
 * enabled, or its pages are not for user space).
 */
bool page_clock_open(struct page_clock *clock, const char *backend);
/* False if the page is invalid, or its version would not settle. */
bool page_clock_read(const struct page_clock *clock, struct page_reading *reading);

/* The two layouts. */
bool pvclock_read(const void *page, struct page_reading *reading);
bool hv_page_read(const void *page, struct page_reading *reading);
/* KVM vouches for the clock on all vCPUs at once. */
bool pvclock_is_stable(const void *page);

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
	__u64 stuck;		/* left out: the page was invalid, or would not settle */
};

/*
 * CLOCK_MONOTONIC_RAW and page time are each rounded down to a nanosecond: each end
 * of an interval can be off by less than 1 ns, and an empty intersection by less than 2.
 */
#define AGREEMENT_ROUNDING_NS 2
/* Where the clock counts in Hyper-V's units, 100 ns, it is further behind by less than one. */
#define AGREEMENT_UNIT_NS 100

void agreement_init(struct agreement *a);
/* One sample by clock_read(CLOCK_MONOTONIC_RAW). fake is added to page time: self-test. */
void agreement_sample(struct agreement *a, const struct page_clock *page,
		      __u64 (*clock_read)(clockid_t id), __s64 fake);
/* By how much the intervals miss each other: not positive if they intersect. */
__s64 agreement_gap(const struct agreement *a);

#endif
