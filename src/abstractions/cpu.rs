// SPDX-License-Identifier: GPL-2.0

//! On which CPU code runs, and which CPUs there are.

use crate::bindings;
use kernel::{
    cpu::CpuId,
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

/// Calls `f` on every online CPU, with interrupts disabled, and waits for the end.
///
/// Context: interrupts enabled, preemptible or not.
pub(crate) fn on_each<F: Fn() + Sync>(f: F) {
    /// Calls the closure at `info`.
    ///
    /// # Safety
    ///
    /// `info` has to point to a live `F`.
    unsafe extern "C" fn call<F: Fn() + Sync>(info: *mut c_void) {
        // SAFETY: By the function's requirements; a shared reference to an `F` may be used on
        // all CPUs at once, since it is Sync.
        let f = unsafe { &*info.cast::<F>() };
        f();
    }

    // SAFETY: `call` gets a pointer to `f`, which lives until the function has returned, and it
    // returns only after the calls on all CPUs have.
    unsafe {
        bindings::paraclock_on_each_cpu(Some(call::<F>), core::ptr::from_ref(&f).cast_mut().cast())
    };
}
