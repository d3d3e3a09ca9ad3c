/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The test host from inside of its guest: the ruler, which measures the truth, and the channel by
 * which a test has the host change the TSC or go wrong. Both by private CPUID leaves, without
 * any privilege.
 */
#ifndef PARACLOCK_TESTHOST_H
#define PARACLOCK_TESTHOST_H

#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>

bool testhost_present(void);

/* Of one instant. */
struct ruler {
	__u64 host_ns;	/* since the device started */
	__u64 ref_ns;	/* reference time */
};

struct ruler ruler_read(void);
/* host_ns alone. */
__u64 ruler_ns(void);
/* This CPU's TSC beside host_ns. */
__u64 ruler_tsc(__u64 *host_ns);
/* Reference time in units of 100 ns, as an honest page and the counter have it. */
__u64 ruler_count(void);
/* How often the TSC has been switched. */
__u32 ruler_generation(void);
/* Waits by the ruler, and by no clock of the kernel's. */
void ruler_wait_us(__u64 us);
/* Waits for so many switches. False if they have not come after seconds. */
bool ruler_wait_generation(__u32 generation, unsigned int seconds);
/* This CPU's TSC frequency, by the ruler. */
double ruler_khz(void);

/*
 * One command. True if the host answers "ok"; what it answers is the calling thread's until its
 * next command. Threads may call it at once, and processes as well.
 */
bool testhost_do(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
const char *testhost_reply(void);
/* The number after " key=" in the reply, 0 where there is none. */
__s64 testhost_value(const char *key);
/* The same from any text, of which it is the first. */
__s64 testhost_value_in(const char *text, const char *key);
/* Asks, and takes one number of the answer; -1 if it is refused. */
__s64 testhost_ask(const char *command, const char *key);

/* By how much a clock is off the ruler. */
struct deviation {
	__s64 ns;	/* clock less ruler, in the middle of the bracket */
	__u64 bracket;	/* its width, ns */
};

/* The narrowest of some brackets. */
struct deviation ruler_against(__u64 (*clock_ns)(void));

#endif
