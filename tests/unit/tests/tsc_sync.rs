// SPDX-License-Identifier: GPL-2.0

//! The check of two TSCs: on simulated CPUs, one step at a time in an order made at random; on
//! threads with a simulated TSC; and on threads with the machine's own.
//!
//! What becomes of two CPUs that are both in the middle of a step is the model checker's part
//! (`tsc_sync_loom.rs`).
#![cfg(not(loom))]

mod word;

use paraclock_unit::logic::{
    tsc_adjust::{
        Check as What, Input, MAX_RUNS, Outcome, Place, Reason, Runs, Step, Verdict, decide,
    },
    tsc_sync::{
        Bounds, Busy, Check, Env, MAX_SAMPLES, Measured, Progress, Role, STANDS_STILL, Seen, Side,
        WAIT_TURNS, WAIT_UP_TURNS, WAIT_UP_US, WAIT_US,
    },
};
use proptest::prelude::*;
use std::{
    cell::{Cell, RefCell},
    sync::{
        Arc,
        atomic::{
            AtomicI64, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    thread,
    time::{Duration, Instant},
};
use word::Word;

/// What a simulated TSC does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Tsc {
    /// It goes.
    Goes,
    /// It always gives the same value.
    Still,
    /// It goes, a million times too slowly.
    Slow,
    /// It is ahead or behind by some of so many cycles, from reading to reading.
    Jumps(u64),
}

/// What there is beside the TSC.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Other {
    Nothing,
    Goes,
    Still,
}

/// A machine of two CPUs, of which one moves at a time. Its TSCs go at 1 GHz.
struct Machine {
    /// In cycles.
    now: Cell<u64>,
    /// What each reading takes.
    cost: u64,
    relaxed: Cell<u64>,
}

struct Cpu<'a> {
    machine: &'a Machine,
    tsc: Tsc,
    /// What the TSC is ahead of the machine's time, TSC_ADJUST included.
    offset: Cell<i64>,
    other: Other,
    dice: Cell<u64>,
}

impl Env for Cpu<'_> {
    fn tsc(&self) -> u64 {
        let now = self.machine.now.get() + self.machine.cost;
        self.machine.now.set(now);
        let count = match self.tsc {
            Tsc::Goes => now,
            Tsc::Still => 4711,
            Tsc::Slow => now / 1_000_000,
            Tsc::Jumps(range) => {
                let dice = self.dice.get().wrapping_mul(6_364_136_223_846_793_005) + 1;
                self.dice.set(dice);
                now.wrapping_add((dice >> 33) % range)
            }
        };
        count.wrapping_add_signed(self.offset.get())
    }

    fn us(&self) -> Option<u64> {
        match self.other {
            Other::Nothing => None,
            Other::Goes => Some(self.machine.now.get() / 1000),
            Other::Still => Some(0),
        }
    }

    fn relax(&self) {
        self.machine.relaxed.set(self.machine.relaxed.get() + 1);
        self.machine.now.set(self.machine.now.get() + 100);
    }
}

impl Machine {
    fn new() -> Self {
        Self {
            now: Cell::new(1 << 40),
            cost: 25,
            relaxed: Cell::new(0),
        }
    }

    fn cpu(&self, tsc: Tsc, offset: i64, other: Other) -> Cpu<'_> {
        Cpu {
            machine: self,
            tsc,
            offset: Cell::new(offset),
            other,
            dice: Cell::new(88),
        }
    }
}

/// Short ones, so that a test may wait for them.
fn bounds() -> Bounds {
    Bounds {
        cycles: 50_000,
        us: 500,
        samples: 20_000,
        wait_us: 500,
        wait_turns: 10_000,
        look: 8,
        within: 10_000,
    }
}

fn input(has_adjust: bool) -> Input {
    Input {
        boot_value: has_adjust.then_some(0),
        place: Place::FirstOnSocket,
        async_resets: false,
        reliable: false,
        withdrawn: false,
        step: Step::Starting,
    }
}

/// What the driver does on the starting CPU between two runs. Returns whether there is another one.
struct Driver {
    input: Input,
    set_to: i64,
    numbers: Runs,
    runs: Vec<Outcome>,
    verdict: Verdict,
}

impl Driver {
    fn new(has_adjust: bool) -> Self {
        let input = input(has_adjust);
        let decision = decide(&input);
        assert_eq!(decision.check, What::Run(20));
        Self {
            input,
            set_to: decision.set_to.unwrap_or(0),
            numbers: Runs::default(),
            runs: Vec::new(),
            verdict: Verdict::Pending,
        }
    }

    fn again(
        &mut self,
        bounds: &Bounds,
        measured: Option<&Measured>,
        write: impl FnOnce(i64),
    ) -> bool {
        let outcome = measured.map_or(Outcome::Absent, |measured| measured.outcome(bounds));
        self.runs.push(outcome);
        let run = self.runs.len() as u8;
        let decision = decide(&Input {
            step: self.numbers.step(run, self.set_to, outcome),
            ..self.input
        });
        if let Some(value) = decision.write {
            write(value.wrapping_sub(self.set_to));
            self.set_to = value;
        }
        self.verdict = decision.verdict;
        decision.check != What::Skip
    }
}

/// What both CPUs have found in a whole session, run by run; `None` for a run that came to nothing.
struct Session {
    control: Vec<Option<Measured>>,
    starting: Vec<Option<Measured>>,
    driver: Driver,
    steps: u64,
}

/// Runs a session in which `order` says whose step is next, over and over, and how much time passes
/// before it.
fn session(
    control: &Cpu<'_>,
    starting: &Cpu<'_>,
    order: &[(Role, u64)],
    driver: Driver,
) -> Session {
    let check = Check::new(Word::zero);
    let ticket = check.open().expect("nobody is there");
    let mut session = Session {
        control: Vec::new(),
        starting: Vec::new(),
        driver,
        steps: 0,
    };
    let mut control_side = Some(Side::new(&check, ticket, Role::Control));
    let mut starting_side = Some(Side::new(&check, ticket, Role::Starting));
    let machine = control.machine;
    let bounds = bounds();
    for (role, pause) in order.iter().cycle() {
        if control_side.is_none() && starting_side.is_none() {
            break;
        }
        session.steps += 1;
        assert!(session.steps < 1_000_000, "the check does not end");
        machine.now.set(machine.now.get() + pause);
        let (side, cpu) = match role {
            Role::Control => (&mut control_side, control),
            Role::Starting => (&mut starting_side, starting),
        };
        let Some(this) = side else { continue };
        let measured = match this.step(cpu, &bounds) {
            Progress::Going => continue,
            Progress::Waiting => {
                cpu.relax();
                continue;
            }
            Progress::Done(measured) => Some(measured),
            Progress::Over => None,
        };
        let goes_on = match role {
            Role::Control => {
                session.control.push(measured);
                measured.is_some() && session.control.len() < usize::from(MAX_RUNS)
            }
            Role::Starting => {
                session.starting.push(measured);
                session.driver.again(&bounds, measured.as_ref(), |by| {
                    cpu.offset.set(cpu.offset.get().wrapping_add(by));
                })
            }
        };
        if !goes_on {
            *side = None;
        }
    }
    drop((control_side, starting_side));
    assert!(check.open().is_ok(), "somebody is left in it");
    session
}

impl Session {
    /// Each run was found alike by both. Returns the findings.
    fn agreed(&self) -> Vec<Measured> {
        let runs: Vec<Measured> = self.starting.iter().map_while(|run| *run).collect();
        let of_control: Vec<Measured> = self.control.iter().map_while(|run| *run).collect();
        assert_eq!(runs, of_control);
        runs
    }
}

const TURNS: [(Role, u64); 2] = [(Role::Control, 0), (Role::Starting, 0)];

fn simulate(tsc: [Tsc; 2], offset: i64, other: Other, has_adjust: bool) -> (Session, i64) {
    let machine = Machine::new();
    let control = machine.cpu(tsc[0], 0, other);
    let starting = machine.cpu(tsc[1], offset, other);
    let session = session(&control, &starting, &TURNS, Driver::new(has_adjust));
    (session, starting.offset.get())
}

#[test]
fn in_step_passes_at_once() {
    let (session, left) = simulate([Tsc::Goes; 2], 0, Other::Goes, true);
    assert_eq!(session.driver.runs, [Outcome::Passed]);
    assert_eq!(session.driver.verdict, Verdict::Allowed);
    assert_eq!(left, 0);
    let [run] = session.agreed()[..] else {
        panic!("one run");
    };
    assert!(
        run.control.handovers > 100 && run.starting.handovers > 100,
        "{run:?}"
    );
    assert!(run.within() >= 50 && run.within() < 200, "{run:?}");
}

#[test]
fn ten_thousand_cycles_ahead_and_behind_are_corrected() {
    for offset in [10_000, -10_000] {
        let (session, left) = simulate([Tsc::Goes; 2], offset, Other::Goes, true);
        assert_eq!(session.driver.verdict, Verdict::Allowed, "{offset}");
        assert!((2..=3).contains(&session.driver.runs.len()), "{offset}");
        assert!(left.abs() < 100, "{offset}: {left} left");
        let first = session.driver.runs[0];
        let Outcome::Warped { correction } = first else {
            panic!("{offset}: {first:?}");
        };
        assert!(
            correction.signum() == -offset.signum(),
            "{offset}: {correction}"
        );
        session.agreed();
    }
}

#[test]
fn without_tsc_adjust_there_is_one_run_and_no_correction() {
    let (session, left) = simulate([Tsc::Goes; 2], 10_000, Other::Goes, false);
    assert_eq!(session.driver.runs.len(), 1);
    assert_eq!(session.driver.verdict, Verdict::Denied(Reason::Warped));
    assert_eq!(left, 10_000);
    assert_eq!(session.agreed().len(), 1);
}

#[test]
fn random_warps_are_told_from_one_sided_ones() {
    for tsc in [
        [Tsc::Goes, Tsc::Jumps(10_000)],
        [Tsc::Jumps(10_000), Tsc::Goes],
        [Tsc::Jumps(10_000); 2],
    ] {
        for offset in [0, 1_000_000, -1_000_000] {
            let (session, left) = simulate(tsc, offset, Other::Goes, true);
            let [Outcome::WarpedRandomly { warp }] = session.driver.runs[..] else {
                panic!("{tsc:?} {offset}: {:?}", session.driver.runs);
            };
            assert!(warp > 0);
            assert_eq!(left, offset, "no constant helps");
            let denied = Verdict::Denied(Reason::WarpedRandomly);
            assert_eq!(session.driver.verdict, denied);
        }
    }
}

#[test]
fn a_tsc_that_stands_still_is_found_without_another_clock() {
    for tsc in [
        [Tsc::Goes, Tsc::Still],
        [Tsc::Still, Tsc::Goes],
        [Tsc::Still; 2],
    ] {
        for other in [Other::Nothing, Other::Goes, Other::Still] {
            let (session, _) = simulate(tsc, 0, other, true);
            assert_eq!(session.driver.runs, [Outcome::StandsStill], "{tsc:?}");
            let denied = Verdict::Denied(Reason::StandsStill);
            assert_eq!(session.driver.verdict, denied);
            // Both sides.
            let steps = 2 * u64::from(STANDS_STILL) + 4_000;
            assert!(session.steps < steps, "{tsc:?}: {} steps", session.steps);
        }
    }
}

#[test]
fn a_tsc_that_is_slow_is_found() {
    for other in [Other::Nothing, Other::Goes, Other::Still] {
        let (session, _) = simulate([Tsc::Goes, Tsc::Slow], 0, other, true);
        assert_eq!(session.driver.verdict, Verdict::Denied(Reason::StandsStill));
    }
}

/// The other clock as well goes on, and the TSC by more than it takes to stand still.
#[test]
fn what_takes_too_long_ends() {
    // A TSC that counts, but to so much that it takes 10 s.
    let machine = Machine::new();
    for (other, samples) in [(Other::Goes, u32::MAX), (Other::Nothing, 5_000)] {
        let env = machine.cpu(Tsc::Goes, 0, other);
        let bounds = Bounds {
            cycles: 10_000_000_000,
            samples,
            wait_turns: 100_000,
            wait_us: 1_000_000,
            ..bounds()
        };
        let check = Check::new(Word::zero);
        let ticket = check.open().unwrap();
        let mut sides = [Role::Control, Role::Starting].map(|role| Side::new(&check, ticket, role));
        let mut steps = 0;
        let outcome = 'session: loop {
            for side in &mut sides {
                steps += 1;
                assert!(steps < 200_000, "{other:?}");
                if let Progress::Done(measured) = side.step(&env, &bounds) {
                    break 'session measured.outcome(&bounds);
                }
            }
        };
        assert_eq!(outcome, Outcome::StandsStill);
    }
}

/// One side comes, and the other never does.
#[test]
fn who_waits_for_nobody_gives_up() {
    for role in [Role::Control, Role::Starting] {
        for other in [Other::Nothing, Other::Goes, Other::Still] {
            let machine = Machine::new();
            let cpu = machine.cpu(Tsc::Goes, 0, other);
            let check = Check::new(Word::zero);
            let ticket = check.open().unwrap();
            let found = match role {
                Role::Control => check.control(ticket, &cpu, &bounds()),
                Role::Starting => {
                    let mut driver = Driver::new(true);
                    let found = check.starting(ticket, &cpu, &bounds(), |run, measured| {
                        assert_eq!(run, 1);
                        driver.again(&bounds(), measured, |_| panic!("nothing to correct"))
                    });
                    assert_eq!(driver.runs, [Outcome::Absent]);
                    assert_eq!(driver.verdict, Verdict::Denied(Reason::NotChecked));
                    found
                }
            };
            assert_eq!(found, None);
            let turns = machine.relaxed.get();
            match other {
                // 0.5 ms, of 100 cycles a turn, looked at every 1024 turns.
                Other::Goes => assert!((5_000..7_000).contains(&turns)),
                _ => assert_eq!(turns, 10_000),
            }
            // The other one is too late then, and does not wait.
            let late = machine.cpu(Tsc::Goes, 0, other);
            machine.relaxed.set(0);
            assert_eq!(check.control(ticket, &late, &bounds()), None);
            assert_eq!(check.starting(ticket, &late, &bounds(), |_, _| false), None);
            assert_eq!(machine.relaxed.get(), 0);
            assert!(check.open().is_ok());
        }
    }
}

/// The clock beside the TSC bounds the wait where it goes, not the turns.
#[test]
fn the_other_clock_bounds_the_wait() {
    let machine = Machine::new();
    let cpu = machine.cpu(Tsc::Goes, 0, Other::Goes);
    let check = Check::new(Word::zero);
    let bounds = Bounds {
        wait_turns: u32::MAX,
        ..bounds()
    };
    assert_eq!(check.control(check.open().unwrap(), &cpu, &bounds), None);
    let us = (machine.now.get() - (1 << 40)) / 1000;
    assert!((500..605).contains(&us), "{us} us");
}

/// One side stops for good at any step; the other one ends all the same, nobody gets in while the
/// first has not left, and when that goes on after all, it is out at once.
#[test]
fn who_stops_in_the_middle_holds_nobody_up() {
    let machine = Machine::new();
    let bounds = bounds();
    let mut ended = 0;
    let cases = [Role::Control, Role::Starting].map(|role| [(role, true), (role, false)]);
    for (stops, comes_first) in cases.into_iter().flatten() {
        for after in 0.. {
            let check = Check::new(Word::zero);
            let ticket = check.open().unwrap();
            let env = machine.cpu(Tsc::Goes, 0, Other::Goes);
            let mut dead = Side::new(&check, ticket, stops);
            let goes = match stops {
                Role::Control => Role::Starting,
                Role::Starting => Role::Control,
            };
            let mut alive = Side::new(&check, ticket, goes);
            let (mut taken, mut found, mut done) = (0, None, false);
            for step in 0.. {
                assert!(step < 1_000_000, "{goes:?} does not end");
                if taken < after && (comes_first || step > 0) {
                    taken += 1;
                    done |= matches!(dead.step(&env, &bounds), Progress::Done(_));
                }
                match alive.step(&env, &bounds) {
                    Progress::Going => {}
                    Progress::Waiting => env.relax(),
                    Progress::Done(measured) => {
                        found = Some(measured);
                        break;
                    }
                    Progress::Over => break,
                }
            }
            drop(alive);
            if taken > 0 {
                assert_eq!(check.open(), Err(Busy), "{stops:?} after {after}");
            }
            // Met for the second time or not: both know the same.
            let late = (0..100_000).find_map(|_| match dead.step(&env, &bounds) {
                Progress::Done(measured) => Some(Some(measured)),
                Progress::Over => Some(None),
                _ => None,
            });
            if !done {
                assert_eq!(late, Some(found), "{stops:?} after {after}");
            }
            drop(dead);
            let next = check.open().expect("all have left");
            assert_ne!(next, ticket);
            // From here on it would not stop before the end.
            if done || taken < after {
                ended += 1;
                break;
            }
        }
    }
    assert_eq!(ended, 4);
}

/// A CPU of an earlier session changes nothing in a later one.
#[test]
fn who_comes_to_an_earlier_session_is_turned_away() {
    let machine = Machine::new();
    let env = machine.cpu(Tsc::Goes, 0, Other::Goes);
    let check = Check::new(Word::zero);
    let early = check.open().unwrap();
    let ticket = check.open().unwrap();
    let mut sides = [Role::Control, Role::Starting].map(|role| Side::new(&check, ticket, role));
    let mut found = Vec::new();
    while found.len() < 2 {
        for side in &mut sides {
            for role in [Role::Control, Role::Starting] {
                let mut late = Side::new(&check, early, role);
                assert_eq!(late.step(&env, &bounds()), Progress::Over);
            }
            if let Progress::Done(measured) = side.step(&env, &bounds()) {
                found.push(measured);
            }
        }
    }
    assert_eq!(found[0], found[1]);
    assert_eq!(found[0].outcome(&bounds()), Outcome::Passed);
}

/// One CPU samples to its end before the other begins: that says nothing, whatever the TSCs are.
#[test]
fn never_at_once_is_not_passed() {
    for first in [Role::Control, Role::Starting] {
        for offset in [0, 20_000, -20_000] {
            let machine = Machine::new();
            let control = machine.cpu(Tsc::Goes, 0, Other::Goes);
            let starting = machine.cpu(Tsc::Goes, offset, Other::Goes);
            let second = match first {
                Role::Control => Role::Starting,
                Role::Starting => Role::Control,
            };
            // Meeting in a few steps, then long turns.
            let mut order = Vec::new();
            for _ in 0..2 {
                order.extend([(Role::Starting, 0), (Role::Control, 0)]);
            }
            order.extend([(first, 0); 4_000]);
            order.extend([(second, 0); 4_000]);
            let session = session(&control, &starting, &order, Driver::new(false));
            assert_ne!(
                session.driver.verdict,
                Verdict::Allowed,
                "{first:?} {offset}: {:?}",
                session.starting
            );
        }
    }
}

#[test]
fn what_was_seen_and_what_it_means() {
    let good = Seen {
        warp: 0,
        closest: 30,
        handovers: 5,
        went_back: false,
        stands_still: false,
    };
    let warp = |warp| Seen { warp, ..good };
    let measured = |control, starting| Measured { control, starting };
    let bounds = bounds();
    let unseen = Seen {
        handovers: 0,
        closest: u64::MAX,
        ..good
    };
    let back = Seen {
        went_back: true,
        ..warp(3)
    };
    let still = Seen {
        stands_still: true,
        ..good
    };
    for (control, starting, outcome) in [
        (good, good, Outcome::Passed),
        (good, unseen, Outcome::Unseen),
        (unseen, good, Outcome::Unseen),
        // The control CPU sees the starting one's time ahead: back with it.
        (warp(9), good, Outcome::Warped { correction: -19 }),
        (good, warp(9), Outcome::Warped { correction: 19 }),
        // Nothing to go by on the other side.
        (warp(9), unseen, Outcome::Warped { correction: -9 }),
        (unseen, warp(9), Outcome::Warped { correction: 9 }),
        (warp(9), warp(4), Outcome::WarpedRandomly { warp: 9 }),
        (warp(4), warp(9), Outcome::WarpedRandomly { warp: 9 }),
        (back, good, Outcome::WarpedRandomly { warp: 3 }),
        (good, back, Outcome::WarpedRandomly { warp: 3 }),
        (still, warp(9), Outcome::StandsStill),
        (warp(9), still, Outcome::StandsStill),
    ] {
        assert_eq!(measured(control, starting).outcome(&bounds), outcome);
    }
    assert_eq!(measured(good, good).within(), 60);
    // What was seen too late is not seen.
    let late = |closest| measured(good, Seen { closest, ..good }).outcome(&bounds);
    assert_eq!(late(bounds.within - 30), Outcome::Passed);
    assert_eq!(late(bounds.within - 29), Outcome::Unseen);
    assert_eq!(measured(good, unseen).within(), u64::MAX);
}

/// A run in which nothing was seen takes none of those away after which a CPU is given up.
#[test]
fn what_was_not_seen_has_not_failed() {
    let off = Outcome::Warped { correction: 500 };
    let after = |outcomes: &[Outcome]| {
        let (mut input, mut numbers) = (input(true), Runs::default());
        let mut last = None;
        for (run, &outcome) in (1..).zip(outcomes) {
            input.step = numbers.step(run, 0, outcome);
            last = Some(decide(&input));
        }
        last.expect("a run")
    };
    let moved = after(&[Outcome::Unseen, Outcome::Unseen, off]);
    assert_eq!((moved.write, moved.verdict), (Some(500), Verdict::Pending));
    let given_up = after(&[off, off, off]);
    assert_eq!(
        (given_up.write, given_up.verdict),
        (None, Verdict::Denied(Reason::Warped))
    );
    // The last one of all ends it.
    let unseen = after(&[off, off, Outcome::Unseen]);
    assert_eq!(
        (unseen.check, unseen.verdict),
        (What::Skip, Verdict::Denied(Reason::NotChecked))
    );
}

#[test]
fn bounds_of_any_tsc() {
    let bounds = Bounds::new(2_100_000, 20);
    assert_eq!((bounds.cycles, bounds.us), (42_000_000, 200_000));
    assert_eq!(bounds.within, 4_200);
    assert_eq!(
        (bounds.samples, bounds.wait_us, bounds.wait_turns),
        (MAX_SAMPLES, WAIT_US, WAIT_TURNS)
    );
    let both_up = bounds.impatient();
    assert_eq!(
        (both_up.wait_us, both_up.wait_turns),
        (WAIT_UP_US, WAIT_UP_TURNS)
    );
    assert_eq!((both_up.cycles, both_up.within), (42_000_000, 4_200));
    // The widest is no overflow.
    assert!(Bounds::new(u32::MAX, u32::MAX).cycles > 1 << 63);
}

fn orders() -> impl Strategy<Value = Vec<(Role, u64)>> {
    let role = prop_oneof![Just(Role::Control), Just(Role::Starting)];
    prop::collection::vec((role, 0..50_u64), 2..40).prop_map(|mut order| {
        // Both move, if rarely.
        order.extend(TURNS);
        order
    })
}

fn offsets() -> impl Strategy<Value = i64> {
    prop_oneof![
        -300..300_i64,
        -20_000..20_000_i64,
        // Some hundred thousand years.
        -(1_i64 << 62)..(1 << 62),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the offset and whoever is quicker: the two agree, it ends, and what is left is
    /// less than what the check says that it can see.
    #[test]
    fn the_correction_brings_the_warp_to_nothing(offset in offsets(), order in orders()) {
        let machine = Machine::new();
        let control = machine.cpu(Tsc::Goes, 0, Other::Goes);
        let starting = machine.cpu(Tsc::Goes, offset, Other::Goes);
        let session = session(&control, &starting, &order, Driver::new(true));
        let runs = session.agreed();
        prop_assert!(runs.len() <= usize::from(MAX_RUNS));
        prop_assert_eq!(session.driver.verdict, Verdict::Allowed, "{:?}", session.driver.runs);
        let last = runs.last().expect("a run");
        let left = starting.offset.get();
        prop_assert!(left.unsigned_abs() <= last.within(), "{} left, {:?}", left, last);
        // An offset that is larger than what can be missed is not missed.
        if offset.unsigned_abs() > runs[0].within() {
            prop_assert!(runs.len() > 1);
        }
    }

    /// Any TSCs, any clock beside, with TSC_ADJUST or without: it ends, and both agree.
    #[test]
    fn it_ends_and_both_agree(
        tscs in [0..4, 0..4],
        other in 0..3,
        offset in any::<i64>(),
        has_adjust in any::<bool>(),
        order in orders(),
    ) {
        let tsc = tscs.map(|tsc| [Tsc::Goes, Tsc::Still, Tsc::Slow, Tsc::Jumps(5_000)][tsc as usize]);
        let other = [Other::Nothing, Other::Goes, Other::Still][other as usize];
        let machine = Machine::new();
        let control = machine.cpu(tsc[0], 0, other);
        let starting = machine.cpu(tsc[1], offset, other);
        let session = session(&control, &starting, &order, Driver::new(has_adjust));
        let runs = session.agreed();
        let most = if has_adjust { usize::from(MAX_RUNS) } else { 1 };
        prop_assert!(session.driver.runs.len() <= most);
        prop_assert!(session.driver.verdict != Verdict::Pending);
        if session.driver.verdict == Verdict::Allowed {
            prop_assert_eq!(tsc[0], tsc[1]);
            prop_assert!(!matches!(tsc[0], Tsc::Still | Tsc::Slow));
            prop_assert!(!runs.is_empty());
        }
    }
}

/// A thread as a CPU. The TSC counts the readings of both, so two TSCs are a few cycles apart at
/// most, however slow the machine, and an offset of 10,000 is large.
struct ThreadCpu {
    count: Arc<AtomicU64>,
    offset: AtomicI64,
    tsc: Tsc,
    began: Instant,
    dice: AtomicU64,
}

impl Env for ThreadCpu {
    fn tsc(&self) -> u64 {
        let now = self.count.fetch_add(1, SeqCst);
        let now = match self.tsc {
            Tsc::Goes => now,
            Tsc::Still => 0,
            Tsc::Slow => now >> 40,
            Tsc::Jumps(range) => {
                let dice = self
                    .dice
                    .load(Relaxed)
                    .wrapping_mul(6_364_136_223_846_793_005)
                    + 1;
                self.dice.store(dice, Relaxed);
                now + (dice >> 33) % range
            }
        };
        now.wrapping_add_signed(self.offset.load(Relaxed))
    }

    fn us(&self) -> Option<u64> {
        Some(self.began.elapsed().as_micros() as u64)
    }

    fn relax(&self) {
        thread::yield_now();
    }
}

/// Runs a session on two threads, and returns what was found and the offset that is left.
fn threads(tsc: [Tsc; 2], offset: i64, has_adjust: bool) -> (Driver, i64) {
    let count = Arc::new(AtomicU64::new(1 << 40));
    let cpu = |tsc, offset| ThreadCpu {
        count: Arc::clone(&count),
        offset: AtomicI64::new(offset),
        tsc,
        began: Instant::now(),
        dice: AtomicU64::new(88),
    };
    let bounds = Bounds {
        cycles: 200_000,
        us: 20_000_000,
        samples: 1_000_000,
        wait_us: 20_000_000,
        wait_turns: u32::MAX,
        look: 8,
        within: 1_000,
    };
    let (control, starting) = (cpu(tsc[0], 0), cpu(tsc[1], offset));
    let check = Check::new(Word::zero);
    let ticket = check.open().unwrap();
    let mut driver = Driver::new(has_adjust);
    thread::scope(|scope| {
        let other = scope.spawn(|| check.control(ticket, &control, &bounds));
        let mine = check.starting(ticket, &starting, &bounds, |_, measured| {
            driver.again(&bounds, measured, |by| {
                starting.offset.fetch_add(by, SeqCst);
            })
        });
        assert_eq!(other.join().expect("the control CPU does not panic"), mine);
    });
    (driver, starting.offset.into_inner())
}

#[test]
fn threads_in_step_and_out_of_step() {
    for offset in [0, 10_000, -10_000, 1 << 50, -(1 << 50)] {
        let (driver, left) = threads([Tsc::Goes; 2], offset, true);
        assert_eq!(
            driver.verdict,
            Verdict::Allowed,
            "{offset}: {:?}",
            driver.runs
        );
        assert!(left.abs() < 100, "{offset}: {left} left");
        assert_eq!(
            driver.runs.len() > 1,
            offset != 0,
            "{offset}: {:?}",
            driver.runs
        );
    }
    let (driver, left) = threads([Tsc::Goes; 2], 10_000, false);
    assert_eq!(driver.verdict, Verdict::Denied(Reason::Warped));
    assert_eq!((driver.runs.len(), left), (1, 10_000));
}

#[test]
fn threads_with_faults() {
    let jumps = Tsc::Jumps(10_000);
    for (tsc, reason) in [
        ([Tsc::Goes, jumps], Reason::WarpedRandomly),
        ([jumps, Tsc::Goes], Reason::WarpedRandomly),
        ([Tsc::Goes, Tsc::Still], Reason::StandsStill),
        ([Tsc::Still, Tsc::Goes], Reason::StandsStill),
        ([Tsc::Still; 2], Reason::StandsStill),
        ([Tsc::Goes, Tsc::Slow], Reason::StandsStill),
    ] {
        let (driver, left) = threads(tsc, 0, true);
        assert_eq!(
            driver.verdict,
            Verdict::Denied(reason),
            "{tsc:?}: {:?}",
            driver.runs
        );
        assert_eq!((driver.runs.len(), left), (1, 0));
    }
}

/// The machine's own CPUs, and the TSCs as they are.
#[cfg(target_arch = "x86_64")]
struct RealCpu {
    offset: AtomicI64,
    began: Instant,
}

#[cfg(target_arch = "x86_64")]
impl Env for RealCpu {
    fn tsc(&self) -> u64 {
        use std::arch::x86_64::{_mm_lfence, _rdtsc};
        // SAFETY: Every x86-64 CPU has both, and user space may execute them on Linux.
        let tsc = unsafe {
            _mm_lfence();
            _rdtsc()
        };
        tsc.wrapping_add_signed(self.offset.load(Relaxed))
    }

    fn us(&self) -> Option<u64> {
        Some(self.began.elapsed().as_micros() as u64)
    }

    fn relax(&self) {
        std::hint::spin_loop();
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_real_tsc() {
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has = |flag| flags.split_whitespace().any(|word| word == flag);
    if !has("constant_tsc") || thread::available_parallelism().map_or(1, usize::from) < 2 {
        println!("SKIP the_real_tsc: not two CPUs with a constant TSC");
        return;
    }
    let run = |offset: i64| {
        let cpu = |offset| RealCpu {
            offset: AtomicI64::new(offset),
            began: Instant::now(),
        };
        let bounds = Bounds {
            wait_us: 20_000_000,
            wait_turns: u32::MAX,
            ..Bounds::new(2_000_000, 20)
        };
        let (control, starting) = (cpu(0), cpu(offset));
        let check = Check::new(Word::zero);
        let ticket = check.open().unwrap();
        let mut driver = Driver::new(true);
        let found = thread::scope(|scope| {
            scope.spawn(|| check.control(ticket, &control, &bounds));
            check.starting(ticket, &starting, &bounds, |_, measured| {
                driver.again(&bounds, measured, |by| {
                    starting.offset.fetch_add(by, SeqCst);
                })
            })
        });
        println!("{offset}: {:?} {found:?}", driver.runs);
        (driver, starting.offset.into_inner())
    };
    // With only one CPU to be had at the moment nothing is seen, but no warp is made up either.
    let (driver, left) = run(0);
    assert!(
        driver
            .runs
            .iter()
            .all(|found| matches!(found, Outcome::Passed | Outcome::Unseen)),
        "{:?}",
        driver.runs
    );
    assert_eq!(left, 0);
    // So far apart that it is seen even so.
    for offset in [1 << 40, -(1 << 40)] {
        let (driver, left) = run(offset);
        let Outcome::Warped { correction } = driver.runs[0] else {
            panic!("{offset}: {:?}", driver.runs);
        };
        assert_eq!(correction.signum(), -offset.signum());
        // Corrected from the one side, and never beyond it by more than it takes to see it.
        assert!(left.unsigned_abs() < 1 << 32, "{offset}: {left} left");
    }
}

/// A thread that never comes, by the clock on the wall.
#[test]
fn a_thread_that_never_comes() {
    let cpu = ThreadCpu {
        count: Arc::new(AtomicU64::new(0)),
        offset: AtomicI64::new(0),
        tsc: Tsc::Still,
        began: Instant::now(),
        dice: AtomicU64::new(0),
    };
    let check = Check::new(Word::zero);
    let bounds = Bounds {
        wait_us: 50_000,
        wait_turns: u32::MAX,
        ..bounds()
    };
    let waited = RefCell::new(0);
    let found = check.starting(check.open().unwrap(), &cpu, &bounds, |_, measured| {
        *waited.borrow_mut() += 1;
        measured.is_none()
    });
    assert_eq!(found, None);
    assert_eq!(waited.into_inner(), 1);
    assert!(cpu.began.elapsed() >= Duration::from_millis(50));
}
