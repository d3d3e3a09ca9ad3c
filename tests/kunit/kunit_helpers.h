/* SPDX-License-Identifier: GPL-2.0 */
#ifndef PARACLOCK_KUNIT_HELPERS_H
#define PARACLOCK_KUNIT_HELPERS_H

#include <linux/types.h>

/* Inline functions of the kernel, as the control of the driver's own. */
u64 paraclock_kunit_scale(u64 delta, u32 mul, int shift);
u64 paraclock_kunit_rdtsc_ordered(void);

/* Hyper-V's first leaf by the kernel's own scan; 0 where it is not there. */
u32 paraclock_kunit_hyperv_base(void);
/* The privileges that the kernel has found; 0 unless it calls itself a guest of Hyper-V. */
u32 paraclock_kunit_hyperv_features(void);
/* The vDSO's and the C driver's reading of such a page, and the TSC that it is of. */
u64 paraclock_kunit_read_reference_tsc(u32 sequence, u64 scale, u64 offset, u64 *tsc);

#endif /* PARACLOCK_KUNIT_HELPERS_H */
