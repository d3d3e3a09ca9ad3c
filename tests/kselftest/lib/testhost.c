// SPDX-License-Identifier: GPL-2.0
#include <cpuid.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "testhost.h"

#define LEAF_RULER	0x40005000u
#define LEAF_WRITE	0x40005010u
#define LEAF_READ	0x40005011u
#define SIGNATURE	0x454d4954u	/* "TIME" */

#define RULER_REFERENCE	0
#define RULER_SWITCHES	1
#define RULER_TSC	2
#define RULER_COUNT	3
#define RULER_SIGNATURE	0xff

#define REPLY_SIZE	(1u << 18)
#define LINE_SIZE	1024
#define BRACKETS	200
/* What other processes that give commands have to hold. */
#define LOCK_FILE	"/tmp/paraclock-testhost.lock"

struct leaf {
	__u32 a, b, c, d;
};

static struct leaf leaf(__u32 number, __u32 sub)
{
	struct leaf l;

	/* volatile, unlike the compiler's own: each one is a reading. */
	__asm__ __volatile__("cpuid" : "=a" (l.a), "=b" (l.b), "=c" (l.c), "=d" (l.d)
			     : "0" (number), "2" (sub) : "memory");
	return l;
}

static __u64 wide(__u32 low, __u32 high)
{
	return (__u64)high << 32 | low;
}

bool testhost_present(void)
{
	return leaf(LEAF_RULER, RULER_SIGNATURE).b == SIGNATURE;
}

struct ruler ruler_read(void)
{
	struct leaf l = leaf(LEAF_RULER, RULER_REFERENCE);

	return (struct ruler){ wide(l.a, l.b), wide(l.c, l.d) };
}

__u64 ruler_ns(void)
{
	return ruler_read().host_ns;
}

__u64 ruler_tsc(__u64 *host_ns)
{
	struct leaf l = leaf(LEAF_RULER, RULER_TSC);

	*host_ns = wide(l.a, l.b);
	return wide(l.c, l.d);
}

__u64 ruler_count(void)
{
	struct leaf l = leaf(LEAF_RULER, RULER_COUNT);

	return wide(l.c, l.d);
}

__u32 ruler_generation(void)
{
	return leaf(LEAF_RULER, RULER_SWITCHES).a;
}

void ruler_wait_us(__u64 us)
{
	__u64 start = ruler_ns();

	while (ruler_ns() - start < us * 1000)
		sched_yield();
}

bool ruler_wait_generation(__u32 generation, unsigned int seconds)
{
	__u64 start = ruler_ns();

	while ((__s32)(ruler_generation() - generation) < 0) {
		if (ruler_ns() - start > seconds * 1000000000ull)
			return false;
		sched_yield();
	}
	return true;
}

double ruler_khz(void)
{
	__u64 from, to, before, after;

	before = ruler_tsc(&from);
	ruler_wait_us(20000);
	after = ruler_tsc(&to);
	return (double)(__s64)(after - before) * 1e6 / (double)(to - from);
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread char *reply;

static void put(const char *text)
{
	for (; *text; text++)
		leaf(LEAF_WRITE, (unsigned char)*text);
}

static void take(void)
{
	size_t n = 0;
	struct leaf l;

	do {
		__u32 bytes[3];

		l = leaf(LEAF_READ, 0);
		bytes[0] = l.b;
		bytes[1] = l.c;
		bytes[2] = l.d;
		if (l.a > sizeof(bytes))
			break;
		if (n + l.a < REPLY_SIZE) {
			memcpy(reply + n, bytes, l.a);
			n += l.a;
		}
	} while (l.a);
	while (n && reply[n - 1] == '\n')
		n--;
	reply[n] = '\0';
}

bool testhost_do(const char *fmt, ...)
{
	char line[LINE_SIZE];
	va_list args;
	int fd;

	if (!reply)
		reply = malloc(REPLY_SIZE);
	if (!reply)
		abort();
	va_start(args, fmt);
	vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);

	pthread_mutex_lock(&lock);
	fd = open(LOCK_FILE, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	if (fd >= 0)
		flock(fd, LOCK_EX);
	put(line);
	put("\n");
	take();
	/* Gives the lock back as well. */
	if (fd >= 0)
		close(fd);
	pthread_mutex_unlock(&lock);
	return !strncmp(reply, "ok", 2);
}

const char *testhost_reply(void)
{
	return reply ? reply : "";
}

__s64 testhost_value_in(const char *text, const char *key)
{
	size_t len = strlen(key);
	const char *at;

	for (at = strstr(text, key); at; at = strstr(at + 1, key)) {
		const char *number = at + len + 1;

		if (at == text || at[-1] != ' ' || at[len] != '=')
			continue;
		/* A count may have all 64 bits. */
		return *number == '-' ? strtoll(number, NULL, 0) :
					(__s64)strtoull(number, NULL, 0);
	}
	return 0;
}

__s64 testhost_value(const char *key)
{
	return testhost_value_in(testhost_reply(), key);
}

__s64 testhost_ask(const char *command, const char *key)
{
	return testhost_do("%s", command) ? testhost_value(key) : -1;
}

struct deviation ruler_against(__u64 (*clock_ns)(void))
{
	struct deviation best = { .bracket = UINT64_MAX };
	int i;

	for (i = 0; i < BRACKETS; i++) {
		__u64 before = ruler_ns(), now = clock_ns(), after = ruler_ns();

		if (after - before < best.bracket) {
			best.bracket = after - before;
			best.ns = (__s64)(now - before - (after - before) / 2);
		}
	}
	return best;
}
