// SPDX-License-Identifier: GPL-2.0

//! The reader against a simulated host, under schedules made at random.
//!
//! Every access of the reader to a shared word, a page or the TSC is a point at which the script
//! of a test may act: the host rewrites pages, time passes, or another CPU reads the clock, from
//! its first step to its last. So a reader may stand still between any two of its steps for as
//! long as it takes, which is what a preempted vCPU and an NMI do. What cannot be had here,
//! two readers both of which stand still halfway, and memory that is not sequentially
//! consistent, is the model checker's part (`loom.rs`).
#![cfg(not(loom))]

mod hooked;

use hooked::{HookedWord, Machine as _};
use paraclock_unit::logic::{
    page::{Page, Params as _, Version, sample},
    pvclock::{GUEST_STOPPED, Params, TSC_STABLE_BIT, judge},
    reader::{
        Env, Event, GRACE_US, HANDOVER_US, Reader, Reading, SETTLE_TRIES, Standing, read_own,
    },
};
use proptest::prelude::*;
use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    rc::Rc,
};

const CPUS: usize = 3;

/// By how much two pages, or a page before and after, may be apart at most, in ns.
const BAND: u64 = 50_000;
const _: () = assert!(BAND < GRACE_NS && BAND < HANDOVER_US * 1000);

const GRACE_NS: u64 = GRACE_US * 1000;

/// What the pages' time is at TSC 0, in ns.
const EPOCH: u64 = 1_000_000_000;

/// How often a reading may load a version: three times for page 0, and twice for every one of four
/// looks at the own page, in each attempt.
const LOADS: u64 = 11 * SETTLE_TRIES as u64 + 2;

/// How many readers may stand still within one another.
const DEPTH: u32 = 4;

/// What happens between two steps of a reader.
#[derive(Clone, Debug)]
enum Action {
    /// Time passes, in ns.
    Advance(u64),
    /// A CPU reads the clock.
    Read(usize),
    /// A CPU reads it in user space.
    ReadVdso(usize),
    /// The host rewrites all pages, alike and stable.
    Stable(u64),
    /// The host rewrites page 0 alone, stable: the other CPUs' pages follow late.
    Stable0(u64),
    /// The host rewrites all pages, each with its own offset, and vouches for none.
    Unstable([u64; CPUS]),
    /// The TSC runs at another rate, with its value going on but for a jump, and the host has
    /// rewritten all pages, alike, before any CPU runs again.
    Retune { rate: u64, jump: i64, flags: u8 },
    /// The host rewrites all pages with the numbers that page 0 has.
    Flags(u8),
    /// The host begins to rewrite a page, and is not heard of again until the next rewriting.
    Odd(usize),
    /// The host writes whatever it likes into a page.
    Write(usize, Params),
    /// A CPU has a page of its own, or none.
    Register(usize, bool),
}

#[derive(Clone, Copy, Debug, Default)]
struct Content {
    version: u32,
    params: Params,
}

/// The reader under test.
type ClockReader = Reader<HookedWord<Machine>, Params>;

/// The machine: host, TSC, pages, and what the readers were given.
struct Machine {
    reader: RefCell<Option<Rc<ClockReader>>>,
    script: RefCell<VecDeque<(u32, Action)>>,
    tsc: Cell<u64>,
    /// The TSC's cycles a us, and the time, in ns, at which it began to run at that, and its value.
    rate: Cell<u64>,
    base: Cell<(u64, u64)>,
    pages: RefCell<[Content; CPUS]>,
    registered: RefCell<[bool; CPUS]>,
    depth: Cell<u32>,
    /// The latest time that a read came to its end with.
    given: Cell<u64>,
    reads: Cell<u64>,
    page_loads: Cell<u64>,
    most_loads: Cell<u64>,
    events: RefCell<HashMap<&'static str, u64>>,
    failure: RefCell<Option<String>>,
}

impl Machine {
    fn new(trust_stable: bool, script: Vec<(u32, Action)>) -> Rc<Self> {
        let machine = Rc::new(Self {
            reader: RefCell::default(),
            script: RefCell::new(script.into()),
            tsc: Cell::new(1),
            rate: Cell::new(1000),
            base: Cell::new((0, 0)),
            pages: RefCell::default(),
            registered: RefCell::new([true; CPUS]),
            depth: Cell::new(0),
            given: Cell::new(0),
            reads: Cell::new(0),
            page_loads: Cell::new(0),
            most_loads: Cell::new(0),
            events: RefCell::default(),
            failure: RefCell::default(),
        });
        let reader = Rc::new(Reader::new(trust_stable, || HookedWord::zero(&machine)));
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

    fn act(self: &Rc<Self>, action: &Action) {
        match *action {
            Action::Advance(ns) => self.tsc.set(self.tsc.get() + ns * self.rate.get() / 1000),
            Action::Read(cpu) => {
                self.read(cpu);
            }
            Action::ReadVdso(cpu) => {
                self.read_vdso(cpu);
            }
            Action::Stable(offset) => {
                for cpu in 0..CPUS {
                    self.write(cpu, self.params(EPOCH + offset, TSC_STABLE_BIT));
                }
            }
            Action::Stable0(offset) => self.write(0, self.params(EPOCH + offset, TSC_STABLE_BIT)),
            Action::Unstable(offsets) => {
                for (cpu, offset) in offsets.into_iter().enumerate() {
                    self.write(cpu, self.params(EPOCH + offset, 0));
                }
            }
            Action::Retune { rate, jump, flags } => {
                let now = self.now();
                self.tsc.set(self.tsc.get().saturating_add_signed(jump));
                self.base.set((now, self.tsc.get()));
                self.rate.set(rate);
                for cpu in 0..CPUS {
                    self.write(cpu, self.params(EPOCH, flags));
                }
            }
            Action::Flags(flags) => {
                let params = self.pages.borrow()[0].params;
                for cpu in 0..CPUS {
                    self.write(cpu, Params { flags, ..params });
                }
            }
            Action::Odd(cpu) => {
                let mut pages = self.pages.borrow_mut();
                pages[cpu].version = (pages[cpu].version + 1) | 1;
            }
            Action::Write(cpu, params) => self.write(cpu, params),
            Action::Register(cpu, registered) => self.registered.borrow_mut()[cpu] = registered,
        }
    }

    /// The time, in ns: the truth, but for the pages' offset.
    fn now(&self) -> u64 {
        let (at, tsc) = self.base.get();
        at + (self.tsc.get() - tsc) * 1000 / self.rate.get()
    }

    /// Parameters of the TSC as it is, right at this moment.
    fn params(&self, offset: u64, flags: u8) -> Params {
        // As kvm_get_time_scale() makes them of 1 to 4 GHz.
        let mut shift = 1;
        let mut mul = (500 << 32) / self.rate.get();
        while mul < 1 << 31 {
            shift -= 1;
            mul = (1000 << (32 - shift)) / self.rate.get();
        }
        Params {
            tsc_timestamp: self.tsc.get(),
            system_time: self.now() + offset,
            mul: mul as u32,
            shift,
            flags,
        }
    }

    fn write(&self, cpu: usize, params: Params) {
        let page = &mut self.pages.borrow_mut()[cpu];
        page.version = ((page.version + 1) | 1) + 1;
        page.params = params;
    }

    /// Reads the clock as the vDSO does: it believes page 0 while that is stable, and makes the
    /// system call while it is not.
    fn read_vdso(self: &Rc<Self>, cpu: usize) -> u64 {
        let floor = self.given.get();
        let nested = self.depth.get();
        self.depth.set(nested + 1);
        let env = Cpu::new(self, cpu);
        let page0 = loop {
            if let Ok(sample) = sample(env.page0(), || env.tsc()) {
                break sample;
            }
        };
        self.depth.set(nested);
        if !page0.params.is_stable() {
            return self.read(cpu).count;
        }
        let count = page0.count();
        if count < floor {
            self.fail(format!(
                "CPU {cpu} was given {} in user space, {} ns less than was given before it began",
                count as i64 - EPOCH as i64,
                floor - count,
            ));
        }
        self.given.set(floor.max(self.given.get()).max(count));
        count
    }

    /// Reads the clock as the driver does, and checks what is true of every reading.
    fn read(self: &Rc<Self>, cpu: usize) -> Reading {
        let floor = self.given.get();
        let loads = self.page_loads.get();
        let reads = self.reads.get();
        let nested = self.depth.get();
        self.depth.set(nested + 1);
        let env = Cpu::new(self, cpu);
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
                "CPU {cpu} was given {}, which is {} ns less than was given before it began",
                reading.count as i64 - EPOCH as i64,
                floor - reading.count,
            ));
        }
        // Readers in between load pages as well, and are counted for themselves.
        if self.reads.replace(self.reads.get() + 1) == reads {
            let loads = self.page_loads.get() - loads;
            self.most_loads.set(loads.max(self.most_loads.get()));
            if loads > LOADS {
                self.fail(format!("CPU {cpu} loaded a version {loads} times"));
            }
        }
        self.given
            .set(floor.max(self.given.get()).max(reading.count));
        reading
    }

    fn fail(&self, why: String) {
        self.failure.borrow_mut().get_or_insert(why);
    }

    fn counted(&self, event: Event) -> u64 {
        let name = event_name(event);
        self.events.borrow().get(name).copied().unwrap_or(0)
    }
}

fn event_name(event: Event) -> &'static str {
    match event {
        Event::Retry => "retry",
        Event::Clamped => "clamped",
        Event::Stuck => "stuck",
        Event::Accepted => "accepted",
        Event::Withdrawn => "withdrawn",
        Event::GuestStopped => "guest stopped",
    }
}

impl hooked::Machine for Machine {
    fn step(self: &Rc<Self>) {
        loop {
            let action = {
                let mut script = self.script.borrow_mut();
                match script.front_mut() {
                    Some((0, Action::Read(_) | Action::ReadVdso(_)))
                        if self.depth.get() >= DEPTH =>
                    {
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

struct CpuPage {
    machine: Rc<Machine>,
    cpu: usize,
}

impl Page for CpuPage {
    type Params = Params;

    fn judge(version: u32) -> Version {
        judge(version)
    }

    fn version(&self) -> u32 {
        self.machine.step();
        let loads = &self.machine.page_loads;
        loads.set(loads.get() + 1);
        self.machine.pages.borrow()[self.cpu].version
    }

    fn params(&self) -> Params {
        // Field by field, so that the script may act between two of them.
        let field = || {
            self.machine.step();
            self.machine.pages.borrow()[self.cpu].params
        };
        Params {
            tsc_timestamp: field().tsc_timestamp,
            system_time: field().system_time,
            mul: field().mul,
            shift: field().shift,
            flags: field().flags,
        }
    }

    fn rmb(&self) {}
}

/// A CPU as a reader sees it.
struct Cpu<'a> {
    machine: &'a Rc<Machine>,
    page0: CpuPage,
    own: CpuPage,
}

impl<'a> Cpu<'a> {
    fn new(machine: &'a Rc<Machine>, cpu: usize) -> Self {
        let page = |cpu| CpuPage {
            machine: Rc::clone(machine),
            cpu,
        };
        Self {
            machine,
            page0: page(0),
            own: page(cpu),
        }
    }
}

impl Env for Cpu<'_> {
    type Word = HookedWord<Machine>;
    type Page = CpuPage;

    fn tsc(&self) -> u64 {
        self.machine.step();
        let tsc = &self.machine.tsc;
        tsc.set(tsc.get() + 1);
        tsc.get()
    }

    fn page0(&self) -> &CpuPage {
        &self.page0
    }

    fn second_is_reference(&self) -> bool {
        false
    }

    fn second(&self) -> Option<Reading> {
        self.machine.step();
        let registered = self.machine.registered.borrow()[self.own.cpu];
        registered.then(|| read_own(&self.own, || self.tsc()))?
    }

    fn relax(&self) {}

    fn count(&self, event: Event) {
        *self
            .machine
            .events
            .borrow_mut()
            .entry(event_name(event))
            .or_default() += 1;
    }
}

fn offsets() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(BAND), 0..=BAND]
}

/// Contents that are no clock's, whatever their time says.
fn invalid() -> impl Strategy<Value = Params> {
    let scales = prop_oneof![
        Just((0, 0)),
        Just((1 << 31, 32)),
        Just((1, 0)),
        Just((u32::MAX, 31))
    ];
    (scales, any::<u64>(), any::<u64>(), any::<u8>()).prop_map(
        |((mul, shift), tsc_timestamp, system_time, flags)| Params {
            tsc_timestamp,
            system_time,
            mul,
            shift,
            flags,
        },
    )
}

fn well_behaved() -> impl Strategy<Value = Action> {
    prop_oneof![
        2 => (1u64..100).prop_map(Action::Advance),
        2 => (1..3 * GRACE_NS).prop_map(Action::Advance),
        8 => (0..CPUS).prop_map(Action::Read),
        3 => offsets().prop_map(Action::Stable),
        1 => offsets().prop_map(Action::Stable0),
        3 => [offsets(), offsets(), offsets()].prop_map(Action::Unstable),
        1 => (1..CPUS, any::<bool>()).prop_map(|(cpu, has)| Action::Register(cpu, has)),
    ]
}

/// A host that changes the TSC's frequency, and keeps the clock to the last ns: where a change of the
/// TSC and a correction of the clock come together there is nothing to tell by what was given.
fn retuning() -> impl Strategy<Value = Action> {
    let flags = || prop_oneof![2 => Just(TSC_STABLE_BIT), 1 => Just(0)];
    let jump = prop_oneof![2 => Just(0), 1 => -20_000_000i64..20_000_000];
    prop_oneof![
        2 => (1u64..100).prop_map(Action::Advance),
        2 => (1..GRACE_NS).prop_map(Action::Advance),
        1 => (1..3 * GRACE_NS).prop_map(Action::Advance),
        5 => (0..CPUS).prop_map(Action::Read),
        5 => (0..CPUS).prop_map(Action::ReadVdso),
        2 => flags().prop_map(Action::Flags),
        4 => (jump, flags()).prop_map(|(jump, flags)| Action::Retune { rate: 0, jump, flags }),
        1 => (1..CPUS, any::<bool>()).prop_map(|(cpu, has)| Action::Register(cpu, has)),
    ]
}

/// Gives each change of the TSC a rate of its own, from 1 to 4 GHz. What was changed and changed
/// back while nobody looked cannot be told from what was not.
fn retuned(mut script: Vec<(u32, Action)>) -> Vec<(u32, Action)> {
    for (n, (_, action)) in (1..).zip(&mut script) {
        if let Action::Retune { rate, .. } = action {
            *rate = 1000 + n * 1237 % 3001;
        }
    }
    script
}

fn faulty() -> impl Strategy<Value = Action> {
    prop_oneof![
        12 => well_behaved(),
        1 => (0..CPUS).prop_map(Action::Odd),
        1 => (0..CPUS, invalid()).prop_map(|(cpu, params)| Action::Write(cpu, params)),
    ]
}

/// Runs a script on top of a CPU that reads and reads.
fn run(trust_stable: bool, script: Vec<(u32, Action)>) -> Result<(), TestCaseError> {
    run_with(trust_stable, script, |machine, turn| {
        machine.read(turn % CPUS);
    })
}

/// The same, where `read` is how it reads, the next time.
fn run_with(
    trust_stable: bool,
    script: Vec<(u32, Action)>,
    read: impl Fn(&Rc<Machine>, usize),
) -> Result<(), TestCaseError> {
    let machine = Machine::new(trust_stable, script);
    machine.act(&Action::Stable(0));
    let mut reads = 0;
    while !machine.script.borrow().is_empty() || reads < 2 * CPUS {
        read(&machine, reads);
        reads += 1;
    }
    machine.close();
    match machine.failure.take() {
        Some(why) => Err(TestCaseError::fail(why)),
        None => Ok(()),
    }
}

fn scripts<A: Strategy<Value = Action>>(
    action: impl Fn() -> A,
) -> impl Strategy<Value = Vec<(u32, Action)>> {
    let step = prop_oneof![3 => 0u32..3, 3 => 0u32..30];
    prop::collection::vec((step, action()), 0..40)
}

/// Contents of every kind, clocks and not.
fn any_params() -> impl Strategy<Value = Params> {
    let scale = prop_oneof![
        Just((1u32 << 31, 1i8)),
        any::<(u32, i8)>(),
        ((1u32 << 31).., -7i8..=10)
    ];
    (any::<u64>(), any::<u64>(), scale, any::<u8>()).prop_map(
        |(tsc_timestamp, system_time, (mul, shift), flags)| Params {
            tsc_timestamp,
            system_time,
            mul,
            shift,
            flags,
        },
    )
}

fn lying() -> impl Strategy<Value = Action> {
    prop_oneof![
        3 => faulty(),
        1 => any::<u32>().prop_map(|cycles| Action::Advance(cycles.into())),
        3 => (0..CPUS, any_params()).prop_map(|(cpu, params)| Action::Write(cpu, params)),
    ]
}

/// How many scripts each test runs: a few seconds' worth, unless `CASES` says more.
fn cases() -> u32 {
    let cases = std::env::var("CASES").ok();
    cases.and_then(|cases| cases.parse().ok()).unwrap_or(2_000)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, max_shrink_iters: 200_000, ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn never_back_on_a_host_that_keeps_the_rules(script in scripts(well_behaved)) {
        run(true, script)?;
    }

    #[test]
    fn never_back_on_a_host_without_the_stable_bit(script in scripts(well_behaved)) {
        run(false, script)?;
    }

    /// Whatever the host says: through the clamp, time never goes back.
    #[test]
    fn never_back_through_the_clamp_on_a_host_that_lies(script in scripts(lying)) {
        run(false, script)?;
    }

    /// Without the clamp there is no promise but that every reading ends, and soon.
    #[test]
    fn every_reading_ends_on_a_host_that_lies(script in scripts(lying)) {
        let machine = Machine::new(true, script);
        while !machine.script.borrow().is_empty() {
            machine.read(0);
            machine.read(1);
            machine.given.set(0);
        }
        machine.close();
        let loads = machine.most_loads.get();
        prop_assert!(loads <= LOADS, "{} loads of a version in one reading", loads);
    }

    /// Nor with readers of the vDSO, which know no clamp; and the truth, to the last ns but for what a
    /// page rounds.
    #[test]
    fn never_back_where_the_tsc_changes_its_frequency(script in scripts(retuning)) {
        run_with(true, retuned(script), |machine, turn| {
            let before = EPOCH + machine.now();
            let count = match turn % 2 {
                0 => machine.read(turn % CPUS).count,
                _ => machine.read_vdso(turn % CPUS),
            };
            let after = EPOCH + machine.now();
            if count + 5 < before || count > after {
                machine.fail(format!("{count} was read between {before} and {after}"));
            }
        })?;
    }

    #[test]
    fn never_back_on_a_host_that_fails(script in scripts(faulty)) {
        run(true, script)?;
    }
}

/// A machine whose page 0 is stable and accepted.
fn accepted() -> Rc<Machine> {
    let machine = Machine::new(true, Vec::new());
    machine.act(&Action::Stable(0));
    for cpu in 0..CPUS {
        machine.read(cpu);
    }
    assert_eq!(machine.reader().standing(), Standing::Accepted);
    assert_eq!(machine.counted(Event::Accepted), 1);
    machine
}

/// What is read is the TSC of that moment plus the offset.
fn assert_offset(machine: &Rc<Machine>, cpu: usize, offset: u64) {
    let reading = machine.read(cpu);
    let expected = machine.tsc.get() + EPOCH + offset;
    assert_eq!(reading.count, expected, "CPU {cpu}");
    assert_eq!(reading.tsc, Some(machine.tsc.get()), "CPU {cpu}");
}

fn is_fast(machine: &Rc<Machine>) -> bool {
    let reader = machine.reader();
    reader.read_fast(&Cpu::new(machine, 1)).is_some()
}

/// The end of a test: nothing went wrong meanwhile.
fn done(machine: &Rc<Machine>) {
    machine.close();
    assert_eq!(machine.failure.take(), None);
}

#[test]
fn an_accepted_version_is_read_fast_and_a_new_one_once_slowly() {
    let machine = accepted();
    for version in 2..5 {
        machine.act(&Action::Advance(1000));
        machine.act(&Action::Stable(0));
        assert!(!is_fast(&machine));
        assert_offset(&machine, 1, 0);
        assert_eq!(machine.counted(Event::Accepted), version);
        assert!(is_fast(&machine));
        let loads = machine.page_loads.get();
        assert_offset(&machine, 2, 0);
        assert_eq!(machine.page_loads.get() - loads, 2);
    }
    assert_eq!(machine.counted(Event::Retry), 0);
    assert_eq!(machine.counted(Event::Clamped), 0);
    done(&machine);
}

/// What the readers do about a page 0 that fails, and about one that is good again.
fn fails_and_recovers(fault: &Action) {
    let machine = accepted();
    for round in 1..4 {
        machine.act(fault);
        machine.act(&Action::Advance(1000));
        for cpu in [1, 0, 2, 1, 0] {
            machine.act(&Action::Advance(1_000_000_000));
            assert_offset(&machine, cpu, 0);
        }
        assert_eq!(machine.counted(Event::Stuck), round, "once a version");
        assert_eq!(machine.reader().standing(), Standing::Rejected);

        let loads = machine.page_loads.get();
        machine.read(0);
        assert!(
            machine.page_loads.get() - loads <= 8,
            "nobody waits for it again"
        );

        machine.act(&Action::Stable(0));
        assert_offset(&machine, 1, 0);
        assert!(!is_fast(&machine), "within the grace");
        machine.act(&Action::Advance(2 * GRACE_NS));
        assert_offset(&machine, 1, 0);
        assert!(is_fast(&machine), "behind the grace");
        assert_eq!(machine.counted(Event::Accepted), 1 + round);
    }
    assert_eq!(machine.counted(Event::Clamped), 0);
    done(&machine);
}

#[test]
fn a_version_that_stays_odd_is_waited_for_once_and_time_goes_on() {
    fails_and_recovers(&Action::Odd(0));
}

#[test]
fn a_content_that_is_no_clocks_is_counted_once_and_time_goes_on() {
    fails_and_recovers(&Action::Write(0, Params::default()));
}

#[test]
fn own_pages_that_stay_odd_cost_little_and_page_0_stands_in() {
    let machine = accepted();
    machine.act(&Action::Unstable([0, 10, 20]));
    machine.act(&Action::Odd(1));
    machine.act(&Action::Stable(0));
    machine.act(&Action::Unstable([0, 10, 20]));
    machine.act(&Action::Odd(1));
    machine.act(&Action::Odd(2));
    machine.act(&Action::Odd(2));
    for cpu in [1, 2, 1, 2] {
        machine.act(&Action::Advance(100));
        assert_offset_of_page_0(&machine, cpu);
    }
    assert!(machine.most_loads.get() <= 16);
    assert_eq!(machine.counted(Event::Stuck), 0);
    done(&machine);
}

/// The TSC of page 0's reading came before the looks at the own page.
fn assert_offset_of_page_0(machine: &Rc<Machine>, cpu: usize) {
    let reading = machine.read(cpu);
    let tsc = reading.tsc.expect("not held");
    assert_eq!(reading.count, tsc + EPOCH, "CPU {cpu}");
    assert!(machine.tsc.get() - tsc <= 4);
}

#[test]
fn without_the_stable_bit_every_cpu_reads_its_own_page() {
    let machine = accepted();
    machine.act(&Action::Unstable([0, 5000, 9000]));
    for cpu in 0..CPUS {
        assert_offset(&machine, cpu, [0, 5000, 9000][cpu]);
    }
    // CPU 0 is behind, and gets what CPU 2 was given.
    let last = machine.given.get();
    let held = machine.read(0);
    assert_eq!((held.count, held.tsc), (last, None));
    assert_eq!(machine.counted(Event::Clamped), 1);
    done(&machine);
}

#[test]
fn the_unstable_world_begins_where_the_stable_one_ended() {
    let machine = accepted();
    machine.act(&Action::Stable(BAND));
    assert_offset(&machine, 1, BAND);
    let last = machine.given.get();
    machine.act(&Action::Unstable([0; CPUS]));
    let held = machine.read(1);
    assert!(
        held.count >= last && held.count <= last + 2,
        "{held:?} after {last}"
    );
    assert_eq!(held.tsc, None);
    machine.act(&Action::Advance(BAND + 2));
    assert_offset(&machine, 1, 0);
    done(&machine);
}

/// A reader that stands still with the time of its own page raises the clamp by that after another
/// one has begun the grace; wherever it is that it stands.
#[test]
fn a_clamp_that_is_ahead_of_the_page_has_the_grace_begin_anew() {
    const AHEAD: u64 = 3 * GRACE_NS;
    let mut late = 0;
    for steps in 0.. {
        let machine = accepted();
        machine.act(&Action::Unstable([0, AHEAD, 0]));
        let good = [(steps, Action::Stable(0)), (0, Action::Read(2))];
        machine.script.borrow_mut().extend(good);
        let held = machine.read(1).tsc.is_none();
        if !machine.script.take().is_empty() {
            break;
        }
        machine.act(&Action::Advance(AHEAD));
        machine.read(2);
        if held {
            late += 1;
            assert!(!is_fast(&machine), "late by {steps} steps");
        }
        machine.act(&Action::Advance(2 * GRACE_NS));
        machine.read(2);
        assert!(is_fast(&machine));
        done(&machine);
    }
    assert!(late > 0, "nobody was late");
}

/// By the old parameters the new TSC would be ahead, by little.
#[test]
fn a_page_of_another_tsc_is_accepted_at_once() {
    for (rate, jump) in [(4000, 0), (1500, 0), (1000 + 1, 3_000_000), (2000, -50_000)] {
        let machine = accepted();
        machine.act(&Action::Advance(10_000_000));
        let flags = TSC_STABLE_BIT;
        machine.act(&Action::Retune { rate, jump, flags });
        machine.act(&Action::Advance(458_000));
        let before = EPOCH + machine.now();
        let reading = machine.read(1);
        assert!(
            reading.count.abs_diff(before) <= 1,
            "{reading:?} at {before}"
        );
        assert!(is_fast(&machine), "{rate} MHz");
        machine.read_vdso(2);
        machine.read(0);
        assert_eq!(machine.counted(Event::Clamped), 0);
        assert_eq!(machine.counted(Event::Accepted), 2);
        done(&machine);
    }
}

/// There is no floor, so the clamp holds nothing that user space was not given.
#[test]
fn an_unstable_page_of_another_tsc_begins_without_a_floor() {
    let machine = accepted();
    machine.act(&Action::Advance(10_000_000));
    for (rate, flags) in [(3000, 0), (1200, TSC_STABLE_BIT), (2900, 0)] {
        let jump = 0;
        machine.act(&Action::Retune { rate, jump, flags });
        machine.act(&Action::Advance(458_000));
        let before = EPOCH + machine.now();
        let reading = machine.read(1);
        assert!(
            reading.count.abs_diff(before) <= 2,
            "{reading:?} at {before}"
        );
        machine.read_vdso(2);
    }
    assert_eq!(machine.counted(Event::Clamped), 0);
    done(&machine);
}

/// A page of the same TSC that says less is what the floor is for.
#[test]
fn a_page_of_the_same_tsc_that_says_less_is_waited_for() {
    let machine = accepted();
    machine.act(&Action::Stable(BAND));
    assert_offset(&machine, 1, BAND);
    let last = machine.given.get();
    machine.act(&Action::Stable(0));
    let held = machine.read(1);
    assert!(held.count >= last && held.tsc.is_none(), "{held:?}");
    assert_eq!(machine.reader().standing(), Standing::Rejected);
    done(&machine);
}

/// The difference to a timestamp that lies ahead is not taken for centuries.
#[test]
fn a_timestamp_ahead_of_the_tsc_makes_no_centuries() {
    for flags in [0, TSC_STABLE_BIT] {
        let machine = Machine::new(true, Vec::new());
        machine.act(&Action::Register(1, false));
        let mut params = machine.params(EPOCH, flags);
        params.tsc_timestamp += 1000;
        params.system_time += 1000;
        machine.write(0, params);
        assert_eq!(machine.read(1).count, params.system_time);
        machine.act(&Action::Advance(1000));
        assert_offset(&machine, 1, 0);
        done(&machine);
    }
}

#[test]
fn parameters_of_a_tsc_that_was_set_back_make_no_centuries() {
    let machine = accepted();
    machine.act(&Action::Advance(1_000_000));
    machine.act(&Action::Stable(0));
    let last = machine.read(0).count;
    machine.tsc.set(1);
    // The time before is lost with the TSC's, but for what there is on record.
    machine.given.set(0);
    machine.act(&Action::Odd(0));
    let reading = machine.read(0);
    assert!(
        reading.count.abs_diff(last) < 1000,
        "{} after {last}",
        reading.count
    );
    done(&machine);
}

#[test]
fn with_nothing_to_go_by_time_stands_still() {
    let machine = Machine::new(true, Vec::new());
    machine.act(&Action::Odd(0));
    let reading = machine.read(0);
    assert_eq!((reading.count, reading.tsc), (0, None));
    machine.act(&Action::Stable(0));
    machine.read(0);
    machine.act(&Action::Advance(2 * GRACE_NS));
    assert_offset(&machine, 0, 0);
    assert!(is_fast(&machine));
    done(&machine);
}

#[test]
fn guest_stopped_is_counted_once_a_version() {
    let machine = accepted();
    for flags in [TSC_STABLE_BIT, 0] {
        let before = machine.counted(Event::GuestStopped);
        for cpu in 0..CPUS {
            machine.write(cpu, machine.params(EPOCH, flags | GUEST_STOPPED));
        }
        for cpu in 0..CPUS {
            machine.read(cpu);
        }
        assert_eq!(machine.counted(Event::GuestStopped), before + 1);
    }
    done(&machine);
}

#[test]
fn reset_forgets_everything() {
    let machine = accepted();
    machine.act(&Action::Advance(1_000_000_000));
    machine.act(&Action::Unstable([BAND; CPUS]));
    machine.read(0);
    machine.reader().reset();
    assert_eq!(machine.reader().last_good(), None);
    assert_eq!(machine.reader().standing(), Standing::Fresh);
    // Earlier than before, since nobody was given anything.
    machine.given.set(0);
    machine.tsc.set(1);
    machine.act(&Action::Stable(0));
    assert_offset(&machine, 1, 0);
    assert!(is_fast(&machine), "and no grace");
    done(&machine);
}

/// A clock that was read by other means until now takes up a page that is good for nothing: time
/// goes on by what is known of it, and does not begin anew.
#[test]
fn what_is_known_takes_the_place_of_a_page_that_fails() {
    for is_accepted in [true, false] {
        for has_own in [true, false] {
            let machine = Machine::new(true, Vec::new());
            machine.act(&Action::Stable(0));
            let known = machine.pages.borrow()[0];
            for cpu in 0..CPUS {
                machine.act(&Action::Odd(cpu));
                machine.act(&Action::Register(cpu, has_own));
            }
            machine.act(&Action::Advance(5_000_000));
            machine
                .reader()
                .begin_with(known.version, &known.params, is_accepted);
            let least = known.params.at(machine.tsc.get());
            let reading = machine.read(0);
            let most = known.params.at(machine.tsc.get());
            assert!((least..=most).contains(&reading.count), "{reading:?}");
            machine.close();
        }
    }
}

/// And a page that is good: at once where it was known to be, after the grace where not.
#[test]
fn what_is_known_is_believed_if_it_was_good() {
    let machine = Machine::new(true, Vec::new());
    machine.act(&Action::Stable(0));
    let known = machine.pages.borrow()[0];
    let reader = machine.reader();
    reader.begin_with(known.version, &known.params, true);
    assert_eq!(reader.standing(), Standing::Accepted);
    assert!(reader.read_fast(&Cpu::new(&machine, 1)).is_some());
    reader.begin_with(known.version, &known.params, false);
    assert_eq!(reader.standing(), Standing::Rejected);
    assert!(reader.read_fast(&Cpu::new(&machine, 1)).is_none());
    machine.read(1);
    assert_eq!(reader.standing(), Standing::Rejected);
    machine.act(&Action::Advance(2 * GRACE_NS));
    machine.read(1);
    assert_eq!(reader.standing(), Standing::Accepted);
    machine.close();
}
