/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Timers on CPUs of their own, one armed after the other, each for a moment that a seed makes:
 * clock_nanosleep() until an absolute time, and timerfd. When they fire is read off the clock
 * that they are armed by; that this one is right is somebody else's business.
 */
#ifndef PARACLOCK_TIMERS_H
#define PARACLOCK_TIMERS_H

#include <linux/types.h>
#include <stdbool.h>

struct timers;

/* Of the timers under which something has happened. */
enum timer_event {
	TIMER_NOTHING,
	TIMER_MARK,	/* a mark, which is for the comparison alone */
	TIMER_SWITCH,	/* a switch of the TSC */
	TIMER_EVENTS,
};

struct timer_count {
	unsigned int fired;
	unsigned int early;
	__u64 earliest_ns;
	/* Late by: half of them at most, nine of ten, all. */
	__u64 median_ns, most_ns, worst_ns;
};

/* Starts them; NULL with errno. */
struct timers *timers_start(void);
/*
 * Something that is no switch happens now. A timer that is late has the better chance that
 * something happens under it, so those with a switch can only be compared with those with a mark.
 */
void timers_mark(struct timers *timers);
/* Waits for what is armed, at most 2 s. False if a timer has not fired by then. */
bool timers_stop(struct timers *timers);
struct timer_count timers_count(const struct timers *timers, enum timer_event event);
void timers_free(struct timers *timers);

#endif
