// SPDX-License-Identifier: GPL-2.0
/*
 * The vDSO serves the clocks by itself: a child that would be killed for the system call
 * reads them. The controls are a child that makes the call, and a clocksource that the
 * vDSO cannot serve: both have to be killed.
 *
 * In a mode without a vDSO's clock the children have to be killed in all cases: the clock is read
 * by the system call, as it must be, and not out of a page that may be invalid.
 */
#include <sched.h>
#include <sys/wait.h>

#include "lib/fixture.h"
#include "lib/nosyscall.h"

#define TIMENS_OFFSET	1000000

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME	0x00000080
#endif

static clockid_t ids[] = {
	CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_BOOTTIME, CLOCK_REALTIME, CLOCK_TAI,
};

static int by_gettimeofday(void *arg)
{
	struct timeval tv;

	(void)arg;
	return vdso_gettimeofday(&tv, NULL) ? 1 : 0;
}

static void result(enum nosyscall seen, enum nosyscall expected, const char *what)
{
	if (seen == NOSYSCALL_NO_SECCOMP && !guest_is_known()) {
		ksft_test_result_skip("%s: %s\n", what, nosyscall_name(seen));
		return;
	}
	if (seen != expected)
		ksft_print_msg("%s: expected %s, seen %s\n", what,
			       nosyscall_name(expected), nosyscall_name(seen));
	ksft_test_result(seen == expected, "%s: %s\n", what, nosyscall_name(expected));
}

/* In the child that lives in the new time namespace. */
static int in_timens(__u64 outside)
{
	clockid_t id = CLOCK_MONOTONIC;
	enum nosyscall seen = nosyscall_run(nosyscall_by_vdso, &id);
	__u64 inside = vdso_ns(id);

	if (inside - outside < TIMENS_OFFSET * NSEC_PER_SEC)
		return NOSYSCALL_FAILED;
	return seen;
}

static void result_timens(enum nosyscall expected)
{
	const char *what = "CLOCK_MONOTONIC in a time namespace";
	__u64 outside = vdso_ns(CLOCK_MONOTONIC);
	char offset[64];
	int status = 0, err;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid) {
		if (unshare(CLONE_NEWTIME))
			_exit(KSFT_SKIP + NOSYSCALL_NO_SECCOMP);
		snprintf(offset, sizeof(offset), "monotonic %d 0\n", TIMENS_OFFSET);
		err = file_write("/proc/self/timens_offsets", offset);
		if (err)
			_exit(NOSYSCALL_FAILED);
		pid = fork();
		if (!pid)
			_exit(in_timens(outside));
		if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
			_exit(NOSYSCALL_FAILED);
		_exit(WEXITSTATUS(status));
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status)) {
		ksft_print_msg("%s: the child died, status %#x\n", what, status);
		ksft_test_result_fail("%s\n", what);
		return;
	}
	if (WEXITSTATUS(status) == KSFT_SKIP + NOSYSCALL_NO_SECCOMP) {
		ksft_test_result_skip("%s: needs CONFIG_TIME_NS\n", what);
		return;
	}
	result(WEXITSTATUS(status), expected, what);
}

static void result_status(const struct options *options)
{
	struct status status;
	int err;

	if (options_any(options) || strcmp(options->clocksource, MODULE_NAME)) {
		ksft_test_result_skip("status file: not testing " MODULE_NAME "\n");
		return;
	}
	err = status_read(&status);
	if (err)
		ksft_print_msg("%s: %s (%d)\n", STATUS_PATH, strerror(-err), -err);
	ksft_test_result(!err && status_is(&status, "vdso", expected().vdso),
			 "the status file names the vDSO's mode\n");
}

static void result_other_clocksource(const struct options *options)
{
	const char *what = "CLOCK_MONOTONIC under a clocksource that the vDSO cannot serve";
	char other[CS_NAME];
	clockid_t id = CLOCK_MONOTONIC;
	enum nosyscall seen;
	int err;

	if (options_any(options)) {
		ksft_test_result_skip("%s: told not to select one\n", what);
		return;
	}
	if (cs_without_vdso(other, sizeof(other))) {
		ksft_test_result_skip("%s: there is none\n", what);
		return;
	}
	err = cs_select(other);
	if (err) {
		ksft_print_msg("selecting %s: %s (%d)\n", other, strerror(-err), -err);
		ksft_test_result_fail("%s\n", what);
		return;
	}
	ksft_print_msg("control: clocksource %s\n", other);
	seen = nosyscall_run(nosyscall_by_vdso, &id);
	cs_select(options->clocksource);
	result(seen, NOSYSCALL_MADE, what);
}

int main(int argc, char **argv)
{
	enum nosyscall expect = NOSYSCALL_NONE;
	struct options options = { 0 };
	char what[64];
	size_t i;

	options_parse(argc, argv, &options);
	ksft_print_header();
	require_clock(&options);
	ksft_set_plan(ARRAY_SIZE(ids) + 6);
	if (!strcmp(options.clocksource, MODULE_NAME) && !expects_vdso())
		expect = NOSYSCALL_MADE;

	/* The self-test has the readings made by the system call. */
	for (i = 0; i < ARRAY_SIZE(ids); i++) {
		snprintf(what, sizeof(what), "%s by the vDSO", clock_name(ids[i]));
		result(nosyscall_run(options.self_test ? nosyscall_by_syscall : nosyscall_by_vdso,
				     &ids[i]), expect, what);
	}
	result(nosyscall_run(by_gettimeofday, NULL), expect, "gettimeofday() by the vDSO");
	result_timens(expect);
	result(nosyscall_run(nosyscall_by_syscall, &ids[0]), NOSYSCALL_MADE,
	       "CLOCK_MONOTONIC by the system call");
	result_other_clocksource(&options);
	result_status(&options);
	result_still_current(&options);
	ksft_finished();
}
