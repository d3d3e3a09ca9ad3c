// SPDX-License-Identifier: GPL-2.0

//! The system is about to sleep, and awake again.
//!
//! C header: `include/linux/suspend.h`

use crate::bindings;
use kernel::{
    error::to_result,
    prelude::*,
    types::Opaque, //
};

/// What is to be done around a suspend, a hibernation, and a return from one.
pub(crate) trait Handler: Send + Sync + 'static {
    /// The system is about to sleep; it may not come to that.
    ///
    /// Context: may sleep. User space still runs.
    fn prepare(&self);

    /// The system is awake, or has not slept. Follows each [`Handler::prepare`].
    ///
    /// Context: may sleep.
    fn finish(&self);
}

/// A handler that is registered, until the value is dropped.
///
/// # Invariants
///
/// `block` is registered, with this type's function.
#[pin_data(PinnedDrop)]
pub(crate) struct Registration<T: Handler> {
    handler: T,
    #[pin]
    block: Opaque<kernel::bindings::notifier_block>,
}

// SAFETY: Notifiers may be registered and unregistered by any task; `T` is Send.
unsafe impl<T: Handler> Send for Registration<T> {}
// SAFETY: A shared reference gives access to nothing.
unsafe impl<T: Handler> Sync for Registration<T> {}

impl<T: Handler> Registration<T> {
    /// Registers a handler.
    ///
    /// Context: may sleep.
    ///
    /// # Errors
    ///
    /// Those of the notifier chain.
    pub(crate) fn new(handler: T) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            handler,
            block <- Opaque::try_ffi_init(|slot: *mut kernel::bindings::notifier_block| {
                // SAFETY: `slot` is valid for a write, and pinned until drop unregisters it;
                // `handler`, which the callback uses, is the field before it and initialised.
                to_result(unsafe {
                    slot.write(kernel::bindings::notifier_block {
                        notifier_call: Some(Self::call),
                        ..pin_init::zeroed()
                    });
                    bindings::paraclock_register_pm_notifier(slot)
                })
            }),
        })
    }

    /// # Safety
    ///
    /// To be called by the notifier chain alone.
    unsafe extern "C" fn call(
        block: *mut kernel::bindings::notifier_block,
        event: c_ulong,
        _data: *mut c_void,
    ) -> c_int {
        // SAFETY: The chain calls back with a block that is registered, which is the field of a
        // live registration.
        let handler =
            unsafe { &(*kernel::container_of!(Opaque::cast_from(block), Self, block)).handler };
        match event as u32 {
            kernel::bindings::PM_HIBERNATION_PREPARE
            | kernel::bindings::PM_SUSPEND_PREPARE
            | kernel::bindings::PM_RESTORE_PREPARE => handler.prepare(),
            kernel::bindings::PM_POST_HIBERNATION
            | kernel::bindings::PM_POST_SUSPEND
            | kernel::bindings::PM_POST_RESTORE => handler.finish(),
            _ => {}
        }
        kernel::bindings::NOTIFY_DONE as c_int
    }
}

#[pinned_drop]
impl<T: Handler> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant it is registered. The call returns after the last callback
        // has.
        unsafe { bindings::paraclock_unregister_pm_notifier(self.block.get()) };
    }
}
