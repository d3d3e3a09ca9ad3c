// SPDX-License-Identifier: GPL-2.0
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "msr.h"

#define HYPERVISOR_LEAF_FIRST	0x40000000u
#define HYPERVISOR_LEAF_LAST	0x4000ff00u
#define HYPERVISOR_LEAF_STEP	0x100u
#define KVM_FEATURE_CLOCKSOURCE		(1u << 0)
#define KVM_FEATURE_CLOCKSOURCE2	(1u << 3)

__u32 kvm_clock_msr(void)
{
	__u32 a, b, c, d, leaf;

	/* Without a hypervisor these leaves repeat some other leaf. */
	__cpuid(1, a, b, c, d);
	if (!(c & (1u << 31)))
		return 0;

	for (leaf = HYPERVISOR_LEAF_FIRST; leaf <= HYPERVISOR_LEAF_LAST;
	     leaf += HYPERVISOR_LEAF_STEP) {
		char sign[12];

		__cpuid(leaf, a, b, c, d);
		memcpy(sign, &b, 4);
		memcpy(sign + 4, &c, 4);
		memcpy(sign + 8, &d, 4);
		if (memcmp(sign, "KVMKVMKVM\0\0\0", sizeof(sign)))
			continue;
		__cpuid(leaf + 1, a, b, c, d);
		if (a & KVM_FEATURE_CLOCKSOURCE2)
			return MSR_KVM_SYSTEM_TIME_NEW;
		if (a & KVM_FEATURE_CLOCKSOURCE)
			return MSR_KVM_SYSTEM_TIME;
		return 0;
	}
	return 0;
}

static int msr_open(int cpu, int flags)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/dev/cpu/%d/msr", cpu);
	fd = open(path, flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int msr_read(int cpu, __u32 msr, __u64 *value)
{
	int fd = msr_open(cpu, O_RDONLY);
	int err = 0;

	if (fd < 0)
		return fd;
	if (pread(fd, value, sizeof(*value), msr) != sizeof(*value))
		err = -errno;
	close(fd);
	return err;
}

int msr_write(int cpu, __u32 msr, __u64 value)
{
	int fd = msr_open(cpu, O_WRONLY);
	int err = 0;

	if (fd < 0)
		return fd;
	if (pwrite(fd, &value, sizeof(value), msr) != sizeof(value))
		err = -errno;
	close(fd);
	return err;
}
