// SPDX-License-Identifier: GPL-2.0

//! The updates of the clocksource by which a mode is entered or left, or the clock is corrected.

use super::{
    Control,
    ParamsOf,
    State,
    NO_VERSION,
    SLOW_POLL_US, //
};
use crate::{
    abstractions::{
        clocksource,
        clocksource::VdsoClockMode,
        trace,
        tsc::rdtsc_ordered, //
    },
    backend::Backend,
    clock::Clock,
    logic::{
        elapsed::{
            passed,
            Anchor,
            Fit,
            Line, //
        },
        frequency::Frequency,
        options::Mode,
        page::Params,
        word::Word, //
    },
};
use kernel::prelude::*;

/// How often the counter is read where there is no page.
const FIT_READINGS: u32 = 6;

impl<B: Backend> Control<B> {
    /// Enters mode `tsc`, at the frequency and by the version of the page that were looked at.
    pub(super) fn enter(&self, state: &mut State<ParamsOf<B>>) -> Result {
        let frequency = state.frequency.ok_or(EINVAL)?;
        if !self.has_page() {
            // Once for nothing: the first readings take longer, and the readers would wait.
            let _ = self.fit(frequency);
        }
        let resumed = self.clock.resumed.load();
        let mut entered = None;
        let around = self.clocksource.update(
            Some(&Clock::readers(Mode::Tsc, VdsoClockMode::Tsc)),
            |bracket| {
                // A CPU may have come up since that was looked at, or is being moved.
                if self.tscs.is_moving() || self.tscs.out_of_step().is_some() {
                    return Err(EAGAIN);
                }
                bracket.set_tsc_frequency(frequency)?;
                let (line, tsc) = if self.has_page() {
                    let sample = self
                        .sample()
                        .filter(|sample| u64::from(sample.version) == state.version)
                        .ok_or(EAGAIN)?;
                    (Line::Page(sample.params), sample.tsc)
                } else {
                    self.fit(frequency).ok_or(EIO)?
                };
                let anchor = Anchor { line, ahead: 0 };
                let new = anchor.instant(tsc);
                let old = self.instant(state, bracket.cycles()).unwrap_or(new);
                let passed = passed(old, new);
                entered = Some((anchor, passed));
                Ok(Some(clocksource::Elapsed {
                    cycles: tsc,
                    time: passed.elapsed,
                }))
            },
        )?;
        let (anchor, passed) = entered.ok_or(EINVAL)?;
        let ahead = state.ahead();
        state.statistics.count(&passed, ahead, around.cycles());
        state.anchor = Some(Anchor {
            ahead: passed.ahead,
            ..anchor
        });
        state.mode = Mode::Tsc;
        state.vdso = VdsoClockMode::Tsc;
        state.resumed = resumed;
        state.is_unverified = false;
        state.page_missed = None;
        state.next_slow = self.now() + SLOW_POLL_US;
        Ok(())
    }

    /// Goes to mode `page` or `msr`; the page was found good, or not.
    pub(super) fn leave(
        &self,
        state: &mut State<ParamsOf<B>>,
        mode: Mode,
        vdso: VdsoClockMode,
        is_good: bool,
    ) -> Result {
        // What the clock went by: a page that is none now is replaced by it.
        let known = match &state.anchor {
            Some(Anchor {
                line: Line::Page(params),
                ..
            }) if mode == Mode::Page && state.version != NO_VERSION => {
                Some((state.version as u32, params, is_good))
            }
            _ => None,
        };
        let mut left = None;
        let around = self
            .clocksource
            .update(Some(&Clock::readers(mode, vdso)), |bracket| {
                if self.reads_tsc(mode) && !self.reads_tsc(state.mode) && self.tscs.is_moving() {
                    return Err(EAGAIN);
                }
                bracket.set_frequency(1, B::COUNT_HZ)?;
                let count = if state.mode == mode {
                    // For user space alone.
                    self.clock.read(mode).count
                } else {
                    self.clock.read_anew(mode, known).count
                };
                let new = ParamsOf::<B>::instant_of(count);
                let old = self.instant(state, bracket.cycles()).unwrap_or(new);
                let passed = passed(old, new);
                left = Some(passed);
                Ok(Some(clocksource::Elapsed {
                    cycles: count,
                    time: passed.elapsed,
                }))
            })?;
        if let Some(passed) = left {
            let ahead = state.ahead();
            state.statistics.count(&passed, ahead, around.cycles());
            state.ahead = passed.ahead;
        }
        state.anchor = None;
        state.frequency = None;
        state.mode = mode;
        state.vdso = vdso;
        Ok(())
    }

    /// In mode `tsc`, with the page that was found good: makes good at once what the clock is off
    /// by since a change for which there was no page.
    pub(super) fn correct(&self, state: &mut State<ParamsOf<B>>) -> Result {
        let ahead = state.ahead();
        let mut corrected = None;
        trace::update_begin(Mode::Tsc, Mode::Tsc);
        let result = self.clocksource.update(None, |bracket| {
            let sample = self
                .sample()
                .filter(|sample| u64::from(sample.version) == state.version)
                .ok_or(EAGAIN)?;
            let expected = state.frequency.ok_or(EINVAL)?;
            let frequency = sample.params.refine(expected).map_err(|_| EAGAIN)?;
            bracket.set_tsc_frequency(frequency)?;
            let new = sample.params.instant(sample.tsc);
            let old = self.instant(state, bracket.cycles()).unwrap_or(new);
            let passed = passed(old, new);
            corrected = Some((sample.params, frequency, passed));
            Ok(Some(clocksource::Elapsed {
                cycles: sample.tsc,
                time: passed.elapsed,
            }))
        });
        if let (Some((params, frequency, passed)), Ok(around)) = (corrected, result) {
            state.statistics.count(&passed, ahead, around.cycles());
            state.frequency = Some(frequency);
            state.anchor = Some(Anchor {
                line: Line::Page(params),
                ahead: passed.ahead,
            });
        }
        let result = result.map(|_| ());
        trace::update_end(
            Mode::Tsc,
            result,
            state.statistics.last_ns,
            state.statistics.correction_ns,
        );
        result
    }

    /// The reference by its counter, at a TSC of now.
    pub(super) fn fit(&self, frequency: Frequency) -> Option<(Line<ParamsOf<B>>, u64)> {
        let backend = &self.clock.backend;
        if !backend.second_is_reference() {
            return None;
        }
        let mut fit = Fit::new(B::STEP, frequency);
        let mut before = rdtsc_ordered();
        for _ in 0..FIT_READINGS {
            let at = ParamsOf::<B>::instant_of(backend.second()?.count);
            let after = rdtsc_ordered();
            fit.add(before, at, after);
            before = after;
        }
        Some((Line::Point(fit.point()?), before))
    }
}
