// SPDX-License-Identifier: GPL-2.0
/*
 * memorybench [PARAMETERS]: what memory the driver takes while it is loaded, by the number of
 * CPUs that are possible, as a figure of clockbench's form: "memory.possibleN", in bytes. All pages
 * that are free are counted, those on the lists of each CPU too; the least of some turns, as what
 * else the kernel allocates meanwhile, and slabs that happen to be full, come on top.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/bench.h"
#include "lib/clock.h"
#include "lib/files.h"
#include "lib/module.h"
#include "lib/status.h"

#define KBENCH_KO	MODULE_DIR "/paraclock_bench.ko"
#define TURNS		12
/* RCU's grace periods, and the works that free what they have waited for. */
#define REST_NS		(NSEC_PER_SEC / 4)

/* Pages that nobody has. */
static long long free_pages(void)
{
	long long pages = 0, value;
	char line[256];
	FILE *file;

	sleep_ns(REST_NS);
	file_write("/proc/sys/vm/drop_caches", "3\n");
	sleep_ns(REST_NS);
	file = fopen("/proc/zoneinfo", "r");
	if (!file)
		return -1;
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, " nr_free_pages %lld", &value) == 1 ||
		    sscanf(line, " count: %lld", &value) == 1)
			pages += value;
	}
	fclose(file);
	return pages;
}

static int possible_cpus(void)
{
	char text[64], *last;

	if (file_read("/sys/devices/system/cpu/possible", text, sizeof(text)) <= 0)
		return -1;
	last = strrchr(text, '-');
	return atoi(last ? last + 1 : text) + 1;
}

int main(int argc, char **argv)
{
	const char *params = argc > 1 ? argv[1] : "";
	long long least = 0;
	char what[64], name[64];
	int err, turn;

	debugfs_mount();
	paraclock_unload();
	pin_to_cpu(0);
	/* The kernel takes 2 MiB at a time for the code of modules; not the first one's. */
	err = module_load(KBENCH_KO, "");
	if (err && err != -EEXIST)
		return bench_complain(KBENCH_KO, err);
	snprintf(what, sizeof(what), "%s:%s", MODULE_NAME, params);
	for (turn = 0; turn < TURNS; turn++) {
		long long before = free_pages(), taken;

		if (bench_begin(what))
			return 1;
		taken = before - free_pages();
		if (before < 0 || bench_end())
			return 1;
		/* The first time costs more than any other. */
		if (turn && (turn == 1 || taken < least))
			least = taken;
	}
	snprintf(name, sizeof(name), "memory.possible%d", possible_cpus());
	bench_figure(name, "bytes", least * sysconf(_SC_PAGESIZE));
	return 0;
}
