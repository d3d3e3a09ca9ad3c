/* SPDX-License-Identifier: GPL-2.0 */
/* Cross timestamps of KVM's virtual PTP clock: the host's and the guest's time at once. */
#ifndef PARACLOCK_PTP_H
#define PARACLOCK_PTP_H

#include <linux/types.h>

struct cross_timestamp {
	__s64 host_ns;		/* the host's CLOCK_REALTIME */
	__s64 realtime_ns;	/* the guest's, at the same instant */
	__s64 raw_ns;
};

/*
 * A descriptor of ptp_kvm's device, its module loaded from /lib/modules if need be;
 * -ENODEV where there is none, or another -errno.
 */
int ptp_open(void);
/* 0, or -errno. */
int ptp_cross_timestamp(int fd, struct cross_timestamp *stamp);

#endif
