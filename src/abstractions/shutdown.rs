// SPDX-License-Identifier: GPL-2.0

//! The end of this kernel: reboot, kexec and crash.
//!
//! C headers: `include/linux/reboot.h`, `arch/x86/include/asm/crash.h`

use crate::bindings;
use kernel::{
    error::to_result,
    prelude::*,
    types::Opaque, //
};

/// What has to happen on every CPU before another kernel may run on it.
pub(crate) trait Handler: Sync + 'static {
    /// This kernel goes down in order, or hands over to another one by kexec.
    ///
    /// Context: may sleep. Called once, on one CPU, on behalf of all of them.
    fn shutdown(&self);

    /// This kernel has crashed and the CPU on which this runs goes down.
    ///
    /// Context: interrupts disabled, or NMI. Must not take a lock, and must not wait.
    fn crash(&self);
}

/// A handler that is registered, until the value is dropped.
///
/// # Invariants
///
/// Both notifiers are registered.
#[pin_data(PinnedDrop)]
pub(crate) struct Registration<T: Handler> {
    data: T,
    #[pin]
    notifiers: Opaque<Notifiers>,
}

/// The blocks in the two chains.
struct Notifiers {
    reboot: kernel::bindings::notifier_block,
    crash: kernel::bindings::notifier_block,
}

// SAFETY: Notifiers may be registered and unregistered by any task; `T` is dropped with it.
unsafe impl<T: Handler + Send> Send for Registration<T> {}
// SAFETY: A shared reference gives access to nothing.
unsafe impl<T: Handler> Sync for Registration<T> {}

/// A notifier block that calls `call`.
fn block(
    call: unsafe extern "C" fn(
        *mut kernel::bindings::notifier_block,
        c_ulong,
        *mut c_void,
    ) -> c_int,
) -> kernel::bindings::notifier_block {
    kernel::bindings::notifier_block {
        notifier_call: Some(call),
        ..pin_init::zeroed()
    }
}

impl<T: Handler> Registration<T> {
    /// Registers a handler.
    ///
    /// Context: may sleep.
    ///
    /// # Errors
    ///
    /// Those of the notifier chains.
    pub(crate) fn new(data: T) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            data,
            notifiers <- Opaque::try_ffi_init(|slot: *mut Notifiers| {
                // SAFETY: `slot` is valid for a write, and pinned until drop unregisters what is
                // in it; `data`, which the callbacks use, is the field before it and initialised.
                // Where the second registration fails the first is taken back.
                unsafe {
                    slot.write(Notifiers {
                        reboot: block(Self::on_reboot),
                        crash: block(Self::on_crash),
                    });
                    to_result(bindings::register_reboot_notifier(&raw mut (*slot).reboot))?;
                    to_result(bindings::paraclock_register_crash_cpu_notifier(&raw mut (*slot).crash))
                        .inspect_err(|_| {
                            bindings::unregister_reboot_notifier(&raw mut (*slot).reboot);
                        })
                }
            }),
        })
    }

    /// The data of the registration whose notifiers are given.
    ///
    /// # Safety
    ///
    /// `notifiers` has to be that of a live registration of this type.
    unsafe fn data<'a>(notifiers: *mut Notifiers) -> &'a T {
        let notifiers = Opaque::cast_from(notifiers);
        // SAFETY: By the function's requirements; `data` was initialised before the notifiers
        // were registered.
        unsafe { &(*kernel::container_of!(notifiers, Self, notifiers)).data }
    }

    /// # Safety
    ///
    /// To be called by the reboot notifier chain alone.
    unsafe extern "C" fn on_reboot(
        block: *mut kernel::bindings::notifier_block,
        _action: c_ulong,
        _data: *mut c_void,
    ) -> c_int {
        // SAFETY: The chain calls back with a block that is registered, which is the field of a
        // live registration.
        unsafe {
            let notifiers = kernel::container_of!(block, Notifiers, reboot);
            Self::data(notifiers).shutdown();
        }
        kernel::bindings::NOTIFY_DONE as c_int
    }

    /// # Safety
    ///
    /// To be called by the crash notifier chain alone.
    unsafe extern "C" fn on_crash(
        block: *mut kernel::bindings::notifier_block,
        _action: c_ulong,
        _data: *mut c_void,
    ) -> c_int {
        // SAFETY: As in on_reboot().
        unsafe {
            let notifiers = kernel::container_of!(block, Notifiers, crash);
            Self::data(notifiers).crash();
        }
        kernel::bindings::NOTIFY_DONE as c_int
    }
}

#[pinned_drop]
impl<T: Handler> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant both are registered. Each call returns after the last
        // callback has.
        unsafe {
            let notifiers = self.notifiers.get();
            bindings::paraclock_unregister_crash_cpu_notifier(&raw mut (*notifiers).crash);
            bindings::unregister_reboot_notifier(&raw mut (*notifiers).reboot);
        }
    }
}
