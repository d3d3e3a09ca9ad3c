// SPDX-License-Identifier: GPL-2.0

//! On which CPU code runs, and which CPUs there are.

use crate::bindings;
use kernel::{
    cpu::CpuId,
    error::to_result,
    prelude::*, //
};

/// Keeps the holder on its CPU, by `preempt_disable_notrace()`.
///
/// Context: any. Not `Send`, since preemption is counted per task.
pub(crate) struct Pinned {
    cpu: u32,
    _not_send: core::marker::PhantomData<*mut ()>,
}

impl Pinned {
    /// Stays on the CPU until the value is dropped.
    #[inline]
    pub(crate) fn new() -> Self {
        Self {
            // SAFETY: Disabling preemption has no preconditions; drop enables it again.
            cpu: unsafe { bindings::paraclock_get_cpu() },
            _not_send: core::marker::PhantomData,
        }
    }

    /// The number of the CPU.
    #[inline]
    pub(crate) fn cpu(&self) -> u32 {
        self.cpu
    }
}

impl Drop for Pinned {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: Pairs with the call in new(), in the same task as the type is not Send.
        unsafe { bindings::paraclock_put_cpu() };
    }
}

/// Waits a moment in a loop that waits for another CPU (`cpu_relax()`). Context: any.
#[inline]
pub(crate) fn relax() {
    // SAFETY: The PAUSE instruction has no preconditions.
    unsafe { bindings::paraclock_cpu_relax() };
}

/// Tells the watchdogs for lockups that this CPU is busy on purpose (`touch_nmi_watchdog()`).
///
/// Context: any.
pub(crate) fn touch_watchdogs() {
    // SAFETY: The function sets flags of this CPU; it has no preconditions.
    unsafe { bindings::paraclock_touch_watchdogs() };
}

/// Keeps the set of online CPUs as it is (`cpus_read_lock()`).
///
/// Context: taking it may sleep.
pub(crate) struct HotplugReadGuard {
    _not_send: core::marker::PhantomData<*mut ()>,
}

impl HotplugReadGuard {
    /// Takes the lock for reading.
    pub(crate) fn new() -> Self {
        // SAFETY: May be called wherever sleeping is allowed; drop releases it.
        unsafe { bindings::paraclock_cpus_read_lock() };
        Self {
            _not_send: core::marker::PhantomData,
        }
    }

    /// The CPUs that are online, in ascending order.
    pub(crate) fn online(&self) -> impl Iterator<Item = CpuId> + '_ {
        let mut last = -1;
        core::iter::from_fn(move || {
            // SAFETY: -1, or the last CPU found, is what cpumask_next() takes.
            let cpu = CpuId::from_u32(unsafe { bindings::paraclock_next_online_cpu(last) })?;
            last = cpu.into();
            Some(cpu)
        })
    }
}

impl Drop for HotplugReadGuard {
    fn drop(&mut self) {
        // SAFETY: Pairs with the call in new(), in the same task as the type is not Send.
        unsafe { bindings::paraclock_cpus_read_unlock() };
    }
}

/// How many CPUs are online at the moment. Context: any.
pub(crate) fn num_online() -> u32 {
    // SAFETY: The function reads a counter; it has no preconditions.
    unsafe { bindings::paraclock_num_online_cpus() }
}

/// Whether a CPU is online at the moment. It is not yet while it starts, up to the end of the
/// STARTING section of CPU hotplug.
///
/// Context: any.
pub(crate) fn is_online(cpu: CpuId) -> bool {
    // SAFETY: The number is below nr_cpu_ids, by the type.
    unsafe { bindings::paraclock_cpu_is_online(cpu.as_u32()) }
}

/// Whether a CPU is there at all: it may be plugged in and out.
///
/// Context: any.
pub(crate) fn is_present(cpu: CpuId) -> bool {
    // SAFETY: The number is below nr_cpu_ids, by the type.
    unsafe { bindings::paraclock_cpu_is_present(cpu.as_u32()) }
}

/// On which socket a CPU is: the number of its package.
///
/// Known from before the STARTING section on, when the CPU comes up for the first time; it stays
/// when the CPU goes.
///
/// Context: any.
pub(crate) fn socket(cpu: CpuId) -> u32 {
    // SAFETY: The number is below nr_cpu_ids, by the type; the function reads per-CPU data.
    unsafe { bindings::paraclock_cpu_package(cpu.as_u32()) }
}

/// Calls the closure at `info`.
///
/// # Safety
///
/// `info` has to point to a live `F`.
unsafe extern "C" fn call<F: Fn() + Sync>(info: *mut c_void) {
    // SAFETY: By the function's requirements; a shared reference to an `F` may be used on all CPUs
    // at once, since it is Sync.
    let f = unsafe { &*info.cast::<F>() };
    f();
}

/// Calls `f` on the given CPU, with interrupts disabled, and waits for the end.
///
/// Context: interrupts enabled, preemptible or not.
///
/// # Errors
///
/// `ENXIO` where the CPU is not online.
pub(crate) fn on<F: Fn() + Sync>(cpu: CpuId, f: F) -> Result {
    // SAFETY: `call` gets a pointer to `f`, which lives until the function has returned, and it
    // returns only after the call has, if there was one.
    to_result(unsafe {
        bindings::paraclock_call_on(
            cpu.as_u32(),
            Some(call::<F>),
            core::ptr::from_ref(&f).cast_mut().cast(),
        )
    })
}

/// Calls `f` on both CPUs at once, as far as they can be had at once, with interrupts disabled, and
/// waits for the end. One that is not online is left out.
///
/// Context: may sleep.
///
/// # Errors
///
/// `ENOMEM`: then it was not called.
pub(crate) fn on_both<F: Fn() + Sync>(a: CpuId, b: CpuId, f: F) -> Result {
    // SAFETY: The numbers are below nr_cpu_ids, by the type. `call` gets a pointer to `f`, which
    // lives until the function has returned, and it returns only after the calls have.
    to_result(unsafe {
        bindings::paraclock_call_on_both(
            a.as_u32(),
            b.as_u32(),
            Some(call::<F>),
            core::ptr::from_ref(&f).cast_mut().cast(),
        )
    })
}

/// Calls `f` on every online CPU, with interrupts disabled, and waits for the end.
///
/// Context: interrupts enabled, preemptible or not.
pub(crate) fn on_each<F: Fn() + Sync>(f: F) {
    // SAFETY: `call` gets a pointer to `f`, which lives until the function has returned, and it
    // returns only after the calls on all CPUs have.
    unsafe {
        bindings::paraclock_on_each_cpu(Some(call::<F>), core::ptr::from_ref(&f).cast_mut().cast())
    };
}
