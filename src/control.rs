// SPDX-License-Identifier: GPL-2.0

//! In which mode the clock is, and how it gets from one to another.
//!
//! [`logic::mode`] decides; here is what it decides on, and how that comes about. Every change is one
//! [`clocksource::Registration::update`]: the readers are stopped, and go on by another counter at
//! the time at which they stood, and what has passed since on the host's own clock.
//!
//! Four ask for it, in tasks of their own, one after the other by a mutex:
//!
//! - the host, that wants to change the TSC ([`reenlightenment::Handler`]): at once;
//! - the poll, that looks whether the host still means what it said ([`periodic::Task`]): each
//!   [`POLL_MS`]. It reads a page in memory, and leaves the guest only once a second, or where there is
//!   something to be asked;
//! - the administrator, by the parameter `mode` ([`param::Handler`]);
//! - the system, that is about to sleep ([`pm::Handler`]): what the TSC does meanwhile is unknown, so
//!   mode `tsc` is left before and entered again after.

use crate::{
    abstractions::{
        clocksource,
        clocksource::{
            Bracket,
            VdsoClockMode, //
        },
        cpu,
        param,
        periodic,
        periodic::Periodic,
        pm,
        reenlightenment,
        reenlightenment::Change,
        trace,
        tsc,
        tsc::rdtsc_ordered, //
    },
    backend::Backend,
    clock::Clock,
    hotplug::{
        OutOfStep,
        Tscs, //
    },
    logic::{
        elapsed::{
            passed,
            Anchor,
            Fit,
            Instant,
            Line,
            Passed,
            Span,
            Verdict,
            NS, //
        },
        frequency::{
            Frequency,
            Refused, //
        },
        mode::{
            Ground,
            Guarantee,
            Machine,
            NoGuarantee,
            Page as PageState,
            Why, //
        },
        options::{
            Mode,
            ModeOption, //
        },
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
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
    time::{
        delay::fsleep,
        Delta,
        Monotonic, //
    },
};

/// How often the ground of mode `tsc` is looked at. What the workqueue takes on top is left of
/// the 100 ms by which mode `tsc` has to be left.
const POLL_MS: u32 = 25;

/// The same where there is nothing to leave. Each look may cost some exits.
const IDLE_POLL_MS: u32 = 50;

/// When to look after a change of the TSC, in ms: it takes a host less to have the page valid again.
const SETTLE_MS: u32 = 2;

/// How often what costs an exit is looked at, in us.
const SLOW_POLL_US: u64 = 1_000_000;

/// How often a page is looked at, with a pause in between.
const TRIES: u32 = 16;

/// How often the page is compared with the counter where that tells nothing.
const COMPARE_TRIES: u32 = 4;

/// A second by the time for which the readers are kept waiting for a page: 100 us.
const PER_SECOND_AWAITED: u64 = 10_000;

/// How often the counter is read where there is no page.
const FIT_READINGS: u32 = 6;

/// How long a page that is being rewritten is waited for: 1 ms, by the clock, or 20 times 50 us,
/// should the clock stand still. On a busy machine one time may take some ms.
const SETTLE_TRIES: u32 = 20;
const SETTLE_US: i64 = 50;
const SETTLED_US: i64 = SETTLE_TRIES as i64 * SETTLE_US;

/// By how much a frequency may change with a page that was rewritten and means the same TSC: in
/// parts of it, 1 ppm. Hosts round when they compute a page.
const SAME_FREQUENCY: u64 = 1_000_000;

/// By how much the time may.
const SAME_TIME: Span = PLAUSIBLE_US as i128 * 1000 * NS;

/// How far the clock may be off its reference before that is made good: 100 ns, what a host's page is
/// off by itself. What the clock is ahead it stands still for, so each time by no more than the
/// update takes.
const CORRECTED: Span = 100 * NS;

/// No version of a page.
const NO_VERSION: u64 = u64::MAX;

type ParamsOf<B> = <<B as Backend>::Page as Page>::Params;

/// The clock with its clocksource, and all that decides on its mode.
#[pin_data]
pub(crate) struct Control<B: Backend> {
    pub(crate) clock: Arc<Clock<B>>,
    /// Whether the TSCs of all CPUs are in step.
    pub(crate) tscs: Arc<Tscs<B>>,
    /// How user space reads the page.
    page_vdso: VdsoClockMode,
    epoch: kernel::time::Instant<Monotonic>,
    #[pin]
    state: Mutex<State<ParamsOf<B>>>,
    #[pin]
    clocksource: clocksource::Registration<Arc<Clock<B>>>,
}

/// What changes.
struct State<P> {
    machine: Machine,
    /// What the host guarantees.
    guarantee: Result<Guarantee, NoGuarantee>,
    mode: Mode,
    why: Why,
    /// How user space reads the clock.
    vdso: VdsoClockMode,
    /// In mode `tsc`: by what the clock's time follows from the TSC; `None` if that is not known.
    anchor: Option<Anchor<P>>,
    /// In the others: by how much the clock is ahead of what is read.
    ahead: Span,
    /// How often the clock had become the current one when that was found.
    enabled: u64,
    /// In mode `tsc`: the TSC's frequency.
    frequency: Option<Frequency>,
    /// In mode `tsc`: the page's version when it was found good last.
    version: u64,
    /// In mode `tsc`: whether the page is still to be compared with the counter.
    is_unverified: bool,
    /// Since when the page has been good at each look, in us.
    page_good: Option<u64>,
    /// How often timekeeping had been resumed by then.
    page_resumed: u64,
    /// When to look next at what costs an exit.
    next_slow: u64,
    is_suspended: bool,
    /// How often timekeeping had been resumed when the anchor was made.
    resumed: u64,
    statistics: Statistics,
}

/// What the page is worth to user space.
enum Watched {
    /// It has been good for long enough.
    Trusted,
    /// It is not, or has not.
    Doubted,
    /// Nobody looks at it.
    Not,
}

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

/// What the status file says of it.
pub(crate) struct Report {
    pub(crate) wanted: ModeOption,
    pub(crate) why: Why,
    pub(crate) frequency: Option<Frequency>,
    pub(crate) hold_us: u64,
    pub(crate) left: u64,
    pub(crate) ahead_ns: i64,
    pub(crate) statistics: Statistics,
}

impl<P> State<P> {
    /// By how much the clock is ahead of the reference.
    fn ahead(&self) -> Span {
        match self.mode {
            Mode::Tsc => self.anchor.as_ref().map_or(0, |anchor| anchor.ahead),
            Mode::Page | Mode::Msr => self.ahead,
        }
    }

    /// Whether mode `tsc` goes on by a point of the counter.
    fn has_point(&self) -> bool {
        matches!(
            self.anchor,
            Some(Anchor {
                line: Line::Point(_),
                ..
            })
        )
    }

    /// Notes since when the page is good, and the host vouches for it on all CPUs, and says what that
    /// is worth.
    fn watch(&mut self, ground: &Ground, now: u64) -> Watched {
        self.page_good = match ground.page {
            PageState::Good if ground.is_stable => self.page_good.or(Some(now)),
            // The next look tells.
            PageState::Unknown => self.page_good,
            _ => None,
        };
        if !self.machine.wants_tsc() || self.guarantee.is_err() {
            return Watched::Not;
        }
        let is_settled = self
            .page_good
            .is_some_and(|since| now.saturating_sub(since) >= self.machine.hold_us());
        if ground.page == PageState::Good && is_settled {
            Watched::Trusted
        } else {
            Watched::Doubted
        }
    }

    /// Owes nothing any more.
    fn forget(&mut self) {
        self.ahead = 0;
        if let Some(anchor) = &mut self.anchor {
            anchor.ahead = 0;
        }
    }
}

impl Statistics {
    /// Counts a change that has come about.
    fn count(&mut self, passed: &Passed, ahead_before: Span, cycles: u64) {
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
fn whole_ns(span: Span) -> i64 {
    (span >> 32) as i64
}

/// Whether a page may be one of the TSC that was read beside it. The readers of mode `page` cope
/// with a page that is of a later TSC than a CPU's, as CPUs' TSCs may be apart; where they are not,
/// no page is, and user space, which takes the difference for a positive one, would be centuries off.
fn can_be_tsc<P: Params>(sample: &Sample<P>) -> bool {
    sample.params.validate_at(sample.tsc).is_ok() && !sample.params.is_before(sample.tsc)
}

/// What a change of the TSC led to.
struct Changed<P> {
    anchor: Anchor<P>,
    frequency: Frequency,
    version: u64,
    tsc: u64,
    passed: Passed,
    is_blind: bool,
}

impl<B: Backend> Control<B> {
    /// Registers the clocksource, in the mode that it can always be in.
    ///
    /// # Errors
    ///
    /// Those of the registration.
    pub(crate) fn new(
        module: &'static ThisModule,
        clock: Arc<Clock<B>>,
        tscs: Arc<Tscs<B>>,
        page_vdso: VdsoClockMode,
        wanted: ModeOption,
    ) -> Result<Arc<Self>> {
        let of_clocksource = clock.clone();
        let config = clock.config(page_vdso);
        let base = clock.backend.mode();
        let apart = if clock.backend.second_is_reference() {
            Mode::Msr
        } else {
            base
        };
        Arc::pin_init(
            try_pin_init!(Self {
                clock,
                tscs,
                page_vdso,
                epoch: kernel::time::Instant::now(),
                state <- new_mutex!(State {
                    machine: Machine::new(base, apart, wanted),
                    guarantee: Err(NoGuarantee::NotOffered),
                    mode: base,
                    why: Why::Only,
                    vdso: if base == Mode::Page { *page_vdso } else { VdsoClockMode::None },
                    anchor: None,
                    ahead: 0,
                    enabled: 0,
                    frequency: None,
                    version: NO_VERSION,
                    is_unverified: false,
                    page_good: None,
                    page_resumed: 0,
                    next_slow: 0,
                    is_suspended: false,
                    resumed: 0,
                    statistics: Statistics::default(),
                }),
                clocksource <- clocksource::Registration::new(module, config, of_clocksource),
            }? Error),
            GFP_KERNEL,
        )
    }

    /// Learns whether reenlightenment is armed, and goes where that allows to go. Returns whether
    /// mode `tsc` can ever come about.
    pub(crate) fn start(&self, is_armed: bool) -> bool {
        let guarantee = self.clock.backend.guarantee(is_armed);
        // Without the mutex: it may take a while.
        self.tscs.begin(guarantee.ok(), self.word(guarantee));
        let mut state = self.state.lock();
        self.tscs.set_read(self.reads_tsc(state.mode));
        state.guarantee = guarantee;
        // What could not be done now the poll does.
        let _ = self.follow(&mut state);
        state.guarantee.is_ok()
    }

    /// Goes for good to a mode that needs nobody: before the others that act here are gone.
    pub(crate) fn stop(&self) {
        let mut state = self.state.lock();
        let base = self.clock.backend.mode();
        state.machine.want(base, ModeOption::Page);
        if self.follow(&mut state).is_err() {
            // It was unbound, so nobody reads it.
            pr_info!("left in mode {}\n", state.mode.name());
        }
    }

    /// How user space reads the clock.
    pub(crate) fn vdso(&self) -> VdsoClockMode {
        self.state.lock().vdso
    }

    /// How user space may read the clock in a mode.
    ///
    /// What the vDSO finds in a page that is not withdrawn it believes, and it has no clamp. So
    /// where pages are looked at all the time, one that is not good is kept from it, and so is one that
    /// has not been good for as long as mode `tsc` is held off for: between two looks it may be
    /// anything again.
    fn vdso_of(&self, mode: Mode, page: Watched) -> VdsoClockMode {
        match (mode, page) {
            (Mode::Tsc, _) => VdsoClockMode::Tsc,
            (Mode::Page, Watched::Trusted | Watched::Not) => self.page_vdso,
            (Mode::Page, Watched::Doubted) | (Mode::Msr, _) => VdsoClockMode::None,
        }
    }

    /// What is to be said of it.
    pub(crate) fn report(&self) -> Report {
        let state = self.state.lock();
        Report {
            wanted: state.machine.wanted(),
            why: state.why,
            frequency: state.frequency,
            hold_us: state.machine.hold_us(),
            left: state.machine.left(),
            ahead_ns: whole_ns(state.ahead()),
            statistics: state.statistics,
        }
    }

    /// The time for the mode machine, in us.
    fn now(&self) -> u64 {
        (self.epoch.elapsed().as_nanos() / 1000).max(0) as u64
    }

    fn page(&self) -> &'static B::Page {
        self.clock.backend.page0()
    }

    /// Whether there is a page at all.
    fn has_page(&self) -> bool {
        self.clock.backend.mode() == Mode::Page
    }

    /// Looks at the page, for a moment.
    fn sample(&self) -> Option<Sample<ParamsOf<B>>> {
        for _ in 0..TRIES {
            if let Ok(sample) = sample(self.page(), rdtsc_ordered) {
                return Some(sample);
            }
            cpu::relax();
        }
        None
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
    fn agrees(&self, sample: &Sample<ParamsOf<B>>) -> Option<bool> {
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
    fn word(&self, guarantee: Result<Guarantee, NoGuarantee>) -> HostsWord {
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
    fn look(&self, state: &mut State<ParamsOf<B>>, now: u64) -> Ground {
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
        let backend = &self.clock.backend;
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
            // While a change waits, the MSR is that of the TSC that is to come.
            let other = if self.is_pending(state) {
                None
            } else {
                backend.frequency()
            };
            Frequency::checked(sample.params.frequency(), other)
        } else {
            // Asked after it was read: what comes later waits for the mutex that is held here.
            let told = backend.frequency().unwrap_or(Err(Refused::Unknown));
            if self.is_pending(state) {
                Err(Refused::Unknown)
            } else {
                told
            }
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
        if now >= state.next_slow {
            state.next_slow = now + SLOW_POLL_US;
            // A notification that was lost is found by that.
            self.is_pending(state);
        }
        if !self.has_page() {
            return;
        }
        ground.page = PageState::Good;
        if !state.is_unverified && u64::from(self.page().version()) == state.version {
            return;
        }
        let page = match self.sample_patiently() {
            None => PageState::Withdrawn,
            Some(sample) => match self.compare(state, &sample) {
                // The next look tells.
                Ok(None) => return,
                Ok(Some(anchor)) => {
                    ground.is_stable = self.clock.trusts(&sample.params);
                    if state.is_unverified && !self.is_pending(state) {
                        ground.frequency = Frequency::checked(
                            sample.params.frequency(),
                            self.clock.backend.frequency(),
                        )
                        .map(|_| ());
                    }
                    state.anchor = Some(anchor);
                    state.version = u64::from(sample.version);
                    state.is_unverified = false;
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

    /// Drops what is known of the clock from before it became the current one, or slept. Comes
    /// before any look at what the clock goes by.
    fn catch_up(&self, state: &mut State<ParamsOf<B>>) {
        let resumed = self.clock.resumed.load();
        if state.page_resumed != resumed {
            // What the page was before the system slept says nothing of it.
            state.page_resumed = resumed;
            state.page_good = None;
        }
        let enabled = self.clock.enabled.load();
        if state.enabled != enabled {
            // It has become the current clock: the core begins anew with it.
            state.enabled = enabled;
            state.forget();
        }
        if state.mode == Mode::Tsc && self.clock.resumed.load() != state.resumed {
            // What the TSC did meanwhile is unknown.
            state.anchor = None;
        }
    }

    /// Looks, decides, and does what is decided.
    ///
    /// # Errors
    ///
    /// Those of the update; it is tried again by the poll.
    fn follow(&self, state: &mut State<ParamsOf<B>>) -> Result {
        let now = self.now();
        self.catch_up(state);
        let had_point = self.has_page() && state.has_point();
        let ground = self.look(state, now);
        let decision = state.machine.decide(&ground, now);
        let page = state.watch(&ground, now);
        let vdso = self.vdso_of(decision.mode, page);
        if decision.mode == state.mode && vdso == state.vdso {
            state.why = decision.why;
            self.tscs.set_read(self.reads_tsc(state.mode));
            let is_off = state.ahead().abs() > CORRECTED;
            if state.mode == Mode::Tsc && self.has_page() && !state.is_unverified {
                if had_point && !state.has_point() || is_off {
                    return self.correct(state);
                }
            }
            return Ok(());
        }
        let was = state.mode;
        // From here on nobody moves the TSC of a CPU that is up.
        if self.reads_tsc(decision.mode) {
            self.tscs.set_read(true);
        }
        trace::update_begin(was, decision.mode);
        let result = if decision.mode == Mode::Tsc {
            self.enter(state).inspect_err(|_| state.machine.failed())
        } else {
            // None where nobody has looked, because something else is wanted.
            let is_good = matches!(ground.page, PageState::Good | PageState::None);
            self.leave(state, decision.mode, vdso, is_good)
        };
        trace::update_end(
            state.mode,
            result,
            state.statistics.last_ns,
            state.statistics.correction_ns,
        );
        match result {
            Ok(()) => {
                state.why = decision.why;
                self.clock.set_mode(state.mode);
                pr_debug!(
                    "mode {} instead of {}: {}\n",
                    state.mode.name(),
                    was.name(),
                    state.why.reason()
                );
            }
            Err(_) => state.statistics.failed += 1,
        }
        self.tscs.set_read(self.reads_tsc(state.mode));
        result
    }

    /// Whether who reads the clock in a mode reads the TSC of the CPU on which he is, where there is
    /// another mode in which he does not. Without a counter it is mode `tsc` alone: a page of
    /// KVM's follows the TSC_ADJUST of its CPU.
    fn reads_tsc(&self, mode: Mode) -> bool {
        match mode {
            Mode::Tsc => true,
            Mode::Page => self.clock.backend.second_is_reference(),
            Mode::Msr => false,
        }
    }

    /// Where the clock stands at a count of the mode in which it is.
    fn instant(&self, state: &State<ParamsOf<B>>, count: u64) -> Option<Instant> {
        match state.mode {
            Mode::Tsc => state.anchor.as_ref().map(|anchor| anchor.instant(count)),
            Mode::Page | Mode::Msr => Some(ParamsOf::<B>::instant_of(count).plus(state.ahead)),
        }
    }

    /// Enters mode `tsc`, at the frequency and by the version of the page that were looked at.
    fn enter(&self, state: &mut State<ParamsOf<B>>) -> Result {
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
        state.next_slow = self.now() + SLOW_POLL_US;
        Ok(())
    }

    /// Goes to mode `page` or `msr`; the page was found good, or not.
    fn leave(
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

    /// The reference by its counter, at a TSC of now.
    fn fit(&self, frequency: Frequency) -> Option<(Line<ParamsOf<B>>, u64)> {
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

    /// In mode `tsc`, with the page that was found good: makes good at once what the clock is off
    /// by since a change for which there was no page.
    fn correct(&self, state: &mut State<ParamsOf<B>>) -> Result {
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
}

/// What looks whether the host still means what it said.
pub(crate) type Poll<B> = Periodic<Arc<Control<B>>>;

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

impl<B: Backend> periodic::Task for Arc<Control<B>> {
    const IS_LONG: bool = false;

    fn run(&self) -> u32 {
        let mut state = self.state.lock();
        // What fails is tried again.
        let _ = self.follow(&mut state);
        if state.mode == Mode::Tsc {
            POLL_MS
        } else {
            IDLE_POLL_MS
        }
    }
}

impl<B: Backend> pm::Handler for Arc<Control<B>> {
    fn prepare(&self) {
        let mut state = self.state.lock();
        state.is_suspended = true;
        if self.follow(&mut state).is_err() {
            pr_warn!("going to sleep in mode {}\n", state.mode.name());
        }
    }

    fn finish(&self) {
        // Without the mutex, and before the TSC is read alone again.
        self.tscs.resume();
        let mut state = self.state.lock();
        state.is_suspended = false;
        let _ = self.follow(&mut state);
    }
}

impl<B: Backend> param::Handler<ModeOption> for Arc<Control<B>> {
    fn set(&self, wanted: ModeOption) -> Result {
        let mut state = self.state.lock();
        let backend = &self.clock.backend;
        let missing = match wanted {
            ModeOption::Auto => None,
            ModeOption::Tsc => state
                .guarantee
                .err()
                .map(|none| Why::NoGuarantee(none).reason()),
            ModeOption::Page => {
                (!self.has_page()).then_some("it was loaded without a page; reload it")
            }
            ModeOption::Msr => (!backend.second_is_reference())
                .then_some("backend kvm has no counter; there are tsc and page"),
        };
        if let Some(missing) = missing {
            pr_err!("mode={}: not supported: {}\n", wanted.name(), missing);
            return Err(EOPNOTSUPP);
        }
        let base = match wanted {
            ModeOption::Msr => Mode::Msr,
            _ => backend.mode(),
        };
        let machine = state.machine;
        state.machine.want(base, wanted);
        match self.follow(&mut state) {
            // The host was at it at that moment. The poll tries again.
            Err(error) if error == EAGAIN => Ok(()),
            Err(error) => {
                pr_err!(
                    "mode={}: still in mode {}: error {}\n",
                    wanted.name(),
                    state.mode.name(),
                    error.to_errno()
                );
                state.machine = machine;
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }
}
