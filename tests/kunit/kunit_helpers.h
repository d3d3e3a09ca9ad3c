/* SPDX-License-Identifier: GPL-2.0 */
#ifndef PARACLOCK_KUNIT_HELPERS_H
#define PARACLOCK_KUNIT_HELPERS_H

#include <linux/types.h>

/* Inline functions of the kernel, as the control of the driver's own. */
u64 paraclock_kunit_scale(u64 delta, u32 mul, int shift);
u64 paraclock_kunit_rdtsc_ordered(void);

#endif /* PARACLOCK_KUNIT_HELPERS_H */
