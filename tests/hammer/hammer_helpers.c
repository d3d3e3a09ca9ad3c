// SPDX-License-Identifier: GPL-2.0
/*
 * The C clock's arithmetic, from the kernel's own headers, as the control of
 * the driver's.
 */
#include <linux/cpu.h>
#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/mutex.h>
#include <asm/apic.h>
#include <asm/nmi.h>
#include <clocksource/hyperv_timer.h>

#include "hammer_helpers.h"
#include "../../src/helpers.c"

u64 paraclock_hammer_pvclock(void)
{
	struct pvclock_vsyscall_time_info *hvclock = this_cpu_hvclock();
	unsigned int version;
	u64 ret;

	if (!hvclock)
		return 0;

	do {
		version = pvclock_read_begin(&hvclock->pvti);
		ret = __pvclock_read_cycles(&hvclock->pvti, rdtsc_ordered());
	} while (pvclock_read_retry(&hvclock->pvti, version));

	return ret;
}

const void *paraclock_hammer_hv_page(void)
{
	union hv_reference_tsc_msr msr;

	if (rdmsrq_safe(HV_X64_MSR_REFERENCE_TSC, &msr.as_uint64))
		return NULL;
	if (!msr.enable || !pfn_valid(msr.pfn))
		return NULL;
	return pfn_to_kaddr(msr.pfn);
}

/*
 * hv_read_tsc_page_tsc() written out, by the specification: this has to be a
 * control of the kernel's function as well, which keeps less of the fraction.
 */
u64 paraclock_hammer_hv_read(const void *page)
{
	const struct ms_hyperv_tsc_page *tsc_page = page;
	u64 scale, offset, tsc;
	u32 sequence;

	do {
		sequence = READ_ONCE(tsc_page->tsc_sequence);
		if (!sequence)
			return 0;
		/* The sequence before the rest, and the rest before it. */
		smp_rmb();
		scale = READ_ONCE(tsc_page->tsc_scale);
		offset = READ_ONCE(tsc_page->tsc_offset);
		tsc = rdtsc_ordered();
		/* As above. */
		smp_rmb();
	} while (READ_ONCE(tsc_page->tsc_sequence) != sequence);

	return mul_u64_u64_shr(tsc, scale, 56) + (offset << 8);
}

int paraclock_hammer_hv_count(u64 *count)
{
	return rdmsrq_safe(HV_X64_MSR_TIME_REF_COUNT, count);
}

static DEFINE_MUTEX(nmi_owner);
/* The CPUs that one of ours is on its way to: what else comes is somebody else's. */
static cpumask_t nmi_expected;
static void (*nmi_func)(void *info);
static void *nmi_info;

static int paraclock_hammer_nmi(unsigned int type, struct pt_regs *regs)
{
	int cpu = raw_smp_processor_id();

	if (!cpumask_test_cpu(cpu, &nmi_expected))
		return NMI_DONE;

	nmi_func(nmi_info);
	/* Only now: who sees the bit clear may take the handler away. */
	smp_mb__before_atomic();
	cpumask_clear_cpu(cpu, &nmi_expected);
	return NMI_HANDLED;
}

int paraclock_hammer_nmi_start(void (*func)(void *info), void *info)
{
	int ret;

	if (!mutex_trylock(&nmi_owner))
		return -EBUSY;

	cpumask_clear(&nmi_expected);
	nmi_func = func;
	nmi_info = info;
	ret = register_nmi_handler(NMI_LOCAL, paraclock_hammer_nmi, 0, "paraclock_hammer");
	if (ret)
		mutex_unlock(&nmi_owner);
	return ret;
}

void paraclock_hammer_nmi_stop(void)
{
	int tries = 1000;

	/* A CPU that has gone offline meanwhile never takes its own. */
	while (cpumask_intersects(&nmi_expected, cpu_online_mask) && tries--)
		usleep_range(1000, 2000);
	unregister_nmi_handler(NMI_LOCAL, "paraclock_hammer");
	mutex_unlock(&nmi_owner);
}

void paraclock_hammer_nmi_send(void)
{
	cpumask_t to;
	int cpu;

	cpus_read_lock();
	/* An offline CPU takes none. */
	for_each_possible_cpu(cpu)
		if (!cpu_online(cpu))
			cpumask_clear_cpu(cpu, &nmi_expected);
	cpumask_andnot(&to, cpu_online_mask, &nmi_expected);
	/* One by one, as the handlers clear theirs meanwhile. */
	for_each_cpu(cpu, &to)
		cpumask_set_cpu(cpu, &nmi_expected);
	/* The bits before the NMIs. */
	smp_mb();
	preempt_disable();
	if (!cpumask_empty(&to))
		__apic_send_IPI_mask(&to, NMI_VECTOR);
	preempt_enable();
	cpus_read_unlock();
}
