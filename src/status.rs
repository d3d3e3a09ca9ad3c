// SPDX-License-Identifier: GPL-2.0

//! What the clock says of itself, in debugfs: `paraclock/status`.

use crate::{
    abstractions::debugfs::Show,
    backend::Backend,
    control::Control,
    logic::reader::Event, //
};
use kernel::{
    fmt,
    sync::Arc, //
};

/// What the file is made from.
pub(crate) struct Status<B: Backend> {
    pub(crate) control: Arc<Control<B>>,
}

impl<B: Backend> Show for Status<B> {
    /// One `key: value` a line, then what the backend says of its pages.
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clock = &self.control.clock;
        let report = self.control.report();
        let statistics = &report.statistics;
        let count = |event| clock.statistics.get(event);

        writeln!(f, "backend: {}", B::NAME.name())?;
        writeln!(f, "mode: {}", clock.mode().name())?;
        writeln!(f, "why: {}", report.why.reason())?;
        writeln!(f, "vdso: {}", self.control.vdso().name())?;
        writeln!(f, "page_owner: {}", clock.backend.owner())?;
        writeln!(
            f,
            "stable: {}",
            if clock.is_stable() { "yes" } else { "no" }
        )?;
        writeln!(f, "rating: {}", clock.rating)?;
        writeln!(f, "updates: {}", count(Event::Accepted))?;
        writeln!(f, "retries: {}", count(Event::Retry))?;
        writeln!(f, "clamped: {}", count(Event::Clamped))?;
        writeln!(f, "stuck: {}", count(Event::Stuck))?;
        writeln!(f, "invalid: {}", count(Event::Withdrawn))?;
        writeln!(f, "guest_stopped: {}", count(Event::GuestStopped))?;
        writeln!(f, "wanted: {}", report.wanted.name())?;
        if let Some(frequency) = report.frequency {
            writeln!(f, "tsc_hz: {}", frequency.hz())?;
        }
        writeln!(f, "left_tsc: {}", report.left)?;
        writeln!(f, "hold_off_ms: {}", report.hold_us / 1000)?;
        writeln!(f, "ahead_ns: {}", report.ahead_ns)?;
        writeln!(f, "brackets: {}", statistics.brackets)?;
        writeln!(f, "brackets_failed: {}", statistics.failed)?;
        writeln!(f, "bracket_last_ns: {}", statistics.last_ns)?;
        writeln!(f, "bracket_worst_ns: {}", statistics.worst_ns)?;
        writeln!(f, "bracket_last_cycles: {}", statistics.last_cycles)?;
        writeln!(f, "bracket_worst_cycles: {}", statistics.worst_cycles)?;
        writeln!(f, "correction_last_ns: {}", statistics.correction_ns)?;
        writeln!(f, "held: {}", statistics.held)?;
        writeln!(f, "jumps: {}", statistics.jumps)?;
        writeln!(f, "migrations: {}", statistics.migrations)?;
        writeln!(f, "migrations_by_counter: {}", statistics.by_counter)?;
        writeln!(f, "migrations_blind: {}", statistics.blind)?;
        self.control.tscs.show(f)?;
        clock.backend.show(f)
    }
}
