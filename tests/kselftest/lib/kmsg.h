/* SPDX-License-Identifier: GPL-2.0 */
/* The kernel log, from a moment on. */
#ifndef PARACLOCK_KMSG_H
#define PARACLOCK_KMSG_H

#include <stdbool.h>

/* A descriptor that reads what is logged from here on, or -errno. */
int kmsg_open(void);
/*
 * Prints the driver's lines since then as diagnostics and says whether one of them
 * holds the word (any case). Any line of the driver does if word is NULL.
 */
bool kmsg_find(int fd, const char *word);

#endif
