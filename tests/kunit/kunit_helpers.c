// SPDX-License-Identifier: GPL-2.0
/* The C side of the KUnit module: the driver's helpers, and the C arithmetic. */
#include "../hammer/hammer_helpers.c"
#include "kunit_helpers.h"

u64 paraclock_kunit_scale(u64 delta, u32 mul, int shift)
{
	return pvclock_scale_delta(delta, mul, shift);
}

u64 paraclock_kunit_rdtsc_ordered(void)
{
	return rdtsc_ordered();
}

u32 paraclock_kunit_hyperv_base(void)
{
	u32 first = HYPERV_CPUID_VENDOR_AND_MAX_FUNCTIONS;

	return cpuid_base_hypervisor("Microsoft Hv", HYPERV_CPUID_MIN - first);
}

u32 paraclock_kunit_hyperv_features(void)
{
	return ms_hyperv.features;
}

u64 paraclock_kunit_read_reference_tsc(u32 sequence, u64 scale, u64 offset, u64 *tsc)
{
	struct ms_hyperv_tsc_page page = {
		.tsc_sequence = sequence,
		.tsc_scale = scale,
		.tsc_offset = offset,
	};
	u64 time = 0;

	return hv_read_tsc_page_tsc(&page, tsc, &time) ? time : 0;
}
