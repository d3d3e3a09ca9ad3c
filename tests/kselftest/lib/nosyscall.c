// SPDX-License-Identifier: GPL-2.0
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest.h"
#include "clock.h"
#include "nosyscall.h"

#define EXIT_NO_SECCOMP	77
#define READS		1000

static int forbid_clock_calls(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clock_gettime, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_gettimeofday, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_time, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {
		.len = ARRAY_SIZE(filter),
		.filter = filter,
	};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -errno;
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) ? -errno : 0;
}

enum nosyscall nosyscall_run(int (*fn)(void *arg), void *arg)
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid)
		_exit(forbid_clock_calls() ? EXIT_NO_SECCOMP : fn(arg));
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return NOSYSCALL_FAILED;

	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS)
		return NOSYSCALL_MADE;
	if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_NO_SECCOMP)
		return NOSYSCALL_NO_SECCOMP;
	if (WIFEXITED(status) && !WEXITSTATUS(status))
		return NOSYSCALL_NONE;
	return NOSYSCALL_FAILED;
}

const char *nosyscall_name(enum nosyscall outcome)
{
	switch (outcome) {
	case NOSYSCALL_NONE:
		return "no system call";
	case NOSYSCALL_MADE:
		return "a system call";
	case NOSYSCALL_NO_SECCOMP:
		return "unknown, needs CONFIG_SECCOMP_FILTER";
	default:
		return "an error";
	}
}

int nosyscall_by_vdso(void *arg)
{
	const clockid_t *id = arg;
	struct timespec ts;
	int i;

	for (i = 0; i < READS; i++)
		if (vdso_clock_gettime(*id, &ts))
			return 1;
	return 0;
}

int nosyscall_by_syscall(void *arg)
{
	const clockid_t *id = arg;
	struct timespec ts;

	return clock_gettime_syscall(*id, &ts) ? 1 : 0;
}
