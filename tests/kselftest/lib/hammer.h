/* SPDX-License-Identifier: GPL-2.0 */
/* paraclock_hammer.ko: readers in the kernel, run from user space through debugfs. */
#ifndef PARACLOCK_HAMMER_H
#define PARACLOCK_HAMMER_H

#include <linux/types.h>

struct hammer_result {
	__u64 reads;
	__u64 backward;
	__u64 worst_ns;
};

struct hammer_agreement {
	__u64 pairs;
	__u64 worst_ns;
	__u64 hw_outside;
};

/* 0, -ENOENT where there is no such module, or why it could not be loaded. */
int hammer_load(void);
void hammer_unload(void);
/* Blocks until done. 0, or -errno. */
int hammer_run(unsigned int seconds, struct hammer_result *result);
/* Brackets the C clock's arithmetic against the driver's read, in the kernel. */
int hammer_agree(struct hammer_agreement *result);

#endif
