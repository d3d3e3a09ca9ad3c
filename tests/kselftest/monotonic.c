// SPDX-License-Identifier: GPL-2.0
/*
 * No clock steps back, on no CPU, by no path: threads on every CPU hammer the vDSO, the
 * system call and both in turn, while paraclock_hammer.ko (where it is) hammers the
 * kernel's own readers.
 */
#include <pthread.h>

#include "lib/fixture.h"
#include "lib/hammer.h"
#include "lib/readers.h"

#define DEFAULT_SECONDS	8
#define PROGRESS	5

struct kernel_side {
	pthread_t thread;
	bool running;
	unsigned int seconds;
	int err;
	struct hammer_result result;
};

static void *kernel_side_main(void *arg)
{
	struct kernel_side *kernel = arg;

	kernel->err = hammer_run(kernel->seconds, &kernel->result);
	return NULL;
}

static void kernel_side_start(struct kernel_side *kernel)
{
	kernel->err = hammer_load();
	if (!kernel->err)
		kernel->err = -pthread_create(&kernel->thread, NULL, kernel_side_main, kernel);
	kernel->running = !kernel->err;
}

static void kernel_side_result(struct kernel_side *kernel)
{
	if (kernel->running)
		pthread_join(kernel->thread, NULL);

	if (kernel->err == -ENOENT && !kernel->running) {
		ksft_test_result_skip("the kernel's own readers: no paraclock_hammer.ko\n");
		return;
	}
	if (kernel->err) {
		ksft_print_msg("paraclock_hammer: expected success, got %s (%d)\n",
			       strerror(-kernel->err), -kernel->err);
		ksft_test_result_fail("the kernel's own readers saw no step back\n");
		return;
	}
	ksft_print_msg("kernel: %llu readings, expected 0 backward, seen %llu, worst %llu ns\n",
		       kernel->result.reads, kernel->result.backward, kernel->result.worst_ns);
	ksft_test_result(kernel->result.reads && !kernel->result.backward,
			 "the kernel's own readers saw no step back\n");
	hammer_unload();
}

static void progress(const struct readers *readers, unsigned int seconds)
{
	struct reader_count vdso = readers_count(readers, READER_VDSO, -1);
	struct reader_count syscall = readers_count(readers, READER_SYSCALL, -1);

	ksft_print_msg("%u s: vDSO %llu readings, system call %llu, backward %llu\n", seconds,
		       vdso.reads, syscall.reads, vdso.backward + syscall.backward);
}

int main(int argc, char **argv)
{
	struct options options = { .seconds = DEFAULT_SECONDS };
	struct kernel_side kernel = { 0 };
	struct readers *readers;
	unsigned int second;
	int path, clock;

	options_parse(argc, argv, &options);
	ksft_print_header();
	require_clock(&options);
	ksft_set_plan(READER_PATHS * READER_CLOCKS + READER_PATHS + 2);

	readers = readers_start(READERS_ALL, options.self_test);
	if (!readers)
		ksft_exit_fail_perror("starting the readers");
	kernel.seconds = options.seconds;
	kernel_side_start(&kernel);

	for (second = 1; second <= options.seconds; second++) {
		sleep_ns(NSEC_PER_SEC);
		if (second % PROGRESS == 0 && second < options.seconds)
			progress(readers, second);
	}
	readers_stop(readers);
	progress(readers, options.seconds);

	for (path = 0; path < READER_PATHS; path++) {
		for (clock = 0; clock < READER_CLOCKS; clock++) {
			struct reader_count count = readers_count(readers, path, clock);
			const char *name = clock_name(reader_clocks[clock]);

			if (count.backward)
				ksft_print_msg("%s: 0 backward expected, seen %llu, worst %llu\n",
					       name, count.backward, count.worst_ns);
			ksft_test_result(!count.backward,
					 "%s by the %s: %llu readings, no step back\n",
					 name, reader_path_name(path), count.reads);
		}
	}
	for (path = 0; path < READER_PATHS; path++) {
		__u64 least = readers_least(readers, path);

		ksft_print_msg("the %s's least busy CPU made %llu readings\n",
			       reader_path_name(path), least);
		ksft_test_result(least > 0, "every CPU has read by the %s\n",
				 reader_path_name(path));
	}
	readers_free(readers);
	kernel_side_result(&kernel);
	result_still_current(&options);
	ksft_finished();
}
