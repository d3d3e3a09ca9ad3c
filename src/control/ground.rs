// SPDX-License-Identifier: GPL-2.0

//! What mode `tsc` stands on: the host's page and its counter, its word, and what the kernel knows.

use super::{
    Control,
    ParamsOf,
    State,
    NO_VERSION,
    SLOW_POLL_US, //
};
use crate::{
    abstractions::{
        cpu,
        reenlightenment,
        tsc,
        tsc::rdtsc_ordered, //
    },
    backend::Backend,
    hotplug::OutOfStep,
    logic::{
        elapsed::{
            Anchor,
            Span,
            NS, //
        },
        frequency::{
            Frequency,
            Refused, //
        },
        mode::{
            Ground,
            Guarantee,
            NoGuarantee,
            Page as PageState, //
        },
        options::Mode,
        page::{
            sample,
            Page,
            Params,
            Sample, //
        },
        reader::{
            is_plausible,
            PLAUSIBLE_US, //
        },
        tsc_adjust::HostsWord,
        word::Word, //
    },
};
use kernel::time::{
    delay::fsleep,
    Delta,
    Monotonic, //
};

/// How often a page is looked at, with a pause in between.
const TRIES: u32 = 16;

/// How often the page is compared with the counter where that tells nothing.
const COMPARE_TRIES: u32 = 4;

/// How long a page that is being rewritten is waited for: 1 ms, by the clock, or 20 times 50 us,
/// should the clock stand still. On a busy machine one time may take some ms.
const SETTLE_TRIES: u32 = 20;
const SETTLE_US: i64 = 50;
const SETTLED_US: i64 = SETTLE_TRIES as i64 * SETTLE_US;

/// How long a page that is not there after a change of the TSC is not taken for withdrawn, in us: a
/// busy host may take some ms to write it. Less than [`super::POLL_MS`], so the next poll decides.
const LATE_US: u64 = 15_000;

/// By how much a frequency may change with a page that was rewritten and means the same TSC: in
/// parts of it, 1 ppm. Hosts round when they compute a page.
const SAME_FREQUENCY: u64 = 1_000_000;

/// By how much the time may.
const SAME_TIME: Span = PLAUSIBLE_US as i128 * 1000 * NS;

/// Whether a page may be one of the TSC that was read beside it. The readers of mode `page` cope
/// with a page that is of a later TSC than a CPU's, as CPUs' TSCs may be apart; where they are not,
/// no page is, and user space, which takes the difference for a positive one, would be centuries off.
fn can_be_tsc<P: Params>(sample: &Sample<P>) -> bool {
    sample.params.validate_at(sample.tsc).is_ok() && !sample.params.is_before(sample.tsc)
}

impl<B: Backend> Control<B> {
    /// Looks at the page, for a moment.
    pub(super) fn sample(&self) -> Option<Sample<ParamsOf<B>>> {
        for _ in 0..TRIES {
            if let Ok(sample) = sample(self.page(), rdtsc_ordered) {
                return Some(sample);
            }
            cpu::relax();
        }
        None
    }

    /// As [`Control::sample`], for longer than a host takes to rewrite the page.
    ///
    /// Context: may sleep.
    fn sample_patiently(&self) -> Option<Sample<ParamsOf<B>>> {
        let begin = kernel::time::Instant::<Monotonic>::now();
        for _ in 0..SETTLE_TRIES {
            let sample = self.sample();
            if sample.is_some() || begin.elapsed() >= Delta::from_micros(SETTLED_US) {
                return sample;
            }
            fsleep(Delta::from_micros(SETTLE_US));
        }
        None
    }

    /// Whether a page agrees with the counter, where there is one; `None` if that was not to be told,
    /// since the page was rewritten meanwhile, or the CPU was taken away.
    pub(super) fn agrees(&self, sample: &Sample<ParamsOf<B>>) -> Option<bool> {
        let backend = &self.clock.backend;
        if !backend.second_is_reference() {
            return Some(true);
        }
        let mut sample = *sample;
        for _ in 0..COMPARE_TRIES {
            let compared = is_plausible(&sample, || backend.second(), rdtsc_ordered);
            // A counter that was read after the page was rewritten says nothing of it.
            let newer = self::sample(self.page(), rdtsc_ordered).ok()?;
            if newer.version != sample.version {
                return None;
            }
            if compared.is_some() {
                return compared;
            }
            // Too much time has passed since that TSC was read.
            sample = newer;
        }
        None
    }

    /// What the host says of the TSC, by a look at its page.
    pub(super) fn word(&self, guarantee: Result<Guarantee, NoGuarantee>) -> HostsWord {
        if guarantee != Ok(Guarantee::Invariant) {
            return HostsWord::None;
        }
        let is_given = !self.has_page()
            || self
                .sample()
                .is_some_and(|sample| self.clock.trusts(&sample.params));
        if is_given {
            HostsWord::Given
        } else {
            HostsWord::Withdrawn
        }
    }

    /// Looks at all that mode `tsc` stands on.
    pub(super) fn look(&self, state: &mut State<ParamsOf<B>>, now: u64) -> Ground {
        let mut ground = Ground {
            guarantee: state.guarantee,
            page: PageState::None,
            is_stable: true,
            is_unstable_to_kernel: tsc::is_unstable(),
            is_synchronized: true,
            is_apart: false,
            frequency: Ok(()),
            is_suspended: state.is_suspended,
        };
        if ground.guarantee.is_err() {
            return ground;
        }
        if now >= state.next_slow {
            state.next_slow = now + SLOW_POLL_US;
            // A notification that was lost is found by that, in any mode: without a page, which the
            // host may hold back until the change is acknowledged, nothing else asks.
            self.is_pending(state);
        }
        if !state.machine.wants_tsc() {
            self.tscs.hear(self.word(ground.guarantee));
            return ground;
        }
        if state.mode == Mode::Tsc {
            self.look_again(state, now, &mut ground);
        } else {
            self.look_first(state, &mut ground);
        }
        let word = match (ground.guarantee, ground.page) {
            (Ok(Guarantee::Invariant), PageState::Good | PageState::None) if ground.is_stable => {
                Some(HostsWord::Given)
            }
            // Looked at once more before anything comes of it.
            (Ok(Guarantee::Invariant), PageState::Unknown) => None,
            (Ok(Guarantee::Invariant), _) => Some(HostsWord::Withdrawn),
            _ => Some(HostsWord::None),
        };
        if let Some(word) = word {
            self.tscs.hear(word);
        }
        let found = self.tscs.out_of_step();
        ground.is_apart = found.as_ref().is_some_and(OutOfStep::is_apart);
        // Where the host's word is gone that is the reason, and not that nobody has looked.
        ground.is_synchronized =
            word == Some(HostsWord::Withdrawn) && !ground.is_apart || found.is_none();
        ground
    }

    /// Looks from mode `page` or `msr`, and notes what mode `tsc` will begin with.
    fn look_first(&self, state: &mut State<ParamsOf<B>>, ground: &mut Ground) {
        state.frequency = None;
        state.version = NO_VERSION;
        let frequency = if self.has_page() {
            let Some(sample) = self.sample() else {
                ground.page = PageState::Withdrawn;
                return;
            };
            if !can_be_tsc(&sample) {
                ground.page = PageState::Implausible;
                return;
            }
            ground.page = match self.agrees(&sample) {
                Some(true) => PageState::Good,
                Some(false) => PageState::Implausible,
                None => PageState::Unknown,
            };
            ground.is_stable = self.clock.trusts(&sample.params);
            state.version = u64::from(sample.version);
            Frequency::checked(sample.params.frequency(), self.told(state))
        } else {
            self.told(state).unwrap_or(Err(Refused::Unknown))
        };
        match frequency {
            Ok(frequency) => state.frequency = Some(frequency),
            Err(refused) => ground.frequency = Err(refused),
        }
    }

    /// Looks from mode `tsc`: whether what it was entered on is still there.
    fn look_again(&self, state: &mut State<ParamsOf<B>>, now: u64, ground: &mut Ground) {
        if self.clock.resumed.load() != state.resumed {
            // It has slept, and nobody has said so before.
            ground.page = PageState::Changed;
            return;
        }
        if !self.has_page() {
            return;
        }
        ground.page = PageState::Good;
        if !state.is_unverified && u64::from(self.page().version()) == state.version {
            return;
        }
        let page = match self.sample_patiently() {
            None if state.is_unverified
                && now.saturating_sub(*state.page_missed.get_or_insert(now)) < LATE_US =>
            {
                return;
            }
            None => PageState::Withdrawn,
            Some(sample) => match self.compare(state, &sample) {
                // The next look tells.
                Ok(None) => return,
                Ok(Some(anchor)) => {
                    ground.is_stable = self.clock.trusts(&sample.params);
                    if state.is_unverified {
                        ground.frequency =
                            Frequency::checked(sample.params.frequency(), self.told(state))
                                .map(|_| ());
                    }
                    state.anchor = Some(anchor);
                    state.version = u64::from(sample.version);
                    state.is_unverified = false;
                    state.page_missed = None;
                    return;
                }
                Err(page) => page,
            },
        };
        // While a change waits for this guest, the page may be anything: the TSC is emulated, and
        // is what it was.
        if !self.is_pending(state) {
            ground.page = page;
        }
    }

    /// What the host says of the TSC's frequency beside its page; `None` where it does not, and while a
    /// change waits, since then that is the frequency of the TSC that is to come.
    ///
    /// Whether one waits is asked behind it. One that comes only then is not in it, and one that was
    /// there is still: to be acknowledged it waits for the mutex that is held here.
    fn told(&self, state: &State<ParamsOf<B>>) -> Option<Result<Frequency, Refused>> {
        let told = self.clock.backend.frequency();
        told.filter(|_| !self.is_pending(state))
    }

    /// Whether a change of the TSC waits for the acknowledgement.
    fn is_pending(&self, state: &State<ParamsOf<B>>) -> bool {
        state.guarantee == Ok(Guarantee::Reenlightenment) && reenlightenment::is_pending()
    }

    /// What a page that was rewritten makes of the anchor, if it still means the same TSC; `None` if
    /// it could not be compared with the counter.
    fn compare(
        &self,
        state: &State<ParamsOf<B>>,
        sample: &Sample<ParamsOf<B>>,
    ) -> Result<Option<Anchor<ParamsOf<B>>>, PageState> {
        if !can_be_tsc(sample) {
            return Err(PageState::Implausible);
        }
        let (Some(anchor), Some(frequency)) = (state.anchor, state.frequency) else {
            return Err(PageState::Changed);
        };
        let is_same = sample
            .params
            .frequency()
            .is_ok_and(|now| now.hz().abs_diff(frequency.hz()) <= frequency.hz() / SAME_FREQUENCY);
        let moved = anchor.moved(sample.params, sample.tsc);
        if !is_same || (moved.ahead - anchor.ahead).abs() > SAME_TIME {
            return Err(PageState::Changed);
        }
        if state.is_unverified {
            return match self.agrees(sample) {
                Some(true) => Ok(Some(moved)),
                Some(false) => Err(PageState::Implausible),
                None => Ok(None),
            };
        }
        Ok(Some(moved))
    }
}
