/* SPDX-License-Identifier: GPL-2.0 */
#ifndef PARACLOCK_HAMMER_HELPERS_H
#define PARACLOCK_HAMMER_HELPERS_H

#include <linux/types.h>

/* The C clock's read of this CPU's page; 0 where it has none. Preemption off. */
u64 paraclock_hammer_pvclock(void);

/*
 * The page that Hyper-V's MSR names, whoever has registered it; NULL where none
 * is enabled. It is not kept: whoever registered it may go.
 */
const void *paraclock_hammer_hv_page(void);

/* The C clock's read of it, in 2^-8 units of 100 ns; 0 where it is invalid. */
u64 paraclock_hammer_hv_read(const void *page);

/* Hyper-V's reference counter, in units of 100 ns. 0, or -errno. */
int paraclock_hammer_hv_count(u64 *count);

/*
 * Has @func called in the NMIs that paraclock_hammer_nmi_send() sends, until
 * paraclock_hammer_nmi_stop() returns. 0, or -errno.
 */
int paraclock_hammer_nmi_start(void (*func)(void *info), void *info);
void paraclock_hammer_nmi_stop(void);
/* To all CPUs that are online and have taken the one before. May sleep. */
void paraclock_hammer_nmi_send(void);

#endif /* PARACLOCK_HAMMER_HELPERS_H */
