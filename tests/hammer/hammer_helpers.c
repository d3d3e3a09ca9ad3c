// SPDX-License-Identifier: GPL-2.0
/*
 * The C clock's arithmetic, from the kernel's own headers, as the control of
 * the driver's.
 */
#include <clocksource/hyperv_timer.h>

#include "hammer_helpers.h"
#include "../../src/helpers.c"

u64 paraclock_hammer_pvclock(void)
{
	struct pvclock_vsyscall_time_info *hvclock = this_cpu_hvclock();
	unsigned int version;
	u64 ret;

	if (!hvclock)
		return 0;

	do {
		version = pvclock_read_begin(&hvclock->pvti);
		ret = __pvclock_read_cycles(&hvclock->pvti, rdtsc_ordered());
	} while (pvclock_read_retry(&hvclock->pvti, version));

	return ret;
}

const void *paraclock_hammer_hv_page(void)
{
	union hv_reference_tsc_msr msr;

	if (rdmsrq_safe(HV_X64_MSR_REFERENCE_TSC, &msr.as_uint64))
		return NULL;
	if (!msr.enable || !pfn_valid(msr.pfn))
		return NULL;
	return pfn_to_kaddr(msr.pfn);
}

/*
 * hv_read_tsc_page_tsc() written out, by the specification: this has to be a
 * control of the kernel's function as well, which keeps less of the fraction.
 */
u64 paraclock_hammer_hv_read(const void *page)
{
	const struct ms_hyperv_tsc_page *tsc_page = page;
	u64 scale, offset, tsc;
	u32 sequence;

	do {
		sequence = READ_ONCE(tsc_page->tsc_sequence);
		if (!sequence)
			return 0;
		/* The sequence before the rest, and the rest before it. */
		smp_rmb();
		scale = READ_ONCE(tsc_page->tsc_scale);
		offset = READ_ONCE(tsc_page->tsc_offset);
		tsc = rdtsc_ordered();
		/* As above. */
		smp_rmb();
	} while (READ_ONCE(tsc_page->tsc_sequence) != sequence);

	return mul_u64_u64_shr(tsc, scale, 56) + (offset << 8);
}

int paraclock_hammer_hv_count(u64 *count)
{
	return rdmsrq_safe(HV_X64_MSR_TIME_REF_COUNT, count);
}
