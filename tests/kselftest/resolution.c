// SPDX-License-Identifier: GPL-2.0
/*
 * How finely the clock counts, by the vDSO and by the system call. A page's scale carries
 * nanoseconds, and they have to arrive: readings of CLOCK_MONOTONIC_RAW, which no frequency
 * correction smears, must not be multiples of 100 ns apart. Hyper-V's counter counts units of
 * 100 ns and nothing below: in mode msr every reading is, and that is the control.
 */
#include "lib/fixture.h"

#define READINGS	10000
#define UNIT_NS		100
/* Of 100. An even spread leaves none out in so many readings; a clock in units has one. */
#define LEAST_RESIDUES	50

/* How many residues modulo a unit the readings leave. */
static unsigned int residues(__u64 (*clock_read)(clockid_t id), bool fake)
{
	bool seen[UNIT_NS] = { false };
	unsigned int i, n = 0;

	for (i = 0; i < READINGS; i++) {
		__u64 now = clock_read(CLOCK_MONOTONIC_RAW);

		if (fake)
			now -= now % UNIT_NS;
		seen[now % UNIT_NS] = true;
	}
	for (i = 0; i < UNIT_NS; i++)
		n += seen[i];
	return n;
}

static void result(const char *path, unsigned int seen, bool fine)
{
	if (fine) {
		ksft_print_msg("%s: expected %u residues modulo %u ns or more, seen %u\n", path,
			       LEAST_RESIDUES, UNIT_NS, seen);
		ksft_test_result(seen >= LEAST_RESIDUES,
				 "by the %s, the clock is finer than %u ns\n", path, UNIT_NS);
		return;
	}
	ksft_print_msg("%s: expected 1 residue modulo %u ns, seen %u\n", path, UNIT_NS, seen);
	ksft_test_result(seen == 1, "by the %s, the clock counts units of %u ns\n", path,
			 UNIT_NS);
}

int main(int argc, char **argv)
{
	struct options options = { 0 };
	bool fine;

	options_parse(argc, argv, &options);
	ksft_print_header();
	require_clock(&options);
	ksft_set_plan(3);
	fine = strcmp(options.clocksource, MODULE_NAME) || expects_page();

	result("vDSO", residues(vdso_ns, options.self_test), fine);
	result("system call", residues(syscall_ns, options.self_test), fine);
	result_still_current(&options);
	ksft_finished();
}
