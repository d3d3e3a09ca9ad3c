// SPDX-License-Identifier: GPL-2.0

//! The monotonic clamp shared by all CPUs.
//!
//! While `PVCLOCK_TSC_STABLE_BIT` is clear the pages of two vCPUs may disagree by a little, and a
//! reader that moves between them would see time go back; likewise one that moves between the
//! reference TSC page and the reference counter. The clamp remembers the latest count of the clock
//! that anybody was given, and no reader is given an earlier one.

use super::word::Word;

/// The latest count given to any reader; only ever rises, but for [`Clamp::reset`].
///
/// All methods may be called in any context, NMIs included: there is no lock to be held. A call
/// ends after finitely many steps, because a failed exchange means that another CPU raised the
/// word, and at or above the value at hand the call returns.
///
/// # Ordering
///
/// If CPU A is given `t`, and B calls [`Clamp::raise`] after it has seen a store that A made
/// later and with release semantics, or anything else that x86 orders behind what A read and wrote
/// before, then B is given at least `t`. A's value reached `last` by a fully ordered exchange, or
/// was read from it, before A's later stores, so it is visible where these are: x86 is
/// multi-copy atomic and reorders neither stores nor loads among themselves. B's load of `last` is
/// then satisfied by that value or by one that followed it in the word's modification order, and
/// values in it only rise.
pub struct Clamp<W> {
    last: W,
}

/// A count as it left the clamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clamped {
    /// Never less than anybody was given before.
    pub count: u64,
    /// Whether the clock was held back, that is, the reader's own count was less.
    pub held: bool,
}

impl<W: Word> Clamp<W> {
    /// Makes a clamp around a word that is zero.
    pub const fn new(last: W) -> Self {
        Self { last }
    }

    /// Returns `count`, or the latest one given to anybody where that is greater; remembers it.
    #[inline]
    pub fn raise(&self, count: u64) -> Clamped {
        let mut last = self.last.load_acquire();
        loop {
            if count <= last {
                return Clamped {
                    count: last,
                    held: count < last,
                };
            }
            match self.last.compare_exchange(last, count) {
                Ok(()) => return Clamped { count, held: false },
                // An exchange that fails orders nothing.
                Err(_) => last = self.last.load_acquire(),
            }
        }
    }

    /// Remembers `count` if that is to be had at the first try: it is greater than all that were
    /// given, and nobody else is at it. What [`Clamp::raise`] does, where that has nothing to decide.
    #[inline(always)]
    pub fn try_raise(&self, count: u64) -> bool {
        let last = self.last.load_acquire();
        count > last && self.last.compare_exchange(last, count).is_ok()
    }

    /// Returns the latest count given to anybody through the clamp; 0 if none was.
    #[inline]
    pub fn last(&self) -> u64 {
        self.last.load_acquire()
    }

    /// Forgets all times given.
    ///
    /// Only where no reader runs: while timekeeping is suspended (the host's clock may have
    /// started anew meanwhile), or before the clock is registered.
    pub fn reset(&self) {
        self.last.store(0);
    }
}
