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
