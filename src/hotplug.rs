// SPDX-License-Identifier: GPL-2.0

//! Whether the TSCs of all CPUs are in step, as CPUs come and go.
//!
//! [`logic::tsc_adjust`] decides, [`logic::tsc_sync`] compares two TSCs; here both are driven, and what
//! came of it is kept, a [`Record`] for each CPU. [`Tscs::out_of_step`] is what mode `tsc` asks.
//!
//! Four act on the records:
//!
//! - a CPU that starts, in the STARTING section of CPU hotplug, before anything on it reads the
//!   clock, and before the kernel's own `check_tsc_sync_target()`: what is written to TSC_ADJUST here
//!   is what the kernel finds, and keeps;
//! - a CPU that goes;
//! - [`Tscs::begin`], at load, for the CPUs that are up by then. The kernel has its own record of
//!   those, and `tsc_verify_tsc_adjust()` reverts by that whatever differs. So here only that is
//!   written of which it is known to agree: see [`Tscs::may_write`];
//! - a look once a second ([`periodic::Task`]) at what has become of it, and the administrator, who
//!   writes `tsc_reliable`.
//!
//! # Locking
//!
//! The first two run with the CPU hotplug lock held for writing, by the CPU that brings the other
//! one up or down; the rest holds it for reading, and [`Tscs::work`] outside of it. So one at a time
//! acts on the records, and the hotplug lock orders what they store. Others read single words of them
//! at any time. The order of the locks:
//!
//!     lock of the module's parameters -> work -> cpus_read_lock()
//!
//! The mutex of [`crate::control`], under which the clocksource is updated, is never taken together
//! with any of them: an update takes the hotplug lock itself, to patch code, and a CPU that
//! comes up must not wait for one who waits for it. Control asks and tells by single words.
//!
//! # A change of the TSC meanwhile
//!
//! A check across which the TSC of all CPUs is exchanged has compared apples with pears. Neither
//! may wait for the other: the host waits for the acknowledgement, and a CPU that comes up runs with
//! interrupts disabled. Instead a check knows whether that has happened, by the word
//! [`Tscs::changes`], which is odd from before the acknowledgement until after it
//! ([`Tscs::changing`]). It is read before the two CPUs meet and after they have met again, and if
//! it was odd, or is another one, what was found is void: nothing is written, nothing is concluded,
//! and the check is made anew.
//!
//! That it suffices: the exchanges that make the word odd and even again are fully ordered, and the
//! TSC changes between them. If a check finds the same even number before and after, then the
//! next change's first exchange came after its second look, and the last change's second exchange
//! before its first. Both CPUs take their samples between these looks, since each meeting is an
//! exchange of one word by both. So no change lies between two samples of one run.
//!
//! What the host changes without asking no guest can order. It makes a check fail at worst.
//!
//! # Who reads the TSC meanwhile
//!
//! A CPU that is up and off is moved only where nobody reads the clock by its TSC: who reads it
//! there would see time go back. Two words say so, [`Tscs::is_read`] and [`MOVING`], and each side
//! writes its own, with a full barrier, before it reads the other's:
//!
//! - control, before it enters a mode that reads the TSC ([`Tscs::set_read`]): sets `is_read`, then
//!   looks whether a CPU is being moved ([`Tscs::is_moving`]), and if so it does not enter;
//! - the look ([`Tscs::begin_moving`]): marks the CPU, then looks at `is_read`, and if that is set the
//!   CPU is compared, but not moved.
//!
//! So one of the two sees the other; both may, and then both step back. A CPU that was found off and
//! was not moved is [`MOVABLE`]. That keeps mode `tsc` away; where there is a mode that needs no TSC
//! the clock goes there, and a later look moves the CPU. (Not where the administrator wants mode
//! `page`.)
//!
//! Two writes there are under readers, which are the kernel's own: what somebody else has changed is
//! changed back (`tsc_verify_tsc_adjust()` does, in idle), and what is to be set when the driver is
//! loaded is set also where the clock was asked for by its name before, and is read in mode `page`
//! at once.

use crate::{
    abstractions::{
        async_call,
        async_call::AsyncCall,
        cpu,
        cpu::{
            HotplugReadGuard,
            Pinned, //
        },
        cpuhp,
        param,
        periodic,
        tsc,
        tsc::rdtsc_ordered,
        tsc_adjust::{
            has_reliable_feature,
            move_deadline,
            tsc_khz,
            AdjustRegister, //
        },
        word::AtomicWord, //
    },
    backend::Backend,
    clock::Clock,
    logic::{
        mode::Guarantee,
        tsc_adjust::{
            decide,
            is_reliable,
            verify,
            Check as ToCheck,
            Decision,
            Found,
            HostsWord,
            Input,
            Message,
            Outcome,
            Place,
            Reason,
            Reference,
            ReliableOption,
            Runs,
            Standing,
            Step,
            Verdict,
            FIRST_MS,
            MAX_RUNS,
            VERIFY_PERIOD_S, //
        },
        tsc_sync::{
            Bounds,
            Check,
            Env,
            Ticket, //
        },
        word::Word, //
    },
};
use kernel::{
    cpu::{
        nr_cpu_ids,
        CpuId, //
    },
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
    time::{
        Delta,
        Instant,
        Monotonic, //
    },
};

/// Whether sockets are reset asynchronously (`tsc_async_resets`): the kernel sets that on an SGI UV
/// by itself alone, and this driver loads where there is a hypervisor alone.
const ASYNC_RESETS: bool = false;

/// How often a check that came to nothing is made anew at once. On a CPU that starts that is one across
/// which the TSC was changed, and else one without a result as well.
const SESSIONS: u32 = 3;

/// How often a check that came to no result is made anew, a second apart.
const RETRIES: u64 = 10;

/// Every how many seconds from then on.
const RETRIES_LATER: u64 = 60;

/// How long one look goes on to begin checks that are made anew, in ms: hotplug, suspend and the
/// parameters wait for it meanwhile. The next look goes on with the others.
const RETRIES_MS: i64 = 100;

/// How often in a row a TSC has to be found apart from the others by the look to be so.
const WATCHED_TIMES: u32 = 3;

/// How many turns a starting CPU waits at most for what does not take long: the end of a change of the
/// TSC, or the control CPU's of the last session.
const TURNS: u32 = 1_000_000;

/// What is kept of a CPU. Who writes to it and when is the module's head's to say.
#[derive(Default)]
struct Record {
    /// [`UP`] and those below it.
    flags: AtomicWord,
    socket: AtomicWord,
    /// TSC_ADJUST as the CPU came up with it, and as it was set since: an `i64` each.
    boot_value: AtomicWord,
    set_to: AtomicWord,
    /// What somebody else has written there, and was written over at the last look, with
    /// [`OVERWRITTEN`].
    overwritten: AtomicWord,
    /// A [`Standing`].
    standing: AtomicWord,
    /// How often the check was made anew since it came to no result.
    retries: AtomicWord,
}

/// The CPU is up, and has gone through [`Tscs::begin`] or [`Tscs::starting`], to the end.
const UP: u64 = 1;
/// It has been up before, so what it was set to is known.
const KNOWN: u64 = 1 << 1;
/// It has started since the last look, and the kernel's own check may have moved it.
const FRESH: u64 = 1 << 2;
/// That TSC_ADJUST was changed by somebody else has been logged.
const WARNED: u64 = 1 << 3;
/// There is a value in [`Record::overwritten`].
const OVERWRITTEN: u64 = 1 << 4;
/// That the check came to no result has been logged.
const SAID: u64 = 1 << 5;
/// CPUID advertises TSC_ADJUST, and on this CPU it does not do what it is to. As good as not there.
const BARE: u64 = 1 << 6;
/// The CPU, or the one by which it goes, is being compared, and may be moved.
const MOVING: u64 = 1 << 7;
/// The CPU was found to be off, and is to be moved when the TSC is not read.
const MOVABLE: u64 = 1 << 8;

impl Record {
    fn is(&self, flag: u64) -> bool {
        self.flags.load() & flag != 0
    }

    /// Only one at a time acts on the records, so this needs no exchange.
    fn set(&self, flag: u64, is: bool) {
        let others = self.flags.load() & !flag;
        self.flags.store(if is { others | flag } else { others });
    }

    /// Sets a flag, fully ordered.
    fn announce(&self, flag: u64) {
        let flags = self.flags.load();
        // Nobody else does, so it does not fail.
        let _ = self.flags.compare_exchange(flags, flags | flag);
    }

    fn standing(&self) -> Standing {
        Standing::from_number(self.standing.load())
    }

    fn stand(&self, standing: Standing) {
        self.standing.store(standing.to_number());
    }

    fn set_to(&self) -> i64 {
        self.set_to.load() as i64
    }
}

/// What was counted.
#[derive(Default)]
struct Counts {
    runs: AtomicWord,
    skipped: AtomicWord,
    void: AtomicWord,
    writes: AtomicWord,
    restores: AtomicWord,
    yielded: AtomicWord,
    faults: AtomicWord,
    /// What the last CPU that started took, in cycles of its TSC.
    starting: AtomicWord,
}

/// The TSCs of all CPUs.
#[pin_data]
pub(crate) struct Tscs<B: Backend> {
    clock: Arc<Clock<B>>,
    register: Option<AdjustRegister>,
    has_feature: bool,
    /// By the CPU's number.
    records: KVec<Record>,
    /// Not 0 from [`Tscs::begin`] on.
    has_begun: AtomicWord,
    /// Whether mode `tsc` can come about at all; if not, nothing is checked.
    is_needed: AtomicWord,
    /// A [`ReliableOption`] and a [`HostsWord`], by their discriminants.
    option: AtomicWord,
    word: AtomicWord,
    /// Not 0 once the parameter has come here.
    is_settable: AtomicWord,
    /// Odd while the TSC of all CPUs changes.
    changes: AtomicWord,
    check: Check<AtomicWord>,
    /// What the control CPU has to know: the ticket, and above it what [`Session`] has.
    session: AtomicWord,
    /// Not 0 while the clock reads the TSC, or is about to.
    is_read: AtomicWord,
    /// Not 0 once that CPUs of a socket differ has been logged.
    has_differed: AtomicWord,
    /// Where the look once a second is in its turn.
    turn: AtomicWord,
    counts: Counts,
    #[pin]
    work: Mutex<()>,
}

/// A CPU on which one side of the check runs.
struct Here<'a, B: Backend>(&'a Clock<B>);

impl<B: Backend> Env for Here<'_, B> {
    fn tsc(&self) -> u64 {
        rdtsc_ordered()
    }

    fn us(&self) -> Option<u64> {
        self.0.backend.us()
    }

    fn relax(&self) {
        cpu::relax();
        // As the kernel's check has it: interrupts are disabled for 20 ms and more.
        cpu::touch_watchdogs();
    }
}

/// Tries something again and again that will be possible soon.
fn soon<R>(mut attempt: impl FnMut() -> Option<R>) -> Option<R> {
    for _ in 0..TURNS {
        let result = attempt();
        if result.is_some() {
            return result;
        }
        cpu::relax();
    }
    None
}

/// A session, as the control CPU has to know it.
#[derive(Clone, Copy)]
struct Session {
    ticket: Ticket,
    /// How long to sample, in ms; below 128.
    ms: u32,
    /// Whether both CPUs were up before.
    is_up: bool,
    /// The number of the control CPU: a call of an earlier session may come late, and to another one.
    control: u32,
}

impl Session {
    const MS: u32 = 32;
    const IS_UP: u32 = 39;
    const CONTROL: u32 = 40;

    fn to_word(self) -> u64 {
        u64::from(self.ticket.to_number())
            | (u64::from(self.ms) & 0x7f) << Self::MS
            | u64::from(self.is_up) << Self::IS_UP
            | u64::from(self.control) << Self::CONTROL
    }

    fn from_word(word: u64) -> Self {
        Self {
            ticket: Ticket::from_number(word as u32),
            ms: (word >> Self::MS) as u32 & 0x7f,
            is_up: word >> Self::IS_UP & 1 != 0,
            control: (word >> Self::CONTROL) as u32,
        }
    }

    fn bounds(self) -> Bounds {
        let bounds = Bounds::new(tsc_khz(), self.ms);
        if self.is_up {
            bounds.impatient()
        } else {
            bounds
        }
    }
}

/// A CPU that was denied, and that nobody could compare now, is not to pass by its TSC_ADJUST alone the
/// next time either.
fn keep_doubt(record: &Record, was_denied: bool) {
    if was_denied && record.standing() == Standing::Pending {
        record.stand(Standing::Denied(Reason::NotChecked));
    }
}

/// Whether a CPU that stands so was measured to be off by a constant.
fn is_off(standing: Standing) -> bool {
    matches!(
        standing,
        Standing::Denied(Reason::Warped | Reason::SocketOutOfStep)
    )
}

/// Why mode `tsc` may not be.
pub(crate) struct OutOfStep {
    /// The CPU for whose sake.
    pub(crate) cpu: u32,
    pub(crate) reason: Reason,
}

impl OutOfStep {
    /// Whether that was measured, or is about to be put right. Else nobody has looked yet.
    pub(crate) fn is_apart(&self) -> bool {
        self.reason != Reason::NotChecked
    }
}

/// How a session came out, for who has started it.
enum Came {
    /// It has a result, which stands in the record.
    ToResult,
    /// The TSC was changed meanwhile, or is.
    ToNothing,
}

impl<B: Backend> Tscs<B> {
    /// Makes the records. Nothing is known of any CPU before [`Tscs::begin`].
    ///
    /// Context: may sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(clock: Arc<Clock<B>>, option: ReliableOption) -> Result<Arc<Self>> {
        let cpus = nr_cpu_ids() as usize;
        let mut records = KVec::with_capacity(cpus, GFP_KERNEL)?;
        for _ in 0..cpus {
            records.push(Record::default(), GFP_KERNEL)?;
        }
        let tscs = Arc::pin_init(
            try_pin_init!(Self {
                clock,
                register: AdjustRegister::find(),
                has_feature: has_reliable_feature(),
                records,
                has_begun: AtomicWord::default(),
                is_needed: AtomicWord::default(),
                option: AtomicWord::default(),
                word: AtomicWord::default(),
                is_settable: AtomicWord::default(),
                changes: AtomicWord::default(),
                check: Check::new(AtomicWord::default),
                session: AtomicWord::default(),
                is_read: AtomicWord::default(),
                has_differed: AtomicWord::default(),
                turn: AtomicWord::default(),
                counts: Counts::default(),
                work <- new_mutex!(()),
            }? Error),
            GFP_KERNEL,
        )?;
        tscs.option.store(option as u64);
        Ok(tscs)
    }

    /// Begins with the CPUs that are up: what the host guarantees and says is known by now.
    ///
    /// Context: may sleep, without the hotplug lock. Takes 20 ms for each socket that is to be
    /// checked.
    pub(crate) fn begin(&self, guarantee: Option<Guarantee>, word: HostsWord) {
        let _work = self.work.lock();
        let guard = HotplugReadGuard::new();
        self.is_needed.store(guarantee.is_some().into());
        self.word.store(word as u64);
        for cpu in guard.online() {
            self.adopt(cpu);
        }
        self.survey(&guard, |_| true);
        // On a busy host two vCPUs may not run at once the first time.
        self.retry(&guard);
        // After a suspend the others are set, and compared, before a look can come to it.
        if self.is_at_work() && self.records.first().is_some_and(|boot| boot.set_to() == 0) {
            self.clock.keep_boot_cpu_at_zero();
        }
        // CPUs that come up later see it: they do so under the lock that is held here.
        self.has_begun.store(1);
    }

    /// Whether there is anything to be looked at once a second. Where mode `tsc` cannot come about
    /// what the kernel does by itself is enough.
    pub(crate) fn is_at_work(&self) -> bool {
        self.is_needed.load() != 0
    }

    fn record(&self, cpu: CpuId) -> Option<&Record> {
        self.records.get(cpu.as_u32() as usize)
    }

    /// The CPUs that are up, with their records, in ascending order.
    fn up(&self) -> impl Iterator<Item = (u32, &Record)> {
        // Who does not act on the records sees of one that is up no less than what it is up with.
        (0u32..)
            .zip(self.records.iter())
            .filter(|(_, record)| record.flags.load_acquire() & UP != 0)
    }

    fn option(&self) -> ReliableOption {
        let option = self.option.load();
        ReliableOption::ALL
            .iter()
            .copied()
            .find(|other| *other as u64 == option)
            .unwrap_or(ReliableOption::Auto)
    }

    fn word(&self) -> HostsWord {
        let word = self.word.load();
        [HostsWord::Given, HostsWord::Withdrawn]
            .into_iter()
            .find(|other| *other as u64 == word)
            .unwrap_or(HostsWord::None)
    }

    /// Whether the TSC is taken for reliable at the moment.
    ///
    /// Context: any.
    fn is_reliable(&self) -> bool {
        is_reliable(self.option(), self.has_feature, self.word())
    }

    /// Notes what the host says of the TSC from now on.
    ///
    /// Context: any.
    pub(crate) fn hear(&self, word: HostsWord) {
        self.word.store(word as u64);
    }

    /// Whether mode `tsc` may not be, for the sake of a CPU: which one, and why; `None` where all
    /// TSCs are in step, or are taken for it. What was measured comes before what was not.
    ///
    /// A CPU that starts is among those that are asked by the time it can read the clock.
    ///
    /// Context: any.
    pub(crate) fn out_of_step(&self) -> Option<OutOfStep> {
        if self.is_reliable() {
            // Nothing is checked, so nothing that was found before counts; it does again when the TSC
            // is so no more.
            return None;
        }
        let mut unchecked = None;
        for (cpu, record) in self.up() {
            let reason = match record.standing().verdict(false) {
                // It was found to be off, whatever the last check came to.
                _ if record.is(MOVABLE) => Reason::Warped,
                Verdict::Allowed if !record.is(MOVING) => continue,
                Verdict::Allowed | Verdict::Pending => Reason::NotChecked,
                Verdict::Denied(reason) => reason,
            };
            let found = OutOfStep { cpu, reason };
            if found.is_apart() {
                return Some(found);
            }
            unchecked = unchecked.or(Some(found));
        }
        unchecked
    }

    /// The clock is about to read the TSC, or does so no more. What it has to look at in between the
    /// module's head says.
    ///
    /// Context: any. One at a time: with the mutex of [`crate::control`] held.
    pub(crate) fn set_read(&self, is: bool) {
        let was = self.is_read.load();
        // Fully ordered. Nobody else does, so it does not fail.
        let _ = self.is_read.compare_exchange(was, is.into());
    }

    /// Whether a CPU that is up is being moved, or may be.
    ///
    /// Context: any.
    pub(crate) fn is_moving(&self) -> bool {
        self.up().any(|(_, record)| record.is(MOVING))
    }

    /// Marks a CPU that is up, and those that go by it, as about to be moved. Returns whether they
    /// may be; if not, they are not marked.
    fn begin_moving(&self, record: &Record) -> bool {
        // First the others: they are what they go by.
        for other in self.followers(record) {
            other.announce(MOVING);
        }
        record.announce(MOVING);
        let may = self.is_read.load_acquire() == 0;
        if !may {
            self.end_moving(record);
        }
        may
    }

    fn end_moving(&self, record: &Record) {
        record.set(MOVING, false);
        for other in self.followers(record) {
            other.set(MOVING, false);
        }
    }

    /// The CPUs that go by the given one, if that is the one on its socket that others go by.
    fn followers<'a>(&'a self, record: &'a Record) -> impl Iterator<Item = &'a Record> {
        self.up().map(|(_, other)| other).filter(move |other| {
            !core::ptr::eq(*other, record)
                && record.standing() != Standing::Socket
                && other.standing() == Standing::Socket
                && other.socket.load() == record.socket.load()
        })
    }

    /// Runs `change`, in which the TSC of all CPUs may become another one.
    ///
    /// Context: any. One at a time: with the mutex of [`crate::control`] held.
    pub(crate) fn changing<R>(&self, change: impl FnOnce() -> R) -> R {
        self.count_change();
        let result = change();
        self.count_change();
        result
    }

    /// Adds one, fully ordered.
    fn count_change(&self) {
        let number = self.changes.load();
        // Nobody else does, so it does not fail.
        let _ = self
            .changes
            .compare_exchange(number, number.wrapping_add(1));
    }

    /// Writes TSC_ADJUST of this CPU, and returns what it holds then. A host may refuse the write, or
    /// ignore it. Of a CPU that `is_up` the next timer comes no later for it.
    fn write(&self, here: &Pinned, value: i64, is_up: bool) -> Option<i64> {
        let before = if is_up { self.read(here) } else { None };
        if self.register?.write(here, value).is_err() {
            self.counts.faults.increment();
        }
        let holds = self.read(here)?;
        if let Some(before) = before {
            move_deadline(here, holds.wrapping_sub(before));
        }
        Some(holds)
    }

    /// As [`Tscs::write`], of another CPU, which has to be online.
    fn write_on(&self, cpu: CpuId, value: i64) -> Option<i64> {
        let (is_there, holds) = (AtomicWord::default(), AtomicWord::default());
        // The call is ordered: it has returned before the words are read.
        cpu::on(cpu, || {
            if let Some(value) = self.write(&Pinned::new(), value, true) {
                holds.store(value as u64);
                is_there.store(1);
            }
        })
        .ok()?;
        (is_there.load() != 0).then_some(holds.load() as i64)
    }

    /// Reads TSC_ADJUST of this CPU; `None` where there is none, or it cannot be read.
    fn read(&self, here: &Pinned) -> Option<i64> {
        self.register?
            .read(here)
            .inspect_err(|_| self.counts.faults.increment())
            .ok()
    }

    /// By whose TSC_ADJUST a CPU of the socket goes: the first one that is up of those that `is`
    /// admits and that stand for themselves.
    fn reference(&self, socket: u64, is: impl Fn(u32) -> bool) -> Option<Reference> {
        self.up()
            .find(|(cpu, record)| {
                is(*cpu) && record.socket.load() == socket && record.standing() != Standing::Socket
            })
            .map(|(_, record)| Reference {
                boot_value: record.boot_value.load() as i64,
                set_to: record.set_to(),
                in_step: !matches!(record.standing(), Standing::Denied(_)),
            })
    }

    /// A CPU that is good to compare another one with; the lowest number, the boot CPU as a rule.
    fn control(&self, other: u32) -> Option<CpuId> {
        let reliable = self.is_reliable();
        let (cpu, _) = self.up().find(|(cpu, record)| {
            *cpu != other
                && record.standing() != Standing::Socket
                && record.standing().verdict(reliable) == Verdict::Allowed
        })?;
        CpuId::from_u32(cpu)
    }

    /// Decides about a CPU, does that, and notes it; `write` writes its TSC_ADJUST and returns what
    /// that holds then. What there is to log comes later: the other CPU may wait.
    ///
    /// A CPU `was_denied` that would pass now by its TSC_ADJUST alone is to be checked: that this is
    /// right is not what it lacked. So is one whose register does not hold what is written to it.
    fn follow(
        &self,
        record: &Record,
        input: &mut Input,
        was_denied: bool,
        write: impl FnOnce(i64) -> Option<i64>,
    ) -> Decision {
        let mut decision = decide(input);
        let mut log = decision.log;
        if let Some(value) = decision.write {
            let holds = write(value);
            if holds == Some(value) {
                self.counts.writes.increment();
            } else {
                record.set(BARE, true);
                record.set_to.store(holds.unwrap_or(0) as u64);
                if matches!(
                    log,
                    Some(Message::Moved { .. } | Message::BootCpuSet { .. })
                ) {
                    log = None;
                }
                input.boot_value = None;
                decision = decide(input);
            }
        }
        if was_denied && decision.check == ToCheck::Skip {
            // Not for the boot CPU, with which the others are compared.
            input.boot_value = None;
            let set_to = decision.set_to;
            decision = decide(input);
            decision.set_to = set_to;
        }
        decision.log = decision.log.or(log);
        if let Some(value) = decision.set_to {
            record.set_to.store(value as u64);
        }
        record.stand(Standing::of(input, &decision));
        decision
    }

    fn log(&self, cpu: u32, message: &Message) {
        if message.once() {
            if self.has_differed.load() != 0 {
                return;
            }
            self.has_differed.store(1);
        }
        // By `core`'s own formatting, as the logic knows no other.
        match message {
            Message::BootCpuLeft { .. } => {
                pr_info!("CPU{}: {}\n", cpu, core::format_args!("{message}"))
            }
            _ => pr_warn!("CPU{}: {}\n", cpu, core::format_args!("{message}")),
        }
    }

    /// What to decide about: a CPU that came up with that TSC_ADJUST, as far as it may be written.
    fn input(&self, boot_value: Option<i64>, place: Place) -> Input {
        Input {
            boot_value,
            place,
            async_resets: ASYNC_RESETS,
            reliable: self.is_reliable() || self.is_needed.load() == 0,
            // Asked for when the verdict is: the CPU's own one is what is kept.
            withdrawn: false,
            step: Step::Starting,
        }
    }

    /// The starting CPU's side of a session, with all that follows from what it finds.
    ///
    /// Context: interrupts disabled, on that CPU.
    fn start(&self, here: &Pinned, record: &Record, mut input: Input, session: Session) -> Came {
        let bounds = session.bounds();
        let before = self.changes.load_acquire();
        let mut is_void = false;
        let mut runs = Runs::default();
        let mut messages = [None; MAX_RUNS as usize];
        // Also where a change is under way: the other CPU is not to wait for nobody.
        self.check.starting(
            session.ticket,
            &Here(&self.clock),
            &bounds,
            |run, measured| {
                if before & 1 != 0 || self.changes.load_acquire() != before {
                    is_void = true;
                    return false;
                }
                self.counts.runs.increment();
                let outcome =
                    measured.map_or(Outcome::Absent, |measured| measured.outcome(&bounds));
                input.step = runs.step(run, record.set_to(), outcome);
                let decision = self.follow(record, &mut input, false, |value| {
                    self.write(here, value, session.is_up)
                });
                if let Some(message) = messages.get_mut(usize::from(run.saturating_sub(1))) {
                    *message = decision.log;
                }
                decision.check != ToCheck::Skip
            },
        );
        for message in messages.iter().flatten() {
            // One that comes to nothing again and again is said once.
            let is_open = matches!(message, Message::Failed(Outcome::Unseen | Outcome::Absent));
            if !is_open || !record.is(SAID) {
                self.log(here.cpu(), message);
            }
            if is_open {
                record.set(SAID, true);
            }
        }
        if is_void {
            self.counts.void.increment();
            record.stand(Standing::Pending);
            // That says nothing of how busy the host is.
            record.retries.store(0);
            Came::ToNothing
        } else {
            if record.standing().verdict(false) == Verdict::Allowed {
                record.retries.store(0);
                record.set(SAID, false);
            }
            Came::ToResult
        }
    }

    /// The control CPU's side of a session.
    ///
    /// Context: interrupts disabled.
    fn be_compared_with(&self) {
        let session = Session::from_word(self.session.load_acquire());
        if session.control != Pinned::new().cpu() {
            // A call of an earlier session, in which it was this CPU.
            return;
        }
        self.check
            .control(session.ticket, &Here(&self.clock), &session.bounds());
    }

    /// Opens a session for the control CPU and the starting one; `None` where the TSC is being
    /// changed, or a CPU has not left the last one.
    fn open(&self, control: CpuId, ms: u32, is_up: bool) -> Option<Session> {
        let ticket = soon(|| {
            let is_changing = self.changes.load_acquire() & 1 != 0;
            if is_changing {
                None
            } else {
                self.check.open().ok()
            }
        })?;
        let session = Session {
            ticket,
            ms,
            is_up,
            control: control.as_u32(),
        };
        self.session.store_release(session.to_word());
        Some(session)
    }

    /// A CPU starts, the one on which the caller runs.
    ///
    /// Context: the STARTING section: interrupts disabled, the CPU is not online yet.
    fn starting(&self, here: &Pinned, call: &AsyncCall<Control<B>>) {
        let Some((cpu, record)) = CpuId::from_u32(here.cpu())
            .and_then(|cpu| self.record(cpu).map(|record| (cpu, record)))
        else {
            return;
        };
        let number = cpu.as_u32();
        let socket = u64::from(cpu::socket(cpu));
        record.socket.store(socket);
        let mut found = self.read(here);
        let was_bare = record.is(BARE);
        record.set(BARE | MOVABLE, false);
        let was_denied = record.is(KNOWN) && matches!(record.standing(), Standing::Denied(_));
        // Where nobody has looked since it came up the last time, the kernel's check may have moved it.
        if record.is(KNOWN) && !record.is(FRESH) && !was_bare && self.is_at_work() {
            found = self.restore(here, record, found, false);
        } else {
            // Of an earlier life.
            record.set(OVERWRITTEN, false);
        }
        if found.is_none() && self.register.is_some() {
            record.set(BARE, true);
        }
        record.boot_value.store(found.unwrap_or(0) as u64);
        record.set_to.store(found.unwrap_or(0) as u64);
        record.retries.store(0);
        record.set(SAID, false);

        let place = match self.reference(socket, |other| other != number) {
            Some(reference) => Place::Sibling(reference),
            None => Place::FirstOnSocket,
        };
        let mut input = self.input(found, place);
        let decision = self.follow(record, &mut input, was_denied, |value| {
            self.write(here, value, false)
        });
        if let Some(message) = &decision.log {
            self.log(number, message);
        }
        match decision.check {
            ToCheck::Run(ms) => self.check_starting(here, record, input, ms, call),
            ToCheck::Skip => self.counts.skipped.increment(),
        }
        keep_doubt(record, was_denied);
        // Only now it counts, with the verdict that it has: nobody is to leave mode `tsc` for a check
        // that is under way, as the CPU does not read the clock yet.
        let flags = record.flags.load();
        record.flags.store_release(flags | UP | KNOWN | FRESH);
    }

    /// Has the CPU checked that starts, the one on which the caller runs. What cannot be done now is
    /// left to the look once a second.
    fn check_starting(
        &self,
        here: &Pinned,
        record: &Record,
        input: Input,
        ms: u32,
        call: &AsyncCall<Control<B>>,
    ) {
        for _ in 0..SESSIONS {
            let Some(control) = self.control(here.cpu()) else {
                return;
            };
            let Some(session) = self.open(control, ms, false) else {
                return;
            };
            let sent = soon(|| match call.send(control) {
                Err(error) if error == EBUSY => None,
                result => Some(result),
            });
            if !matches!(sent, Some(Ok(()))) {
                return;
            }
            match self.start(here, record, input, session) {
                Came::ToResult => return,
                Came::ToNothing => {}
            }
        }
    }

    /// A CPU goes, the one on which the caller runs.
    ///
    /// Context: the end of the STARTING section, backwards: interrupts disabled, not online any
    /// more. The verdict of a socket passes to one that goes by it, if it is a good one.
    fn dying(&self, here: &Pinned) {
        let Some(record) = self.records.get(here.cpu() as usize) else {
            return;
        };
        self.bequeath(record);
        // Last: there is no moment at which neither it nor its heir is asked.
        record.set(UP, false);
    }

    /// Passes the verdict of a socket on.
    fn bequeath(&self, record: &Record) {
        let standing = record.standing();
        if standing == Standing::Socket {
            return;
        }
        let socket = record.socket.load();
        let others = || {
            self.up()
                .map(|(_, other)| other)
                .filter(|other| !core::ptr::eq(*other, record) && other.socket.load() == socket)
        };
        if matches!(standing, Standing::Denied(_)) {
            // It may have been the CPU and not the socket: who went by it is looked at by itself.
            for other in others().filter(|other| other.standing() == Standing::Socket) {
                other.boot_value.store(record.boot_value.load());
                other.stand(Standing::Denied(Reason::NotChecked));
                // Until then it is as far off as that one was.
                other.set(MOVABLE, is_off(standing) || record.is(MOVABLE));
                other.retries.store(0);
            }
            return;
        }
        if others().any(|other| other.standing() != Standing::Socket) {
            return;
        }
        if let Some(heir) = others().next() {
            // Of the same value, since it was set to that.
            heir.boot_value.store(record.boot_value.load());
            heir.stand(standing);
        }
    }

    /// Begins the record of a CPU that is up already.
    ///
    /// Context: the hotplug lock is held.
    fn adopt(&self, cpu: CpuId) {
        let Some(record) = self.record(cpu) else {
            return;
        };
        let is_there = AtomicWord::default();
        if self.register.is_some() {
            let _ = cpu::on(cpu, || {
                if let Some(found) = self.read(&Pinned::new()) {
                    record.boot_value.store(found as u64);
                    record.set_to.store(found as u64);
                    is_there.store(1);
                }
            });
            record.set(BARE, is_there.load() == 0);
        }
        record.socket.store(cpu::socket(cpu).into());
        record.stand(Standing::Pending);
        let flags = record.flags.load();
        record.flags.store_release(flags | UP | KNOWN);
    }

    /// Whether TSC_ADJUST of a CPU that is up may be written by the rules: whether the kernel is sure
    /// not to revert it.
    ///
    /// `tsc_verify_tsc_adjust()` reverts by what the kernel has noted when the CPU came up, or
    /// does nothing where the TSC is unstable to the kernel, which that never takes back. Of the
    /// boot CPU it has noted 0, in `tsc_init()` already, and so of all CPUs on its socket, which it
    /// sets to what the first one there has. Of other sockets nobody else knows.
    fn may_write(&self, record: &Record) -> bool {
        let boot = self.records.first();
        tsc::is_unstable() || boot.is_some_and(|boot| boot.socket.load() == record.socket.load())
    }

    /// Decides about those CPUs that are up that `wanted` admits, in ascending order. Who goes by one
    /// that was moved follows.
    ///
    /// Context: may sleep; the hotplug lock and [`Tscs::work`] are held.
    fn survey(&self, guard: &HotplugReadGuard, wanted: impl Fn(&Record) -> bool) {
        for cpu in guard.online() {
            let Some(record) = self.record(cpu).filter(|record| wanted(record)) else {
                continue;
            };
            let set_to = record.set_to();
            let may_move = self.begin_moving(record);
            self.decide_about(cpu, record, may_move);
            if record.set_to() != set_to && record.standing() != Standing::Socket {
                for sibling in guard.online() {
                    if let Some(other) = self.record(sibling) {
                        let goes_by_it = other.standing() == Standing::Socket
                            && other.socket.load() == record.socket.load();
                        if goes_by_it {
                            self.decide_about(sibling, other, may_move);
                        }
                    }
                }
            }
            for record in self.records.iter() {
                record.set(MOVING, false);
            }
        }
    }

    /// Decides about a CPU that is up. Where it must not be moved it is compared all the same.
    fn decide_about(&self, cpu: CpuId, record: &Record, may_move: bool) {
        let number = cpu.as_u32();
        let socket = record.socket.load();
        let place = match self.reference(socket, |other| other < number) {
            Some(reference) => Place::Sibling(reference),
            None if number == 0 => Place::Boot,
            None => Place::FirstOnSocket,
        };
        let set_to = record.set_to();
        let was_denied = record.is(MOVABLE) || matches!(record.standing(), Standing::Denied(_));
        let was_off = record.is(MOVABLE)
            || matches!(record.standing(), Standing::Denied(reason) if reason != Reason::NotChecked);
        let fits = match place {
            Place::Sibling(reference) => reference.set_to == set_to,
            _ => false,
        };
        let is_there = self.register.is_some() && !record.is(BARE);
        let may_write = is_there && self.may_write(record);
        // What may not be written is as good as not there: then it is checked, and not moved.
        let value = (is_there && fits || may_write && may_move).then_some(set_to);
        let mut input = self.input(value, place);
        let decision = self.follow(record, &mut input, was_denied, |value| {
            self.write_on(cpu, value)
        });
        if let Some(message) = &decision.log {
            self.log(number, message);
        }
        if let ToCheck::Run(ms) = decision.check {
            // Nobody waits here, and to look for longer is to see more.
            let ms = if record.retries.load() == 0 {
                ms
            } else {
                FIRST_MS
            };
            self.check_up(cpu, record, input, ms);
        }
        keep_doubt(record, was_denied);
        // Nor is a CPU that was off in step for a check that came to no result.
        let (standing, was_movable) = (record.standing(), record.is(MOVABLE));
        let is_movable =
            is_off(standing) && may_write && !may_move || standing.is_open(false) && was_off;
        record.set(MOVABLE, is_movable);
        if is_movable && !was_movable {
            // Not a minute from now.
            record.retries.store(0);
        }
    }

    /// Has a CPU checked that is up.
    fn check_up(&self, cpu: CpuId, record: &Record, input: Input, ms: u32) {
        for _ in 0..SESSIONS {
            let Some(session) = self
                .control(cpu.as_u32())
                .and_then(|control| self.open(control, ms, true))
            else {
                return;
            };
            let Some(control) = CpuId::from_u32(session.control) else {
                return;
            };
            let _ = cpu::on_both(control, cpu, || {
                let here = Pinned::new();
                if here.cpu() == cpu.as_u32() {
                    self.start(&here, record, input, session);
                } else {
                    self.be_compared_with();
                }
            });
            // Else the two have hardly run at once, or the TSC was changed meanwhile.
            if !record.standing().is_open(self.is_reliable()) {
                return;
            }
        }
    }

    /// Writes back what somebody else has changed on the CPU on which the caller runs, and returns
    /// what is there then.
    fn restore(
        &self,
        here: &Pinned,
        record: &Record,
        value: Option<i64>,
        resume: bool,
    ) -> Option<i64> {
        let set_to = record.set_to();
        let restore = verify(&Found {
            value,
            set_to,
            warned: record.is(WARNED),
            resume,
            overwritten: record
                .is(OVERWRITTEN)
                .then_some(record.overwritten.load() as i64),
            // Not a CPU that starts: it comes up with what somebody else makes it come up with. And
            // where the kernel's record is known to be what the rules say, it is somebody else who
            // insists.
            kernel_verifies: record.is(UP) && !tsc::is_unstable() && !self.may_write(record),
        });
        if let Some(value) = restore.write {
            let holds = self.write(here, value, record.is(UP));
            if holds != Some(value) {
                pr_warn!(
                    "CPU{}: TSC_ADJUST cannot be set back to {}, the host does not take it\n",
                    here.cpu(),
                    value
                );
                // What its TSC is worth by the value that it has nobody knows, and it cannot be set.
                record.set(BARE, true);
                record.set_to.store(holds.unwrap_or(0) as u64);
                record.stand(Standing::Denied(Reason::NotChecked));
                if here.cpu() == 0 {
                    // The others were compared with it.
                    for (_, other) in self.up() {
                        other.stand(Standing::Denied(Reason::NotChecked));
                    }
                }
                return None;
            }
            self.counts.restores.increment();
        }
        record.set_to.store(restore.set_to as u64);
        record.set(WARNED, restore.warned);
        record.set(OVERWRITTEN, restore.overwritten.is_some());
        record
            .overwritten
            .store(restore.overwritten.unwrap_or(0) as u64);
        if let Some(value) = value {
            if restore.log && restore.write.is_some() {
                pr_warn!(
                    "CPU{}: TSC_ADJUST was changed from {} to {} by somebody else, restored\n",
                    here.cpu(),
                    set_to,
                    value
                );
            }
        }
        if restore.set_to != set_to {
            self.counts.yielded.increment();
            // What its TSC is worth by that value nobody has looked at.
            record.stand(Standing::Pending);
            pr_info!(
                "CPU{}: TSC_ADJUST {} is the kernel's, instead of {}\n",
                here.cpu(),
                restore.set_to,
                set_to
            );
        }
        value.map(|_| restore.set_to)
    }

    /// Looks at TSC_ADJUST of the CPU on which the caller runs.
    fn look(&self, here: &Pinned, record: &Record, resume: bool) {
        if record.is(BARE) {
            // What it was set to is not known.
            record.set(FRESH, false);
            return;
        }
        let value = self.read(here);
        let set_to = record.set_to();
        if record.is(FRESH) {
            record.set(FRESH, false);
            if let Some(value) = value {
                // The kernel's own check runs behind ours, and has found a warp that ours could not
                // see. The kernel goes by that value from now on.
                if value != set_to && !tsc::is_unstable() {
                    record.set_to.store(value as u64);
                    self.counts.yielded.increment();
                    if matches!(record.standing(), Standing::Denied(_)) {
                        record.stand(Standing::Pending);
                    }
                    pr_info!(
                        "CPU{}: TSC_ADJUST moved from {} to {} by the kernel's check\n",
                        here.cpu(),
                        set_to,
                        value
                    );
                    return;
                }
            }
        }
        self.restore(here, record, value, resume);
    }

    /// Looks at all CPUs after a suspend: what they were set to may be gone with the power.
    ///
    /// Context: may sleep.
    pub(crate) fn resume(&self) {
        let _work = self.work.lock();
        let guard = HotplugReadGuard::new();
        if self.clock.boot_cpu_restored() {
            self.counts.restores.increment();
            pr_warn!("CPU0: TSC_ADJUST was not 0 after the suspend, restored\n");
        }
        for cpu in guard.online() {
            self.look_at(cpu, true);
        }
    }

    fn look_at(&self, cpu: CpuId, resume: bool) {
        if let Some(record) = self.record(cpu).filter(|record| record.is(UP)) {
            let _ = cpu::on(cpu, || self.look(&Pinned::new(), record, resume));
        }
    }

    /// Compares the TSC of a CPU that has been found in step once more, by what a call takes: this is
    /// the watchdog of a TSC that is not reliable.
    ///
    /// Its reading has to lie between two of another CPU, one of before and one of after. That is
    /// off by microseconds, so it finds TSCs that go apart and not those that are a bit off.
    fn watch(&self, cpu: CpuId) {
        let Some(record) = self.record(cpu).filter(|record| record.is(UP)) else {
            return;
        };
        // The boot CPU is what the others are compared with.
        if cpu.as_u32() == 0
            || self.is_needed.load() == 0
            || self.is_reliable()
            // The host has said so itself, and will say when it is over.
            || self.word() == HostsWord::Withdrawn
            || !matches!(record.standing(), Standing::InStep | Standing::Socket)
        {
            return;
        }
        let Some(control) = self.control(cpu.as_u32()) else {
            return;
        };
        let number = self.changes.load_acquire();
        // One in which the host has set a TSC back, or forth, is not to be believed.
        let mut by = 0;
        for _ in 0..WATCHED_TIMES {
            match self.off(control, cpu) {
                None | Some(0) => return,
                Some(off) => by = off,
            }
        }
        if number & 1 != 0 || self.changes.load_acquire() != number {
            return;
        }
        record.stand(Standing::Denied(Reason::Warped));
        self.log(cpu.as_u32(), &Message::FellApart { by });
    }

    /// By how much a CPU's TSC is outside of two readings of the control CPU's; 0 where it is not.
    fn off(&self, control: CpuId, cpu: CpuId) -> Option<i64> {
        let read = |cpu| {
            let tsc = AtomicWord::default();
            // The call is ordered: it has returned before the next one is made.
            cpu::on(cpu, || tsc.store(rdtsc_ordered())).ok()?;
            Some(tsc.load())
        };
        let (before, tsc, after) = (read(control)?, read(cpu)?, read(control)?);
        // Modulo 2^64, as the TSC is.
        let (late, early) = (
            tsc.wrapping_sub(before) as i64,
            tsc.wrapping_sub(after) as i64,
        );
        Some(if late < 0 {
            late
        } else if early > 0 {
            early
        } else {
            0
        })
    }

    /// Writes the CPUs' part of the status file.
    pub(crate) fn show(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        let reliable = self.is_reliable();
        let count = |word: &AtomicWord| word.load();
        let counts = &self.counts;
        writeln!(f, "tsc_reliable: {}", if reliable { "yes" } else { "no" })?;
        match self.out_of_step() {
            None => writeln!(f, "tsc_in_step: yes")?,
            Some(OutOfStep { cpu, reason }) => {
                writeln!(f, "tsc_in_step: no, CPU{}: {}", cpu, reason.name())?
            }
        }
        writeln!(
            f,
            "tsc_watched: {}",
            if reliable || self.is_needed.load() == 0 {
                "no"
            } else {
                "yes"
            }
        )?;
        writeln!(f, "tsc_checks: {}", count(&counts.runs))?;
        writeln!(f, "tsc_checks_skipped: {}", count(&counts.skipped))?;
        writeln!(f, "tsc_checks_void: {}", count(&counts.void))?;
        writeln!(f, "tsc_adjust_writes: {}", count(&counts.writes))?;
        writeln!(f, "tsc_adjust_restores: {}", count(&counts.restores))?;
        writeln!(f, "tsc_adjust_yielded: {}", count(&counts.yielded))?;
        writeln!(f, "tsc_adjust_faults: {}", count(&counts.faults))?;
        writeln!(f, "starting_last_cycles: {}", count(&counts.starting))?;
        for (cpu, record) in self.up() {
            write!(f, "tsc_cpu{}: socket={}", cpu, record.socket.load())?;
            if self.register.is_some() {
                write!(
                    f,
                    " boot_value={} set_to={}",
                    record.boot_value.load() as i64,
                    record.set_to()
                )?;
            }
            writeln!(f, " standing={}", record.standing().name())?;
        }
        Ok(())
    }
}

impl<B: Backend> periodic::Task for Arc<Tscs<B>> {
    /// It waits for CPUs that their host may not run.
    const IS_LONG: bool = true;

    /// The look once a second: at what the kernel has made of CPUs that came up, at the next one in
    /// turn, and at those of which the check has come to nothing.
    fn run(&self) -> u32 {
        let _work = self.work.lock();
        let guard = HotplugReadGuard::new();
        let last = self.turn.load();
        let mut first = None;
        let mut next = None;
        for cpu in guard.online() {
            let number = u64::from(cpu.as_u32());
            first = first.or(Some(cpu));
            if number > last {
                next = next.or(Some(cpu));
            }
            if self.record(cpu).is_some_and(|record| record.is(FRESH)) {
                self.look_at(cpu, false);
            }
        }
        if let Some(cpu) = next.or(first) {
            self.turn.store(cpu.as_u32().into());
            self.look_at(cpu, false);
            self.watch(cpu);
        }
        self.forget();
        self.retry(&guard);
        VERIFY_PERIOD_S * 1000
    }
}

impl<B: Backend> Tscs<B> {
    /// Forgets CPUs that were unplugged: another one may be plugged in in their place, which was never
    /// set to anything.
    fn forget(&self) {
        for (cpu, record) in (0u32..).zip(self.records.iter()) {
            if record.is(KNOWN)
                && !record.is(UP)
                && CpuId::from_u32(cpu).is_some_and(|cpu| !cpu::is_present(cpu))
            {
                record.set(KNOWN, false);
            }
        }
    }

    /// Checks the CPUs anew of which a check has come to no result; in the long run not often.
    fn retry(&self, guard: &HotplugReadGuard) {
        // While the word is withdrawn there is no mode `tsc` anyway, and with the word the TSC is
        // reliable again.
        if self.is_needed.load() == 0 || self.word() == HostsWord::Withdrawn {
            return;
        }
        let reliable = self.is_reliable();
        let begin = Instant::<Monotonic>::now();
        self.survey(guard, |record| {
            let is_wanted = record.standing().is_open(reliable) || record.is(MOVABLE) && !reliable;
            if !record.is(UP) || !is_wanted || begin.elapsed() > Delta::from_millis(RETRIES_MS) {
                return false;
            }
            let retries = record.retries.load();
            record.retries.store(retries.saturating_add(1));
            retries < RETRIES || retries % RETRIES_LATER == 0
        });
    }
}

impl<B: Backend> param::Handler<ReliableOption> for Arc<Tscs<B>> {
    /// Takes the option, and has those CPUs checked anew that are not allowed by it.
    fn set(&self, option: ReliableOption) -> Result {
        let _work = self.work.lock();
        let guard = HotplugReadGuard::new();
        let is_first = self.is_settable.load() == 0;
        self.is_settable.store(1);
        if is_first && option == self.option() {
            // As it was when the driver began.
            return Ok(());
        }
        self.option.store(option as u64);
        let reliable = self.is_reliable();
        if self.is_needed.load() != 0 {
            for (_, record) in self.up() {
                record.retries.store(0);
                record.set(SAID, false);
            }
            self.survey(&guard, |record| {
                record.standing().verdict(reliable) != Verdict::Allowed
            });
        }
        Ok(())
    }
}

/// The control CPU, that is called by the one that starts.
pub(crate) struct Control<B: Backend>(Arc<Tscs<B>>);

impl<B: Backend> async_call::Target for Control<B> {
    fn called(&self) {
        self.0.be_compared_with();
    }
}

/// What happens on a CPU that comes up or goes down: first its page, then its TSC.
pub(crate) struct Cpus<B: Backend> {
    clock: Arc<Clock<B>>,
    tscs: Arc<Tscs<B>>,
    call: Arc<AsyncCall<Control<B>>>,
}

impl<B: Backend> Cpus<B> {
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(clock: Arc<Clock<B>>, tscs: Arc<Tscs<B>>) -> Result<Self> {
        let call = Arc::pin_init(AsyncCall::new(Control(tscs.clone())), GFP_KERNEL)?;
        Ok(Self { clock, tscs, call })
    }
}

impl<B: Backend> cpuhp::Callbacks for Cpus<B> {
    fn starting(&self, cpu: CpuId) {
        // With what moves its TSC among it, so it says how long where nothing does.
        let begin = rdtsc_ordered();
        self.clock.starting();
        // One that was up when the callbacks were registered is online, and not starting.
        if self.tscs.has_begun.load() != 0 && !cpu::is_online(cpu) {
            self.tscs.starting(&Pinned::new(), &self.call);
            let cycles = rdtsc_ordered().wrapping_sub(begin);
            self.tscs.counts.starting.store(cycles);
        }
    }

    fn dying(&self, cpu: CpuId) {
        // One that stays up when the registration ends keeps its verdict until the end.
        if !cpu::is_online(cpu) {
            self.tscs.dying(&Pinned::new());
        }
        self.clock.dying();
    }
}
