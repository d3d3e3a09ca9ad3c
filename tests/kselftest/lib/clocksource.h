/* SPDX-License-Identifier: GPL-2.0 */
/* The clocksource core's sysfs interface. */
#ifndef PARACLOCK_CLOCKSOURCE_H
#define PARACLOCK_CLOCKSOURCE_H

#include <stdbool.h>
#include <stddef.h>

/* The core's limit is 32; a little more leaves room for the newline. */
#define CS_NAME 40

int cs_current(char *name, size_t size);
bool cs_is_current(const char *name);
int cs_available(char *names, size_t size);
bool cs_is_available(const char *name);
/*
 * Selects a clocksource. The core takes any name without complaint and falls
 * back to the best one, so this reads the outcome: -EAGAIN if it did not take.
 */
int cs_select(const char *name);
/* Drops an earlier choice: from here on the rating decides. */
int cs_select_by_rating(void);
/* Another clocksource than this one, the best that comes to mind. -ENOENT if none. */
int cs_other(const char *than, char *name, size_t size);
/* One that the vDSO cannot serve. -ENOENT if none. */
int cs_without_vdso(char *name, size_t size);

#endif
