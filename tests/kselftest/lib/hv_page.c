// SPDX-License-Identifier: GPL-2.0
#include "clock.h"
#include "page.h"

#define HV_TRIES	1000000
/* A unit of the page is 100 ns; what the scale carries below it is kept to 1/256. */
#define HV_UNIT_NS	100
#define HV_FRACTION	8

/* HV_REFERENCE_TSC_PAGE of Hyper-V's TLFS, 12.7. */
struct hv_reference_tsc_page {
	__u32 sequence;
	__u32 reserved;
	__u64 scale;
	__s64 offset;
};

_Static_assert(sizeof(struct hv_reference_tsc_page) == 24, "the host's layout");

/* hv_read_tsc_page_tsc() by hand, with the fraction. */
bool hv_page_read(const void *at, struct page_reading *reading)
{
	const struct hv_reference_tsc_page *page = at;
	int tries;

	for (tries = 0; tries < HV_TRIES; tries++) {
		__u32 sequence = READ_ONCE(page->sequence);
		__u64 scale, fraction;
		__s64 offset;

		/* Invalid; early specifications name the second one. */
		if (!sequence || sequence == UINT32_MAX)
			return false;
		barrier();
		scale = page->scale;
		offset = page->offset;
		reading->tsc = rdtsc_ordered();
		barrier();
		if (READ_ONCE(page->sequence) != sequence)
			continue;

		/* In 2^-8 units of 100 ns, of which 64 are exactly 25 ns. */
		fraction = (__u64)(((unsigned __int128)reading->tsc * scale) >>
				   (64 - HV_FRACTION));
		reading->ns = (__u64)(((unsigned __int128)fraction * HV_UNIT_NS) >> HV_FRACTION) +
			      (__u64)offset * HV_UNIT_NS;
		reading->version = sequence;
		return true;
	}
	return false;
}
