// SPDX-License-Identifier: GPL-2.0
/*
 * migrateview CLOCKSOURCE...: for a person, and for a plot. The host changes the TSC a few times
 * under each clock, the same times for all, and the clock is compared with the host's, by lines
 * for whoever draws them:
 *
 *   @clock NAME mode=MODE
 *   @sample NAME ms=N ns=N                what the clock is off by, so long after the beginning
 *   @switch NAME ms=N khz=N took_us=N     the TSC has changed
 *   @worst NAME ns=N
 */
#include "lib/updatefixture.h"

#define MOVES		6
#define DWELL_MS	400
#define SAMPLE_MS	10
#define SWITCH_SECONDS	5

static const struct {
	int khz;
	long long jump;
} moves[MOVES] = {
	{ 3100000, 20000000000ll }, { 1200000, -15000000000ll }, { 4000000, 30000000000ll },
	{ 1000000, -30000000000ll }, { 2600000, 10000000000ll }, { 2000000, -15000000000ll },
};

static __s64 start_ns, worst;
static __u64 start_at;

static __s64 off(void)
{
	return range_middle(track_reference(CLOCK_MONOTONIC_RAW)) - start_ns;
}

static unsigned long long ms(void)
{
	return (ruler_ns() - start_at) / 1000000;
}

static __s64 sample(const char *name)
{
	__s64 now = off();

	if (llabs(now) > worst)
		worst = llabs(now);
	printf("@sample %s ms=%llu ns=%lld\n", name, ms(), now);
	return now;
}

/* By the ruler: a clock that is wrong wakes nobody in time. */
static void dwell(const char *name)
{
	int i;

	for (i = 0; i < DWELL_MS / SAMPLE_MS; i++) {
		ruler_wait_us(SAMPLE_MS * 1000);
		sample(name);
	}
}

static bool view(const char *name)
{
	struct options options = { .clocksource = name };
	char mode[32] = "none", error[32];
	int i;

	if (!strcmp(name, MODULE_NAME)) {
		require_paraclock();
		mode_now(mode, sizeof(mode));
	} else if (cs_select(name)) {
		printf("there is no clocksource %s\n", name);
		return false;
	}
	if (!strcmp(name, "tsc"))
		unasked();
	printf("@clock %s mode=%s\n", name, mode);
	printf("\n%s%s%s\n", name, of_driver(&options) ? ", mode " : "",
	       of_driver(&options) ? mode : "");
	printf("  %8s  %21s  %14s  %10s  %16s  %16s\n", "host, ms", "TSC, MHz", "jump, cycles",
	       "told in us", "off before, ns", "off after, ns");
	start_ns = range_middle(track_reference(CLOCK_MONOTONIC_RAW));
	start_at = ruler_ns();
	worst = 0;
	for (i = 0; i < MOVES; i++) {
		int before_khz = i ? moves[i - 1].khz : 2000000;
		__u32 generation = ruler_generation();
		__u64 asked, took;
		__s64 before;

		dwell(name);
		before = sample(name);
		asked = ruler_ns();
		if (!testhost_do("migrate khz=%d jump=%lld", moves[i].khz, moves[i].jump)) {
			printf("the host answers '%s'\n", testhost_reply());
			return false;
		}
		while (ruler_generation() == generation) {
			if (ruler_ns() - asked > SWITCH_SECONDS * 1000000000ull) {
				printf("the guest has not acknowledged in %d s\n", SWITCH_SECONDS);
				return false;
			}
		}
		took = (ruler_ns() - asked) / 1000;
		printf("@switch %s ms=%llu khz=%d took_us=%llu\n", name, ms(), moves[i].khz, took);
		snprintf(error, sizeof(error), "%lld", (long long)sample(name));
		printf("  %8llu  %8.0f -> %-9.0f  %+14lld  %10llu  %16lld  %16s\n", ms(),
		       before_khz / 1000.0, moves[i].khz / 1000.0, moves[i].jump,
		       (unsigned long long)took, (long long)before, error);
	}
	dwell(name);
	printf("  off by %lld ns in the end, by %lld ns at worst\n", (long long)sample(name),
	       (long long)worst);
	printf("@worst %s ns=%lld\n", name, (long long)worst);
	return true;
}

int main(int argc, char **argv)
{
	int i;

	if (argc < 2) {
		fprintf(stderr, "Usage: %s CLOCKSOURCE...\n", argv[0]);
		return 2;
	}
	if (!testhost_present() || clock_init()) {
		printf("not on the test host\n");
		return 1;
	}
	for (i = 1; i < argc; i++)
		if (!view(argv[i]))
			return 1;
	return 0;
}
