// SPDX-License-Identifier: GPL-2.0

//! A function call on another CPU that nobody waits for.
//!
//! C header: `include/linux/smp.h`

use crate::{
    abstractions::word::AtomicWord,
    bindings,
    logic::word::Word, //
};
use kernel::{
    cpu::CpuId,
    error::to_result,
    prelude::*,
    sync::rcu::synchronize_rcu,
    time::{
        delay::fsleep,
        Delta, //
    },
    types::Opaque, //
};

/// What is called.
pub(crate) trait Target: Send + Sync + 'static {
    /// Runs on the other CPU.
    ///
    /// Context: an interrupt, interrupts disabled. Has to end by itself.
    fn called(&self);
}

/// As the kernel aligns it, so that it takes no second cache line (`call_single_data_t`).
#[repr(C, align(32))]
struct Data(kernel::bindings::__call_single_data);

/// A call that can be under way once at a time.
///
/// # Invariants
///
/// `data` is initialised with this type's function and a pointer to this value. `is_under_way` is 1
/// from before the call is queued until [`Target::called`] has returned, and else 0.
#[pin_data(PinnedDrop)]
pub(crate) struct AsyncCall<T: Target> {
    target: T,
    is_under_way: AtomicWord,
    #[pin]
    data: Opaque<Data>,
}

// SAFETY: The call may be made and waited for by any task; `T` is Send.
unsafe impl<T: Target> Send for AsyncCall<T> {}
// SAFETY: A shared reference gives access to `send()` alone, in which one caller at a time gets
// past the exchange of `is_under_way`.
unsafe impl<T: Target> Sync for AsyncCall<T> {}

impl<T: Target> AsyncCall<T> {
    /// A call that is not under way.
    pub(crate) fn new(target: T) -> impl PinInit<Self, Error> {
        try_pin_init!(&this in Self {
            target,
            is_under_way: AtomicWord::default(),
            data <- Opaque::ffi_init(|slot: *mut Data| {
                // SAFETY: `slot` is valid for a write, and stays where it is, pinned, as does the
                // value that the function is given, until drop has waited for the last call.
                unsafe {
                    bindings::paraclock_init_csd(
                        slot.cast(),
                        Some(Self::called),
                        this.as_ptr().cast(),
                    );
                }
            }),
        })
    }

    /// Has [`Target::called`] called on the given CPU, soon, and waits for nothing.
    ///
    /// All that the caller has stored before is seen there.
    ///
    /// Context: any but NMI, interrupts enabled or not. The CPU that calls need not be online yet.
    ///
    /// # Errors
    ///
    /// `EBUSY` while an earlier call is under way, `ENXIO` where the CPU is not online.
    pub(crate) fn send(&self, cpu: CpuId) -> Result {
        // Fully ordered: who gets past it sees what the last call has left behind.
        if self.is_under_way.compare_exchange(0, 1).is_err() {
            return Err(EBUSY);
        }
        // SAFETY: By the type invariant `data` is initialised, and nobody has queued it: the call
        // before has ended, since the word was 0. What the function is given lives until drop has
        // seen the word go back to 0. The queueing orders what was stored before it.
        let result = to_result(unsafe {
            bindings::paraclock_call_async(cpu.as_u32(), self.data.get().cast())
        });
        if result.is_err() {
            // Not queued, so nobody else clears it.
            self.is_under_way.store_release(0);
        }
        result
    }

    /// # Safety
    ///
    /// To be called for a call that was queued by [`AsyncCall::send`] alone.
    unsafe extern "C" fn called(info: *mut c_void) {
        // SAFETY: By the type invariant the pointer is that of the value, which lives as long as
        // `is_under_way` is 1. Nothing of it is touched after the last line.
        let this = unsafe { &*info.cast::<Self>() };
        this.target.called();
        this.is_under_way.store_release(0);
    }
}

#[pinned_drop]
impl<T: Target> PinnedDrop for AsyncCall<T> {
    fn drop(self: Pin<&mut Self>) {
        // Nobody can send any more, who has only a reference. The target ends by itself, and a CPU
        // that goes offline runs what is queued for it before.
        while self.is_under_way.load_acquire() != 0 {
            fsleep(Delta::from_millis(1));
        }
        // The word is cleared by the function itself: it has yet to return, out of a module that
        // may be about to go. It runs with interrupts disabled, which is a reader's section to RCU.
        synchronize_rcu();
    }
}
