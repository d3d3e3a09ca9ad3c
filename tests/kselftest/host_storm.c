// SPDX-License-Identifier: GPL-2.0
/*
 * A storm of all that an honest host does, in a sequence that a seed makes, while readers on all
 * CPUs read the clock of the kernel's own driver: no reader sees time go back. The same seed
 * makes the same sequence.
 */
#include "lib/hostfixture.h"
#include "lib/readers.h"

#define DEFAULT_SECONDS	60
#define RATE		200
#define SEED		42
#define LISTED		500
/* Late notifications are 20 ms late at most, the kernel's acknowledgment 130 ms. */
#define SETTLE_NS	(NSEC_PER_SEC / 2)
#define BRACKET_NS	5000
#define BOUND_NS	1000

static char *listed(int seed)
{
	must("storm seed=%d count=%d list=1", seed, LISTED);
	return strdup(testhost_reply());
}

static void results_list(void)
{
	char *first = listed(SEED), *again = listed(SEED), *other = listed(SEED + 1);
	const char *sequence = first ? strchr(first, ';') : NULL;

	ksft_test_result(sequence && again && !strcmp(first, again),
			 "the same seed makes the same sequence\n");
	ksft_test_result(sequence && other && strchr(other, ';') &&
			 strcmp(sequence, strchr(other, ';')),
			 "another seed makes another one\n");
	free(first);
	free(again);
	free(other);
}

int main(int argc, char **argv)
{
	struct options options = { .clocksource = "any", .seconds = DEFAULT_SECONDS };
	struct deviation before, after;
	struct reader_count count;
	struct readers *readers;
	const char *clock;
	__s64 asked, done, off;
	unsigned int second;
	bool wide;

	options_parse(argc, argv, &options);
	ksft_print_header();
	require_testhost();
	if (clock_init())
		ksft_exit_skip("no vDSO in this process\n");
	clock = stock_clock();
	if (!clock)
		ksft_exit_skip("the kernel makes no clock of this host's\n");
	ksft_set_plan(6);
	be_urgent();

	results_list();
	before = ruler_against(raw_ns);
	readers = readers_start(READERS_VDSO | READERS_SYSCALL, options.self_test);
	if (!readers)
		ksft_exit_fail_perror("starting the readers");
	asked = (__s64)options.seconds * RATE;
	must("storm seed=%d rate=%d count=%lld", SEED, RATE, asked);
	for (second = 1; second <= options.seconds; second++) {
		sleep_ns(NSEC_PER_SEC);
		if (second % 10 == 0)
			ksft_print_msg("%u s: %llu readings, backward %llu\n", second,
				       readers_count(readers, -1, -1).reads,
				       readers_count(readers, -1, -1).backward);
	}
	for (second = 0; second < 10 && testhost_ask("storm", "running"); second++)
		sleep_ns(NSEC_PER_SEC);
	testhost_ask("storm", "done");
	done = testhost_value("done");
	ksft_print_msg("%s\n", testhost_reply());
	ksft_test_result(done == asked && !testhost_value("running") && !testhost_value("refused"),
			 "%lld commands, %d a second, none refused\n", done, RATE);
	must("heal");
	sleep_ns(SETTLE_NS);
	readers_stop(readers);
	count = readers_count(readers, -1, -1);
	if (count.backward)
		ksft_print_msg("0 backward expected, seen %llu, worst %llu ns\n", count.backward,
			       count.worst_ns);
	ksft_test_result(!count.backward && readers_least(readers, READER_VDSO),
			 "no step back in %llu readings\n", count.reads);
	readers_free(readers);

	after = ruler_against(raw_ns);
	off = after.ns - before.ns;
	wide = before.bracket >= BRACKET_NS || after.bracket >= BRACKET_NS;
	ksft_print_msg("CLOCK_MONOTONIC_RAW is off by %lld ns more, brackets %llu and %llu ns\n",
		       off, before.bracket, after.bracket);
	ksft_test_result(!wide && llabs(off) <= BOUND_NS +
			 (__s64)(before.bracket + after.bracket) / 2,
			 "the clock stays with the host's, to %d ns\n", BOUND_NS);
	ksft_test_result(cs_is_current(clock), "%s is still the current clocksource\n", clock);
	testhost_do("stat");
	ksft_print_msg("%s\n", testhost_reply());
	ksft_finished();
}
