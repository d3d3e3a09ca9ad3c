// SPDX-License-Identifier: GPL-2.0

//! The monotonic clamp shared by all CPUs.
//!
//! While `PVCLOCK_TSC_STABLE_BIT` is clear the pages of two vCPUs may disagree by a little, and a
//! reader that moves between them would see time go back. The clamp remembers the latest time that
//! anybody was given, and no reader is given an earlier one.

use super::word::Word;

/// The latest time given to any reader, in ns; only ever rises, but for [`Clamp::reset`].
///
/// All methods may be called in any context, NMIs included: there is no lock to be held. A call
/// ends after finitely many steps, because a failed exchange means that another CPU raised the
/// word, and at or above the value at hand the call returns.
///
/// # Ordering
///
/// If CPU A is given `t` and what A does next is seen by CPU B before B calls [`Clamp::raise`],
/// then B is given at least `t`. A's value reached `last` by a fully ordered exchange, or was read
/// from it, before A's later accesses, so it is visible where these are; B's load of `last`
/// is then satisfied by that value or by one that followed it in the word's modification
/// order, and values in it only rise. The load needs [`Word::load_acquire`] only so that a value
/// that was merely read is passed on in the same way.
pub struct Clamp<W> {
    last: W,
}

/// A time as it left the clamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clamped {
    /// Time in ns, never less than anybody was given before.
    pub ns: u64,
    /// Whether the time was held back, that is, the reader's own time was earlier.
    pub held: bool,
}

impl<W: Word> Clamp<W> {
    /// Makes a clamp around a word that is zero.
    pub const fn new(last: W) -> Self {
        Self { last }
    }

    /// Returns `ns`, or the latest time given to anybody where that is later; remembers it.
    #[inline]
    pub fn raise(&self, ns: u64) -> Clamped {
        let mut last = self.last.load_acquire();
        loop {
            if ns <= last {
                return Clamped {
                    ns: last,
                    held: ns < last,
                };
            }
            match self.last.compare_exchange(last, ns) {
                Ok(()) => return Clamped { ns, held: false },
                Err(seen) => last = seen,
            }
        }
    }

    /// Returns the latest time given to anybody through the clamp, in ns; 0 if none was.
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
