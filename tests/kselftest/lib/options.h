/* SPDX-License-Identifier: GPL-2.0 */
/* The command line that all tests share. */
#ifndef PARACLOCK_OPTIONS_H
#define PARACLOCK_OPTIONS_H

#include <stdbool.h>

struct options {
	/* Clocksource to test, or "any": the current one, nothing is loaded or selected. */
	const char *clocksource;
	unsigned int seconds;
	unsigned int loops;
	bool self_test;
	bool s3;
	bool expect_failure;
};

/*
 * [--clocksource NAME|any] [--self-test] [--loops N] [--s3] [--expect-failure] [SECONDS]; exits
 * with usage and 2 on anything else. What is not given stays as it is.
 */
void options_parse(int argc, char **argv, struct options *options);
/* --clocksource any */
bool options_any(const struct options *options);

#endif
