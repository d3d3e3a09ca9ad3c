// SPDX-License-Identifier: GPL-2.0

//! Whether the TSCs of all CPUs are in step, as CPUs come and go.
//!
//! [`crate::logic::tsc_adjust`] decides, [`crate::logic::tsc_sync`] compares two TSCs; here both are
//! driven, and what came of it is kept, a [`Record`] for each CPU. [`Tscs::out_of_step`] is what mode
//! `tsc` asks.
//!
//! Four act on the records:
//!
//! - a CPU that starts ([`starting`]), in the STARTING section of CPU hotplug, before anything on it
//!   reads the clock, and before the kernel's own `check_tsc_sync_target()`: what is written to
//!   TSC_ADJUST here is what the kernel finds, and keeps;
//! - a CPU that goes (there as well);
//! - [`Tscs::begin`], at load, for the CPUs that are up by then ([`survey`]). The kernel has its own
//!   record of those, and `tsc_verify_tsc_adjust()` reverts by that whatever differs. So here only
//!   that is written of which it is known to agree: see [`Tscs::may_write`];
//! - a look once a second ([`watch`]) at what has become of it, and the administrator, who writes
//!   `tsc_reliable`.
//!
//! What they have in common: [`decision`], what follows from the rules; [`session`], one check of two
//! CPUs; [`register`], TSC_ADJUST itself.
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

mod decision;
mod record;
mod register;
mod session;
mod starting;
mod survey;
mod watch;

pub(crate) use starting::Cpus;

use crate::{
    abstractions::{
        cpu::HotplugReadGuard,
        param,
        tsc_adjust::{
            has_reliable_feature,
            AdjustRegister, //
        },
        word::AtomicWord, //
    },
    backend::Backend,
    clock::Clock,
    logic::{
        mode::Guarantee,
        tsc_adjust::{
            is_reliable,
            HostsWord,
            Reason,
            ReliableOption,
            Standing,
            Verdict, //
        },
        tsc_sync::Check,
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
};
use record::{
    Record,
    MOVABLE,
    MOVING,
    SAID,
    UP, //
};

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
    /// What the control CPU has to know: the ticket, and above it what [`session::Session`] has.
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
