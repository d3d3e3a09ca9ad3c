/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the benchmarks share: whose turn it is, and a figure as the rig reads it, a line
 * "bench: clock=NAME mode=MODE name=FIGURE unit=UNIT value=VALUE".
 */
#ifndef PARACLOCK_BENCH_H
#define PARACLOCK_BENCH_H

#include <stdbool.h>

/*
 * Takes the options and readies the guest: [-d SECONDS] CLOCKSOURCE[:PARAMETERS]..., one CPU
 * online, that of the caller, and the driver not loaded. 0, or the exit status, with the reason
 * told.
 */
int bench_init(int argc, char **argv, unsigned int *seconds);
/* Back to the clocksource of the beginning, with one that failed. The exit status. */
int bench_exit(int failed);

/*
 * It is the turn of NAME[:PARAMETERS], with these parameters where it is the driver: loaded,
 * selected. 0, or 1 with the reason told.
 */
int bench_begin(const char *what);
/* A figure that is not of this clock is none: the same, if it was not current to the end. */
int bench_end(void);
/* Whose turn it is, and in which mode: "-" for a C clock. */
const char *bench_clock(void);
const char *bench_mode(void);
bool bench_of_driver(void);
/* The parameters in NAME:PARAMETERS, "" without any. */
const char *bench_parameters(const char *what);

void bench_figure(const char *name, const char *unit, long long value);
/* Tells of an error of the clock whose turn it is. 1 */
int bench_complain(const char *what, int err);

/*
 * Brings the CPUs up one after the other, and calls each() for every clock when 2, 4, 8, ... are
 * online. 0, or 1 with the reason told.
 */
int bench_on_cpus(int argc, char **argv, int (*each)(const char *what, int online));

#endif
