// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "clock.h"
#include "files.h"
#include "testhost.h"
#include "timers.h"

#define KINDS		4
#define SAMPLES		16384
/* How far ahead they are armed. */
#define LEAST_NS	1000000
#define MOST_NS		40000000
#define PATIENCE_NS	(2 * NSEC_PER_SEC)

static const struct {
	clockid_t id;
	bool fd;
} kinds[KINDS] = {
	{ CLOCK_MONOTONIC, false },
	{ CLOCK_REALTIME, false },
	{ CLOCK_BOOTTIME, true },
	{ CLOCK_MONOTONIC, true },
};

struct sample {
	__s64 late;
	enum timer_event event;
};

struct timer {
	struct timers *timers;
	pthread_t thread;
	int kind;
	atomic_bool ended;
	unsigned int n;
	struct sample sample[SAMPLES];
};

struct timers {
	atomic_bool stop;
	atomic_uint marks;
	struct timer timer[KINDS];
};

static void wait_until(int fd, clockid_t id, __u64 deadline)
{
	struct itimerspec spec = { 0 };
	__u64 fired;

	spec.it_value.tv_sec = deadline / NSEC_PER_SEC;
	spec.it_value.tv_nsec = deadline % NSEC_PER_SEC;
	if (fd < 0) {
		while (clock_nanosleep(id, TIMER_ABSTIME, &spec.it_value, NULL) == EINTR)
			;
		return;
	}
	timerfd_settime(fd, TFD_TIMER_ABSTIME, &spec, NULL);
	while (read(fd, &fired, sizeof(fired)) < 0 && errno == EINTR)
		;
}

static void *timer_main(void *arg)
{
	struct timer *timer = arg;
	clockid_t id = kinds[timer->kind].id;
	struct sched_param param = { .sched_priority = 10 };
	int cpus[MAX_CPUS], n = cpus_online(cpus, MAX_CPUS), fd = -1;
	__u64 seed = 88172645463325252ull + timer->kind;

	pin_to_cpu(cpus[timer->kind % n]);
	/* Not after whatever else reads clocks on this CPU. */
	pthread_setschedparam(pthread_self(), SCHED_FIFO, &param);
	if (kinds[timer->kind].fd)
		fd = timerfd_create(id, TFD_CLOEXEC);

	while (!atomic_load(&timer->timers->stop)) {
		unsigned int marks = atomic_load(&timer->timers->marks);
		__u32 generation = ruler_generation();
		__u64 deadline;
		struct sample *s;

		seed ^= seed << 13;
		seed ^= seed >> 7;
		seed ^= seed << 17;
		deadline = vdso_ns(id) + LEAST_NS + seed % (MOST_NS - LEAST_NS);
		wait_until(fd, id, deadline);
		s = &timer->sample[timer->n];
		s->late = (__s64)(vdso_ns(id) - deadline);
		s->event = ruler_generation() != generation ? TIMER_SWITCH :
			   atomic_load(&timer->timers->marks) != marks ? TIMER_MARK :
			   TIMER_NOTHING;
		if (timer->n < SAMPLES - 1)
			timer->n++;
	}
	if (fd >= 0)
		close(fd);
	atomic_store(&timer->ended, true);
	return NULL;
}

struct timers *timers_start(void)
{
	struct timers *timers = calloc(1, sizeof(*timers));
	int i, err;

	if (!timers)
		return NULL;
	for (i = 0; i < KINDS; i++) {
		timers->timer[i].timers = timers;
		timers->timer[i].kind = i;
		err = pthread_create(&timers->timer[i].thread, NULL, timer_main,
				     &timers->timer[i]);
		if (err) {
			atomic_store(&timers->stop, true);
			while (i--)
				pthread_join(timers->timer[i].thread, NULL);
			free(timers);
			errno = err;
			return NULL;
		}
	}
	return timers;
}

void timers_mark(struct timers *timers)
{
	atomic_fetch_add(&timers->marks, 1);
}

bool timers_stop(struct timers *timers)
{
	__u64 start = ruler_ns();
	bool all = true;
	int i;

	atomic_store(&timers->stop, true);
	for (i = 0; i < KINDS; i++) {
		while (!atomic_load(&timers->timer[i].ended) && ruler_ns() - start < PATIENCE_NS)
			sched_yield();
		if (atomic_load(&timers->timer[i].ended))
			pthread_join(timers->timer[i].thread, NULL);
		else
			all = false;
	}
	return all;
}

static int compare(const void *a, const void *b)
{
	__s64 x = *(const __s64 *)a, y = *(const __s64 *)b;

	return (x > y) - (x < y);
}

struct timer_count timers_count(const struct timers *timers, enum timer_event event)
{
	struct timer_count count = { 0 };
	unsigned int n = 0, i, k;
	__s64 *late = malloc(sizeof(*late) * KINDS * SAMPLES);

	if (!late)
		return count;
	for (k = 0; k < KINDS; k++)
		for (i = 0; i < timers->timer[k].n; i++)
			if (timers->timer[k].sample[i].event == event)
				late[n++] = timers->timer[k].sample[i].late;
	qsort(late, n, sizeof(*late), compare);
	count.fired = n;
	for (i = 0; i < n && late[i] < 0; i++)
		count.early++;
	if (count.early)
		count.earliest_ns = -late[0];
	if (n > count.early) {
		count.median_ns = late[n / 2] < 0 ? 0 : late[n / 2];
		count.most_ns = late[n - 1 - n / 10] < 0 ? 0 : late[n - 1 - n / 10];
		count.worst_ns = late[n - 1];
	}
	free(late);
	return count;
}

void timers_free(struct timers *timers)
{
	free(timers);
}
