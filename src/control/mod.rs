// SPDX-License-Identifier: GPL-2.0

//! In which mode the clock is, and how it gets from one to another.
//!
//! [`crate::logic::mode`] decides; here is what it decides on ([`ground`]), and how that comes about
//! ([`update`]). Every change is one [`clocksource::Registration::update`]: the readers are stopped,
//! and go on by another counter at the time at which they stood, and what has passed since on the
//! host's own clock.
//!
//! Four ask for it, in tasks of their own, one after the other by a mutex:
//!
//! - the host, that wants to change the TSC ([`tsc_change`]): at once;
//! - the poll, that looks whether the host still means what it said ([`periodic::Task`]): each
//!   [`POLL_MS`]. It reads a page in memory, and leaves the guest only once a second, or where there is
//!   something to be asked;
//! - the administrator, by the parameter `mode` ([`param::Handler`]);
//! - the system, that is about to sleep ([`pm::Handler`]): what the TSC does meanwhile is unknown, so
//!   mode `tsc` is left before and entered again after.

mod ground;
mod statistics;
mod tsc_change;
mod update;

pub(crate) use statistics::Statistics;
pub(crate) use tsc_change::Follower;

use crate::{
    abstractions::{
        clocksource,
        clocksource::VdsoClockMode,
        param,
        periodic,
        periodic::Periodic,
        pm,
        trace, //
    },
    backend::Backend,
    clock::Clock,
    hotplug::Tscs,
    logic::{
        elapsed::{
            Anchor,
            Instant,
            Line,
            Span,
            NS, //
        },
        frequency::Frequency,
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
            Page,
            Params, //
        },
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
    time::Monotonic, //
};
use statistics::whole_ns;

/// How often the ground of mode `tsc` is looked at. What the workqueue takes on top is left of
/// the 100 ms by which mode `tsc` has to be left.
const POLL_MS: u32 = 25;

/// The same where there is nothing to leave. Each look may cost some exits.
const IDLE_POLL_MS: u32 = 50;

/// How often is asked, in any mode, what costs an exit, in us.
const SLOW_POLL_US: u64 = 1_000_000;

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
    /// Since when it has not been there at any look after a change, in us.
    page_missed: Option<u64>,
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
                    page_missed: None,
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
}

/// What looks whether the host still means what it said.
pub(crate) type Poll<B> = Periodic<Arc<Control<B>>>;

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
