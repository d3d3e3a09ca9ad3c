// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "files.h"
#include "timens.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME	0x00000080
#endif

#define OFFSET_S	1000000

struct report {
	int err;
	struct reader_count count;
};

/* In the namespace. */
static int inside(struct report *report, bool self_test, int stop, int ready, __u64 outside)
{
	struct readers *readers;
	char c;

	if (vdso_ns(CLOCK_MONOTONIC) - outside < OFFSET_S * NSEC_PER_SEC)
		return -EPROTO;
	readers = readers_start(READERS_MIXED, self_test);
	if (!readers)
		return -errno;
	if (write(ready, report, sizeof(*report)) != sizeof(*report))
		return -errno;
	/* Until the other end is closed. */
	while (read(stop, &c, 1) < 0 && errno == EINTR)
		;
	readers_stop(readers);
	report->count = readers_count(readers, -1, -1);
	return readers_least(readers, READER_VDSO) ? 0 : -ENODATA;
}

static int child(bool self_test, int stop, int result, __u64 outside)
{
	struct report report = { 0 };
	char offset[64];
	pid_t pid;

	if (unshare(CLONE_NEWTIME)) {
		report.err = errno == EINVAL ? -EOPNOTSUPP : -errno;
		goto out;
	}
	snprintf(offset, sizeof(offset), "monotonic %d 0\nboottime %d 0\n", OFFSET_S, OFFSET_S);
	report.err = file_write("/proc/self/timens_offsets", offset);
	if (report.err)
		goto out;
	/* It is the children that are in it. */
	pid = fork();
	if (pid < 0) {
		report.err = -errno;
		goto out;
	}
	if (pid)
		return waitpid(pid, NULL, 0) == pid ? 0 : 1;
	report.err = inside(&report, self_test, stop, result, outside);
out:
	return write(result, &report, sizeof(report)) != sizeof(report);
}

static int take(struct timens *timens, struct report *report)
{
	ssize_t got;

	do
		got = read(timens->result, report, sizeof(*report));
	while (got < 0 && errno == EINTR);
	if (got != sizeof(*report))
		return got < 0 ? -errno : -EPIPE;
	return report->err;
}

static void end(struct timens *timens)
{
	if (timens->stop >= 0)
		close(timens->stop);
	timens->stop = -1;
	waitpid(timens->pid, NULL, 0);
	close(timens->result);
	timens->pid = 0;
}

int timens_start(struct timens *timens, bool self_test)
{
	__u64 outside = vdso_ns(CLOCK_MONOTONIC);
	int stop[2], result[2], err;
	struct report report;

	if (pipe(stop))
		return -errno;
	if (pipe(result)) {
		err = -errno;
		close(stop[0]);
		close(stop[1]);
		return err;
	}
	fflush(stdout);
	timens->pid = fork();
	if (!timens->pid) {
		close(stop[1]);
		close(result[0]);
		_exit(child(self_test, stop[0], result[1], outside));
	}
	err = -errno;
	close(stop[0]);
	close(result[1]);
	timens->stop = stop[1];
	timens->result = result[0];
	if (timens->pid < 0) {
		close(timens->stop);
		close(timens->result);
		return err;
	}
	/* The first one says that they have started. */
	err = take(timens, &report);
	if (err)
		end(timens);
	return err;
}

int timens_stop(struct timens *timens, struct reader_count *count)
{
	struct report report;
	int err;

	close(timens->stop);
	timens->stop = -1;
	err = take(timens, &report);
	*count = report.count;
	end(timens);
	return err;
}
