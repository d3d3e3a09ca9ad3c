// SPDX-License-Identifier: GPL-2.0
/*
 * What the measurements in user space need to know of the kernel, compiled by the command that
 * compiled the kernel's vDSO, from the same headers: no layout and no number is repeated by hand.
 * The result is mapped and patched as the vDSO itself is. No function here needs a relocation.
 */
#include <vdso/auxclock.h>
#include <vdso/clocksource.h>
#include <vdso/datapage.h>
#include <vdso/math64.h>
#include <vdso/time64.h>
#include <asm/vdso/gettimeofday.h>
#include <asm/cpufeatures.h>
#include <asm/pvclock.h>
#include <clocksource/hyperv_timer.h>

#define EXPORT __attribute__((visibility("default"), used))

/* The alternatives that this CPU may have, by the numbers that the patching goes by. */
EXPORT const u32 bench_feature_lfence_rdtsc = X86_FEATURE_LFENCE_RDTSC;
EXPORT const u32 bench_feature_rdtscp = X86_FEATURE_RDTSCP;
EXPORT const u32 bench_feature_rdpid = X86_FEATURE_RDPID;
EXPORT const u32 bench_size_of_alternative = sizeof(struct alt_instr);

/* Modes of the vDSO. */
EXPORT const u32 bench_mode_tsc = VDSO_CLOCKMODE_TSC;
EXPORT const u32 bench_mode_pvclock = VDSO_CLOCKMODE_PVCLOCK;
EXPORT const u32 bench_mode_hvclock = VDSO_CLOCKMODE_HVCLOCK;

/* How many bits of a fraction a cycle of the reference TSC page's clock has. */
EXPORT const u32 bench_hv_fraction_bits = HV_TSC_PAGE_FRACTION_BITS;

/*
 * A clock whose cycles are (mult / 2^shift) ns, that shows each clock id at its number of seconds,
 * and sub ns, at the cycle last.
 */
EXPORT void bench_fill_time_page(struct vdso_time_data *vd, u32 mode, u64 last, u32 mult,
				 u32 shift, u64 sub);
void bench_fill_time_page(struct vdso_time_data *vd, u32 mode, u64 last, u32 mult, u32 shift,
			  u64 sub)
{
	int which, id;

	for (which = 0; which < CS_BASES; which++) {
		struct vdso_clock *vc = &vd->clock_data[which];

		WRITE_ONCE(vc->seq, 0);
		vc->clock_mode = mode;
		vc->cycle_last = last;
		vc->max_cycles = U64_MAX / mult / 2;
		vc->mask = U64_MAX;
		vc->mult = mult;
		vc->shift = shift;
		for (id = 0; id < VDSO_BASES; id++) {
			vc->basetime[id].sec = 1000 + id;
			vc->basetime[id].nsec = sub << shift;
		}
	}
	vd->hrtimer_res = 1;
}

EXPORT void bench_fill_pvclock(struct pvclock_vsyscall_time_info *page, u64 tsc, u64 ns, u32 mul,
			       int shift);
void bench_fill_pvclock(struct pvclock_vsyscall_time_info *page, u64 tsc, u64 ns, u32 mul,
			int shift)
{
	page->pvti.version = 2;
	page->pvti.tsc_timestamp = tsc;
	page->pvti.system_time = ns;
	page->pvti.tsc_to_system_mul = mul;
	page->pvti.tsc_shift = shift;
	page->pvti.flags = PVCLOCK_TSC_STABLE_BIT;
}

EXPORT void bench_fill_hvclock(struct ms_hyperv_tsc_page *page, u64 scale, u64 offset);
void bench_fill_hvclock(struct ms_hyperv_tsc_page *page, u64 scale, u64 offset)
{
	struct ms_hyperv_tsc_page content = {
		.tsc_sequence = 1,
		.tsc_scale = scale,
		.tsc_offset = offset,
	};

	/* Its fields are const: the guest does not write them. */
	__builtin_memcpy(page, &content, sizeof(content));
}

/* The control of all: the TSC, and nothing else. */
EXPORT u64 bench_rdtsc_ordered(const void *page);
u64 bench_rdtsc_ordered(const void *page)
{
	return rdtsc_ordered();
}

/* As kvm-clock reads it where the stable bit is set. */
EXPORT u64 bench_read_pvclock(const void *page);
u64 bench_read_pvclock(const void *page)
{
	const struct pvclock_vcpu_time_info *src = page;
	unsigned int version;
	u64 ns;
	u8 flags;

	do {
		version = pvclock_read_begin(src);
		ns = __pvclock_read_cycles(src, rdtsc_ordered());
		flags = src->flags;
	} while (pvclock_read_retry(src, version));

	return flags & PVCLOCK_TSC_STABLE_BIT ? ns : 0;
}

/* As the clocksource of the reference TSC page reads it. */
EXPORT u64 bench_read_hvclock(const void *page);
u64 bench_read_hvclock(const void *page)
{
	u64 tsc, cycles;

	return hv_read_tsc_page_tsc(page, &tsc, &cycles) ? cycles : 0;
}
