// SPDX-License-Identifier: GPL-2.0

//! What the clock says of itself, in debugfs: `paraclock/status`.

use crate::{
    abstractions::{
        clocksource::VdsoClockMode,
        debugfs::Show, //
    },
    backend::Backend,
    clock::Clock,
    logic::reader::Event, //
};
use kernel::{
    fmt,
    sync::Arc, //
};

/// What the file is made from.
pub(crate) struct Status<B: Backend> {
    pub(crate) clock: Arc<Clock<B>>,
    pub(crate) vdso: VdsoClockMode,
}

impl<B: Backend> Show for Status<B> {
    /// One `key: value` a line, then what the backend says of its pages.
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clock = &self.clock;
        let count = |event| clock.statistics.get(event);

        writeln!(f, "backend: {}", B::NAME.name())?;
        writeln!(f, "mode: {}", clock.mode().name())?;
        writeln!(f, "vdso: {}", self.vdso.name())?;
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
        clock.backend.show(f)
    }
}
