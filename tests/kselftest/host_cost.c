// SPDX-License-Identifier: GPL-2.0
/*
 * What RDTSC costs, on one CPU and on all at once: the least of many short runs, since the
 * machine is shared. Prints figures for the rig, which has another machine to compare with; by
 * itself it can only say that it has some.
 */
#include <pthread.h>

#include "lib/hostfixture.h"

#define RUNS	200
#define CALLS	20000

struct worker {
	pthread_t thread;
	int cpu;
	double ns;
};

static __u64 now_ns(void)
{
	return syscall_ns(CLOCK_MONOTONIC);
}

static void *work(void *arg)
{
	struct worker *worker = arg;
	int run, call;

	pin_to_cpu(worker->cpu);
	worker->ns = 1e9;
	for (run = 0; run < RUNS; run++) {
		__u64 begin = now_ns();
		double ns;

		for (call = 0; call < CALLS; call++)
			__asm__ __volatile__("rdtsc" : : : "eax", "edx");
		ns = (double)(now_ns() - begin) / CALLS;
		if (ns < worker->ns)
			worker->ns = ns;
	}
	return NULL;
}

int main(void)
{
	int cpus[MAX_CPUS], n = cpus_online(cpus, MAX_CPUS), threads, i;
	struct worker workers[MAX_CPUS];

	ksft_print_header();
	if (!told("PARACLOCK_TESTHOST"))
		ksft_exit_skip("not on the test host, nor on its like without the device\n");
	if (host_has_clock())
		ksft_exit_skip("measured where nothing but the TSC is shown\n");
	ksft_set_plan(2);
	for (threads = 1; threads <= n; threads = threads == n ? n + 1 : n) {
		double worst = 0;

		for (i = 0; i < threads; i++) {
			workers[i].cpu = cpus[i];
			if (pthread_create(&workers[i].thread, NULL, work, &workers[i]))
				ksft_exit_fail_perror("starting a thread");
		}
		for (i = 0; i < threads; i++) {
			pthread_join(workers[i].thread, NULL);
			if (workers[i].ns > worst)
				worst = workers[i].ns;
		}
		ksft_print_msg("cost: threads=%d ns=%.2f\n", threads, worst);
		ksft_test_result(worst > 0 && worst < 1e6, "RDTSC on %d CPUs at once\n", threads);
	}
	if (n == 1)
		ksft_test_result_skip("RDTSC on all CPUs at once: there is one\n");
	ksft_finished();
}
