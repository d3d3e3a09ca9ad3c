/* SPDX-License-Identifier: GPL-2.0 */
#ifndef PARACLOCK_KBENCH_HELPERS_H
#define PARACLOCK_KBENCH_HELPERS_H

#include <linux/clocksource.h>
#include <linux/types.h>

size_t paraclock_bench_clocksources(struct clocksource **found, size_t max);

#endif
