// SPDX-License-Identifier: GPL-2.0

//! The clock: what the kernel's callbacks do, in terms of the logic and of a backend.

use crate::{
    abstractions::{
        clocksource::{
            Config,
            Id,
            Operations,
            Snapshot,
            VdsoClockMode, //
        },
        cpu,
        cpu::{
            HotplugReadGuard,
            Pinned, //
        },
        cpuhp,
        shutdown,
        tsc::rdtsc_ordered,
        word::AtomicWord, //
    },
    backend::Backend,
    logic::{
        options::Mode,
        page::Page,
        reader::{
            Env,
            Event,
            Reader,
            Reading,
            Standing, //
        },
        word::Word, //
    }, //
};
use kernel::{
    cpu::CpuId,
    prelude::*,
    sync::Arc, //
};

/// The clock, shared by all that calls into the module.
pub(crate) struct Clock<B: Backend> {
    // What every reading takes.
    page0: &'static B::Page,
    reader: Reader<AtomicWord, <B::Page as Page>::Params>,

    /// Whose clock it is, with its pages.
    pub(crate) backend: B,
    /// How it is rated.
    pub(crate) rating: i32,
    /// What was counted.
    pub(crate) statistics: Statistics,
    /// Not 0 once this kernel goes down: no page is registered any more.
    down: AtomicWord,
}

/// How often things happened that are worth a look.
///
/// On cache lines of their own, apart from what every reading takes.
#[derive(Default)]
#[repr(align(64))]
pub(crate) struct Statistics {
    retries: AtomicWord,
    clamped: AtomicWord,
    stuck: AtomicWord,
    accepted: AtomicWord,
    withdrawn: AtomicWord,
    guest_stopped: AtomicWord,
}

impl Statistics {
    fn of(&self, event: Event) -> &AtomicWord {
        match event {
            Event::Retry => &self.retries,
            Event::Clamped => &self.clamped,
            Event::Stuck => &self.stuck,
            Event::Accepted => &self.accepted,
            Event::Withdrawn => &self.withdrawn,
            Event::GuestStopped => &self.guest_stopped,
        }
    }

    /// How often an event was counted.
    pub(crate) fn get(&self, event: Event) -> u64 {
        self.of(event).load()
    }
}

impl<B: Backend> Clock<B> {
    /// Makes the clock; it cannot be read before the pages are registered.
    pub(crate) fn new(backend: B, rating: i32) -> Self {
        Self {
            page0: backend.page0(),
            reader: Reader::new(backend.trusts_host(), AtomicWord::default),
            backend,
            rating,
            statistics: Statistics::default(),
            down: AtomicWord::default(),
        }
    }

    /// What the clocksource is registered with.
    pub(crate) fn config(&self, vdso_clock_mode: VdsoClockMode) -> Config {
        Config {
            name: c"paraclock",
            id: B::ID,
            rating: self.rating,
            frequency: B::COUNT_HZ,
            vdso_clock_mode,
        }
    }

    /// What is read at the moment, as far as the readers have seen.
    pub(crate) fn mode(&self) -> Mode {
        match self.reader.standing() {
            Standing::Rejected if self.backend.second_is_reference() => Mode::Msr,
            _ => self.backend.mode(),
        }
    }

    /// Whether the host vouches for the TSCs of all CPUs, as far as the readers have seen.
    pub(crate) fn is_stable(&self) -> bool {
        self.reader.standing() == Standing::Accepted
    }

    /// What stands behind the fast way.
    #[cold]
    #[inline(never)]
    fn read_slow(&self) -> Reading {
        // It changes what all readers share: nobody is to be put aside halfway. It ends after a
        // bounded number of steps.
        let _here = Pinned::new();
        self.reader.read_slow(self)
    }

    /// As [`Clock::read_slow`], with a result that fits a register, so that the fast way needs no
    /// stack.
    #[cold]
    #[inline(never)]
    fn read_slow_count(&self) -> u64 {
        self.read_slow().count
    }

    /// What stands behind the fast way of the mode that reads the host's counter.
    #[cold]
    #[inline(never)]
    fn read_counter(&self) -> Reading {
        self.reader.read_second(self)
    }

    /// As [`Clock::read_counter`], for the reason of [`Clock::read_slow_count`].
    #[cold]
    #[inline(never)]
    fn read_counter_count(&self) -> u64 {
        self.read_counter().count
    }

    /// The clocksource's `suspend()`, however it is read.
    fn suspend(&self) {
        // For suspend to idle the other CPUs stay online, and so does this kernel: its memory
        // goes to nobody else, and which CPU resumes timekeeping is not known.
        if cpu::num_online() == 1 {
            self.backend.suspend(&Pinned::new());
        }
    }

    /// The clocksource's `resume()`, however it is read.
    fn resume(&self) {
        self.backend.resume(&Pinned::new());
        self.reader.reset();
    }
}

impl<B: Backend> Env for Clock<B> {
    type Word = AtomicWord;
    type Page = B::Page;

    const TRIES: u32 = B::TRIES;

    #[inline(always)]
    fn tsc(&self) -> u64 {
        rdtsc_ordered()
    }

    #[inline(always)]
    fn page0(&self) -> &B::Page {
        self.page0
    }

    #[inline(always)]
    fn second(&self) -> Option<Reading> {
        self.backend.second()
    }

    fn second_is_reference(&self) -> bool {
        self.backend.second_is_reference()
    }

    fn relax(&self) {
        cpu::relax();
    }

    fn count(&self, event: Event) {
        self.statistics.of(event).increment();
    }
}

/// A reading as the timekeeping core takes it.
fn snapshot(reading: Reading) -> Snapshot {
    Snapshot {
        cycles: reading.count,
        hw_cycles: reading.tsc.unwrap_or(0),
        hw_id: if reading.tsc.is_some() {
            Id::X86Tsc
        } else {
            Id::Generic
        },
    }
}

/// Modes that read a page.
pub(crate) struct ByPage<B: Backend>(pub(crate) Arc<Clock<B>>);

impl<B: Backend> Operations for ByPage<B> {
    #[inline(always)]
    fn read(&self) -> u64 {
        let clock: &Clock<B> = &self.0;
        match clock.reader.read_fast(clock) {
            Some(sample) => sample.count(),
            None => clock.read_slow_count(),
        }
    }

    fn read_snapshot(&self) -> Snapshot {
        let clock: &Clock<B> = &self.0;
        snapshot(match clock.reader.read_fast(clock) {
            Some(sample) => Reading {
                count: sample.count(),
                tsc: Some(sample.tsc),
            },
            None => clock.read_slow(),
        })
    }

    fn enable(&self) -> Result {
        // Where the clock is not registered for the vDSO nothing comes of it.
        self.0.backend.enable_vdso();
        Ok(())
    }

    fn suspend(&self) {
        self.0.suspend();
    }

    fn resume(&self) {
        self.0.resume();
    }
}

/// The mode that reads the host's counter.
pub(crate) struct ByCounter<B: Backend>(pub(crate) Arc<Clock<B>>);

impl<B: Backend> Operations for ByCounter<B> {
    #[inline(always)]
    fn read(&self) -> u64 {
        let clock: &Clock<B> = &self.0;
        match clock.reader.read_second_fast(clock) {
            Some(reading) => reading.count,
            None => clock.read_counter_count(),
        }
    }

    fn read_snapshot(&self) -> Snapshot {
        let clock: &Clock<B> = &self.0;
        snapshot(clock.read_counter())
    }

    fn suspend(&self) {
        self.0.suspend();
    }

    fn resume(&self) {
        self.0.resume();
    }
}

impl<B: Backend> cpuhp::Callbacks for Arc<Clock<B>> {
    fn starting(&self, _cpu: CpuId) {
        if self.down.load() == 0 {
            self.backend.starting(&Pinned::new());
        }
    }

    fn dying(&self, _cpu: CpuId) {
        self.backend.dying(&Pinned::new());
    }
}

impl<B: Backend> shutdown::Handler for Arc<Clock<B>> {
    fn shutdown(&self) {
        // No CPU is halfway up meanwhile: registered already, and not yet among those that are
        // asked. One that comes up after the lock was released sees the word: the bring-up takes
        // the same lock.
        let _guard = HotplugReadGuard::new();
        self.down.store(1);
        self.backend.shutdown();
    }

    fn crash(&self) {
        self.backend.crash(&Pinned::new());
    }
}
