/* SPDX-License-Identifier: GPL-2.0 */
/* Readers that live in a time namespace, in a process of their own: see readers.h. */
#ifndef PARACLOCK_TIMENS_H
#define PARACLOCK_TIMENS_H

#include <stdbool.h>
#include <sys/types.h>

#include "readers.h"

struct timens {
	pid_t pid;
	int stop;	/* closed to end them */
	int result;
};

/*
 * A thread on each CPU, which goes by the vDSO and by the system call in turn. Best called before
 * there are other threads. 0, -EOPNOTSUPP without time namespaces, or -errno.
 */
int timens_start(struct timens *timens, bool self_test);
/* Ends them. 0, or -errno. */
int timens_stop(struct timens *timens, struct reader_count *count);

#endif
