// SPDX-License-Identifier: GPL-2.0

//! The host changes the TSC, and mode `tsc` follows, in one update of the clocksource.

use super::{
    Control,
    ParamsOf,
    Poll,
    State,
    Watched,
    NO_VERSION, //
};
use crate::{
    abstractions::{
        clocksource,
        clocksource::Bracket,
        reenlightenment,
        reenlightenment::Change,
        trace,
        tsc::rdtsc_ordered, //
    },
    backend::Backend,
    logic::{
        elapsed::{
            passed,
            Anchor,
            Fit,
            Instant,
            Line,
            Passed, //
        },
        frequency::{
            Frequency,
            Refused, //
        },
        mode::Why,
        options::Mode,
        page::{
            Page,
            Params,
            Sample, //
        }, //
    },
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// When to look after a change of the TSC, in ms: as a rule it takes a host less to have the page
/// valid again.
const SETTLE_MS: u32 = 2;

/// A second by the time for which the readers are kept waiting for a page: 100 us.
const PER_SECOND_AWAITED: u64 = 10_000;

/// What a change of the TSC led to.
struct Changed<P> {
    anchor: Anchor<P>,
    frequency: Frequency,
    version: u64,
    tsc: u64,
    passed: Passed,
    is_blind: bool,
}

/// Follows when the host changes the TSC.
pub(crate) struct Follower<B: Backend> {
    pub(crate) control: Arc<Control<B>>,
    pub(crate) poll: Arc<Poll<B>>,
}

impl<B: Backend> reenlightenment::Handler for Follower<B> {
    fn change(&self, change: &Change<'_>) -> Result {
        {
            let mut state = self.control.state.lock();
            if state.mode != Mode::Tsc {
                // The page takes care of itself. Under the mutex: nobody enters mode `tsc`
                // meanwhile with what is about to become the old TSC.
                return self.control.acknowledge(change);
            }
            match self.control.change_tsc(&mut state, change) {
                // The clocksource was unbound: nobody reads it, and nobody is to wait for it.
                Err(error) if error == EINVAL => return self.control.acknowledge(change),
                result => result?,
            }
        }
        // What the readers go on with can be looked at when the page is there again. Not here:
        // what else follows the TSC, timers for one, waits for the return.
        self.poll.begin(SETTLE_MS);
        Ok(())
    }
}

impl<B: Backend> Control<B> {
    /// Lets the TSC change, and tells those who compare TSCs.
    ///
    /// Context: the mutex is held.
    fn acknowledge(&self, change: &Change<'_>) -> Result {
        self.tscs.changing(|| change.acknowledge())
    }

    /// The TSC is about to change, in mode `tsc`.
    fn change_tsc(&self, state: &mut State<ParamsOf<B>>, change: &Change<'_>) -> Result {
        self.catch_up(state);
        // It was that of the old TSC.
        state.page_good = None;
        // A frequency that nobody can follow: the page does not need it.
        let Ok(expected) = Frequency::new(change.tsc_hz()) else {
            let base = self.clock.backend.mode();
            let why = Why::Frequency(Refused::OutOfRange);
            let vdso = self.vdso_of(base, Watched::Doubted);
            self.leave(state, base, vdso, true)?;
            state.why = why;
            self.clock.set_mode(state.mode);
            state.machine.failed();
            return self.acknowledge(change);
        };
        let ahead = state.ahead();
        let mut acknowledged = (0, 0);
        let mut changed = None;
        trace::update_begin(Mode::Tsc, Mode::Tsc);
        let result = self.clocksource.update(None, |bracket| {
            let old = self.instant(state, bracket.cycles());
            let version = self.page().version();
            acknowledged.0 = rdtsc_ordered();
            self.acknowledge(change)?;
            acknowledged.1 = rdtsc_ordered();
            let after = self.after(bracket, old, version, expected);
            changed = Some(after);
            Ok(changed.as_ref().map(|changed| clocksource::Elapsed {
                cycles: changed.tsc,
                time: changed.passed.elapsed,
            }))
        });
        let (Some(changed), Ok(around)) = (changed, result) else {
            let result = result.map(|_| ());
            state.statistics.failed += 1;
            trace::update_end(Mode::Tsc, result, 0, 0);
            return result;
        };
        // Each at the frequency of then; how long the host took is in neither.
        let cycles = acknowledged
            .0
            .wrapping_sub(around.before)
            .wrapping_add(around.after.wrapping_sub(acknowledged.1));
        state.statistics.count(&changed.passed, ahead, cycles);
        trace::acknowledge(acknowledged.0, acknowledged.1, changed.frequency.hz());
        trace::update_end(
            Mode::Tsc,
            Ok(()),
            state.statistics.last_ns,
            state.statistics.correction_ns,
        );
        state.statistics.migrations += 1;
        if changed.is_blind {
            state.statistics.blind += 1;
        } else if matches!(changed.anchor.line, Line::Point(_)) {
            state.statistics.by_counter += 1;
        }
        state.anchor = Some(changed.anchor);
        state.frequency = Some(changed.frequency);
        state.version = changed.version;
        state.is_unverified = true;
        if state.version != NO_VERSION {
            state.page_missed = None;
        }
        state.next_slow = 0;
        Ok(())
    }

    /// The TSC has changed, the readers wait: what is it now?
    fn after(
        &self,
        bracket: &mut Bracket<'_>,
        old: Option<Instant>,
        version: u32,
        expected: Frequency,
    ) -> Changed<ParamsOf<B>> {
        let mut found = None;
        if self.has_page() {
            if let Some(sample) = self.sample_until(expected) {
                // A page that was not touched is none of the new TSC, unless that is the old one.
                if sample.params.validate_at(sample.tsc).is_ok()
                    && (sample.version != version || self.agrees(&sample) == Some(true))
                {
                    // Where they disagree a second change may have come on top of this one.
                    let frequency = sample
                        .params
                        .refine(expected)
                        .or_else(|_| sample.params.frequency());
                    if let Ok(frequency) = frequency {
                        found = Some((
                            Line::Page(sample.params),
                            sample.tsc,
                            frequency,
                            u64::from(sample.version),
                        ));
                    }
                }
            }
        }
        let mut is_blind = false;
        let (line, tsc, frequency, version) = found
            .or_else(|| {
                // What was expected is out of date where a second change came before this one was
                // acknowledged. The page would tell.
                let frequency = match self.clock.backend.frequency() {
                    Some(Ok(frequency)) => frequency,
                    _ => expected,
                };
                self.fit(frequency)
                    .map(|(line, tsc)| (line, tsc, frequency, NO_VERSION))
            })
            .unwrap_or_else(|| {
                // Nothing is left but to go on from where the clock stood.
                is_blind = true;
                let tsc = rdtsc_ordered();
                let mut fit = Fit::new(0, expected);
                fit.add(tsc, old.unwrap_or(Instant::new(0)), tsc);
                let line = fit.point().map_or_else(
                    || Line::Page(ParamsOf::<B>::from_words([0; 3])),
                    Line::Point,
                );
                (line, tsc, expected, NO_VERSION)
            });
        // One that it cannot have is not among those that are believed.
        let _ = bracket.set_tsc_frequency(frequency);
        let anchor = Anchor { line, ahead: 0 };
        let new = anchor.instant(tsc);
        let passed = passed(old.unwrap_or(new), new);
        Changed {
            anchor: Anchor {
                ahead: passed.ahead,
                ..anchor
            },
            frequency,
            version,
            tsc,
            passed,
            is_blind,
        }
    }

    /// As [`Control::sample`], while the readers wait: as long as a host takes that rewrites the
    /// page right away, since it is known better from the page what the time is than by the
    /// counter. `frequency` is that of the TSC.
    fn sample_until(&self, frequency: Frequency) -> Option<Sample<ParamsOf<B>>> {
        let begin = rdtsc_ordered();
        let cycles = frequency.hz() / PER_SECOND_AWAITED;
        loop {
            let sample = self.sample();
            if sample.is_some() || rdtsc_ordered().wrapping_sub(begin) > cycles {
                return sample;
            }
        }
    }
}
