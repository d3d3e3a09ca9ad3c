// SPDX-License-Identifier: GPL-2.0

//! Something that is done again and again.
//!
//! C header: `include/linux/workqueue.h`

use crate::bindings;
use kernel::{
    prelude::*,
    types::Opaque, //
};

/// What is done.
pub(crate) trait Task: Send + Sync + 'static {
    /// Whether it takes long. What does not is done on the workqueue for what has to be done in time
    /// (`system_highpri_wq`), what does on the one for that (`system_dfl_long_wq`).
    const IS_LONG: bool;

    /// Does it once, and returns after how many ms to do it again.
    ///
    /// Context: may sleep. Never twice at once.
    fn run(&self) -> u32;
}

/// A task that is done from [`Periodic::begin`] on, until the value is dropped.
///
/// # Invariants
///
/// `work` is initialised with this type's function; nobody else queues it.
#[pin_data(PinnedDrop)]
pub(crate) struct Periodic<T: Task> {
    task: T,
    #[pin]
    work: Opaque<kernel::bindings::delayed_work>,
}

// SAFETY: Work may be queued and cancelled by any task; `T` is Send.
unsafe impl<T: Task> Send for Periodic<T> {}
// SAFETY: A shared reference gives access to `begin()` alone, and the workqueue serialises that.
unsafe impl<T: Task> Sync for Periodic<T> {}

impl<T: Task> Periodic<T> {
    /// One that has not begun.
    ///
    /// Context: may sleep.
    pub(crate) fn new(task: T) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            task,
            work <- Opaque::ffi_init(|slot: *mut kernel::bindings::delayed_work| {
                // SAFETY: `slot` is valid for a write, and pinned until drop has cancelled the
                // work. `task`, which the function uses, is the field before it and initialised.
                unsafe { bindings::paraclock_init_delayed_work(slot, Some(Self::run)) };
            }),
        })
    }

    /// Has it done in `ms`, and from there on again and again; earlier than it would have been, if
    /// it had begun before.
    ///
    /// Context: any but NMI.
    pub(crate) fn begin(&self, ms: u32) {
        // SAFETY: By the type invariant the work is initialised.
        unsafe { bindings::paraclock_mod_delayed_work(self.work.get(), ms, T::IS_LONG) };
    }

    /// # Safety
    ///
    /// To be called by the workqueue alone.
    unsafe extern "C" fn run(work: *mut kernel::bindings::work_struct) {
        // SAFETY: The workqueue calls with the work that was queued, which is the field of a live
        // value of this type: drop waits for the end of this function.
        unsafe {
            let delayed = kernel::container_of!(work, kernel::bindings::delayed_work, work);
            let this = kernel::container_of!(Opaque::cast_from(delayed), Self, work);
            let ms = (*this).task.run();
            bindings::paraclock_queue_delayed_work(delayed, ms, T::IS_LONG);
        }
    }
}

#[pinned_drop]
impl<T: Task> PinnedDrop for Periodic<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant it is initialised. The function waits for the end of a run,
        // and keeps that from queueing the work again.
        unsafe { bindings::paraclock_cancel_delayed_work(self.work.get()) };
    }
}
