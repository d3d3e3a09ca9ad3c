/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Inline functions, macros and per-CPU variables of the kernel that Rust can
 * only reach through a C function.
 */
#ifndef PARACLOCK_HELPERS_H
#define PARACLOCK_HELPERS_H

#include <linux/smp.h>
#include <linux/types.h>

struct delayed_work;
struct hv_tsc_switch;
struct ms_hyperv_tsc_page;
struct notifier_block;
struct pvclock_vsyscall_time_info;
struct work_struct;

void paraclock_cpuid(u32 leaf, u32 *regs);
bool paraclock_has_hypervisor(void);
bool paraclock_has_invariant_tsc(void);
bool paraclock_tsc_is_unstable(void);
unsigned int paraclock_tsc_khz(void);
bool paraclock_has_tsc_adjust(void);
bool paraclock_has_tsc_reliable(void);

int paraclock_wrmsrq_safe(u32 msr, u64 value);
int paraclock_rdmsrq_safe(u32 msr, u64 *value);
int paraclock_rdmsrq_safe_on_cpu(unsigned int cpu, u32 msr, u64 *value);

int paraclock_register_crash_cpu_notifier(struct notifier_block *nb);
int paraclock_unregister_crash_cpu_notifier(struct notifier_block *nb);

unsigned int paraclock_get_cpu(void);
void paraclock_put_cpu(void);
void paraclock_cpu_relax(void);
void paraclock_touch_watchdogs(void);
bool paraclock_cpu_is_online(unsigned int cpu);
bool paraclock_cpu_is_present(unsigned int cpu);
unsigned int paraclock_cpu_package(unsigned int cpu);
void paraclock_cpus_read_lock(void);
void paraclock_cpus_read_unlock(void);
unsigned int paraclock_next_online_cpu(int cpu);
unsigned int paraclock_num_online_cpus(void);
void paraclock_on_each_cpu(void (*func)(void *info), void *info);
int paraclock_call_on(unsigned int cpu, void (*func)(void *info), void *info);
int paraclock_call_on_both(unsigned int a, unsigned int b, void (*func)(void *info), void *info);
void paraclock_init_csd(call_single_data_t *csd, void (*func)(void *info), void *info);
int paraclock_call_async(unsigned int cpu, call_single_data_t *csd);

struct pvclock_vsyscall_time_info *paraclock_builtin_pvti(unsigned int cpu);
void paraclock_set_pvti(unsigned int cpu, struct pvclock_vsyscall_time_info *pvti);
u64 paraclock_virt_to_phys(void *addr);
bool paraclock_phys_is_ram(u64 addr);

struct ms_hyperv_tsc_page *paraclock_hv_get_tsc_page(void);
unsigned long paraclock_hv_get_tsc_pfn(void);
struct ms_hyperv_tsc_page *paraclock_hv_claim_tsc_page(void);
void paraclock_hv_release_tsc_page(void);
void paraclock_hv_enable_tsc_vdso(void);

int paraclock_hv_register_tsc_switch(struct hv_tsc_switch *sw);
void paraclock_hv_unregister_tsc_switch(struct hv_tsc_switch *sw);
int paraclock_hv_acknowledge_tsc_change(void);
bool paraclock_hv_reenlightenment_check(void);

void paraclock_move_deadline(s64 by);
void paraclock_init_delayed_work(struct delayed_work *work, void (*func)(struct work_struct *work));
void paraclock_queue_delayed_work(struct delayed_work *work, unsigned int ms, bool is_long);
void paraclock_mod_delayed_work(struct delayed_work *work, unsigned int ms, bool is_long);
void paraclock_cancel_delayed_work(struct delayed_work *work);

int paraclock_register_pm_notifier(struct notifier_block *nb);
void paraclock_unregister_pm_notifier(struct notifier_block *nb);

void paraclock_param_lock(void);
void paraclock_param_unlock(void);

/* In trace.c */
void paraclock_trace_update_begin(u32 from, u32 to);
void paraclock_trace_acknowledge(u64 tsc_before, u64 tsc_after, u64 hz);
void paraclock_trace_update_end(u32 mode, int error, u64 elapsed_ns, s64 correction_ns);

bool paraclock_memory_is_encrypted(void);
void *paraclock_alloc_shared(size_t size);
void paraclock_free_shared(void *addr, size_t size);

#endif /* PARACLOCK_HELPERS_H */
