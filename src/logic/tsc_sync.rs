// SPDX-License-Identifier: GPL-2.0

//! The check whether the TSCs of two CPUs are in step.
//!
//! One CPU is starting, the other one, the *control* CPU, is up and known to be good. Both read
//! their TSC and put it into one word, over and over, for 2 or 20 ms, and each looks at what it
//! took out of the word: a TSC that was read earlier, on whichever CPU, is not to be ahead of the
//! one that was read later. How far it is, is the *warp*.
//!
//! It is `check_tsc_warp()` and what stands around it in the kernel's `arch/x86/kernel/tsc_sync.c`,
//! with these differences, all for virtual CPUs, which stand still whenever the host likes:
//!
//! - The last value is protected by the exchange that replaces it instead of a lock: the word is
//!   loaded, the TSC is read, and the sample counts only if the word still is what it was. So of
//!   any two samples that count, one was read behind the other's publication, as under a lock; but
//!   nobody holds anything, and a CPU that stands still halfway holds nobody up.
//! - All waits are bounded, by another clock where there is one and by a number of turns where
//!   there is none, or where it stands still as well. Two CPUs meet by one word, so a CPU that
//!   gives up and a CPU that comes late always agree on which of the two has happened.
//! - A TSC that does not go on is found by its not going on, not by ten million turns.
//! - The correction goes by what both have seen, not by the warp alone: see [`Measured::outcome`].
//! - To have seen no warp is a result only where each CPU has seen the other's values, and soon
//!   enough for a warp to be seen.
//!
//! # One run
//!
//! Both meet, both sample, both meet again, and both look at what either has seen: so both know
//! the same [`Measured`]. If the starting CPU wants another run it comes to the meeting again, else
//! it leaves, and the control CPU leaves as well.
//!
//! # Ordering
//!
//! The meetings are fully ordered exchanges of [`Check::state`]: what a CPU stored before it came,
//! the other one sees when it goes on. `tsc()` reads the TSC no earlier than the loads before it;
//! that it is not read later than the exchange of the sample follows from the data.

use super::{
    tsc_adjust::{
        Outcome,
        MAX_RUNS, //
    },
    word::Word, //
};

/// The CPU on which one side of the check runs.
///
/// Interrupts are off, or else a sample may be old when it gets into the word; that costs
/// precision and nothing more.
pub trait Env {
    /// Reads the TSC, no earlier than the loads before it (`rdtsc_ordered()`).
    fn tsc(&self) -> u64;

    /// Another clock, in us, if there is one that can be read on this CPU at this moment. It need
    /// not be the same one on both CPUs.
    fn us(&self) -> Option<u64>;

    /// Waits a little (`cpu_relax()`, and the watchdogs are told that it is meant so).
    fn relax(&self);
}

/// After how many readings of one and the same value a TSC stands still.
pub const STANDS_STILL: u32 = 1000;

/// How many samples are taken at most: some hundred times what a TSC of 1 GHz allows in 20 ms.
pub const MAX_SAMPLES: u32 = 10_000_000;

/// By how much longer the samples may take by the other clock than by the TSC.
const SLOW: u64 = 10;

/// How long one CPU waits for the other at most, in us. Virtual CPUs stand in a queue for theirs.
pub const WAIT_US: u64 = 500_000;

/// How many turns one CPU waits at most: a second or so, at some tens of ns a turn.
pub const WAIT_TURNS: u32 = 20_000_000;

/// The same of CPUs that are both up.
pub const WAIT_UP_US: u64 = 5_000;

/// The same of CPUs that are both up.
pub const WAIT_UP_TURNS: u32 = 200_000;

/// Within how many us the TSCs have to be certain to agree for a run to pass.
///
/// CPUs that run at once make that some hundred ns at most. Where a host runs one virtual CPU
/// after the other, a run may see them change over a few times only, and no warp that is less than
/// that takes. What passes may be apart by as much, and readers that are quicker than the check was
/// would see it; so a host on which the two hardly ever meet gets no result in place of a bad one.
pub const WITHIN_US: u64 = 2;

/// Every so many samples a CPU looks whether it is done, and waits a little. A power of 2.
const SAMPLES_TO_LOOK: u32 = 8;

/// Every so many samples or turns the other clock is read, which may take an exit from the guest. A
/// power of 2.
const TURNS_TO_CLOCK: u32 = 1024;

/// How long everything takes at most.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How long to sample, in cycles of the TSC.
    pub cycles: u64,
    /// How long to sample at most, in us of the other clock.
    pub us: u64,
    /// How many samples to take at most.
    pub samples: u32,
    /// How long to wait for the other CPU at most, in us of the other clock.
    pub wait_us: u64,
    /// How many turns to wait for it at most.
    pub wait_turns: u32,
    /// After how many samples to look whether it is over; a power of 2.
    pub look: u32,
    /// Within how many cycles the TSCs have to be certain to agree for a run to pass.
    pub within: u64,
}

impl Bounds {
    /// The bounds for so many ms of a TSC of so many kHz.
    pub const fn new(tsc_khz: u32, ms: u32) -> Self {
        Self {
            // At most 2^64 - 2^33 + 1.
            cycles: tsc_khz as u64 * ms as u64,
            us: ms as u64 * (1000 * SLOW),
            samples: MAX_SAMPLES,
            wait_us: WAIT_US,
            wait_turns: WAIT_TURNS,
            look: SAMPLES_TO_LOOK,
            within: tsc_khz as u64 * WITHIN_US / 1000,
        }
    }

    /// The same for two CPUs that were up before, and can be compared another time as well: one does
    /// not wait with interrupts disabled for a CPU that its host does not run.
    pub const fn impatient(self) -> Self {
        Self {
            wait_us: WAIT_UP_US,
            wait_turns: WAIT_UP_TURNS,
            ..self
        }
    }
}

/// Which of the two CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The one that is up.
    Control,
    /// The one that is starting.
    Starting,
}

impl Role {
    const fn other(self) -> Self {
        match self {
            Self::Control => Self::Starting,
            Self::Starting => Self::Control,
        }
    }

    /// The CPU waits at the meeting.
    const fn waits(self) -> u64 {
        1 << (8 + self as u64)
    }

    /// The CPU has come once at least.
    const fn came(self) -> u64 {
        1 << (10 + self as u64)
    }

    /// The CPU has left.
    const fn left(self) -> u64 {
        1 << (12 + self as u64)
    }
}

/// The number of meetings so far, in the lowest bits of the state.
const MEETINGS: u64 = 0xff;

/// There are no more meetings.
const CLOSED: u64 = 1 << 14;

/// From here on the number of the session.
const SESSION_SHIFT: u32 = 32;

/// A session of [`Check`]: one CPU that starts, with all runs for it. Both sides need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u32);

impl Ticket {
    /// The ticket as a number, for where it has to pass through a pointer's width.
    pub const fn to_number(self) -> u32 {
        self.0
    }

    /// The ticket back from its number.
    pub const fn from_number(number: u32) -> Self {
        Self(number)
    }

    const fn is_for(self, state: u64) -> bool {
        state >> SESSION_SHIFT == self.0 as u64
    }
}

/// A CPU has not left the check yet: it came to an earlier session, and its host does not run it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// What one CPU has seen in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// By how much an earlier value was ahead of a later one at most.
    pub warp: u64,
    /// The least time between a value of the other CPU's and the next one of this CPU's;
    /// `u64::MAX` if there was no such pair.
    pub closest: u64,
    /// How often a value followed one of the other CPU's.
    pub handovers: u32,
    /// Whether the CPU's own TSC went back.
    pub went_back: bool,
    /// Whether the CPU's own TSC does not go on.
    pub stands_still: bool,
}

/// What both CPUs have seen in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// The control CPU.
    pub control: Seen,
    /// The starting CPU.
    pub starting: Seen,
}

impl Measured {
    /// What it means.
    ///
    /// A CPU that is behind is the one that sees warps, since it looks at its own value when it is
    /// the later one.
    pub fn outcome(&self, bounds: &Bounds) -> Outcome {
        let (control, starting) = (&self.control, &self.starting);
        if control.stands_still || starting.stands_still {
            return Outcome::StandsStill;
        }
        let random = control.went_back || starting.went_back;
        match (control.warp, starting.warp) {
            (0, 0) if self.within() <= bounds.within => Outcome::Passed,
            (0, 0) => Outcome::Unseen,
            (ahead, 0) if !random => Outcome::Warped {
                correction: (distance(ahead, starting.closest, bounds) as i64).wrapping_neg(),
            },
            (0, behind) if !random => Outcome::Warped {
                correction: distance(behind, control.closest, bounds) as i64,
            },
            (a, b) => Outcome::WarpedRandomly { warp: a.max(b) },
        }
    }

    /// Within how many cycles the two TSCs are certain to agree where no warp was seen: a larger
    /// one would have been.
    pub fn within(&self) -> u64 {
        self.control.closest.saturating_add(self.starting.closest)
    }
}

/// How far two TSCs are apart of which one CPU has seen a warp and the other one was no closer than
/// that.
///
/// It is more than the warp, by the time that the word took to that CPU, and less than what the
/// other one saw, by the time to there. In the middle between the two only the difference of these
/// times is left, half of it, and the next run sees none. The kernel's check goes by the warp
/// alone: what is left then is just what could not be seen, and a run in which the word is quicker
/// sees it again. If the other one was not close, the middle is no better than that.
fn distance(warp: u64, closest: u64, bounds: &Bounds) -> u64 {
    let apart = closest.saturating_sub(warp);
    if apart <= bounds.within {
        warp + apart / 2
    } else {
        warp
    }
}

/// The words of one CPU: written by it while it samples, read by the other behind a meeting.
struct Words<W> {
    warp: W,
    closest: W,
    /// [`Seen::handovers`], and two flags.
    rest: W,
}

const WENT_BACK: u64 = 1 << 32;
const STILL: u64 = 1 << 33;

impl<W: Word> Words<W> {
    fn new(word: &impl Fn() -> W) -> Self {
        Self {
            warp: word(),
            closest: word(),
            rest: word(),
        }
    }

    fn store(&self, seen: &Seen) {
        self.warp.store(seen.warp);
        self.closest.store(seen.closest);
        let went_back = if seen.went_back { WENT_BACK } else { 0 };
        let still = if seen.stands_still { STILL } else { 0 };
        self.rest
            .store(u64::from(seen.handovers) | went_back | still);
    }

    fn load(&self) -> Seen {
        let rest = self.rest.load();
        Seen {
            warp: self.warp.load(),
            closest: self.closest.load(),
            handovers: rest as u32,
            went_back: rest & WENT_BACK != 0,
            stands_still: rest & STILL != 0,
        }
    }
}

/// The bit of a value in [`Check::last`] that says whose it is, in place of the TSC's lowest one.
///
/// The value itself does not say so: TSCs that are out of step by just the time from one CPU
/// to the other, give the same one on both.
const TAG: u64 = 1;

/// The check: one for all CPUs, of which one at a time is starting.
pub struct Check<W> {
    /// The session, the meetings, and who is there. All changes are exchanges.
    state: W,
    /// The TSC that was read last, on either CPU, with [`TAG`].
    last: W,
    /// By [`Role`].
    words: [Words<W>; 2],
}

impl<W: Word> Check<W> {
    /// Makes a check of words that are zero.
    pub fn new(word: impl Fn() -> W) -> Self {
        Self {
            state: word(),
            last: word(),
            words: [Words::new(&word), Words::new(&word)],
        }
    }

    /// Opens a session. Who comes with an earlier ticket from now on finds that it is too late.
    ///
    /// # Errors
    ///
    /// [`Busy`].
    pub fn open(&self) -> Result<Ticket, Busy> {
        let state = self.state.load_acquire();
        for role in [Role::Control, Role::Starting] {
            if state & role.came() != 0 && state & role.left() == 0 {
                return Err(Busy);
            }
        }
        let session = ((state >> SESSION_SHIFT) as u32).wrapping_add(1);
        // Where another CPU is quicker, it is in there.
        self.state
            .compare_exchange(state, u64::from(session) << SESSION_SHIFT)
            .map(|()| Ticket(session))
            .map_err(|_| Busy)
    }

    /// The starting CPU's side: runs the check, and once more as long as `again` says so, which is
    /// told the number of the run and what was found, and has changed TSC_ADJUST by then.
    ///
    /// Returns the last finding; `None` if the control CPU did not come or did not end.
    pub fn starting(
        &self,
        ticket: Ticket,
        env: &impl Env,
        bounds: &Bounds,
        mut again: impl FnMut(u8, Option<&Measured>) -> bool,
    ) -> Option<Measured> {
        let mut side = Side::new(self, ticket, Role::Starting);
        let mut run = 1;
        loop {
            let measured = side.run(env, bounds);
            let again = again(run, measured.as_ref());
            if !again || measured.is_none() || run >= MAX_RUNS {
                return measured;
            }
            run += 1;
        }
    }

    /// The control CPU's side: goes on until the starting CPU leaves.
    ///
    /// Returns the last finding, if there is one.
    pub fn control(&self, ticket: Ticket, env: &impl Env, bounds: &Bounds) -> Option<Measured> {
        let mut side = Side::new(self, ticket, Role::Control);
        let mut last = None;
        for _ in 0..MAX_RUNS {
            match side.run(env, bounds) {
                Some(measured) => last = Some(measured),
                None => break,
            }
        }
        last
    }
}

/// One CPU in a session. Leaves it when dropped.
pub struct Side<'a, W: Word> {
    check: &'a Check<W>,
    ticket: Ticket,
    role: Role,
    at: At,
    samples: Samples,
}

/// Where a CPU is in a run.
#[derive(Clone, Copy)]
enum At {
    /// On its way to the meeting.
    Comes(Meeting),
    /// At the meeting, and the other one has not come yet.
    Waits {
        meeting: Meeting,
        /// The number of meetings when it is over.
        number: u64,
        turns: u32,
        since: Option<u64>,
    },
    /// Sampling.
    Samples,
    /// Not there any more.
    Gone,
}

#[derive(Clone, Copy)]
enum Meeting {
    Before,
    After,
}

/// Where a step has led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There are more steps.
    Going,
    /// The other CPU is waited for.
    Waiting,
    /// The run is over, with this finding. The next step begins another run.
    Done(Measured),
    /// The session is over.
    Over,
}

/// A CPU's sampling so far.
#[derive(Clone, Copy, Default)]
struct Samples {
    number: u32,
    /// The first TSC, and the other clock by then.
    start: u64,
    since: Option<u64>,
    /// The TSC as it was read last.
    tsc: u64,
    /// How often in a row it was the same.
    same: u32,
    /// Whether the CPU has put one into the word.
    published: bool,
    seen: Seen,
}

/// Whether more than `limit` has passed on a clock since `since`. A clock that has gone back
/// tells nothing.
fn is_over(since: Option<u64>, now: Option<u64>, limit: u64) -> bool {
    match (since, now) {
        (Some(since), Some(now)) => now.checked_sub(since).is_some_and(|passed| passed > limit),
        _ => false,
    }
}

/// Whether it is time for what is done every so many turns.
const fn is_turn(number: u32, every: u32) -> bool {
    number & (every - 1) == 0
}

impl<'a, W: Word> Side<'a, W> {
    /// A CPU that is about to come.
    pub fn new(check: &'a Check<W>, ticket: Ticket, role: Role) -> Self {
        Self {
            check,
            ticket,
            role,
            at: At::Comes(Meeting::Before),
            samples: Samples::default(),
        }
    }

    /// Runs once; `None` if there is no other CPU to do it with, or none any more.
    pub fn run(&mut self, env: &impl Env, bounds: &Bounds) -> Option<Measured> {
        loop {
            match self.step(env, bounds) {
                Progress::Going => {}
                Progress::Waiting => env.relax(),
                Progress::Done(measured) => return Some(measured),
                Progress::Over => return None,
            }
        }
    }

    /// Takes a step: never waits.
    #[inline]
    pub fn step(&mut self, env: &impl Env, bounds: &Bounds) -> Progress {
        match self.at {
            At::Samples => {
                if self.sample(env, bounds) {
                    self.words(self.role).store(&self.samples.seen);
                    self.at = At::Comes(Meeting::After);
                }
                Progress::Going
            }
            At::Comes(meeting) => self.come(meeting, env),
            At::Waits {
                meeting,
                number,
                turns,
                since,
            } => {
                let state = self.check.state.load_acquire();
                if self.ticket.is_for(state) && state & MEETINGS == number {
                    return self.met(meeting, env);
                }
                if !self.ticket.is_for(state) || state & CLOSED != 0 {
                    return self.gone();
                }
                let over = turns >= bounds.wait_turns
                    || is_turn(turns, TURNS_TO_CLOCK) && is_over(since, env.us(), bounds.wait_us);
                // Fails where the other one comes at this very moment, or leaves.
                if over && self.exchange(state, state | CLOSED) {
                    return self.gone();
                }
                self.at = At::Waits {
                    meeting,
                    number,
                    turns: turns.saturating_add(1),
                    since,
                };
                Progress::Waiting
            }
            At::Gone => Progress::Over,
        }
    }

    fn come(&mut self, meeting: Meeting, env: &impl Env) -> Progress {
        let state = self.check.state.load_acquire();
        if !self.ticket.is_for(state) || state & CLOSED != 0 {
            return self.gone();
        }
        if let (Meeting::Before, Role::Starting) = (meeting, self.role) {
            // What the last run left behind is of a TSC that was moved since.
            self.check.last.store(self.tagged(env.tsc()));
        }
        let other = self.role.other();
        if state & other.waits() != 0 {
            let met = (state & !other.waits() | self.role.came()) + 1;
            if self.exchange(state, met) {
                return self.met(meeting, env);
            }
        } else if self.exchange(state, state | self.role.waits() | self.role.came()) {
            self.at = At::Waits {
                meeting,
                number: (state & MEETINGS) + 1,
                turns: 0,
                since: env.us(),
            };
        }
        // If not exchanged: the other one has come, or left.
        Progress::Going
    }

    fn met(&mut self, meeting: Meeting, env: &impl Env) -> Progress {
        match meeting {
            Meeting::Before => {
                let tsc = env.tsc();
                self.samples = Samples {
                    number: 0,
                    start: tsc,
                    since: env.us(),
                    tsc,
                    same: 0,
                    published: false,
                    seen: Seen {
                        closest: u64::MAX,
                        ..Seen::default()
                    },
                };
                self.at = At::Samples;
                Progress::Going
            }
            Meeting::After => {
                self.at = At::Comes(Meeting::Before);
                Progress::Done(Measured {
                    control: self.words(Role::Control).load(),
                    starting: self.words(Role::Starting).load(),
                })
            }
        }
    }

    /// Takes a sample; returns whether it was the last one.
    #[inline]
    fn sample(&mut self, env: &impl Env, bounds: &Bounds) -> bool {
        let before = self.check.last.load_acquire();
        let now = env.tsc();
        let tagged = self.tagged(now);
        let samples = &mut self.samples;
        if self.check.last.compare_exchange(before, tagged).is_ok() {
            let is_own = (before ^ tagged) & TAG == 0;
            // Modulo 2^64, as the TSC is.
            let ahead = (before & !TAG).wrapping_sub(tagged & !TAG) as i64;
            if ahead > 0 {
                samples.seen.warp = samples.seen.warp.max(ahead as u64);
            }
            // The value that the starting CPU left there beforehand is nobody's.
            if samples.published && !is_own {
                samples.seen.handovers = samples.seen.handovers.saturating_add(1);
                if ahead <= 0 {
                    // The tag may hide a cycle.
                    let closest = ahead.unsigned_abs() + 1;
                    samples.seen.closest = samples.seen.closest.min(closest);
                }
            }
            samples.published = true;
        }
        let went_on = now.wrapping_sub(samples.tsc) as i64;
        if went_on == 0 {
            samples.same += 1;
        } else {
            samples.same = 0;
            samples.tsc = now;
        }
        if went_on < 0 {
            samples.seen.went_back = true;
            samples.seen.warp = samples.seen.warp.max(went_on.unsigned_abs());
        }
        samples.number = samples.number.wrapping_add(1);
        if !is_turn(samples.number, bounds.look) {
            return false;
        }
        let passed = now.wrapping_sub(samples.start) as i64;
        if passed >= 0 && passed as u64 >= bounds.cycles {
            return true;
        }
        let slow = samples.number >= bounds.samples
            || is_turn(samples.number, TURNS_TO_CLOCK)
                && is_over(samples.since, env.us(), bounds.us);
        if slow || samples.same >= STANDS_STILL {
            samples.seen.stands_still = true;
            return true;
        }
        env.relax();
        false
    }

    /// A value for the word: the TSC, and whose it is.
    fn tagged(&self, tsc: u64) -> u64 {
        tsc & !TAG | self.role as u64
    }

    fn words(&self, role: Role) -> &'a Words<W> {
        let [control, starting] = &self.check.words;
        match role {
            Role::Control => control,
            Role::Starting => starting,
        }
    }

    fn exchange(&self, old: u64, new: u64) -> bool {
        self.check.state.compare_exchange(old, new).is_ok()
    }

    fn gone(&mut self) -> Progress {
        self.at = At::Gone;
        Progress::Over
    }

    /// Leaves the session, which then is over for the other one as well.
    ///
    /// An exchange fails only where the other one has changed the state, which it does a few times
    /// at most.
    fn leave(&self) {
        loop {
            let state = self.check.state.load_acquire();
            if !self.ticket.is_for(state) {
                return;
            }
            let left = if state & self.role.came() != 0 {
                self.role.left()
            } else {
                0
            };
            if self.exchange(state, state | left | CLOSED) {
                return;
            }
        }
    }
}

impl<W: Word> Drop for Side<'_, W> {
    fn drop(&mut self) {
        self.leave();
    }
}
