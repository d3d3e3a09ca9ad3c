// SPDX-License-Identifier: GPL-2.0
/*
 * See helpers.h. No logic here: one call of the kernel each, or the shortest
 * way to it.
 */
#include <linux/cc_platform.h>
#include <linux/cpu.h>
#include <linux/err.h>
#include <linux/gfp.h>
#include <linux/jiffies.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/nmi.h>
#include <linux/percpu.h>
#include <linux/preempt.h>
#include <linux/set_memory.h>
#include <linux/smp.h>
#include <linux/suspend.h>
#include <linux/topology.h>
#include <linux/workqueue.h>
#include <asm/cpufeature.h>
#include <asm/cpuid/api.h>
#include <asm/crash.h>
#include <asm/msr.h>
#include <asm/pvclock.h>
/* After pvclock.h, which it relies on */
#include <asm/kvmclock.h>
#include <asm/mshyperv.h>
#include <asm/tsc.h>
#include <clocksource/hyperv_timer.h>

#include "helpers.h"

void paraclock_cpuid(u32 leaf, u32 *regs)
{
	cpuid(leaf, &regs[0], &regs[1], &regs[2], &regs[3]);
}

bool paraclock_has_hypervisor(void)
{
	return boot_cpu_has(X86_FEATURE_HYPERVISOR);
}

/* The condition under which the built-in kvm-clock gives way to the TSC. */
bool paraclock_has_invariant_tsc(void)
{
	return boot_cpu_has(X86_FEATURE_CONSTANT_TSC) &&
	       boot_cpu_has(X86_FEATURE_NONSTOP_TSC) &&
	       !check_tsc_unstable();
}

bool paraclock_tsc_is_unstable(void)
{
	return check_tsc_unstable();
}

unsigned int paraclock_tsc_khz(void)
{
	return READ_ONCE(tsc_khz);
}

bool paraclock_has_tsc_adjust(void)
{
	return boot_cpu_has(X86_FEATURE_TSC_ADJUST);
}

bool paraclock_has_tsc_reliable(void)
{
	return boot_cpu_has(X86_FEATURE_TSC_RELIABLE);
}

int paraclock_wrmsrq_safe(u32 msr, u64 value)
{
	return wrmsrq_safe(msr, value);
}

int paraclock_rdmsrq_safe(u32 msr, u64 *value)
{
	return rdmsrq_safe(msr, value);
}

int paraclock_rdmsrq_safe_on_cpu(unsigned int cpu, u32 msr, u64 *value)
{
	return rdmsrq_safe_on_cpu(cpu, msr, value);
}

int paraclock_register_crash_cpu_notifier(struct notifier_block *nb)
{
	return register_crash_cpu_notifier(nb);
}

int paraclock_unregister_crash_cpu_notifier(struct notifier_block *nb)
{
	return unregister_crash_cpu_notifier(nb);
}

unsigned int paraclock_get_cpu(void)
{
	preempt_disable_notrace();
	return raw_smp_processor_id();
}

void paraclock_put_cpu(void)
{
	preempt_enable_notrace();
}

void paraclock_cpu_relax(void)
{
	cpu_relax();
}

void paraclock_touch_watchdogs(void)
{
	touch_nmi_watchdog();
}

bool paraclock_cpu_is_online(unsigned int cpu)
{
	return cpu_online(cpu);
}

bool paraclock_cpu_is_present(unsigned int cpu)
{
	return cpu_present(cpu);
}

unsigned int paraclock_cpu_package(unsigned int cpu)
{
	return topology_logical_package_id(cpu);
}

void paraclock_cpus_read_lock(void)
{
	cpus_read_lock();
}

void paraclock_cpus_read_unlock(void)
{
	cpus_read_unlock();
}

unsigned int paraclock_next_online_cpu(int cpu)
{
	return cpumask_next(cpu, cpu_online_mask);
}

unsigned int paraclock_num_online_cpus(void)
{
	return num_online_cpus();
}

void paraclock_on_each_cpu(void (*func)(void *info), void *info)
{
	on_each_cpu(func, info, 1);
}

int paraclock_call_on(unsigned int cpu, void (*func)(void *info), void *info)
{
	return smp_call_function_single(cpu, func, info, 1);
}

/* On both at once, and waits for both. */
int paraclock_call_on_both(unsigned int a, unsigned int b, void (*func)(void *info), void *info)
{
	cpumask_var_t mask;

	if (!zalloc_cpumask_var(&mask, GFP_KERNEL))
		return -ENOMEM;

	cpumask_set_cpu(a, mask);
	cpumask_set_cpu(b, mask);
	on_each_cpu_mask(mask, func, info, true);
	free_cpumask_var(mask);
	return 0;
}

void paraclock_init_csd(call_single_data_t *csd, void (*func)(void *info), void *info)
{
	INIT_CSD(csd, func, info);
}

int paraclock_call_async(unsigned int cpu, call_single_data_t *csd)
{
	return smp_call_function_single_async(cpu, csd);
}

/* NULL where there is no built-in driver at work. */
struct pvclock_vsyscall_time_info *paraclock_builtin_pvti(unsigned int cpu)
{
	if (!pvclock_get_pvti_cpu0_va())
		return NULL;

	return READ_ONCE(per_cpu(hv_clock_per_cpu, cpu));
}

/*
 * Lets the kernel's own users of this CPU's page, such as the watchdogs that
 * ask for PVCLOCK_GUEST_STOPPED, find a page that a module registered.
 */
void paraclock_set_pvti(unsigned int cpu, struct pvclock_vsyscall_time_info *pvti)
{
	WRITE_ONCE(per_cpu(hv_clock_per_cpu, cpu), pvti);
}

u64 paraclock_virt_to_phys(void *addr)
{
	return slow_virt_to_phys(addr);
}

bool paraclock_phys_is_ram(u64 addr)
{
	return page_is_ram(PHYS_PFN(addr));
}

/* NULL where the kernel has no such page. */
struct ms_hyperv_tsc_page *paraclock_hv_get_tsc_page(void)
{
	return hv_get_tsc_page();
}

/* 0 where nobody has ever used it. */
unsigned long paraclock_hv_get_tsc_pfn(void)
{
	return hv_get_tsc_pfn();
}

#ifdef CONFIG_HYPERV_TIMER
struct ms_hyperv_tsc_page *paraclock_hv_claim_tsc_page(void)
{
	return hv_claim_tsc_page();
}

void paraclock_hv_release_tsc_page(void)
{
	hv_release_tsc_page();
}

void paraclock_hv_enable_tsc_vdso(void)
{
	hv_enable_tsc_vdso();
}
#else
struct ms_hyperv_tsc_page *paraclock_hv_claim_tsc_page(void)
{
	return ERR_PTR(-EOPNOTSUPP);
}

void paraclock_hv_release_tsc_page(void)
{
}

void paraclock_hv_enable_tsc_vdso(void)
{
}
#endif

int paraclock_hv_register_tsc_switch(struct hv_tsc_switch *sw)
{
	return hv_register_tsc_switch(sw);
}

void paraclock_hv_unregister_tsc_switch(struct hv_tsc_switch *sw)
{
	hv_unregister_tsc_switch(sw);
}

int paraclock_hv_acknowledge_tsc_change(void)
{
	return hv_acknowledge_tsc_change();
}

bool paraclock_hv_reenlightenment_check(void)
{
	return hv_reenlightenment_check();
}

/*
 * Where the CPU's timer is one by a TSC deadline, and armed: the MSR reads 0 otherwise. A deadline that
 * a coupled clockevent has set is in the clocksource's cycles, and right as it is where the TSC was behind
 * them: so it is never put off. Whom it wakes too early arms it anew. It is written all the same, as
 * KVM looks at the TSC when it is.
 */
void paraclock_move_deadline(s64 by)
{
	u64 deadline;

	if (!by || !boot_cpu_has(X86_FEATURE_TSC_DEADLINE_TIMER) ||
	    rdmsrq_safe(MSR_IA32_TSC_DEADLINE, &deadline) || !deadline)
		return;
	deadline += min_t(s64, by, 0);
	/* 0 would disarm it. */
	wrmsrq_safe(MSR_IA32_TSC_DEADLINE, deadline ?: 1);
}

void paraclock_init_delayed_work(struct delayed_work *work, void (*func)(struct work_struct *work))
{
	INIT_DELAYED_WORK(work, func);
}

/* For what has to be done in time, or for what takes long and does not have to. */
static struct workqueue_struct *workqueue(bool is_long)
{
	return is_long ? system_dfl_long_wq : system_highpri_wq;
}

void paraclock_queue_delayed_work(struct delayed_work *work, unsigned int ms, bool is_long)
{
	queue_delayed_work(workqueue(is_long), work, msecs_to_jiffies(ms));
}

/* The same, in place of what is queued. */
void paraclock_mod_delayed_work(struct delayed_work *work, unsigned int ms, bool is_long)
{
	mod_delayed_work(workqueue(is_long), work, msecs_to_jiffies(ms));
}

/* Also where the work queues itself. */
void paraclock_cancel_delayed_work(struct delayed_work *work)
{
	cancel_delayed_work_sync(work);
}

int paraclock_register_pm_notifier(struct notifier_block *nb)
{
	return register_pm_notifier(nb);
}

void paraclock_unregister_pm_notifier(struct notifier_block *nb)
{
	unregister_pm_notifier(nb);
}

void paraclock_param_lock(void)
{
	kernel_param_lock(THIS_MODULE);
}

void paraclock_param_unlock(void)
{
	kernel_param_unlock(THIS_MODULE);
}

bool paraclock_memory_is_encrypted(void)
{
	return cc_platform_has(CC_ATTR_GUEST_MEM_ENCRYPT);
}

/* Zeroed memory that the hypervisor may write. */
void *paraclock_alloc_shared(size_t size)
{
	void *addr;

	size = PAGE_ALIGN(size);
	addr = alloc_pages_exact(size, GFP_KERNEL | __GFP_ZERO);
	if (!addr || !cc_platform_has(CC_ATTR_GUEST_MEM_ENCRYPT))
		return addr;

	/* On failure the pages are in an unknown state: leak them. */
	if (set_memory_decrypted((unsigned long)addr, size >> PAGE_SHIFT))
		return NULL;

	memset(addr, 0, size);
	return addr;
}

void paraclock_free_shared(void *addr, size_t size)
{
	size = PAGE_ALIGN(size);
	if (cc_platform_has(CC_ATTR_GUEST_MEM_ENCRYPT) &&
	    set_memory_encrypted((unsigned long)addr, size >> PAGE_SHIFT))
		return;

	free_pages_exact(addr, size);
}
