// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "clock.h"
#include "files.h"
#include "readers.h"

#define CACHE_LINE	64
#define __aligned(x)	__attribute__((__aligned__(x)))
#define SELF_TEST_NS	1000000
/* A prime, so that every clock and path has its turn. */
#define SELF_TEST_EVERY	1009
/* How many rounds a displaced thread reads before it tries to return to its CPU. */
#define RETURN_EVERY	16

const int reader_clocks[READER_CLOCKS_ALL] = {
	CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_BOOTTIME, CLOCK_REALTIME, CLOCK_TAI,
	CLOCK_MONOTONIC_COARSE, CLOCK_REALTIME_COARSE, CLOCK_AUX,
};

struct count {
	_Atomic __u64 reads;
	_Atomic __u64 backward;
	_Atomic __u64 worst_ns;
};

struct latest {
	_Atomic __u64 ns;
} __aligned(CACHE_LINE);

struct reader {
	struct readers *readers;
	pthread_t thread;
	int cpu;
	unsigned int paths;
	__u64 self_test;
	struct count count[READER_PATHS][READER_CLOCKS_ALL];
} __aligned(CACHE_LINE);

struct readers {
	struct latest latest[READER_CLOCKS_ALL];
	atomic_bool stop;
	bool self_test;
	int clocks;
	unsigned int n;
	struct reader reader[];
};

/* Only the owning thread writes a count, so that no locked instruction is needed. */
static void count_add(_Atomic __u64 *count, __u64 n)
{
	__u64 now = atomic_load_explicit(count, memory_order_relaxed);

	atomic_store_explicit(count, now + n, memory_order_relaxed);
}

static void reader_read(struct reader *reader, int path, int clock)
{
	struct readers *readers = reader->readers;
	_Atomic __u64 *latest = &readers->latest[clock].ns;
	struct count *count = &reader->count[path][clock];
	__u64 before, now;

	before = atomic_load_explicit(latest, memory_order_acquire);
	if (path == READER_VDSO)
		now = vdso_ns(reader_clocks[clock]);
	else
		now = syscall_ns(reader_clocks[clock]);

	if (readers->self_test && ++reader->self_test % SELF_TEST_EVERY == 0)
		now -= SELF_TEST_NS;

	count_add(&count->reads, 1);
	if (now < before) {
		count_add(&count->backward, 1);
		if (before - now > atomic_load_explicit(&count->worst_ns, memory_order_relaxed))
			atomic_store_explicit(&count->worst_ns, before - now,
					      memory_order_relaxed);
		return;
	}
	while (now > before &&
	       !atomic_compare_exchange_weak_explicit(latest, &before, now,
						      memory_order_release, memory_order_relaxed))
		;
}

static void *reader_main(void *arg)
{
	struct reader *reader = arg;
	unsigned int round = 0;
	int clock, path;

	while (!atomic_load_explicit(&reader->readers->stop, memory_order_relaxed)) {
		if (++round % RETURN_EVERY == 0 && sched_getcpu() != reader->cpu)
			pin_to_cpu(reader->cpu);
		for (clock = 0; clock < reader->readers->clocks; clock++)
			for (path = 0; path < READER_PATHS; path++)
				if (reader->paths & (1u << path))
					reader_read(reader, path, clock);
	}
	return NULL;
}

struct readers *readers_start(unsigned int threads, bool self_test)
{
	int cpus[MAX_CPUS], n_cpus = cpus_online(cpus, MAX_CPUS);
	unsigned int kind, kinds = __builtin_popcount(threads & READERS_ALL);
	struct readers *readers;
	struct timespec ts;
	size_t size;
	int i, err;

	size = sizeof(*readers) + sizeof(struct reader) * kinds * n_cpus;
	size = (size + CACHE_LINE - 1) & ~(size_t)(CACHE_LINE - 1);
	readers = aligned_alloc(CACHE_LINE, size);
	if (!readers)
		return NULL;
	*readers = (struct readers){ .self_test = self_test, .clocks = READER_CLOCKS };
	if (!clock_gettime_syscall(CLOCK_AUX, &ts))
		readers->clocks = READER_CLOCKS_ALL;

	for (i = 0; i < n_cpus; i++) {
		for (kind = 0; kind <= READER_PATHS; kind++) {
			struct reader *reader = &readers->reader[readers->n];
			pthread_attr_t attr;
			cpu_set_t set;

			if (!(threads & (1u << kind)))
				continue;
			*reader = (struct reader){
				.readers = readers,
				.cpu = cpus[i],
				.paths = kind == READER_PATHS ? READERS_VDSO | READERS_SYSCALL :
								1u << kind,
			};
			CPU_ZERO(&set);
			CPU_SET(cpus[i], &set);
			pthread_attr_init(&attr);
			pthread_attr_setaffinity_np(&attr, sizeof(set), &set);
			err = pthread_create(&reader->thread, &attr, reader_main, reader);
			pthread_attr_destroy(&attr);
			if (err) {
				readers_stop(readers);
				readers_free(readers);
				errno = err;
				return NULL;
			}
			readers->n++;
		}
	}
	return readers;
}

void readers_stop(struct readers *readers)
{
	unsigned int i;

	atomic_store(&readers->stop, true);
	for (i = 0; i < readers->n; i++)
		pthread_join(readers->reader[i].thread, NULL);
}

void readers_free(struct readers *readers)
{
	free(readers);
}

static void sum(struct reader_count *total, const struct count *count)
{
	__u64 worst = atomic_load_explicit(&count->worst_ns, memory_order_relaxed);

	total->reads += atomic_load_explicit(&count->reads, memory_order_relaxed);
	total->backward += atomic_load_explicit(&count->backward, memory_order_relaxed);
	if (worst > total->worst_ns)
		total->worst_ns = worst;
}

struct reader_count readers_count(const struct readers *readers, int path, int clock)
{
	struct reader_count total = { 0 };
	unsigned int i;
	int p, c;

	for (i = 0; i < readers->n; i++)
		for (p = 0; p < READER_PATHS; p++)
			for (c = 0; c < READER_CLOCKS_ALL; c++)
				if ((path < 0 || p == path) && (clock < 0 || c == clock))
					sum(&total, &readers->reader[i].count[p][c]);
	return total;
}

__u64 readers_least(const struct readers *readers, int path)
{
	__u64 reads[MAX_CPUS] = { 0 }, least = UINT64_MAX;
	unsigned int i;
	int c;

	for (i = 0; i < readers->n; i++) {
		struct reader_count count = { 0 };

		for (c = 0; c < READER_CLOCKS_ALL; c++)
			sum(&count, &readers->reader[i].count[path][c]);
		reads[readers->reader[i].cpu] += count.reads;
	}
	for (i = 0; i < readers->n; i++)
		if (reads[readers->reader[i].cpu] < least)
			least = reads[readers->reader[i].cpu];
	return readers->n ? least : 0;
}

const char *reader_path_name(int path)
{
	return path == READER_VDSO ? "vDSO" : "system call";
}
