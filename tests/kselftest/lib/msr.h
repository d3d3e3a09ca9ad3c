/* SPDX-License-Identifier: GPL-2.0 */
/* KVM's clock MSR, found as the driver finds it, and read from outside it. */
#ifndef PARACLOCK_MSR_H
#define PARACLOCK_MSR_H

#include <linux/types.h>

#define MSR_KVM_SYSTEM_TIME	0x00000012
#define MSR_KVM_SYSTEM_TIME_NEW	0x4b564d01
#define KVM_SYSTEM_TIME_ENABLED	1

/* The MSR that CPUID says the clock has on this host, or 0 where there is no KVM clock. */
__u32 kvm_clock_msr(void);

/* By /dev/cpu/CPU/msr. 0, or -errno; -ENOENT or -ENODEV without CONFIG_X86_MSR. */
int msr_read(int cpu, __u32 msr, __u64 *value);
int msr_write(int cpu, __u32 msr, __u64 value);

#endif
