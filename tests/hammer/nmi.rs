// SPDX-License-Identifier: GPL-2.0

//! NMIs, sent to all CPUs for somebody who wants to know what an NMI's handler sees.

use kernel::{
    error::to_result,
    ffi::c_void,
    prelude::*, //
};

// Of `hammer_helpers.c`.
extern "C" {
    fn paraclock_hammer_nmi_start(
        func: unsafe extern "C" fn(*mut c_void),
        info: *mut c_void,
    ) -> kernel::ffi::c_int;
    fn paraclock_hammer_nmi_stop();
    fn paraclock_hammer_nmi_send();
}

/// A handler of the NMIs that [`Nmi::send`] sends; it is taken away when dropped.
///
/// Not `Send`, for no reason but that nobody needs it.
pub(crate) struct Nmi<F: Fn() + Sync + 'static> {
    _func: KBox<F>,
    _not_send: core::marker::PhantomData<*mut ()>,
}

impl<F: Fn() + Sync + 'static> Nmi<F> {
    /// Has `func` called in each of these NMIs. It has to take no lock and to end soon.
    ///
    /// Context: may sleep.
    ///
    /// # Errors
    ///
    /// `EBUSY` while there is another one.
    pub(crate) fn new(func: F) -> Result<Self> {
        /// Calls the closure at `info`.
        ///
        /// # Safety
        ///
        /// `info` has to point to a live `F`.
        unsafe extern "C" fn call<F: Fn() + Sync>(info: *mut c_void) {
            // SAFETY: By the function's requirements; a shared reference to an `F` may be used on
            // all CPUs at once, since it is Sync.
            let func = unsafe { &*info.cast::<F>() };
            func();
        }

        let func = KBox::new(func, GFP_KERNEL)?;
        let info = core::ptr::from_ref(&*func).cast_mut().cast();
        // SAFETY: `call` gets a pointer to what the box holds, which lives, at the same place, until
        // drop has taken the handler away and no NMI runs it any more.
        to_result(unsafe { paraclock_hammer_nmi_start(call::<F>, info) })?;
        Ok(Self {
            _func: func,
            _not_send: core::marker::PhantomData,
        })
    }

    /// Sends an NMI to every CPU that has taken the one before. Does not wait for them.
    pub(crate) fn send(&self) {
        // SAFETY: There is a handler as long as there is a value of this type.
        unsafe { paraclock_hammer_nmi_send() };
    }
}

impl<F: Fn() + Sync + 'static> Drop for Nmi<F> {
    fn drop(&mut self) {
        // SAFETY: Pairs with the call in new().
        unsafe { paraclock_hammer_nmi_stop() };
    }
}
