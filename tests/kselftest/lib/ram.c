// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "clock.h"
#include "page.h"
#include "ram.h"

#define PAGEMAP_PFN	((1ull << 55) - 1)
#define PAGEMAP_PRESENT	(1ull << 63)
#define TRIES		1000000

void *ram_page(__u64 *gpa)
{
	size_t size = sysconf(_SC_PAGESIZE);
	__u64 entry = 0;
	void *page;
	int fd;

	page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE,
		    -1, 0);
	if (page == MAP_FAILED)
		return NULL;
	if (mlock(page, size))
		return NULL;
	memset(page, 0, size);
	fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	if (pread(fd, &entry, sizeof(entry), (uintptr_t)page / size * sizeof(entry)) !=
	    sizeof(entry))
		entry = 0;
	close(fd);
	if (!(entry & PAGEMAP_PRESENT) || !(entry & PAGEMAP_PFN)) {
		errno = EPERM;
		return NULL;
	}
	*gpa = (entry & PAGEMAP_PFN) * size;
	return page;
}

__u64 hv_count(const struct hv_page *page)
{
	__u32 sequence;
	__u64 count;

	do {
		sequence = page->sequence;
		if (!sequence)
			return HV_INVALID;
		barrier();
		count = (__u64)(((unsigned __int128)rdtsc_ordered() * page->scale) >> 64) +
			(__u64)page->offset;
		barrier();
	} while (page->sequence != sequence);
	return count;
}

__u64 kvm_ns(const struct kvm_page *page)
{
	int tries;

	for (tries = 0; tries < TRIES; tries++) {
		__u32 version = page->version;
		__u64 delta, ns;

		if (version & 1)
			continue;
		barrier();
		delta = rdtsc_ordered() - page->tsc;
		delta = page->shift < 0 ? delta >> -page->shift : delta << page->shift;
		ns = page->system + (__u64)(((unsigned __int128)delta * page->mul) >> 32);
		barrier();
		if (page->version == version)
			return ns;
	}
	return 0;
}
