// SPDX-License-Identifier: GPL-2.0
#include <sched.h>
#include <stdint.h>

#include "clock.h"
#include "testhost.h"
#include "track.h"

/* So many readings at least, and more until the range is narrow or it is no use. */
#define LEAST		32
#define MOST		4000
#define NARROW_NS	40
/* The readings are rounded down to a nanosecond. */
#define ROUNDING_NS	1
/* Two readings that are that close are of one moment: 400 ppm of it are 2 ns. */
#define TOGETHER_NS	5000
/* __clocksource_update_freq_scale() */
#define LONGEST_S	600

static __u64 reference(clockid_t id)
{
	(void)id;
	return ruler_read().ref_ns;
}

/*
 * The moment at which the distances begin to grow, by the reference and by the control. Who is
 * interrupted between the two readings, as happens when an update has just let everybody go on,
 * has two moments.
 */
static __u64 moment(__u64 (*control)(clockid_t id), clockid_t of, __u64 *start)
{
	int left = MOST;
	__u64 before;

	do {
		before = reference(0);
		*start = control(of);
	} while (reference(0) - before > TOGETHER_NS && --left);
	return before;
}

static struct range track(clockid_t id, __u64 (*control)(clockid_t id), clockid_t of,
			  double ppm)
{
	struct range r = { .low = INT64_MIN, .high = INT64_MAX };
	__u64 start;
	int i;

	r.at = moment(control, of, &start);
	for (i = 0; i < MOST && (i < LEAST || r.high - r.low > NARROW_NS); i++) {
		__u64 before = control(of), now = vdso_ns(id), after = control(of);
		__s64 low = (__s64)(now - after) - ROUNDING_NS;
		__s64 high = (__s64)(now - before) + ROUNDING_NS;

		/* By the time the clock was read, which is somewhere between the two. */
		low -= (__s64)((double)(after - start) * ppm / 1e6);
		high -= (__s64)((double)(before - start) * ppm / 1e6);
		if (low > r.low)
			r.low = low;
		if (high < r.high)
			r.high = high;
		/* Whatever else there is to run shall not do it within a bracket. */
		if (i % 512 == 511)
			sched_yield();
	}
	return r;
}

struct range track_reference(clockid_t id)
{
	return track(id, reference, 0, 0);
}

struct range track_raw(clockid_t id, double ppm)
{
	return track(id, vdso_ns, CLOCK_MONOTONIC_RAW, ppm);
}

struct range range_less(struct range after, struct range before)
{
	return (struct range){ after.low - before.high, after.high - before.low, after.at };
}

__s64 range_beyond(struct range r, __s64 bound)
{
	if (r.low > bound)
		return r.low - bound;
	if (r.high < -bound)
		return -bound - r.high;
	return 0;
}

double quantisation(__u64 khz)
{
	__u64 left = (LONGEST_S * khz * 1000) >> 32;
	unsigned int bits = 32;
	__u64 limit;

	for (; left; left >>= 1)
		bits--;
	/* The largest multiplier is below 2^bits, and the shift is the one that brings it there. */
	limit = 1ull << bits;
	return 0.5 / ((double)limit / 2);
}
