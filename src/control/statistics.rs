// SPDX-License-Identifier: GPL-2.0

//! What was counted of the updates, and how long they took.

use crate::logic::elapsed::{
    Passed,
    Span,
    Verdict, //
};

/// What was counted, and how long it took.
#[derive(Clone, Copy, Default)]
pub(crate) struct Statistics {
    /// Changes that came about: of the mode, and of the TSC.
    pub(crate) brackets: u64,
    /// Those of the TSC.
    pub(crate) migrations: u64,
    /// Those that did not come about.
    pub(crate) failed: u64,
    /// How long the clock stood in the last one, in ns.
    pub(crate) last_ns: u64,
    /// The longest of that.
    pub(crate) worst_ns: u64,
    /// What the last one took of its CPU, in TSC cycles: all of it, but for the host's part where
    /// that has changed the TSC.
    pub(crate) last_cycles: u64,
    /// The most of that.
    pub(crate) worst_cycles: u64,
    /// What was made good in the last one of what the clock was ahead, in ns; negative where it was
    /// behind.
    pub(crate) correction_ns: i64,
    /// Changes in which the reference went back, by little.
    pub(crate) held: u64,
    /// Changes in which it could not be believed.
    pub(crate) jumps: u64,
    /// Changes of the TSC without a page: by the counter.
    pub(crate) by_counter: u64,
    /// Changes of the TSC with neither: what passed in them is lost.
    pub(crate) blind: u64,
}

impl Statistics {
    /// Counts a change that has come about.
    pub(super) fn count(&mut self, passed: &Passed, ahead_before: Span, cycles: u64) {
        self.brackets += 1;
        self.last_cycles = cycles;
        self.worst_cycles = self.worst_cycles.max(cycles);
        self.last_ns = passed.elapsed.ns;
        self.worst_ns = self.worst_ns.max(self.last_ns);
        self.correction_ns = whole_ns(ahead_before - passed.ahead);
        match passed.verdict {
            Verdict::Went => {}
            Verdict::Held => self.held += 1,
            Verdict::WentBack | Verdict::Jumped => self.jumps += 1,
        }
    }
}

/// A span in ns.
pub(super) fn whole_ns(span: Span) -> i64 {
    (span >> 32) as i64
}
