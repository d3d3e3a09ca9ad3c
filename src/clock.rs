// SPDX-License-Identifier: GPL-2.0

//! The clock: what the kernel's callbacks do, in terms of the logic and of a backend.

use crate::{
    abstractions::{
        clocksource::{
            self,
            Config,
            Id,
            Operations,
            Readers,
            Snapshot,
            VdsoClockMode, //
        },
        cpu,
        cpu::{
            HotplugReadGuard,
            Pinned, //
        },
        shutdown,
        tsc,
        tsc::rdtsc_ordered,
        tsc_adjust::AdjustRegister,
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
use core::marker::PhantomData;
use kernel::{
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
    /// What is read: see [`Clock::mode`].
    mode: AtomicWord,
    /// What was counted.
    pub(crate) statistics: Statistics,
    /// Not 0 once this kernel goes down: no page is registered any more.
    down: AtomicWord,
    /// Of TSC_ADJUST on the boot CPU: 0 where it is nobody's business, 1 where it is kept at 0, 2
    /// where it had to be written since that was asked for.
    boot_cpu: AtomicWord,
    /// How often timekeeping was resumed.
    pub(crate) resumed: AtomicWord,
    /// How often the clock became the current one.
    pub(crate) enabled: AtomicWord,
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
        let clock = Self {
            page0: backend.page0(),
            reader: Reader::new(backend.trusts_host(), AtomicWord::default),
            rating,
            mode: AtomicWord::default(),
            statistics: Statistics::default(),
            down: AtomicWord::default(),
            boot_cpu: AtomicWord::default(),
            resumed: AtomicWord::default(),
            enabled: AtomicWord::default(),
            backend,
        };
        clock.set_mode(clock.backend.mode());
        clock
    }

    /// What the clocksource is registered with.
    pub(crate) fn config(self: &Arc<Self>, page_vdso: VdsoClockMode) -> Config<Arc<Self>> {
        Config {
            name: c"paraclock",
            rating: self.rating,
            frequency: B::COUNT_HZ,
            mode: Self::readers(self.backend.mode(), page_vdso),
        }
    }

    /// How the clocksource is read in a mode, where user space reads the page like that.
    pub(crate) fn readers(mode: Mode, page_vdso: VdsoClockMode) -> clocksource::Mode<Arc<Self>> {
        match mode {
            Mode::Tsc => clocksource::Mode::tsc(),
            Mode::Page => clocksource::Mode::new::<ByPage<B>>(B::ID, page_vdso),
            Mode::Msr => clocksource::Mode::new::<ByCounter<B>>(B::ID, VdsoClockMode::None),
        }
    }

    /// Notes what the clocksource reads.
    pub(crate) fn set_mode(&self, mode: Mode) {
        self.mode.store(mode as u64);
    }

    /// What is read at the moment, as far as the readers have seen.
    pub(crate) fn mode(&self) -> Mode {
        let mode = self.mode.load();
        if mode == Mode::Tsc as u64 {
            Mode::Tsc
        } else if mode == Mode::Msr as u64
            || self.backend.second_is_reference() && self.reader.standing() == Standing::Rejected
        {
            Mode::Msr
        } else {
            Mode::Page
        }
    }

    /// Reads the clock in a mode that is not `tsc`, for the first time since another mode: what
    /// readers had learnt then is of no use. What is known of the page instead is `known`: see
    /// [`Reader::begin_with`].
    ///
    /// Context: an update of the clocksource, so that no reader comes to anything.
    pub(crate) fn read_anew(
        &self,
        mode: Mode,
        known: Option<(u32, &<B::Page as Page>::Params, bool)>,
    ) -> Reading {
        match known {
            Some((version, params, is_accepted)) => {
                self.reader.begin_with(version, params, is_accepted);
            }
            None => self.reader.reset(),
        }
        self.read(mode)
    }

    /// Reads the clock in a mode that is not `tsc`.
    pub(crate) fn read(&self, mode: Mode) -> Reading {
        match mode {
            Mode::Msr => self.read_counter(),
            _ => self.read_slow(),
        }
    }

    /// Whether page 0 with these parameters may be read on every CPU.
    pub(crate) fn trusts(&self, params: &<B::Page as Page>::Params) -> bool {
        self.reader.trusts(params)
    }

    /// Whether the host vouches for the TSCs of all CPUs, as far as the readers have seen.
    pub(crate) fn is_stable(&self) -> bool {
        let mode = self.mode.load();
        mode == Mode::Tsc as u64
            || mode == Mode::Page as u64 && self.reader.standing() == Standing::Accepted
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

    fn tsc_is_another(&self, params: &<B::Page as Page>::Params) -> bool {
        self.backend.tsc_is_another(params)
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

/// What readers of mode `page` do.
struct ByPage<B>(PhantomData<B>);

impl<B: Backend> Readers<Arc<Clock<B>>> for ByPage<B> {
    #[inline(always)]
    fn read(clock: &Arc<Clock<B>>) -> u64 {
        let clock: &Clock<B> = clock;
        match clock.reader.read_fast(clock) {
            Some(sample) => sample.count(),
            None => clock.read_slow_count(),
        }
    }

    fn read_snapshot(clock: &Arc<Clock<B>>) -> Snapshot {
        let clock: &Clock<B> = clock;
        snapshot(match clock.reader.read_fast(clock) {
            Some(sample) => Reading {
                count: sample.count(),
                tsc: Some(sample.tsc),
            },
            None => clock.read_slow(),
        })
    }
}

/// What readers of mode `msr` do.
struct ByCounter<B>(PhantomData<B>);

impl<B: Backend> Readers<Arc<Clock<B>>> for ByCounter<B> {
    #[inline(always)]
    fn read(clock: &Arc<Clock<B>>) -> u64 {
        let clock: &Clock<B> = clock;
        match clock.reader.read_second_fast(clock) {
            Some(reading) => reading.count,
            None => clock.read_counter_count(),
        }
    }

    fn read_snapshot(clock: &Arc<Clock<B>>) -> Snapshot {
        let clock: &Clock<B> = clock;
        snapshot(clock.read_counter())
    }
}

impl<B: Backend> Operations for Arc<Clock<B>> {
    fn enable(&self) -> Result {
        // Also where the page is not read now: it may be later on. Where the clock is not for the
        // vDSO nothing comes of it.
        self.backend.enable_vdso();
        self.enabled.increment();
        Ok(())
    }

    fn suspend(&self) {
        // For suspend to idle the other CPUs stay online, and so does this kernel: its memory
        // goes to nobody else, and which CPU resumes timekeeping is not known.
        if cpu::num_online() == 1 {
            self.backend.suspend(&Pinned::new());
        }
    }

    fn resume(&self) {
        let here = Pinned::new();
        self.restore_boot_cpu(&here);
        self.backend.resume(&here);
        self.reader.reset();
        self.resumed.increment();
    }
}

impl<B: Backend> Clock<B> {
    /// From now on TSC_ADJUST of the boot CPU is 0 again after a suspend before any other CPU comes
    /// up, which goes by it, or is compared with it.
    ///
    /// The kernel does that itself (`tsc_verify_tsc_adjust()` in `restore_processor_state()`), but
    /// not where the TSC is unstable to it.
    ///
    /// Context: any.
    pub(crate) fn keep_boot_cpu_at_zero(&self) {
        self.boot_cpu.store(1);
    }

    /// Whether it was not 0 since this was asked the last time.
    ///
    /// Context: any; one at a time.
    pub(crate) fn boot_cpu_restored(&self) -> bool {
        self.boot_cpu.compare_exchange(2, 1).is_ok()
    }

    /// Context: timekeeping resumes, interrupts disabled.
    fn restore_boot_cpu(&self, here: &Pinned) {
        if self.boot_cpu.load() == 0 || here.cpu() != 0 || !tsc::is_unstable() {
            return;
        }
        let Some(register) = AdjustRegister::find() else {
            return;
        };
        let is_zero = || register.read(here).is_ok_and(|value| value == 0);
        if !is_zero() && register.write(here, 0).is_ok() && is_zero() {
            self.boot_cpu.store(2);
        }
    }

    /// The CPU on which the caller runs comes up: its page is registered, unless this kernel goes
    /// down.
    ///
    /// Context: interrupts disabled.
    pub(crate) fn starting(&self) {
        if self.down.load() == 0 {
            self.backend.starting(&Pinned::new());
        }
    }

    /// The CPU on which the caller runs goes down: its page is withdrawn.
    ///
    /// Context: interrupts disabled.
    pub(crate) fn dying(&self) {
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
