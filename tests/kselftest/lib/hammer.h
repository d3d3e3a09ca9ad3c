/* SPDX-License-Identifier: GPL-2.0 */
/* paraclock_hammer.ko: readers in the kernel, run from user space through debugfs. */
#ifndef PARACLOCK_HAMMER_H
#define PARACLOCK_HAMMER_H

#include <linux/types.h>

#define HAMMER_CLOCKS	16

struct hammer_result {
	__u64 reads;
	__u64 backward;
	__u64 worst_ns;
	/* Each clock by itself, also those that an NMI may see go back by a little. */
	unsigned int clocks;
	struct hammer_clock {
		char name[16];
		__u64 reads;
		__u64 backward;
		__u64 worst_ns;
	} clock[HAMMER_CLOCKS];
};

struct hammer_agreement {
	__u64 pairs;
	__u64 worst_ns;
	__u64 hw_outside;	/* without a TSC reading of that moment */
	__u64 generic;		/* without a hardware counter */
};

struct hammer_refcount {
	__u64 pairs;
	__u64 worst_ns;		/* by how much the counter lay outside of its bracket */
	__u64 narrowest_ns;	/* the narrowest bracket */
	__s64 low_ns, high_ns;	/* where the counter's distance from the clock lies, if it is one */
};

/* 0, -ENOENT where there is no such module, or why it could not be loaded. */
int hammer_load(void);
void hammer_unload(void);
/* Blocks until done. 0, or -errno. */
int hammer_run(unsigned int seconds, struct hammer_result *result);
/* Brackets the driver's read between two of the backend's C clock, in the kernel. */
int hammer_agree(const char *backend, struct hammer_agreement *result);
/* Brackets Hyper-V's reference counter between two of the driver's reads, on this CPU. */
int hammer_refcount(struct hammer_refcount *result);

#endif
