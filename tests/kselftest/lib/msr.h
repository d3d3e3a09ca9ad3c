/* SPDX-License-Identifier: GPL-2.0 */
/* MSRs from outside of the driver. */
#ifndef PARACLOCK_MSR_H
#define PARACLOCK_MSR_H

#include <linux/types.h>

/* By /dev/cpu/CPU/msr. 0, or -errno; -ENOENT or -ENODEV without CONFIG_X86_MSR. */
int msr_read(int cpu, __u32 msr, __u64 *value);
int msr_write(int cpu, __u32 msr, __u64 value);

#endif
