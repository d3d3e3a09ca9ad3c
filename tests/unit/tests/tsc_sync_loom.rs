// SPDX-License-Identifier: GPL-2.0

//! The check of two TSCs under a model checker: how two CPUs meet, give up on each other, and
//! leave, in every interleaving up to a number of preemptions. `loom.rs` says why C11's model may
//! stand for the kernel's.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test -p paraclock-unit --release --test tsc_sync_loom
//! ```
#![cfg(loom)]

mod word;

use loom::{
    model::Builder,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::AcqRel},
    },
    thread,
};
use paraclock_unit::logic::{
    tsc_adjust::Outcome,
    tsc_sync::{Bounds, Busy, Check, Env, Measured, Role, Side, Ticket},
};
use word::Word;

/// Both CPUs' TSC: every reading is later than those before it.
struct Tsc(AtomicU64);

struct Cpu<'a> {
    tsc: &'a Tsc,
    offset: u64,
}

impl Env for Cpu<'_> {
    fn tsc(&self) -> u64 {
        self.tsc.0.fetch_add(1, AcqRel) + self.offset
    }

    fn us(&self) -> Option<u64> {
        None
    }

    fn relax(&self) {
        thread::yield_now();
    }
}

/// The fewest samples that there can be, and a wait that is soon over, or is not.
fn bounds(wait_turns: u32) -> Bounds {
    Bounds {
        cycles: 1,
        us: 0,
        samples: u32::MAX,
        wait_us: 0,
        wait_turns,
        look: 1,
        within: 1_000,
    }
}

struct Machine {
    check: Check<Word>,
    tsc: Tsc,
}

impl Machine {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            check: Check::new(Word::zero),
            tsc: Tsc(AtomicU64::new(1)),
        })
    }

    fn cpu(&self, offset: u64) -> Cpu<'_> {
        Cpu {
            tsc: &self.tsc,
            offset,
        }
    }
}

fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 10_000;
    builder.check(model);
}

/// One run on two CPUs; what each has found.
fn run(
    machine: &Arc<Machine>,
    ticket: Ticket,
    bounds: Bounds,
    ahead: u64,
) -> [Option<Measured>; 2] {
    let other = {
        let machine = Arc::clone(machine);
        thread::spawn(move || {
            let mut side = Side::new(&machine.check, ticket, Role::Control);
            side.run(&machine.cpu(0), &bounds)
        })
    };
    let mut side = Side::new(&machine.check, ticket, Role::Starting);
    let mine = side.run(&machine.cpu(ahead), &bounds);
    drop(side);
    [other.join().expect("the control CPU does not panic"), mine]
}

/// Two CPUs that wait for each other meet, and know the same; in step there is no warp in any
/// order.
#[test]
fn who_waits_is_met() {
    check(2, || {
        let machine = Machine::new();
        let ticket = machine.check.open().expect("nobody is there");
        let [control, starting] = run(&machine, ticket, bounds(u32::MAX), 0);
        assert_eq!(control, starting);
        let measured = starting.expect("they have met");
        assert_eq!((measured.control.warp, measured.starting.warp), (0, 0));
        let outcome = measured.outcome(&bounds(0));
        assert!(matches!(outcome, Outcome::Passed | Outcome::Unseen));
        assert!(machine.check.open().is_ok());
    });
}

/// An offset is never seen from the wrong side.
#[test]
fn who_is_ahead_sees_no_warp() {
    check(2, || {
        let machine = Machine::new();
        let ticket = machine.check.open().expect("nobody is there");
        let [_, starting] = run(&machine, ticket, bounds(u32::MAX), 100);
        let measured = starting.expect("they have met");
        assert_eq!(measured.starting.warp, 0);
        // A cycle more by the tag.
        assert!(measured.control.warp <= 100);
    });
}

/// CPUs that give up at once: they agree on whether they have met, or one has not waited for the
/// finding and the other one has none either.
#[test]
fn who_gives_up_and_who_comes_agree() {
    check(3, || {
        let machine = Machine::new();
        let ticket = machine.check.open().expect("nobody is there");
        let [control, starting] = run(&machine, ticket, bounds(1), 0);
        assert_eq!(control, starting);
        assert!(machine.check.open().is_ok(), "somebody is left in it");
    });
}

/// A session is opened anew while two CPUs come to the one before: refused from the first that has
/// come to the last that has left; else both are turned away.
#[test]
fn a_session_ends_before_the_next_one() {
    check(2, || {
        let machine = Machine::new();
        let early = machine.check.open().expect("nobody is there");
        let opener = {
            let machine = Arc::clone(&machine);
            thread::spawn(move || machine.check.open())
        };
        let [control, starting] = run(&machine, early, bounds(1), 0);
        let next = opener.join().expect("the opener does not panic");
        assert_eq!(control, starting);
        match next {
            Err(Busy) => {}
            Ok(next) => {
                assert_ne!(next, early);
                let mut late = Side::new(&machine.check, early, Role::Control);
                assert_eq!(late.run(&machine.cpu(0), &bounds(1)), None);
                drop(late);
                // The one that is open now has not been closed by those before.
                let [control, starting] = run(&machine, next, bounds(u32::MAX), 0);
                assert!(control.is_some() && control == starting);
            }
        }
    });
}

/// All runs there may be, and a starting CPU that has enough of it after the first.
#[test]
fn who_leaves_is_not_waited_for() {
    check(1, || {
        let machine = Machine::new();
        let ticket = machine.check.open().expect("nobody is there");
        let other = {
            let machine = Arc::clone(&machine);
            thread::spawn(move || {
                let bounds = bounds(u32::MAX);
                machine.check.control(ticket, &machine.cpu(0), &bounds)
            })
        };
        let bounds = bounds(u32::MAX);
        let cpu = machine.cpu(0);
        let mine = machine
            .check
            .starting(ticket, &cpu, &bounds, |run, _| run < 2);
        assert!(mine.is_some());
        assert_eq!(other.join().expect("the control CPU does not panic"), mine);
        assert!(machine.check.open().is_ok());
    });
}
