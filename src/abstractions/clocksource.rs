// SPDX-License-Identifier: GPL-2.0

//! Clocksources.
//!
//! A clocksource is a counter that the timekeeping core turns into time. It becomes available with
//! its [`Registration`]; which of the available ones is *current* is decided by the ratings, or by
//! the administrator in
//! `/sys/devices/system/clocksource/clocksource0/current_clocksource`.
//!
//! While a clocksource is current the core holds a reference to the module that owns it, so the
//! module cannot be unloaded, and the registration cannot be dropped by its exit function. It holds
//! none while a clocksource is merely the watchdog's reference for others.
//!
//! How a clocksource is read is its [`Mode`], which [`Registration::update`] exchanges in place,
//! together with the frequency: while it runs nobody can tell the time, so nobody sees it change.
//!
//! C header: `include/linux/clocksource.h`

use super::tsc::rdtsc_ordered;
use crate::{
    bindings,
    logic::{
        elapsed,
        frequency::Frequency, //
    }, //
};
use core::marker::PhantomData;
use kernel::{
    error::{
        from_result,
        to_result, //
    },
    prelude::*,
    types::Opaque, //
};

/// What identifies the counter in snapshots and cross timestamps (`enum clocksource_ids`).
#[derive(Clone, Copy)]
pub(crate) enum Id {
    /// No particular counter.
    Generic = bindings::clocksource_ids_CSID_GENERIC as isize,
    /// The TSC.
    X86Tsc = bindings::clocksource_ids_CSID_X86_TSC as isize,
    /// The time of kvmclock, in ns.
    X86KvmClock = bindings::clocksource_ids_CSID_X86_KVM_CLK as isize,
}

impl Id {
    fn as_raw(self) -> bindings::clocksource_ids {
        self as bindings::clocksource_ids
    }
}

/// How user space reads the clock (`enum vdso_clock_mode`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum VdsoClockMode {
    /// By a system call.
    None = bindings::vdso_clock_mode_VDSO_CLOCKMODE_NONE as isize,
    /// The TSC alone.
    Tsc = bindings::vdso_clock_mode_VDSO_CLOCKMODE_TSC as isize,
    /// From the vDSO's pvclock page.
    Pvclock = bindings::vdso_clock_mode_VDSO_CLOCKMODE_PVCLOCK as isize,
    /// From the vDSO's reference TSC page.
    #[cfg(CONFIG_HYPERV_TIMER)]
    Hvclock = bindings::vdso_clock_mode_VDSO_CLOCKMODE_HVCLOCK as isize,
}

impl VdsoClockMode {
    /// The name in messages and in the status file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            VdsoClockMode::None => "none",
            VdsoClockMode::Tsc => "tsc",
            VdsoClockMode::Pvclock => "pvclock",
            #[cfg(CONFIG_HYPERV_TIMER)]
            VdsoClockMode::Hvclock => "hvclock",
        }
    }
}

/// A reading together with the hardware counter from which it was computed
/// (`struct clocksource_hw_snapshot`).
pub(crate) struct Snapshot {
    /// The clocksource's reading, in its own cycles.
    pub(crate) cycles: u64,
    /// The hardware counter's reading.
    pub(crate) hw_cycles: u64,
    /// Which counter that is; [`Id::Generic`] where there is none.
    pub(crate) hw_id: Id,
}

/// Properties of a clocksource, as it is registered.
pub(crate) struct Config<T: Operations> {
    /// The name under which it is selected.
    pub(crate) name: &'static CStr,
    /// The rating, from 1; the available clocksource with the highest becomes current.
    pub(crate) rating: i32,
    /// The frequency in Hz.
    pub(crate) frequency: u32,
    /// How it is read, until that is exchanged.
    pub(crate) mode: Mode<T>,
}

/// A clocksource's operations, however it is read.
///
/// The counter has 64 bits and never stops while the system runs.
pub(crate) trait Operations: Send + Sync + 'static {
    /// The clocksource is about to become current.
    ///
    /// Context: under `stop_machine()`: interrupts disabled, on all CPUs.
    ///
    /// # Errors
    ///
    /// An error keeps the clocksource from becoming current.
    fn enable(&self) -> Result {
        Ok(())
    }

    /// Timekeeping has been suspended; the counter is not read until [`Operations::resume`].
    ///
    /// Context: interrupts disabled. On the only CPU that is online, or, for suspend to idle, on
    /// any one of those that are.
    fn suspend(&self) {}

    /// Timekeeping is about to be resumed.
    ///
    /// Context: as [`Operations::suspend`], not necessarily on the same CPU.
    fn resume(&self) {}
}

/// One way to read a clocksource with the data `T`.
pub(crate) trait Readers<T>: 'static {
    /// Reads the counter.
    ///
    /// Context: any, NMIs included; on any CPU, before and after it is online as well.
    fn read(data: &T) -> u64;

    /// Reads the counter and the hardware counter below it, at one moment.
    ///
    /// Context: as [`Readers::read`].
    fn read_snapshot(data: &T) -> Snapshot;
}

/// How a clocksource is read: what else than the frequency an update may exchange
/// (`struct clocksource_mode`).
///
/// # Invariants
///
/// The functions take the clocksource of a live [`Registration`] of `T`.
pub(crate) struct Mode<T: Operations> {
    raw: bindings::clocksource_mode,
    _data: PhantomData<fn(&T)>,
}

impl<T: Operations> Mode<T> {
    /// By the driver's own functions.
    pub(crate) fn new<R: Readers<T>>(id: Id, vdso_clock_mode: VdsoClockMode) -> Self {
        // INVARIANT: They do.
        Self {
            raw: bindings::clocksource_mode {
                read: Some(Registration::<T>::read::<R>),
                read_snapshot: Some(Registration::<T>::read_snapshot::<R>),
                id: id.as_raw(),
                vdso_clock_mode: vdso_clock_mode as bindings::vdso_clock_mode,
                flags: 0,
            },
            _data: PhantomData,
        }
    }

    /// The TSC alone, as `clocksource_tsc` in `arch/x86/kernel/tsc.c` has it: the core reads it by
    /// itself, user space without a page, and a timer that is set in TSC cycles (the TSC-deadline
    /// timer) is set from this clock without a detour over ns.
    pub(crate) fn tsc() -> Self {
        // INVARIANT: The function does not use the clocksource.
        Self {
            raw: bindings::clocksource_mode {
                read: Some(Registration::<T>::read_tsc),
                read_snapshot: None,
                id: Id::X86Tsc.as_raw(),
                vdso_clock_mode: VdsoClockMode::Tsc as bindings::vdso_clock_mode,
                flags: (bindings::CLOCK_SOURCE_CAN_INLINE_READ
                    | bindings::CLOCK_SOURCE_HAS_COUPLED_CLOCK_EVENT)
                    as c_ulong,
            },
            _data: PhantomData,
        }
    }
}

/// Time that has passed in an update (`struct clocksource_elapsed`).
#[derive(Clone, Copy)]
pub(crate) struct Elapsed {
    /// A count of the updated clocksource.
    pub(crate) cycles: u64,
    /// How much has passed by then, since the count of [`Bracket::cycles`].
    pub(crate) time: elapsed::Elapsed,
}

/// The TSC of this CPU around an update: before the readers were stopped, and when they had gone on.
#[derive(Clone, Copy)]
pub(crate) struct Around {
    pub(crate) before: u64,
    pub(crate) after: u64,
}

impl Around {
    /// What lies between, in cycles.
    pub(crate) fn cycles(&self) -> u64 {
        self.after.wrapping_sub(self.before)
    }
}

/// An update that is under way: see [`Registration::update`].
pub(crate) struct Bracket<'a> {
    clocksource: &'a Opaque<bindings::clocksource>,
    cycles: u64,
}

impl Bracket<'_> {
    /// The count at which the readers were stopped: nobody has been given a later time than its.
    pub(crate) fn cycles(&self) -> u64 {
        self.cycles
    }

    /// Sets the frequency of the counts, in force from the end of the update on.
    ///
    /// # Errors
    ///
    /// `EINVAL` where the clocksource cannot have it; it then keeps the one that it has.
    pub(crate) fn set_frequency(&mut self, scale: u32, frequency: u32) -> Result {
        // SAFETY: The clocksource is the one that is being updated, as long as there is this value.
        to_result(unsafe {
            bindings::clocksource_update_mult_shift(self.clocksource.get(), scale, frequency)
        })
    }

    /// The same for a clocksource that counts TSC cycles.
    ///
    /// # Errors
    ///
    /// As there.
    pub(crate) fn set_tsc_frequency(&mut self, frequency: Frequency) -> Result {
        let (scale, frequency) = frequency.scale_and_freq();
        self.set_frequency(scale, frequency)
    }
}

/// A clocksource that is registered, until the value is dropped.
///
/// # Invariants
///
/// `clocksource` was registered and has not been unregistered here, and its callbacks are those of
/// this type. The administrator may have unbound it (`unbind_clocksource`), which takes it off the
/// core's list; to unregister it then is nothing to the core.
#[pin_data(PinnedDrop)]
pub(crate) struct Registration<T: Operations> {
    data: T,
    #[pin]
    clocksource: Opaque<bindings::clocksource>,
}

// SAFETY: Clocksources may be registered and unregistered by any task; `T` is Send.
unsafe impl<T: Operations> Send for Registration<T> {}
// SAFETY: A shared reference gives access to `update()` alone, which the timekeeping core serialises.
unsafe impl<T: Operations> Sync for Registration<T> {}

impl<T: Operations> Registration<T> {
    /// Registers a clocksource, which may become current at once.
    ///
    /// Context: may sleep.
    ///
    /// # Errors
    ///
    /// Those of `__clocksource_register_scale()`.
    pub(crate) fn new(
        module: &'static ThisModule,
        config: Config<T>,
        data: T,
    ) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            data,
            clocksource <- Opaque::try_ffi_init(|slot: *mut bindings::clocksource| {
                let mode = &config.mode.raw;
                let clocksource = bindings::clocksource {
                    read: mode.read,
                    read_snapshot: mode.read_snapshot,
                    enable: Some(Self::enable),
                    suspend: Some(Self::suspend),
                    resume: Some(Self::resume),
                    name: config.name.as_char_ptr(),
                    mask: u64::MAX,
                    rating: config.rating,
                    id: mode.id,
                    vdso_clock_mode: mode.vdso_clock_mode,
                    flags: bindings::CLOCK_SOURCE_IS_CONTINUOUS as c_ulong | mode.flags,
                    owner: module.as_ptr(),
                    ..pin_init::zeroed()
                };
                // SAFETY: `slot` is valid for a write, and stays where it is, pinned, until drop
                // has unregistered it. `data`, which the callbacks use, is the field before it
                // and initialised. The name lives as long as the module, and so does the owner.
                to_result(unsafe {
                    slot.write(clocksource);
                    bindings::__clocksource_register_scale(slot, 1, config.frequency)
                })
            }),
        })
    }

    /// Exchanges the frequency and, where `mode` is one, how the clocksource is read, in place.
    ///
    /// The readers of the clocksource are stopped, in the kernel, in the vDSO and in NMIs, if it is
    /// the current one; then `f` is called, and they go on with what it has set: at its
    /// [`Elapsed::cycles`] the clock tells the time that it told at [`Bracket::cycles`] and what
    /// has passed since then. Where `f` returns nothing, or fails, nothing is exchanged, and time
    /// goes on as if nothing had happened.
    ///
    /// Context: may sleep, without the CPU hotplug lock. `f` runs with interrupts disabled and
    /// locks held that everybody waits for. It has to be quick, must neither sleep, print nor ask
    /// for the time, and is not to panic: nothing in it may rely on what a host says.
    ///
    /// # Errors
    ///
    /// `EINVAL` where the clocksource was unbound, `EBUSY` in `f` of another update, `EAGAIN` while
    /// timekeeping is suspended; those of `f`.
    pub(crate) fn update<F>(&self, mode: Option<&Mode<T>>, f: F) -> Result<Around>
    where
        F: FnOnce(&mut Bracket<'_>) -> Result<Option<Elapsed>>,
    {
        let mode = mode.map_or(core::ptr::null(), |mode| &raw const mode.raw);
        let mut cycles = 0;
        let before = rdtsc_ordered();
        // SAFETY: The clocksource stays where it is until drop, and one that is not registered is
        // refused. By its invariant the mode's functions take it. What is begun is ended below.
        to_result(unsafe {
            bindings::clocksource_begin_update(self.clocksource.get(), mode, &mut cycles)
        })?;
        let result = f(&mut Bracket {
            clocksource: &self.clocksource,
            cycles,
        });
        let elapsed = match result {
            Ok(Some(elapsed)) => Some(bindings::clocksource_elapsed {
                cycles: elapsed.cycles,
                ns: elapsed.time.ns,
                frac: elapsed.time.frac,
            }),
            Ok(None) | Err(_) => None,
        };
        let elapsed = elapsed
            .as_ref()
            .map_or(core::ptr::null(), core::ptr::from_ref);
        // SAFETY: Ends what was begun above; the pointer is null or that of a local variable.
        unsafe { bindings::clocksource_end_update(self.clocksource.get(), elapsed) };
        let after = rdtsc_ordered();
        result.map(|_| Around { before, after })
    }

    /// The data of the registration whose clocksource is given.
    ///
    /// # Safety
    ///
    /// `clocksource` has to be that of a live registration of this type.
    #[inline(always)]
    unsafe fn data<'a>(clocksource: *mut bindings::clocksource) -> &'a T {
        let clocksource = Opaque::cast_from(clocksource);
        // SAFETY: By the function's requirements; `data` was initialised before the clocksource
        // was registered.
        unsafe { &(*kernel::container_of!(clocksource, Self, clocksource)).data }
    }

    /// # Safety
    ///
    /// To be called by the timekeeping core alone.
    unsafe extern "C" fn read<R: Readers<T>>(clocksource: *mut bindings::clocksource) -> u64 {
        // SAFETY: The core calls back with a clocksource that is registered.
        R::read(unsafe { Self::data(clocksource) })
    }

    /// # Safety
    ///
    /// None.
    unsafe extern "C" fn read_tsc(_clocksource: *mut bindings::clocksource) -> u64 {
        rdtsc_ordered()
    }

    /// # Safety
    ///
    /// To be called by the timekeeping core alone.
    unsafe extern "C" fn read_snapshot<R: Readers<T>>(
        clocksource: *mut bindings::clocksource,
        hw: *mut bindings::clocksource_hw_snapshot,
    ) -> u64 {
        // SAFETY: The core calls back with a clocksource that is registered.
        let snapshot = R::read_snapshot(unsafe { Self::data(clocksource) });
        // SAFETY: The core passes a snapshot to be filled in.
        unsafe {
            (*hw).hw_cycles = snapshot.hw_cycles;
            (*hw).hw_csid = snapshot.hw_id.as_raw();
        }
        snapshot.cycles
    }

    /// # Safety
    ///
    /// To be called by the timekeeping core alone.
    unsafe extern "C" fn enable(clocksource: *mut bindings::clocksource) -> c_int {
        // SAFETY: The core calls back with a clocksource that is registered.
        let data = unsafe { Self::data(clocksource) };
        from_result(|| data.enable().map(|()| 0))
    }

    /// # Safety
    ///
    /// To be called by the timekeeping core alone.
    unsafe extern "C" fn suspend(clocksource: *mut bindings::clocksource) {
        // SAFETY: The core calls back with a clocksource that is registered.
        unsafe { Self::data(clocksource) }.suspend();
    }

    /// # Safety
    ///
    /// To be called by the timekeeping core alone.
    unsafe extern "C" fn resume(clocksource: *mut bindings::clocksource) {
        // SAFETY: The core calls back with a clocksource that is registered.
        unsafe { Self::data(clocksource) }.resume();
    }
}

#[pinned_drop]
impl<T: Operations> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant it was registered; the core passes over one that is not on
        // its list any more.
        let unregistered =
            to_result(unsafe { bindings::clocksource_unregister(self.clocksource.get()) });
        if unregistered.is_ok() {
            return;
        }
        // It is the watchdog's reference, for which the core takes no reference to the module, and
        // nothing else can take its place. There is no way back from here, and whoever goes on
        // reading would read what is about to be freed: wait until there is another clocksource.
        pr_crit!("still the clocksource watchdog's reference; waiting for another clocksource\n");
        loop {
            kernel::time::delay::fsleep(kernel::time::Delta::from_secs(1));
            // SAFETY: As above.
            if unsafe { bindings::clocksource_unregister(self.clocksource.get()) } == 0 {
                return;
            }
        }
    }
}
