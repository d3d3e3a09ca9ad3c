/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Threads that read clocks on all CPUs at once and compare each reading with the
 * latest one that any of them has published.
 *
 * A reading taken after another one was published must not be less than it, whichever
 * CPU and path either came from: the maximum is loaded before the clock is read, and
 * the clock's own ordered RDTSC keeps the two in this order.
 */
#ifndef PARACLOCK_READERS_H
#define PARACLOCK_READERS_H

#include <linux/types.h>
#include <stdbool.h>

enum reader_path {
	READER_VDSO,
	READER_SYSCALL,
	READER_PATHS,
};

/* Which threads each CPU gets. */
#define READERS_VDSO	(1u << READER_VDSO)
#define READERS_SYSCALL	(1u << READER_SYSCALL)
#define READERS_MIXED	(1u << READER_PATHS)
#define READERS_ALL	(READERS_VDSO | READERS_SYSCALL | READERS_MIXED)

/*
 * CLOCK_MONOTONIC, _RAW, CLOCK_BOOTTIME, CLOCK_REALTIME, CLOCK_TAI, and the coarse two; nobody
 * may set the time. The first auxiliary clock as well, behind them, where it is enabled.
 */
#define READER_CLOCKS	7
#define READER_CLOCKS_ALL	(READER_CLOCKS + 1)
extern const int reader_clocks[READER_CLOCKS_ALL];

struct reader_count {
	__u64 reads;
	__u64 backward;
	__u64 worst_ns;
};

struct readers;

/*
 * Starts them on every CPU that is online now. A thread whose CPU goes offline reads
 * wherever the scheduler puts it, and returns as soon as its CPU is back.
 * self_test: each thread takes 1 ms off every 1009th reading, which must be noticed.
 * NULL, with errno, if a thread could not be started.
 */
struct readers *readers_start(unsigned int threads, bool self_test);
void readers_stop(struct readers *readers);
void readers_free(struct readers *readers);

/* Sums over threads; clock < 0: over all clocks; path < 0: both. Also while they run. */
struct reader_count readers_count(const struct readers *readers, int path, int clock);
/* The least number of readings that any of the CPUs has made by this path. */
__u64 readers_least(const struct readers *readers, int path);

const char *reader_path_name(int path);

#endif
