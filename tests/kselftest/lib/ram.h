/* SPDX-License-Identifier: GPL-2.0 */
/* A page of this process's for the host to write to, and the two layouts that it may have. */
#ifndef PARACLOCK_RAM_H
#define PARACLOCK_RAM_H

#include <linux/types.h>
#include <stddef.h>

struct hv_page {
	volatile __u32 sequence;
	__u32 reserved;
	volatile __u64 scale;
	volatile __s64 offset;
};

struct kvm_page {
	volatile __u32 version;
	__u32 pad0;
	volatile __u64 tsc;
	volatile __u64 system;
	volatile __u32 mul;
	volatile __s8 shift;
	volatile __u8 flags;
	__u8 pad[2];
};

struct kvm_wall {
	volatile __u32 version;
	volatile __u32 sec;
	volatile __u32 nsec;
};

#define HV_INVALID	UINT64_MAX

/*
 * Zeroed and locked; it stays for as long as this process is there. NULL, with errno, where the
 * kernel does not say where in memory it is.
 */
void *ram_page(__u64 *gpa);

/* By the protocol: HV_INVALID while the page is invalid. In units of 100 ns. */
__u64 hv_count(const struct hv_page *page);
/* The same of KVM's, in ns; 0 if the version stays odd. On the CPU whose page it is. */
__u64 kvm_ns(const struct kvm_page *page);

#endif
