// SPDX-License-Identifier: GPL-2.0

//! Hyper-V's reenlightenment: the TSC changes when this guest says so.
//!
//! C header: `arch/x86/include/asm/mshyperv.h`

use crate::bindings;
use kernel::{
    error::to_result,
    prelude::*,
    types::Opaque, //
};

/// A change of the TSC that is about to happen.
pub(crate) struct Change<'a> {
    info: &'a bindings::hv_reenlightenment,
}

impl Change<'_> {
    /// The frequency from the acknowledgement on in Hz, as the host tells it; 0 where what it tells
    /// is none. A further migration can make it outdated.
    pub(crate) fn tsc_hz(&self) -> u64 {
        self.info.tsc_hz
    }

    /// Lets the TSC change: when this returns, it is the new one, on all CPUs.
    ///
    /// Context: any; writes an MSR.
    ///
    /// # Errors
    ///
    /// `EIO` where the host refuses, and the TSC stays as it is.
    pub(crate) fn acknowledge(&self) -> Result {
        // SAFETY: A value of this type exists only while the handler is called, which is when
        // acknowledging is for it to do.
        to_result(unsafe { bindings::paraclock_hv_acknowledge_tsc_change() })
    }
}

/// One that takes part in a change of the TSC.
pub(crate) trait Handler: Send + Sync + 'static {
    /// The TSC is about to change: has to call [`Change::acknowledge`] at the moment that suits
    /// it. If it does not and returns `Ok`, that is done then.
    ///
    /// Context: may sleep, on a thread of its own, with a real-time priority; the lock held that
    /// registering takes, so no lock may be held there that is taken here.
    ///
    /// # Errors
    ///
    /// Are logged. The TSC stays the old one, emulated, and the handler is called again later.
    fn change(&self, change: &Change<'_>) -> Result;
}

/// A handler that is registered, until the value is dropped. There can be one.
///
/// # Invariants
///
/// `switch` is registered, with this type's function.
#[pin_data(PinnedDrop)]
pub(crate) struct Registration<T: Handler> {
    handler: T,
    #[pin]
    switch: Opaque<bindings::hv_tsc_switch>,
}

// SAFETY: May be registered and unregistered by any task; `T` is Send.
unsafe impl<T: Handler> Send for Registration<T> {}
// SAFETY: A shared reference gives access to nothing.
unsafe impl<T: Handler> Sync for Registration<T> {}

impl<T: Handler> Registration<T> {
    /// Registers a handler, and asks the host for reenlightenment, unless somebody has already.
    ///
    /// Context: may sleep, without the CPU hotplug lock.
    ///
    /// # Errors
    ///
    /// `EBUSY` where there is another one, `EOPNOTSUPP` where Linux does not run as a guest of
    /// Hyper-V, or without the privilege, `EIO` where the host refuses.
    pub(crate) fn new(handler: T) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            handler,
            switch <- Opaque::try_ffi_init(|slot: *mut bindings::hv_tsc_switch| {
                // SAFETY: `slot` is valid for a write, and pinned until drop unregisters it;
                // `handler`, which the callback uses, is the field before it and initialised.
                to_result(unsafe {
                    slot.write(bindings::hv_tsc_switch {
                        switch_tsc: Some(Self::switch_tsc),
                    });
                    bindings::paraclock_hv_register_tsc_switch(slot)
                })
            }),
        })
    }

    /// # Safety
    ///
    /// To be called by the core of reenlightenment alone.
    unsafe extern "C" fn switch_tsc(
        switch: *mut bindings::hv_tsc_switch,
        info: *const bindings::hv_reenlightenment,
    ) -> c_int {
        // SAFETY: It calls back with what is registered, which is the field of a live registration,
        // and with information that lives until this returns.
        let (handler, info) = unsafe {
            (
                &(*kernel::container_of!(Opaque::cast_from(switch), Self, switch)).handler,
                &*info,
            )
        };
        kernel::error::from_result(|| handler.change(&Change { info }).map(|()| 0))
    }
}

#[pinned_drop]
impl<T: Handler> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant it is registered. The call returns after the last callback
        // has.
        unsafe { bindings::paraclock_hv_unregister_tsc_switch(self.switch.get()) };
    }
}

/// Whether a change waits for the acknowledgement, while a handler is registered. It will be
/// handled soon, even if its notification was lost.
///
/// Context: any; leaves the guest to read an MSR.
pub(crate) fn is_pending() -> bool {
    // SAFETY: The function has no preconditions.
    unsafe { bindings::paraclock_hv_reenlightenment_check() }
}
