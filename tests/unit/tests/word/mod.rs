// SPDX-License-Identifier: GPL-2.0

//! The shared word over atomics: the standard library's on threads, loom's in a model.

#[cfg(loom)]
use loom::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
    fence,
};
use paraclock_unit::logic::word::Word as SharedWord;
#[cfg(not(loom))]
use std::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
    fence,
};

pub struct Word(AtomicU64);

impl Word {
    pub fn zero() -> Self {
        Self(AtomicU64::new(0))
    }
}

impl SharedWord for Word {
    fn load(&self) -> u64 {
        self.0.load(Relaxed)
    }

    fn load_acquire(&self) -> u64 {
        self.0.load(Acquire)
    }

    fn store(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    fn store_release(&self, value: u64) {
        self.0.store(value, Release);
    }

    fn compare_exchange(&self, old: u64, new: u64) -> Result<(), u64> {
        self.0
            .compare_exchange(old, new, AcqRel, Acquire)
            .map(|_| ())
    }

    fn rmb(&self) {
        fence(Acquire);
    }

    fn wmb(&self) {
        fence(Release);
    }
}
