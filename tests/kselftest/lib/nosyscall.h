/* SPDX-License-Identifier: GPL-2.0 */
/* Whether code reads the time without a system call: seccomp kills it if it makes one. */
#ifndef PARACLOCK_NOSYSCALL_H
#define PARACLOCK_NOSYSCALL_H

#include <sys/types.h>

enum nosyscall {
	NOSYSCALL_NONE,		/* it returned 0 and made none */
	NOSYSCALL_MADE,		/* it was killed for one */
	NOSYSCALL_FAILED,	/* it returned something else, or died of something else */
	NOSYSCALL_NO_SECCOMP,
};

/*
 * Runs fn(arg) in a child whose clock_gettime(), gettimeofday() and time() system calls
 * are fatal. Other system calls go through.
 */
enum nosyscall nosyscall_run(int (*fn)(void *arg), void *arg);
const char *nosyscall_name(enum nosyscall outcome);

/* For nosyscall_run(): arg is a clockid_t *; 1000 readings by the vDSO, or 1 by the call. */
int nosyscall_by_vdso(void *arg);
int nosyscall_by_syscall(void *arg);

#endif
