// SPDX-License-Identifier: GPL-2.0
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
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
#define LOG_LINES	40
#define PAGE_SIZE	4096
#define RAM_SIZE	(256ul << 20)
/* On a busy machine, with three levels of it. */
#define BOOT_SECONDS	120

/* A request is answered within so much, or its CPU is not there. */
#define ANSWER_NS	30000
/* So many answers at least, and more until the range is narrow or time is up. */
#define LEAST		32
#define NARROW_NS	300
#define MOST_NS		60000000
#define ROUNDING_NS	1

static __u64 word(void)
{
	__u64 host_ns;

	/* Any that no earlier guest had: its memory may be found in this one's. */
	return ruler_tsc(&host_ns) * 0x9e3779b97f4a7c15ull | 1;
}

/* The thread of a vCPU by the name that QEMU gives it; 0 if it is not found. */
static pid_t vcpu_thread(pid_t qemu, int vcpu)
{
	char path[300], name[32], comm[32];
	pid_t found = 0;
	struct dirent *d;
	DIR *tasks;

	snprintf(name, sizeof(name), "CPU %d/KVM", vcpu);
	snprintf(path, sizeof(path), "/proc/%d/task", qemu);
	tasks = opendir(path);
	if (!tasks)
		return 0;
	while (!found && (d = readdir(tasks))) {
		snprintf(path, sizeof(path), "/proc/%d/task/%s/comm", qemu, d->d_name);
		if (file_read(path, comm, sizeof(comm)) > 0 && !strcmp(comm, name))
			found = atoi(d->d_name);
	}
	closedir(tasks);
	return found;
}

/* On the last CPU, for itself, while it is asked; else anywhere, as all others. */
static void attend(pid_t thread, bool attend)
{
	int cpus[MAX_CPUS], n = cpus_online(cpus, MAX_CPUS), i;
	cpu_set_t set;

	CPU_ZERO(&set);
	for (i = attend ? n - 1 : 0; i < n; i++)
		CPU_SET(cpus[i], &set);
	sched_setaffinity(thread, sizeof(set), &set);
	setpriority(PRIO_PROCESS, thread, attend ? -20 : 0);
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

int nested_start(struct nested *guest, const char *clocksource)
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
		execl(LAUNCHER, LAUNCHER, RAM_FILE, LOG_FILE, words, NULL);
		_exit(127);
	}
	start = ruler_ns();
	while (!(guest->page = find(guest->ram, magic))) {
		if (!nested_alive(guest) || ruler_ns() - start > BOOT_SECONDS * 1000000000ull) {
			printf("# L2: expected its program, seen none after %llu s\n",
			       (ruler_ns() - start) / 1000000000);
			nested_print_log();
			nested_stop(guest);
			return -ETIMEDOUT;
		}
		sleep_ns(NSEC_PER_SEC / 20);
	}
	guest->answering = vcpu_thread(guest->pid, NESTED_ANSWERING);
	if (!guest->answering) {
		printf("# L2: no thread of vCPU %d\n", NESTED_ANSWERING);
		nested_stop(guest);
		return -ESRCH;
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
		line[strcspn(line, "\r\n")] = 0;
		if (skip-- <= 0)
			printf("# L2: %s\n", line);
	}
	fclose(log);
}

/* False if it is not answered in time. */
static bool ask(struct nested_page *page, __u32 request, __u64 *before, __u64 *ns, __u64 *after)
{
	*before = ruler_read().ref_ns;
	atomic_store(&page->request, request);
	do {
		*after = ruler_read().ref_ns;
		if (atomic_load(&page->answer) == request) {
			*ns = atomic_load(&page->ns);
			*after = ruler_read().ref_ns;
			return true;
		}
	} while (*after - *before < ANSWER_NS);
	return false;
}

struct range nested_track(struct nested *guest, enum nested_path path)
{
	static __u32 number;
	struct range r = { .low = INT64_MIN / 2, .high = INT64_MAX / 2,
			   .at = ruler_read().ref_ns };
	struct nested_page *page = guest->page;
	__u64 start = ruler_ns();
	unsigned int answers = 0;

	attend(guest->answering, true);
	atomic_store(&page->window, 1);
	while ((answers < LEAST || range_width(r) > NARROW_NS) && ruler_ns() - start < MOST_NS) {
		__u64 before, ns, after;
		__s64 low, high;

		if (!ask(page, ++number << 1 | path, &before, &ns, &after)) {
			/* Its CPU may want this one. */
			sleep_ns(20000);
			continue;
		}
		answers++;
		low = (__s64)(ns - after) - ROUNDING_NS;
		high = (__s64)(ns - before) + ROUNDING_NS;
		if (low > r.low)
			r.low = low;
		if (high < r.high)
			r.high = high;
	}
	atomic_store(&page->window, 0);
	attend(guest->answering, false);
	return r;
}
