/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A guest of this guest: how it is started, and the page of its memory by which its program and the
 * one that watches it talk, since CPUID leaves, and so the ruler, end at the KVM between them.
 *
 * L2's memory is a file of L1's. The program in L2 writes a word that it is told on its kernel's
 * command line to the beginning of a page of its own, and L1 finds the page by it.
 */
#ifndef PARACLOCK_NESTED_H
#define PARACLOCK_NESTED_H

#include <linux/types.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>

#include "track.h"

/* How L2's clock is read. */
enum nested_path {
	NESTED_VDSO,	/* by vCPU 0's page, if the clock is stable */
	NESTED_SYSCALL,	/* by that of the CPU */
	NESTED_PATHS,
};

struct nested_count {
	_Atomic __u64 reads;
	_Atomic __u64 backward;
	_Atomic __u64 worst_ns;
};

/* Of one instant; the program in L2 may be in the middle of writing it. */
struct nested_tally {
	struct nested_count path[NESTED_PATHS];
	struct nested_count kernel;	/* paraclock_hammer.ko */
	_Atomic __u64 timers;		/* fired */
	_Atomic __u64 early;
	_Atomic __u64 late_ns;		/* the latest since L1 has set it to 0 */
};

struct nested_page {
	_Atomic __u64 magic[2];	/* the word, and its complement */
	/* L1 writes. */
	_Atomic __u32 request;	/* a number, and in bit 0 the path */
	_Atomic __u32 rest;	/* vCPU 0 shall have nothing to do */
	/* L2 writes. */
	_Atomic __u32 answer;	/* the request that is answered */
	_Atomic __u32 beat;	/* goes up each time it has written what follows */
	_Atomic __u64 ns;	/* CLOCK_MONOTONIC_RAW, as requested, and its TSC before and after */
	_Atomic __u64 tsc_before;
	_Atomic __u64 tsc_after;
	struct nested_tally tally;
	_Atomic __u32 stable;	/* how often the stable bit was seen set, and clear */
	_Atomic __u32 unstable;
	_Atomic __s32 error;	/* a negative errno of what did not come about */
	_Atomic __u32 has_page;	/* there is a page to see the bit in */
	_Atomic __u32 rests;	/* vCPU 0 has nothing to do, or 0 */
	char clocksource[32];
	char clockevent[32];	/* that of vCPU 0 */
	char failed[64];	/* what that was */
	char kernel_clock[16];	/* of the kernel's, the one that stepped back by the most */
};

#define NESTED_NAME(n)	((n) == NESTED_VDSO ? "the vDSO" : "the system call")

/* A guest that runs. */
struct nested {
	pid_t pid;
	struct nested_page *page;
	char *ram;
};

/* The vCPU whose program answers, of two, and has all to do while vCPU 0 rests. */
#define NESTED_ANSWERING	1

/*
 * Starts one on this machine's KVM, with the clocksource that it shall use, by the interface "kvm"
 * or "hyperv", and waits until its program runs. 0, or -errno with the reason printed as a
 * diagnostic.
 */
int nested_start(struct nested *guest, const char *clocksource, const char *interface);
void nested_stop(struct nested *guest);
/* False, with the reason printed, if it has ended or its program has. */
bool nested_alive(const struct nested *guest);
/* Prints the end of what it has printed. */
void nested_print_log(void);
/*
 * How far its CLOCK_MONOTONIC_RAW is from reference time, while this machine's TSC is one of @khz.
 * It reads its clock between two TSCs of its own, and KVM says which TSCs of this machine those
 * were, so neither has to run while the other does. The range is as wide as INT64_MAX lets it be if the
 * guest does not answer.
 */
struct range nested_track(struct nested *guest, enum nested_path path, __u64 khz);

#endif
