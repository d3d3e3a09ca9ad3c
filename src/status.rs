// SPDX-License-Identifier: GPL-2.0

//! What the clock says of itself, in debugfs: `paraclock/status`.

use crate::{
    abstractions::{
        clocksource::VdsoClockMode,
        cpu::HotplugReadGuard,
        debugfs::Show, //
    },
    clock::Clock,
    logic::{
        pvclock::{
            sample,
            Page, //
        },
        reader::Event, //
    }, //
};
use kernel::{
    fmt,
    sync::Arc, //
};

/// What the file is made from.
pub(crate) struct Status {
    pub(crate) clock: Arc<Clock>,
    pub(crate) vdso: VdsoClockMode,
}

impl Show for Status {
    /// One `key: value` a line, then a line for each CPU that is online.
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clock = &self.clock;
        let count = |event| clock.statistics.get(event);

        writeln!(f, "backend: {}", clock.backend.name())?;
        writeln!(f, "mode: {}", clock.mode.name())?;
        writeln!(f, "vdso: {}", self.vdso.name())?;
        writeln!(f, "page_owner: {}", clock.pages.owner())?;
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
        writeln!(f, "guest_stopped: {}", count(Event::GuestStopped))?;

        let guard = HotplugReadGuard::new();
        for cpu in guard.online() {
            write!(f, "cpu{}: owner={}", cpu.as_u32(), clock.pages.owner())?;
            let Some(page) = clock.pages.page(cpu) else {
                writeln!(f, " none")?;
                continue;
            };
            match sample(page, || 0) {
                Some(sample) => writeln!(
                    f,
                    " version={} mul={} shift={} flags={:#x} gpa={:#x}",
                    sample.version,
                    sample.params.mul,
                    sample.params.shift,
                    sample.params.flags,
                    page.gpa()
                )?,
                None => writeln!(
                    f,
                    " version={} unsettled gpa={:#x}",
                    page.version(),
                    page.gpa()
                )?,
            }
        }
        Ok(())
    }
}
