// SPDX-License-Identifier: GPL-2.0

//! The logic's shared word, by the kernel's atomics.

use crate::logic::word::Word;
use kernel::sync::{
    atomic::{
        Atomic,
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

    #[inline(always)]
    fn load_acquire(&self) -> u64 {
        // As `load(Acquire)`, without the call of a C helper, as above. x86 keeps a load in front
        // of every access that follows it in program order, so the compiler has to be told alone
        // (`smp_load_acquire()` in `arch/x86/include/asm/barrier.h`).
        let value = self.load();
        // SAFETY: There is no instruction in it.
        unsafe { core::arch::asm!("", options(nostack, preserves_flags)) };
        value
    }

    #[inline]
    fn store(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    #[inline]
    fn store_release(&self, value: u64) {
        self.0.store(value, Release);
    }

    #[inline(always)]
    fn compare_exchange(&self, old: u64, new: u64) -> core::result::Result<(), u64> {
        let mut seen = old;
        // As `cmpxchg(old, new, Full)`, without the call of a C helper: the clamp is on the path
        // of each reading where the host's counter is read.
        //
        // SAFETY: The pointer is that of a live atomic, aligned to its size. A locked instruction
        // is atomic against every access to it, and orders all accesses before it with all
        // after it; that memory is written the compiler learns from the missing `nomem`.
        unsafe {
            core::arch::asm!(
                "lock cmpxchgq {new}, ({word})",
                new = in(reg) new,
                word = in(reg) self.0.as_ptr(),
                inout("rax") seen,
                options(att_syntax, nostack),
            )
        };
        if seen == old {
            Ok(())
        } else {
            Err(seen)
        }
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
