// SPDX-License-Identifier: GPL-2.0

//! The logic's shared word, by the kernel's atomics.

use crate::logic::word::Word;
use kernel::sync::{
    atomic::{
        Acquire,
        Atomic,
        Full,
        Relaxed,
        Release, //
    },
    barrier::{
        smp_mb,
        Read,
        Write, //
    }, //
};

/// A shared 64-bit word.
pub(crate) struct AtomicWord(Atomic<u64>);

impl Default for AtomicWord {
    fn default() -> Self {
        Self(Atomic::new(0))
    }
}

impl AtomicWord {
    /// Adds one; orders nothing.
    pub(crate) fn increment(&self) {
        self.0.add(1u64, Relaxed);
    }
}

impl Word for AtomicWord {
    #[inline(always)]
    fn load(&self) -> u64 {
        // As `load(Relaxed)`, which calls a C helper: this one is on the read path.
        //
        // SAFETY: The pointer is that of a live atomic. A volatile load of a machine word is
        // READ_ONCE() of the Linux kernel memory model, which may race with any atomic access.
        unsafe { self.0.as_ptr().read_volatile() }
    }

    #[inline]
    fn load_acquire(&self) -> u64 {
        self.0.load(Acquire)
    }

    #[inline]
    fn store(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    #[inline]
    fn store_release(&self, value: u64) {
        self.0.store(value, Release);
    }

    #[inline]
    fn compare_exchange(&self, old: u64, new: u64) -> core::result::Result<(), u64> {
        self.0.cmpxchg(old, new, Full).map(|_| ())
    }

    #[inline]
    fn rmb(&self) {
        smp_mb(Read);
    }

    #[inline]
    fn wmb(&self) {
        smp_mb(Write);
    }
}
