// SPDX-License-Identifier: GPL-2.0

//! The reader on a simulated Hyper-V: a page that is withdrawn and comes back, a TSC that a
//! migration changes meanwhile, and the reference counter behind it.
//!
//! As in `reader.rs`, every access of the reader is a point at which the script may act: the host
//! does something, or another CPU reads the clock from its first step to its last.
#![cfg(not(loom))]

mod hooked;

use hooked::{HookedWord, Machine as _};
use paraclock_unit::logic::{
    frequency::Frequency,
    page::{NoSample, Page, Params as _, Version, sample},
    reader::{Env, Event, GRACE_US, HANDOVER_US, PLAUSIBLE_US, Reader, Reading, Standing},
    reference_tsc::{COUNT_HZ, FRACTION_BITS, Params, counted, judge},
};
use proptest::prelude::*;
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
};

/// Counts in 100 ns.
const UNIT: u64 = 1 << FRACTION_BITS;
const US: u64 = Params::PER_US;
/// Reference time at the beginning, in counts.
const EPOCH: u64 = 3_000_000 * US + 77;
/// How long the host takes at least to change a TSC: it has withdrawn the page before.
const SWITCH: u64 = 10 * US;
/// By how much the host corrects its clock at most.
const CORRECTION: u64 = 500 * US;
/// By how much page and counter may differ.
const PLAUSIBLE: i64 = (PLAUSIBLE_US * US) as i64;
/// How many readers may stand still within one another.
const DEPTH: u32 = 4;

/// What happens between two steps of a reader.
#[derive(Clone, Debug)]
enum Action {
    /// Time passes, in counts.
    Advance(u64),
    /// A CPU reads the clock.
    Read,
    /// A CPU reads it in user space.
    ReadVdso,
    /// The page is withdrawn, by one of the two values.
    Withdraw(bool),
    /// The page is withdrawn, the TSC runs at another rate from another value, and the page stays
    /// away.
    Migrate { rate: u64, tsc: u64 },
    /// The same, and the TSC's value goes on.
    Retune(u64),
    /// A page that is right, under a new sequence.
    Restore,
    /// The same by a host that takes its time, and writes the page anew only for another TSC.
    Republish,
    /// A page that is no clock of this partition, under a new sequence.
    Garbage(Params),
    /// A page that is right, under the sequence with which the host once began. Not in the scripts
    /// made at random: a reader that stood still from one such page to the next takes them for
    /// one, which the protocol has no remedy for.
    Restart,
    /// A right page of a time that is off by so many counts.
    Off(i64),
    /// The counter is off by so many counts.
    Skew(i64),
    /// The counter can be read, or raises #GP.
    Counter(bool),
    /// The host sets its reference time back by what it has drifted, with page and counter.
    Correct(u64),
    /// The same, and a CPU reads the clock before it and behind it, from its first step to its last.
    ReadCorrectRead(u64),
}

/// The reader under test.
type ClockReader = Reader<HookedWord<Machine>, Params>;

struct Machine {
    reader: RefCell<Option<Rc<ClockReader>>>,
    script: RefCell<VecDeque<(u32, Action)>>,
    /// Reference time, in counts: the truth.
    now: Cell<u64>,
    /// The same, but for corrections: what the TSC counts.
    mono: Cell<u64>,
    /// The TSC's cycles a count, and where it stood when.
    rate: Cell<u64>,
    base: Cell<(u64, u64)>,
    sequence: Cell<u32>,
    next_sequence: Cell<u32>,
    params: Cell<Params>,
    counter: Cell<bool>,
    /// By how much it is off.
    skew: Cell<i64>,
    /// How long the way to it takes.
    exit: Cell<u64>,
    /// Whether the host says the TSC's frequency.
    says_frequency: Cell<bool>,
    /// By how much, in ppm, it says more than the page.
    frequency_ppm: Cell<u64>,
    /// How often it was asked.
    frequency_reads: Cell<u64>,
    counter_reads: Cell<u64>,
    depth: Cell<u32>,
    given: Cell<u64>,
    stuck: Cell<u64>,
    withdrawn: Cell<u64>,
    failure: RefCell<Option<String>>,
}

impl Machine {
    fn new(script: Vec<(u32, Action)>) -> Rc<Self> {
        let machine = Rc::new(Self {
            reader: RefCell::default(),
            script: RefCell::new(script.into()),
            now: Cell::new(EPOCH),
            mono: Cell::new(EPOCH),
            rate: Cell::new(1),
            base: Cell::new((EPOCH, 0)),
            sequence: Cell::new(0),
            next_sequence: Cell::new(1),
            params: Cell::default(),
            counter: Cell::new(true),
            skew: Cell::new(0),
            exit: Cell::new(0),
            says_frequency: Cell::new(true),
            frequency_ppm: Cell::new(0),
            frequency_reads: Cell::new(0),
            counter_reads: Cell::new(0),
            depth: Cell::new(0),
            given: Cell::new(0),
            stuck: Cell::new(0),
            withdrawn: Cell::new(0),
            failure: RefCell::default(),
        });
        machine.restore();
        let reader = Rc::new(Reader::new(true, || HookedWord::zero(&machine)));
        machine.reader.replace(Some(reader));
        machine
    }

    fn reader(&self) -> Rc<ClockReader> {
        let reader = self.reader.borrow();
        Rc::clone(reader.as_ref().expect("set from new() to close()"))
    }

    /// Breaks the circle of references.
    fn close(&self) {
        self.reader.replace(None);
    }

    fn advance(&self, counts: u64) {
        self.now.set(self.now.get() + counts);
        self.mono.set(self.mono.get() + counts);
    }

    fn tsc(&self) -> u64 {
        let (at, tsc) = self.base.get();
        tsc + (self.mono.get() - at) * self.rate.get()
    }

    fn scale(&self) -> u64 {
        ((1u128 << (64 - FRACTION_BITS)) / u128::from(self.rate.get())) as u64
    }

    /// A page of the TSC as it is; the offset has no fraction, so it is up to 100 ns behind.
    fn restore(&self) {
        let scale = self.scale();
        let product = Params { scale, offset: 0 }.at(self.tsc());
        let offset = (self.now.get().wrapping_sub(product) as i64) >> FRACTION_BITS;
        self.write(Params {
            scale,
            offset: offset as u64,
        });
    }

    fn write(&self, params: Params) {
        self.sequence.set(0);
        self.params.set(params);
        self.sequence.set(self.next_sequence.get());
        self.next_sequence.set(match self.next_sequence.get() {
            0xffff_fffe => 1,
            sequence => sequence + 1,
        });
    }

    fn act(self: &Rc<Self>, action: &Action) {
        match *action {
            Action::Advance(counts) => self.advance(counts),
            Action::Read => {
                self.read();
            }
            Action::ReadVdso => {
                self.read_vdso();
            }
            Action::Withdraw(early) => self.sequence.set(if early { u32::MAX } else { 0 }),
            Action::Migrate { rate, tsc } => {
                self.sequence.set(0);
                self.advance(SWITCH);
                self.base.set((self.mono.get(), tsc));
                self.rate.set(rate);
            }
            Action::Retune(rate) => {
                self.sequence.set(0);
                self.advance(SWITCH);
                self.base.set((self.mono.get(), self.tsc()));
                self.rate.set(rate);
            }
            Action::Restore => self.restore(),
            Action::Republish => {
                self.sequence.set(0);
                self.advance(SWITCH);
                if self.params.get().scale == self.scale() {
                    self.write(self.params.get());
                } else {
                    self.restore();
                }
            }
            Action::Restart => {
                self.next_sequence.set(1);
                self.restore();
            }
            Action::Off(counts) => {
                let now = self.now.get();
                self.now.set(now.wrapping_add_signed(counts));
                self.restore();
                self.now.set(now);
            }
            Action::Skew(counts) => self.skew.set(counts),
            Action::Garbage(params) => self.write(params),
            Action::Counter(there) => self.counter.set(there),
            Action::Correct(counts) => {
                self.sequence.set(0);
                self.advance(SWITCH);
                self.now.set(self.now.get() - counts);
                self.restore();
            }
            Action::ReadCorrectRead(counts) => {
                let script = self.script.take();
                self.read();
                self.act(&Action::Correct(counts));
                self.read();
                self.script.replace(script);
            }
        }
    }

    /// Reads the clock as the vDSO does: it believes the page while that is not withdrawn, and makes
    /// the system call while it is.
    fn read_vdso(self: &Rc<Self>) -> u64 {
        let floor = self.given.get();
        let nested = self.depth.get();
        self.depth.set(nested + 1);
        let env = Cpu {
            machine: self,
            page: TscPage(Rc::clone(self)),
        };
        let count = loop {
            match sample(env.page0(), || env.tsc()) {
                Ok(sample) => break Some(sample.count()),
                Err(NoSample::Withdrawn(_)) => break None,
                Err(NoSample::Unsettled) => {}
            }
        };
        self.depth.set(nested);
        let Some(count) = count else {
            return self.read().count;
        };
        if count < floor {
            self.fail(format!(
                "given {} in user space, {} counts less than was given before it began",
                count as i64 - EPOCH as i64,
                floor - count,
            ));
        }
        self.given.set(floor.max(self.given.get()).max(count));
        count
    }

    /// Reads the clock as the driver does, and checks what is true of every reading.
    fn read(self: &Rc<Self>) -> Reading {
        let floor = self.given.get();
        let nested = self.depth.get();
        self.depth.set(nested + 1);
        let env = Cpu {
            machine: self,
            page: TscPage(Rc::clone(self)),
        };
        let reader = self.reader();
        let reading = match reader.read_fast(&env) {
            Some(sample) => Reading {
                count: sample.count(),
                tsc: Some(sample.tsc),
            },
            None => reader.read_slow(&env),
        };
        self.depth.set(nested);
        if reading.count < floor {
            self.fail(format!(
                "given {}, which is {} counts less than was given before it began",
                reading.count as i64 - EPOCH as i64,
                floor - reading.count,
            ));
        }
        self.given
            .set(floor.max(self.given.get()).max(reading.count));
        reading
    }

    fn fail(&self, why: String) {
        self.failure.borrow_mut().get_or_insert(why);
    }
}

impl hooked::Machine for Machine {
    fn step(self: &Rc<Self>) {
        loop {
            let action = {
                let mut script = self.script.borrow_mut();
                match script.front_mut() {
                    Some((0, Action::Read | Action::ReadVdso)) if self.depth.get() >= DEPTH => {
                        return;
                    }
                    Some((0, _)) => script.pop_front().expect("it has a front").1,
                    Some((steps, _)) => {
                        *steps -= 1;
                        return;
                    }
                    None => return,
                }
            };
            self.act(&action);
        }
    }

    fn is_set_up(&self) -> bool {
        self.reader.borrow().is_some()
    }
}

struct TscPage(Rc<Machine>);

impl Page for TscPage {
    type Params = Params;

    fn version(&self) -> u32 {
        self.0.step();
        self.0.sequence.get()
    }

    fn judge(version: u32) -> Version {
        judge(version)
    }

    fn params(&self) -> Params {
        self.0.step();
        let scale = self.0.params.get().scale;
        self.0.step();
        let offset = self.0.params.get().offset;
        Params { scale, offset }
    }

    fn rmb(&self) {}
}

struct Cpu<'a> {
    machine: &'a Rc<Machine>,
    page: TscPage,
}

impl Env for Cpu<'_> {
    type Word = HookedWord<Machine>;
    type Page = TscPage;

    fn tsc(&self) -> u64 {
        self.machine.step();
        self.machine.advance(1);
        self.machine.tsc()
    }

    fn page0(&self) -> &TscPage {
        &self.page
    }

    fn second_is_reference(&self) -> bool {
        true
    }

    fn second(&self) -> Option<Reading> {
        self.machine.step();
        self.machine.advance(self.machine.exit.get());
        self.machine
            .counter_reads
            .set(self.machine.counter_reads.get() + 1);
        self.machine.counter.get().then(|| Reading {
            count: counted(
                self.machine
                    .now
                    .get()
                    .wrapping_add_signed(self.machine.skew.get())
                    / UNIT,
            ),
            tsc: None,
        })
    }

    fn tsc_is_another(&self, params: &Params) -> bool {
        let machine = self.machine;
        machine.step();
        machine
            .frequency_reads
            .set(machine.frequency_reads.get() + 1);
        let hz = machine.rate.get() * u64::from(COUNT_HZ);
        let now = Frequency::new(hz + hz / 1_000_000 * machine.frequency_ppm.get());
        let now = now.expect("a TSC's");
        machine.says_frequency.get() && !now.is_of_reference_tsc(params.scale)
    }

    fn relax(&self) {}

    fn count(&self, event: Event) {
        let counter = match event {
            Event::Stuck => &self.machine.stuck,
            Event::Withdrawn => &self.machine.withdrawn,
            _ => return,
        };
        counter.set(counter.get() + 1);
    }
}

fn rates() -> impl Strategy<Value = u64> {
    1..5u64
}

/// TSCs before and after a migration, years apart or next to one another.
fn tscs() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 0..1u64 << 20, 0..1u64 << 50]
}

/// Pages that are no clock of this partition: off by more than the reader takes for plausible.
fn garbage() -> impl Strategy<Value = Params> {
    prop_oneof![
        (any::<u64>()).prop_map(|offset| Params { scale: 0, offset }),
        (0..1u64 << 40).prop_map(|scale| Params { scale, offset: 0 }),
        // A time before the beginning.
        (1u64 << 30..1 << 50).prop_map(|offset| Params {
            scale: 1 << (64 - FRACTION_BITS),
            offset: offset.wrapping_neg(),
        }),
        // A time years off, whatever the TSC.
        (1u64 << 40..1 << 44).prop_map(|offset| Params {
            scale: 1 << (64 - FRACTION_BITS),
            offset: offset << 9,
        }),
    ]
}

/// What a host does that says the truth, beside `changes`.
fn honest(changes: BoxedStrategy<Action>) -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => prop_oneof![1..UNIT, 1..10 * US, 1..4 * GRACE_US * US].prop_map(Action::Advance),
        8 => Just(Action::Read),
        2 => any::<bool>().prop_map(Action::Withdraw),
        4 => Just(Action::Restore),
        2 => changes,
    ]
}

/// The TSC changes, or the clock is corrected. Not both at once: what readers were given a moment
/// ago follows from the old parameters and the TSC, or from the host's word that its reference
/// time never steps back, and where neither holds there is nothing to tell it by.
fn changes() -> impl Strategy<Value = BoxedStrategy<Action>> {
    prop_oneof![
        Just(
            (rates(), tscs())
                .prop_map(|(rate, tsc)| Action::Migrate { rate, tsc })
                .boxed()
        ),
        Just((1..CORRECTION).prop_map(Action::Correct).boxed()),
    ]
}

/// A host that changes the TSC's frequency, of which the value goes on, and keeps the clock.
fn retuning() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => prop_oneof![1..UNIT, 1..10 * US, 1..2 * GRACE_US * US].prop_map(Action::Advance),
        6 => Just(Action::Read),
        6 => Just(Action::ReadVdso),
        2 => any::<bool>().prop_map(Action::Withdraw),
        4 => Just(Action::Republish),
        3 => Just(Action::Retune(1)),
    ]
}

/// A host that does so, and corrects its clock as well.
fn retuning_and_correcting() -> impl Strategy<Value = Action> {
    prop_oneof![
        10 => retuning().prop_map(|action| match action {
            // Has no clamp, and goes back with the clock.
            Action::ReadVdso => Action::Read,
            other => other,
        }),
        2 => (1..CORRECTION).prop_map(Action::ReadCorrectRead),
    ]
}

/// What the host's word of the frequency is off its page's, in ppm: by less than what is taken for
/// another one, and by more.
fn ppm() -> impl Strategy<Value = u64> {
    prop_oneof![2 => Just(0), 1 => 0..90u64, 2 => 110..250u64]
}

/// Gives each change of the TSC a rate of its own. What was changed and changed back while nobody
/// looked cannot be told from what was not.
fn retuned(mut script: Vec<(u32, Action)>) -> Vec<(u32, Action)> {
    let rates = script.iter_mut().filter_map(|(_, action)| match action {
        Action::Retune(rate) => Some(rate),
        _ => None,
    });
    for (n, rate) in (1..37).zip(rates) {
        *rate = 1 + n * 7 % 37;
    }
    script
}

fn honest_script() -> impl Strategy<Value = Vec<(u32, Action)>> {
    changes().prop_flat_map(|changes| script(honest(changes)))
}

fn faulty_script() -> impl Strategy<Value = Vec<(u32, Action)>> {
    let faults = |changes: BoxedStrategy<Action>| {
        prop_oneof![
            10 => honest(changes),
            2 => garbage().prop_map(Action::Garbage),
            1 => (2 * PLAUSIBLE..50 * PLAUSIBLE).prop_map(Action::Off),
            1 => (-50 * PLAUSIBLE..-2 * PLAUSIBLE).prop_map(Action::Off),
        ]
    };
    let skew = (-PLAUSIBLE..PLAUSIBLE).prop_map(Action::Skew);
    prop_oneof![
        changes().prop_flat_map(move |changes| script(faults(changes))),
        // As with a correction: not where the TSC changes.
        script(faults(skew.boxed())),
    ]
}

fn script(action: impl Strategy<Value = Action>) -> impl Strategy<Value = Vec<(u32, Action)>> {
    prop::collection::vec((prop_oneof![3 => 0..6u32, 1 => 0..60u32], action), 1..60)
}

/// Runs a script on top of a CPU that reads and reads, each time with `check` of the reading.
fn run(
    script: Vec<(u32, Action)>,
    check: impl Fn(&Machine, Reading, u64) -> Result<(), String>,
) -> Result<(), TestCaseError> {
    run_on(&Machine::new(script), check)
}

/// The same on a machine that is there.
fn run_on(
    machine: &Rc<Machine>,
    check: impl Fn(&Machine, Reading, u64) -> Result<(), String>,
) -> Result<(), TestCaseError> {
    let mut after_the_script = 0;
    while after_the_script < 3 {
        if machine.script.borrow().is_empty() {
            after_the_script += 1;
        }
        let (before, mono) = (machine.now.get(), machine.mono.get());
        let reading = machine.read();
        // What was corrected meanwhile counts from the beginning.
        let passed = machine.mono.get() - mono;
        let before = before.min(machine.now.get() - passed);
        if let Err(why) = check(machine, reading, before) {
            machine.fail(why);
        }
    }
    machine.close();
    let failure = machine.failure.borrow().clone();
    match failure {
        None => Ok(()),
        Some(why) => Err(TestCaseError::fail(why)),
    }
}

/// A time no earlier than it was before, but for the rounding of page and counter, and no later than now
/// but for what it may be ahead.
fn is_between(reading: Reading, before: u64, now: u64, ahead: u64) -> Result<(), String> {
    if reading.count + 2 * UNIT < before || reading.count > now + ahead {
        return Err(format!(
            "{} was read between {} and {}",
            reading.count as i64 - EPOCH as i64,
            before as i64 - EPOCH as i64,
            now as i64 - EPOCH as i64
        ));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(
            std::env::var("CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(3_000)
        )
    })]

    /// Never back, and the truth: no earlier than it was when the reading began, but for the
    /// rounding of page and counter, and no later than it was when it ended, but for what the
    /// clamp holds: after a correction, and where a TSC that was changed under the reader looks as
    /// if it were the old one.
    #[test]
    fn an_honest_host_is_followed(script in honest_script(), ppm in ppm()) {
        let machine = Machine::new(script);
        machine.frequency_ppm.set(ppm);
        run_on(&machine, |machine, reading, before| {
            is_between(reading, before, machine.now.get(), HANDOVER_US * US)
        })?;
    }

    /// Nor with readers of the vDSO, which know no clamp, where the TSC changes its frequency and its
    /// value goes on: what the old parameters give by the new TSC is taken for no time.
    #[test]
    fn a_tsc_that_changes_its_frequency_is_told(script in script(retuning())) {
        let machine = Machine::new(retuned(script));
        // The counter is coarser than the page by less than it takes to get there.
        machine.exit.set(UNIT);
        run_on(&machine, |machine, reading, before| {
            is_between(reading, before, machine.now.get(), US + UNIT)
        })?;
    }

    /// Never back in the kernel either where the clock is corrected besides, as long as somebody has
    /// read it between the two.
    #[test]
    fn a_correction_that_was_read_outlasts_a_change_of_the_tsc(
        script in script(retuning_and_correcting()),
        ppm in ppm(),
    ) {
        // The clamp holds what was ahead at the hand-over, and each correction takes the truth further back.
        let corrected: u64 = script
            .iter()
            .map(|(_, action)| match action {
                Action::ReadCorrectRead(counts) => *counts,
                _ => 0,
            })
            .sum();
        let machine = Machine::new(retuned(script));
        machine.frequency_ppm.set(ppm);
        run_on(&machine, |machine, reading, _| {
            if reading.count > machine.now.get() + HANDOVER_US * US + corrected {
                return Err(format!("{reading:?}"));
            }
            Ok(())
        })?;
    }

    /// Never back, and never far from the truth: what is not plausible is not believed.
    #[test]
    fn a_page_that_is_no_clock_is_not_believed(script in faulty_script()) {
        run(script, |machine, reading, before| {
            let slack = (3 * PLAUSIBLE_US + HANDOVER_US) * US;
            if reading.count + slack < before || reading.count > machine.now.get() + slack {
                return Err(format!(
                    "{} was read between {} and {}",
                    reading.count as i64 - EPOCH as i64,
                    before as i64 - EPOCH as i64,
                    machine.now.get() as i64 - EPOCH as i64
                ));
            }
            Ok(())
        })?;
    }
}

/// After a first reading.
fn machine() -> Rc<Machine> {
    let machine = Machine::new(Vec::new());
    machine.read();
    assert_eq!(machine.reader().standing(), Standing::Accepted);
    machine
}

#[test]
fn a_page_that_was_accepted_costs_no_look_at_the_counter() {
    let machine = machine();
    let reads = machine.counter_reads.get();
    for _ in 0..1000 {
        assert!(machine.read().tsc.is_some());
    }
    assert_eq!(machine.counter_reads.get(), reads);
    machine.close();
}

#[test]
fn by_the_counter_while_the_page_is_away_and_back_after_the_grace() {
    for early in [false, true] {
        let machine = machine();
        machine.act(&Action::Withdraw(early));
        machine.advance(US);
        let reading = machine.read();
        assert_eq!(reading.tsc, None);
        // The counter is coarser than the page was: up to its next step the clamp holds.
        let now = machine.now.get();
        assert!(reading.count >= counted(now / UNIT) && reading.count <= now);
        machine.advance(UNIT);
        assert_eq!(machine.read().count, counted(machine.now.get() / UNIT));
        assert_eq!(machine.reader().standing(), Standing::Rejected);
        assert_eq!(machine.withdrawn.get(), 1, "counted once");
        machine.act(&Action::Migrate { rate: 3, tsc: 0 });
        machine.act(&Action::Restore);
        machine.advance(US);
        machine.read();
        assert_eq!(
            machine.reader().standing(),
            Standing::Rejected,
            "in its grace"
        );
        machine.advance((GRACE_US + 100) * US);
        machine.read();
        assert_eq!(machine.reader().standing(), Standing::Accepted);
        machine.close();
    }
}

/// A reader that sees neither the withdrawal nor the change: the page was there at both its looks.
#[test]
fn a_page_that_follows_another_is_accepted_at_once() {
    let machine = machine();
    machine.act(&Action::Migrate { rate: 2, tsc: 5 });
    machine.advance(US);
    machine.act(&Action::Restore);
    machine.read();
    assert_eq!(machine.reader().standing(), Standing::Accepted);
    assert_eq!(machine.withdrawn.get(), 0);
    machine.close();
}

/// The TSC's value goes on, so by the old parameters the time at the new TSC is near by.
#[test]
fn a_page_of_another_tsc_is_accepted_at_once() {
    for rate in 2..5 {
        let machine = machine();
        machine.act(&Action::Retune(rate));
        machine.advance(400 * US);
        machine.act(&Action::Restore);
        let reading = machine.read();
        assert!(reading.tsc.is_some() && reading.count <= machine.now.get());
        assert_eq!(machine.reader().standing(), Standing::Accepted);
        machine.read_vdso();
        assert_eq!(machine.failure.take(), None);
        machine.close();
    }
}

/// It changes while the page is away: the host says so, beside the page.
#[test]
fn a_tsc_that_changes_while_the_page_is_away_makes_no_floor() {
    for us in [1, 10, 99, 1000, 4000] {
        let machine = machine();
        machine.act(&Action::Retune(3));
        machine.advance(us * US);
        let reading = machine.read();
        assert_eq!(reading.count, counted(machine.now.get() / UNIT), "{us} us");
        machine.act(&Action::Republish);
        machine.read_vdso();
        machine.read();
        assert_eq!(machine.failure.take(), None, "{us} us");
        machine.close();
    }
}

/// Where it does not say so, that is taken for a clock that was corrected.
#[test]
fn without_a_frequency_another_tsc_is_taken_for_a_correction() {
    let machine = machine();
    machine.says_frequency.set(false);
    machine.act(&Action::Retune(3));
    machine.advance(1000 * US);
    let reading = machine.read();
    let ahead = reading.count - machine.now.get();
    assert!((1999 * US..2001 * US).contains(&ahead), "{ahead}");
    machine.close();
}

/// A clock that is corrected, by more than page and counter may disagree, and a page that is away
/// before anybody has read the new one: it is the same TSC, so there is a floor.
#[test]
fn a_correction_that_the_counter_shows_is_waited_for() {
    for says in [true, false] {
        let machine = machine();
        machine.says_frequency.set(says);
        let last = machine.read().count;
        machine.act(&Action::Correct(5 * PLAUSIBLE_US * US));
        machine.act(&Action::Withdraw(false));
        let held = machine.read();
        assert!(held.count >= last && held.tsc.is_none());
        assert_eq!(machine.failure.take(), None);
        machine.close();
    }
}

/// The same on a host that says another frequency than its page's, of one and the same TSC.
#[test]
fn a_frequency_that_was_never_the_pages_is_not_of_another_tsc() {
    for ppm in [0, 50, 99, 101, 150, 240] {
        for is_known in [true, false] {
            let machine = Machine::new(Vec::new());
            machine.frequency_ppm.set(ppm);
            if is_known {
                // What is known was compared, so only a host that agrees comes by here.
                let (version, params) = (machine.sequence.get(), machine.params.get());
                let is_accepted = ppm <= 100;
                machine.reader().begin_with(version, &params, is_accepted);
            }
            let last = machine.read().count;
            machine.advance(2 * GRACE_US * US);
            let last = last.max(machine.read().count);
            assert_eq!(machine.reader().standing(), Standing::Accepted);
            machine.act(&Action::Correct(5 * PLAUSIBLE_US * US));
            machine.act(&Action::Withdraw(false));
            let held = machine.read();
            assert!(held.count >= last && held.tsc.is_none(), "{ppm} ppm");
            assert_eq!(machine.failure.take(), None, "{ppm} ppm");
            machine.close();
        }
    }
}

/// And a host that agreed is asked of a page that is known by other means as well.
#[test]
fn what_is_known_agrees_with_the_frequency() {
    let machine = Machine::new(Vec::new());
    let (version, params) = (machine.sequence.get(), machine.params.get());
    machine.reader().begin_with(version, &params, true);
    machine.act(&Action::Retune(3));
    machine.advance(1000 * US);
    assert_eq!(machine.read().count, counted(machine.now.get() / UNIT));
    machine.close();
}

/// An exit for each page that is accepted, and one where the page is away and the floor ahead, but
/// not too far.
#[test]
fn the_frequency_is_asked_where_it_matters() {
    let machine = machine();
    let asked = |machine: &Machine| machine.frequency_reads.take();
    assert_eq!(asked(&machine), 1, "the first one");
    machine.act(&Action::Restore);
    machine.read();
    assert_eq!(asked(&machine), 1, "the next one");
    for (ahead, expected) in [(0, 0), (5 * PLAUSIBLE_US, 1), (2 * HANDOVER_US, 0)] {
        machine.act(&Action::Correct(ahead * US));
        machine.act(&Action::Withdraw(false));
        machine.advance(2 * UNIT);
        machine.read();
        assert_eq!(asked(&machine), expected, "{ahead} us ahead");
        machine.advance(2 * HANDOVER_US * US);
        machine.act(&Action::Restore);
        machine.read();
        assert_eq!(asked(&machine), 0, "in its grace");
        machine.advance(2 * GRACE_US * US);
        machine.read();
        assert_eq!(machine.reader().standing(), Standing::Accepted);
        assert_eq!(asked(&machine), 1, "behind it");
    }
    machine.close();
}

#[test]
fn a_page_that_disagrees_with_the_counter_is_stuck() {
    let machine = machine();
    let off = Params {
        offset: machine.params.get().offset + PLAUSIBLE_US * 10 + 100,
        ..machine.params.get()
    };
    machine.act(&Action::Garbage(off));
    let reading = machine.read();
    assert_eq!(reading.tsc, None);
    assert!(reading.count <= machine.now.get());
    assert_eq!(machine.stuck.get(), 1);
    machine.advance(10 * GRACE_US * US);
    machine.read();
    assert_eq!(machine.reader().standing(), Standing::Rejected);
    machine.close();
}

#[test]
fn without_the_counter_time_goes_on_by_the_last_parameters() {
    let machine = machine();
    machine.act(&Action::Counter(false));
    machine.act(&Action::Withdraw(false));
    machine.advance(50 * US);
    let reading = machine.read();
    assert!(reading.tsc.is_some());
    assert!(machine.now.get() - reading.count <= 2 * UNIT);
    machine.close();
}

/// A page of a time before the beginning, where there is no counter to compare it with.
#[test]
fn a_page_of_a_negative_time_is_stuck_without_a_counter() {
    let machine = machine();
    machine.counter.set(false);
    machine.act(&Action::Garbage(Params {
        scale: 1 << (64 - FRACTION_BITS),
        offset: (1u64 << 40).wrapping_neg(),
    }));
    machine.advance(50 * US);
    let reading = machine.read();
    assert!(machine.now.get() - reading.count <= 2 * UNIT);
    assert_eq!(machine.stuck.get(), 1);
    machine.close();
}

/// A correction by more than page and counter may disagree.
#[test]
fn a_host_that_sets_its_clock_back_is_waited_for() {
    let machine = machine();
    machine.act(&Action::Correct(5 * PLAUSIBLE_US * US));
    let held = machine.read();
    machine.advance(PLAUSIBLE_US * US);
    assert_eq!(machine.read().count, held.count, "it stands still");
    machine.advance(5 * PLAUSIBLE_US * US);
    let reading = machine.read();
    assert!(reading.count > held.count && reading.count <= machine.now.get());
    machine.close();
}

/// Neither page nor counter, from the first: time stands still rather than to be made up.
#[test]
fn with_nothing_to_go_by_time_stands_still() {
    let machine = Machine::new(Vec::new());
    machine.act(&Action::Counter(false));
    machine.act(&Action::Withdraw(false));
    machine.advance(50 * US);
    assert_eq!(
        machine.read(),
        Reading {
            count: 0,
            tsc: None
        }
    );
    machine.close();
}

/// A page that is off by more than is plausible, and less than what is held, whichever way.
#[test]
fn a_page_that_is_off_is_told_from_the_counter() {
    for off in [
        2 * PLAUSIBLE,
        -2 * PLAUSIBLE,
        40 * PLAUSIBLE,
        -40 * PLAUSIBLE,
    ] {
        let machine = machine();
        machine.act(&Action::Off(off));
        for _ in 0..100 {
            machine.advance(GRACE_US * US);
            assert_eq!(machine.read().tsc, None, "off by {off}");
        }
        assert_eq!(machine.stuck.get(), 1, "off by {off}");
        machine.close();
    }
}

/// The host begins anew with the same sequence, and the reader with its parameters.
#[test]
fn a_sequence_that_comes_back_is_another_page() {
    let machine = machine();
    for rate in [2, 3, 4] {
        machine.act(&Action::Withdraw(false));
        machine.read();
        machine.act(&Action::Migrate {
            rate,
            tsc: rate << 40,
        });
        machine.act(&Action::Restart);
        assert_eq!(machine.sequence.get(), 1);
        machine.read();
        assert_eq!(machine.reader().standing(), Standing::Rejected, "its grace");
        machine.advance((GRACE_US + 100) * US);
        machine.read();
        assert_eq!(machine.reader().standing(), Standing::Accepted);
        assert_eq!(machine.reader().last_good(), Some(machine.params.get()));
    }
    machine.close();
}

/// A reader of the counter stands still until the page has been accepted, and is away again.
#[test]
fn a_reader_of_the_counter_does_not_overtake_the_page() {
    use Action::{Advance, Migrate, Read, Restore, Withdraw};
    let script = [
        (0, Migrate { rate: 1, tsc: 0 }),
        (0, Advance(3370)),
        (36, Read),
        (3, Read),
        (1, Restore),
        (2, Read),
        (27, Advance(1538)),
        (0, Read),
        (3, Advance(2 * GRACE_US * US)),
        (5, Withdraw(false)),
        (29, Advance(44)),
        (20, Restore),
    ];
    // Whatever the page lacks of the counter's last step.
    for begin in 0..UNIT {
        for delay in 0..4 {
            let mut script = script.to_vec();
            script.insert(0, (0, Advance(begin)));
            script.insert(0, (delay, Read));
            run(script, |_, _, _| Ok(())).expect("time does not go back");
        }
    }
}

/// A reader of the counter stands still with what it read, raises the clamp when the page has long
/// been accepted, and another one that is late as well comes by and finds it there.
#[test]
fn what_a_late_reader_leaves_in_the_clamp_is_not_given_to_anybody() {
    use Action::{Advance, Migrate, Read, Restore, Withdraw};
    let migrate = Migrate { rate: 1, tsc: 0 };
    let script = [
        (3, Advance(1)),
        (2, Withdraw(false)),
        (1, Withdraw(false)),
        (1, Withdraw(false)),
        (3, Withdraw(true)),
        (2, migrate.clone()),
        (2, Read),
        (5, Advance(1)),
        (2, Read),
        (2, Read),
        (0, Read),
        (49, migrate),
        (11, Advance(1)),
        (0, Restore),
        (0, Read),
        (0, Read),
        (5, Read),
        (39, Restore),
        (25, Restore),
        (2, Read),
        (1, Read),
        (0, Read),
        (1, Withdraw(false)),
        (0, Restore),
        (2, Advance(1)),
        (0, Advance(24_066_090)),
        (0, Read),
        (36, Read),
        (1, Read),
        (5, Withdraw(false)),
        (2, Restore),
        (21, Advance(42_889_828)),
        (28, Read),
        (2, Withdraw(false)),
        (19, Restore),
        (0, Read),
    ];
    for begin in 0..UNIT {
        let mut script = script.to_vec();
        script[0] = (3, Advance(begin));
        run(script, |_, _, _| Ok(())).expect("time does not go back");
    }
}

/// However long nobody reads.
#[test]
fn a_grace_ends() {
    for hours in [1, 10, 16, 20, 29, 31, 100] {
        let machine = machine();
        machine.act(&Action::Withdraw(false));
        machine.read();
        machine.act(&Action::Restore);
        machine.read();
        machine.advance(hours * 3600 * 1_000_000 * US);
        machine.read();
        machine.advance((GRACE_US + 100) * US);
        machine.read();
        machine.advance((GRACE_US + 100) * US);
        machine.read();
        assert_eq!(machine.reader().standing(), Standing::Accepted, "{hours} h");
        machine.close();
    }
}

/// The host keeps the vCPU away between page and counter: whether the page is off cannot be told.
#[test]
fn a_page_is_not_believed_for_want_of_time() {
    let machine = Machine::new(Vec::new());
    machine.act(&Action::Off(20 * PLAUSIBLE));
    // The first TSC is read at the 4th step or thereabouts; each later attempt is disturbed too.
    machine.script.replace(
        (0..200)
            .map(|_| (2, Action::Advance(30 * PLAUSIBLE as u64)))
            .collect(),
    );
    for _ in 0..20 {
        let reading = machine.read();
        assert!(reading.count <= machine.now.get());
        assert_ne!(machine.reader().standing(), Standing::Accepted);
    }
    machine.close();
}

/// The mode that has no page: the counter, through the clamp.
#[test]
fn the_counter_alone_never_goes_back() {
    let machine = Machine::new(Vec::new());
    let env = Cpu {
        machine: &machine,
        page: TscPage(Rc::clone(&machine)),
    };
    let reader = machine.reader();
    let first = reader.read_second_fast(&env).expect("nothing to hold back");
    assert_eq!(first.count, counted(machine.now.get() / UNIT));
    assert_eq!(reader.read_second_fast(&env), None, "no more than before");
    assert_eq!(reader.read_second(&env), first);
    // The host's reference time steps back.
    machine.now.set(machine.now.get() - 5 * US);
    assert_eq!(reader.read_second_fast(&env), None);
    let held = reader.read_second(&env);
    assert_eq!(
        held,
        Reading {
            count: first.count,
            tsc: None
        }
    );
    machine.advance(6 * US);
    assert!(reader.read_second(&env).count > first.count);
    machine.act(&Action::Counter(false));
    assert_eq!(reader.read_second_fast(&env), None);
    let last = reader.read_second(&env);
    machine.advance(6 * US);
    assert_eq!(reader.read_second(&env), last, "it stands still");
    machine.close();
}
