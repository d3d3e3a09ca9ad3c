// SPDX-License-Identifier: GPL-2.0
/*
 * The C clock's arithmetic, from the kernel's own headers, as the control of
 * the driver's.
 */
#include "hammer_helpers.h"
#include "../../src/helpers.c"

u64 paraclock_hammer_pvclock(void)
{
	struct pvclock_vsyscall_time_info *hvclock = this_cpu_hvclock();
	unsigned int version;
	u64 ret;

	if (!hvclock)
		return 0;

	do {
		version = pvclock_read_begin(&hvclock->pvti);
		ret = __pvclock_read_cycles(&hvclock->pvti, rdtsc_ordered());
	} while (pvclock_read_retry(&hvclock->pvti, version));

	return ret;
}
