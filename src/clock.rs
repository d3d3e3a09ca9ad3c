// SPDX-License-Identifier: GPL-2.0

//! The clock: what the kernel's callbacks do, in terms of the logic and of a backend's pages.

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
        pvclock::{
            self,
            Slot, //
        },
        shutdown,
        tsc::rdtsc_ordered,
        word::AtomicWord, //
    },
    backend::kvm::{
        Host,
        Pages, //
    },
    logic::{
        options::{
            Backend,
            Mode, //
        },
        reader::{
            Env,
            Event,
            Reader,
            Reading, //
        },
        word::Word, //
    }, //
};
use kernel::{
    cpu::CpuId,
    prelude::*,
    sync::Arc,
    time::NSEC_PER_SEC, //
};

/// The clock, shared by all that calls into the module.
pub(crate) struct Clock {
    // What every reading takes.
    page0: &'static Slot,
    reader: Reader<AtomicWord>,

    /// The pages.
    pub(crate) pages: Pages,
    /// Whose clock it is.
    pub(crate) backend: Backend,
    /// What is read.
    pub(crate) mode: Mode,
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
    guest_stopped: AtomicWord,
}

impl Statistics {
    fn of(&self, event: Event) -> &AtomicWord {
        match event {
            Event::Retry => &self.retries,
            Event::Clamped => &self.clamped,
            Event::Stuck => &self.stuck,
            Event::Accepted => &self.accepted,
            Event::GuestStopped => &self.guest_stopped,
        }
    }

    /// How often an event was counted.
    pub(crate) fn get(&self, event: Event) -> u64 {
        self.of(event).load()
    }
}

impl Clock {
    /// Makes the clock; nothing is registered yet, and it cannot be read before the pages are.
    pub(crate) fn new(host: &Host, backend: Backend, mode: Mode, rating: i32) -> Result<Self> {
        let pages = host.pages()?;
        Ok(Self {
            page0: pages.page0(),
            reader: Reader::new(host.has_stable_bit, AtomicWord::default),
            pages,
            backend,
            mode,
            rating,
            statistics: Statistics::default(),
            down: AtomicWord::default(),
        })
    }

    /// Checks what the host feeds to the clock, and decides how user space reads it.
    ///
    /// # Errors
    ///
    /// `EIO`, with a log line.
    pub(crate) fn check(&self) -> Result<VdsoClockMode> {
        let sample = self.pages.check(rdtsc_ordered)?;
        Ok(
            if self.reader.trusts(&sample.params) && pvclock::vdso_allowed() {
                VdsoClockMode::Pvclock
            } else {
                VdsoClockMode::None
            },
        )
    }

    /// What the clocksource is registered with.
    pub(crate) fn config(&self, vdso_clock_mode: VdsoClockMode) -> Config {
        Config {
            name: c"paraclock",
            // The readings are kvmclock's to the last ns, so what speaks of that clock, as ptp_kvm
            // does, speaks of this one as well.
            id: Id::X86KvmClock,
            rating: self.rating,
            frequency: NSEC_PER_SEC as u32,
            vdso_clock_mode,
        }
    }

    /// Whether the host vouches for the TSCs of all CPUs, as far as the readers have seen.
    pub(crate) fn is_stable(&self) -> bool {
        self.reader.is_stable()
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
    fn read_slow_ns(&self) -> u64 {
        self.read_slow().ns
    }
}

impl Env for Clock {
    type Word = AtomicWord;
    type Page = Slot;

    #[inline(always)]
    fn tsc(&self) -> u64 {
        rdtsc_ordered()
    }

    #[inline(always)]
    fn page0(&self) -> &Slot {
        self.page0
    }

    fn with_own_page<R>(&self, f: impl FnOnce(Option<&Slot>) -> R) -> R {
        let here = Pinned::new();
        f(CpuId::from_u32(here.cpu()).and_then(|cpu| self.pages.page(cpu)))
    }

    fn relax(&self) {
        cpu::relax();
    }

    fn count(&self, event: Event) {
        self.statistics.of(event).increment();
    }
}

impl Operations for Arc<Clock> {
    #[inline(always)]
    fn read(&self) -> u64 {
        let clock: &Clock = self;
        match clock.reader.read_fast(clock) {
            Some(sample) => sample.ns(),
            None => clock.read_slow_ns(),
        }
    }

    fn read_snapshot(&self) -> Snapshot {
        let clock: &Clock = self;
        let reading = match clock.reader.read_fast(clock) {
            Some(sample) => Reading {
                ns: sample.ns(),
                tsc: Some(sample.tsc),
            },
            None => clock.read_slow(),
        };
        Snapshot {
            cycles: reading.ns,
            hw_cycles: reading.tsc.unwrap_or(0),
            hw_id: if reading.tsc.is_some() {
                Id::X86Tsc
            } else {
                Id::Generic
            },
        }
    }

    fn enable(&self) -> Result {
        // Where the clock is not registered for the vDSO nothing comes of it.
        pvclock::enable_vdso();
        Ok(())
    }

    fn suspend(&self) {
        // For suspend to idle the other CPUs stay online, and so does this kernel: its memory
        // goes to nobody else, and which CPU resumes timekeeping is not known.
        if cpu::num_online() == 1 {
            self.pages.unregister(&Pinned::new());
        }
    }

    fn resume(&self) {
        self.pages.resume(&Pinned::new());
        self.reader.reset();
    }
}

impl cpuhp::Callbacks for Arc<Clock> {
    fn starting(&self, _cpu: CpuId) {
        if self.down.load() == 0 {
            self.pages.register(&Pinned::new());
        }
    }

    fn dying(&self, _cpu: CpuId) {
        self.pages.unregister(&Pinned::new());
    }
}

impl shutdown::Handler for Arc<Clock> {
    fn shutdown(&self) {
        // No CPU is halfway up meanwhile: registered already, and not yet among those that are
        // asked. One that comes up after the lock was released sees the word: the bring-up takes
        // the same lock.
        let _guard = HotplugReadGuard::new();
        self.down.store(1);
        cpu::on_each(|| self.pages.unregister(&Pinned::new()));
    }

    fn crash(&self) {
        self.pages.unregister(&Pinned::new());
    }
}
