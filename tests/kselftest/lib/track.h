/* SPDX-License-Identifier: GPL-2.0 */
/*
 * How far the guest's clock is from the host's reference, as closely as it can be known: each
 * reading between two of the ruler's says between which two values the distance lies, and so does
 * the intersection of what many of them say. While the two run in step it cannot become empty.
 */
#ifndef PARACLOCK_TRACK_H
#define PARACLOCK_TRACK_H

#include <linux/types.h>
#include <stdbool.h>
#include <time.h>

struct range {
	__s64 low, high;	/* ns */
	__u64 at;		/* the reference's ns of that moment */
};

/* Of a clock's distance from reference time, by the vDSO. */
struct range track_reference(clockid_t id);
/*
 * Of a clock's distance from CLOCK_MONOTONIC_RAW, by the vDSO, at the beginning: it grows by ppm,
 * and what it has grown by is taken off.
 */
struct range track_raw(clockid_t id, double ppm);
/* After less before. */
struct range range_less(struct range after, struct range before);
/* By how much a range misses the one from -bound to +bound: 0 if it does not. */
__s64 range_beyond(struct range r, __s64 bound);

static inline __s64 range_width(struct range r)
{
	return r.high - r.low;
}

static inline __s64 range_middle(struct range r)
{
	return r.low + (r.high - r.low) / 2;
}

/*
 * What a clocksource's multiplier may be off by at most, as a fraction of it. For a counter of
 * khz that has to go on for 600 s clocks_calc_mult_shift() leaves it n = 32 - bits of (600 s *
 * frequency >> 32) bits, so that it is 2^(n - 1) at least, and rounds it to the nearest integer:
 * 2^-n. At 1 GHz that is 2^-24, at 2 GHz 2^-23, at 4 GHz 2^-22.
 */
double quantisation(__u64 khz);

#endif
