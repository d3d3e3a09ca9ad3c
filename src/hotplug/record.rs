// SPDX-License-Identifier: GPL-2.0

//! What is kept of a CPU.

use crate::{
    abstractions::word::AtomicWord,
    logic::{
        tsc_adjust::{
            Reason,
            Standing, //
        },
        word::Word, //
    },
};

/// What is kept of a CPU. Who writes to it and when the head of [`super`] says.
#[derive(Default)]
pub(super) struct Record {
    /// [`UP`] and those below it.
    pub(super) flags: AtomicWord,
    pub(super) socket: AtomicWord,
    /// TSC_ADJUST as the CPU came up with it, and as it was set since: an `i64` each.
    pub(super) boot_value: AtomicWord,
    pub(super) set_to: AtomicWord,
    /// What somebody else has written there, and was written over at the last look, with
    /// [`OVERWRITTEN`].
    pub(super) overwritten: AtomicWord,
    /// A [`Standing`].
    pub(super) standing: AtomicWord,
    /// How often the check was made anew since it came to no result.
    pub(super) retries: AtomicWord,
}

/// The CPU is up, and has gone through [`super::Tscs::begin`] or [`super::Tscs::starting`], to the end.
pub(super) const UP: u64 = 1;
/// It has been up before, so what it was set to is known.
pub(super) const KNOWN: u64 = 1 << 1;
/// It has started since the last look, and the kernel's own check may have moved it.
pub(super) const FRESH: u64 = 1 << 2;
/// That TSC_ADJUST was changed by somebody else has been logged.
pub(super) const WARNED: u64 = 1 << 3;
/// There is a value in [`Record::overwritten`].
pub(super) const OVERWRITTEN: u64 = 1 << 4;
/// That the check came to no result has been logged.
pub(super) const SAID: u64 = 1 << 5;
/// CPUID advertises TSC_ADJUST, and on this CPU it does not do what it is to. As good as not there.
pub(super) const BARE: u64 = 1 << 6;
/// The CPU, or the one by which it goes, is being compared, and may be moved.
pub(super) const MOVING: u64 = 1 << 7;
/// The CPU was found to be off, and is to be moved when the TSC is not read.
pub(super) const MOVABLE: u64 = 1 << 8;

impl Record {
    pub(super) fn is(&self, flag: u64) -> bool {
        self.flags.load() & flag != 0
    }

    /// Only one at a time acts on the records, so this needs no exchange.
    pub(super) fn set(&self, flag: u64, is: bool) {
        let others = self.flags.load() & !flag;
        self.flags.store(if is { others | flag } else { others });
    }

    /// Sets a flag, fully ordered.
    pub(super) fn announce(&self, flag: u64) {
        let flags = self.flags.load();
        // Nobody else does, so it does not fail.
        let _ = self.flags.compare_exchange(flags, flags | flag);
    }

    pub(super) fn standing(&self) -> Standing {
        Standing::from_number(self.standing.load())
    }

    pub(super) fn stand(&self, standing: Standing) {
        self.standing.store(standing.to_number());
    }

    pub(super) fn set_to(&self) -> i64 {
        self.set_to.load() as i64
    }
}

/// A CPU that was denied, and that nobody could compare now, is not to pass by its TSC_ADJUST alone the
/// next time either.
pub(super) fn keep_doubt(record: &Record, was_denied: bool) {
    if was_denied && record.standing() == Standing::Pending {
        record.stand(Standing::Denied(Reason::NotChecked));
    }
}

/// Whether a CPU that stands so was measured to be off by a constant.
pub(super) fn is_off(standing: Standing) -> bool {
    matches!(
        standing,
        Standing::Denied(Reason::Warped | Reason::SocketOutOfStep)
    )
}
