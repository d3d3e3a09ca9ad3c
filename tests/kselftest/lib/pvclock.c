// SPDX-License-Identifier: GPL-2.0
#include "clock.h"
#include "page.h"

#define PVCLOCK_TRIES	1000000

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

#define PVCLOCK_TSC_STABLE_BIT	(1u << 0)

bool pvclock_is_stable(const void *at)
{
	const struct pvclock_vcpu_time_info *page = at;

	return READ_ONCE(page->flags) & PVCLOCK_TSC_STABLE_BIT;
}

static __u64 scale_delta(__u64 delta, __u32 mul, __s8 shift)
{
	if (shift < 0)
		delta >>= -shift;
	else
		delta <<= shift;
	return (__u64)(((unsigned __int128)delta * mul) >> 32);
}

/* pvclock_clocksource_read_nowd() by hand, clamp excepted. */
bool pvclock_read(const void *at, struct page_reading *reading)
{
	const struct pvclock_vcpu_time_info *page = at;
	int tries;

	for (tries = 0; tries < PVCLOCK_TRIES; tries++) {
		/* An odd version, an update under way, never compares equal below. */
		__u32 version = READ_ONCE(page->version) & ~(__u32)1;

		barrier();
		reading->tsc = rdtsc_ordered();
		reading->ns = page->system_time +
			      scale_delta(reading->tsc - page->tsc_timestamp,
					  page->tsc_to_system_mul, page->tsc_shift);
		reading->version = version;
		barrier();
		if (READ_ONCE(page->version) == version)
			return true;
	}
	return false;
}
