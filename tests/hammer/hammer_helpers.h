/* SPDX-License-Identifier: GPL-2.0 */
#ifndef PARACLOCK_HAMMER_HELPERS_H
#define PARACLOCK_HAMMER_HELPERS_H

#include <linux/types.h>

/* The C clock's read of this CPU's page; 0 where it has none. Preemption off. */
u64 paraclock_hammer_pvclock(void);

#endif /* PARACLOCK_HAMMER_HELPERS_H */
