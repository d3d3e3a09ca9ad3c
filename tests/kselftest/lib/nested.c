// SPDX-License-Identifier: GPL-2.0
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "files.h"
#include "nested.h"
#include "testhost.h"

/* The rig's script that starts it; what it is given goes on L2's kernel command line. */
#define LAUNCHER	"/rig/nested"
#define RAM_FILE	"/tmp/nested.ram"
#define LOG_FILE	"/tmp/nested.log"
#define KVM_DEBUGFS	"/sys/kernel/debug/kvm"
#define LOG_LINES	40
#define PAGE_SIZE	4096
#define RAM_SIZE	(256ul << 20)
/* On a busy machine, with three levels of it. */
#define BOOT_SECONDS	120

/* Until a request is answered: the CPU that answers may be anybody else's. */
#define ANSWER_NS	2000000000ull
#define POLL_NS		50000
#define TRIES		20
#define ROUNDING_NS	1

static __u64 word(void)
{
	__u64 host_ns;

	/* Any that no earlier guest had: its memory may be found in this one's. */
	return ruler_tsc(&host_ns) * 0x9e3779b97f4a7c15ull | 1;
}

/*
 * By how much the TSC of the guest's vCPU that answers is ahead of this machine's, by KVM's debugfs.
 * False, with the reason printed, if it is not to be had.
 */
static bool tsc_offset(pid_t qemu, __u64 *offset)
{
	char prefix[16], path[400], text[32];
	struct dirent *d;
	DIR *vms;
	int n;

	snprintf(prefix, sizeof(prefix), "%d-", qemu);
	vms = opendir(KVM_DEBUGFS);
	if (!vms) {
		printf("# %s: %s\n", KVM_DEBUGFS, strerror(errno));
		return false;
	}
	while ((d = readdir(vms)) && strncmp(d->d_name, prefix, strlen(prefix)))
		;
	snprintf(path, sizeof(path), KVM_DEBUGFS "/%s/vcpu%d/tsc-offset", d ? d->d_name : prefix,
		 NESTED_ANSWERING);
	closedir(vms);
	n = file_read(path, text, sizeof(text));
	if (n <= 0) {
		printf("# %s: expected a number, got %s\n", path, strerror(n ? -n : ENODATA));
		return false;
	}
	*offset = strtoll(text, NULL, 10);
	return true;
}

static struct nested_page *find(char *ram, __u64 magic)
{
	size_t at;

	for (at = 0; at < RAM_SIZE; at += PAGE_SIZE) {
		struct nested_page *page = (struct nested_page *)(ram + at);

		if (atomic_load(&page->magic[0]) == magic &&
		    atomic_load(&page->magic[1]) == ~magic)
			return page;
	}
	return NULL;
}

static char *map_ram(void)
{
	int fd = open(RAM_FILE, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	char *ram;

	if (fd < 0)
		return NULL;
	if (ftruncate(fd, RAM_SIZE)) {
		close(fd);
		return NULL;
	}
	ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	return ram == MAP_FAILED ? NULL : ram;
}

int nested_start(struct nested *guest, const char *clocksource, const char *interface)
{
	__u64 magic = word(), start;
	char words[128];

	*guest = (struct nested){ 0 };
	if (access("/dev/kvm", R_OK | W_OK)) {
		printf("# no /dev/kvm: %s\n", strerror(errno));
		return -errno;
	}
	guest->ram = map_ram();
	if (!guest->ram) {
		printf("# %s: %s\n", RAM_FILE, strerror(errno));
		return -errno;
	}
	snprintf(words, sizeof(words), "rig.magic=%llx rig.clocksource=%s", magic, clocksource);
	fflush(stdout);
	guest->pid = fork();
	if (guest->pid < 0)
		return -errno;
	if (!guest->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execl(LAUNCHER, LAUNCHER, RAM_FILE, LOG_FILE, words, interface, NULL);
		_exit(127);
	}
	start = ruler_ns();
	while (!guest->page || !atomic_load(&guest->page->beat)) {
		if (!guest->page)
			guest->page = find(guest->ram, magic);
		if (!nested_alive(guest) || ruler_ns() - start > BOOT_SECONDS * 1000000000ull) {
			printf("# L2: expected its program, seen none after %llu s\n",
			       (ruler_ns() - start) / 1000000000);
			nested_print_log();
			nested_stop(guest);
			return -ETIMEDOUT;
		}
		sleep_ns(NSEC_PER_SEC / 20);
	}
	return 0;
}

void nested_stop(struct nested *guest)
{
	if (guest->pid > 0) {
		kill(guest->pid, SIGKILL);
		waitpid(guest->pid, NULL, 0);
	}
	if (guest->ram)
		munmap(guest->ram, RAM_SIZE);
	unlink(RAM_FILE);
	*guest = (struct nested){ 0 };
}

bool nested_alive(const struct nested *guest)
{
	int status;

	if (guest->pid > 0 && waitpid(guest->pid, &status, WNOHANG) == guest->pid) {
		printf("# L2: its QEMU has ended, status %#x\n", status);
		return false;
	}
	if (guest->page && atomic_load(&guest->page->error)) {
		printf("# L2: %s: expected success, got %s\n", guest->page->failed,
		       strerror(-atomic_load(&guest->page->error)));
		return false;
	}
	return true;
}

void nested_print_log(void)
{
	char line[512];
	long lines = 0, skip;
	FILE *log = fopen(LOG_FILE, "re");

	if (!log)
		return;
	while (fgets(line, sizeof(line), log))
		lines++;
	skip = lines - LOG_LINES;
	rewind(log);
	while (fgets(line, sizeof(line), log)) {
		char *c;

		line[strcspn(line, "\r\n")] = 0;
		/* What a console makes of it otherwise. */
		for (c = line; *c; c++)
			if (*c < ' ' || *c > '~')
				*c = '.';
		if (skip-- <= 0)
			printf("# L2: %s\n", line);
	}
	fclose(log);
}

/*
 * The time at a TSC of L2's is the time at that TSC, less the offset, of this machine's: the ruler
 * says which time belongs to one of those, and how many there are in a ms is known.
 */
static __s64 reference_at(__u64 tsc, __u64 khz)
{
	struct ruler r = ruler_read();
	__u64 host_ns, now = ruler_tsc(&host_ns);
	__s64 passed = (__s64)(__int128)((__s64)(tsc - now) * (__int128)1000000 / (__s64)khz);

	return (__s64)(host_ns + passed + (r.ref_ns - r.host_ns));
}

struct range nested_track(struct nested *guest, enum nested_path path, __u64 khz)
{
	static __u32 number;
	const struct range unknown = { .low = INT64_MIN / 2, .high = INT64_MAX / 2,
				       .at = ruler_read().ref_ns };
	struct nested_page *page = guest->page;
	int i;

	for (i = 0; i < TRIES; i++) {
		struct range r;
		__u32 generation = ruler_generation(), request = ++number << 1 | path;
		__u64 start = ruler_ns(), offset, before, after;

		atomic_store(&page->request, request);
		while (atomic_load(&page->answer) != request) {
			if (ruler_ns() - start > ANSWER_NS)
				return unknown;
			sleep_ns(POLL_NS);
		}
		before = atomic_load(&page->tsc_before);
		after = atomic_load(&page->tsc_after);
		/* Behind the answer: by then the vCPU has the offset that it has answered with. */
		if (!tsc_offset(guest->pid, &offset))
			return unknown;
		r.at = reference_at(before - offset, khz);
		r.low = (__s64)(atomic_load(&page->ns) - reference_at(after - offset, khz)) -
			ROUNDING_NS;
		r.high = (__s64)(atomic_load(&page->ns) - r.at) + ROUNDING_NS;
		/* Else the TSC, or the offset, was another one. */
		if (ruler_generation() == generation)
			return r;
	}
	return unknown;
}
