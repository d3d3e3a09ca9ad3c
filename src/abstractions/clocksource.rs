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
//! C header: `include/linux/clocksource.h`

use crate::bindings;
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

/// Properties of a clocksource that are settled when it is registered.
pub(crate) struct Config {
    /// The name under which it is selected.
    pub(crate) name: &'static CStr,
    /// What its readings are.
    pub(crate) id: Id,
    /// The rating, from 1; the available clocksource with the highest becomes current.
    pub(crate) rating: i32,
    /// The frequency in Hz.
    pub(crate) frequency: u32,
    /// How user space reads it.
    pub(crate) vdso_clock_mode: VdsoClockMode,
}

/// A clocksource's operations.
///
/// The counter has 64 bits and never stops while the system runs.
pub(crate) trait Operations: Send + Sync + 'static {
    /// Reads the counter.
    ///
    /// Context: any, NMIs included; on any CPU, before and after it is online as well.
    fn read(&self) -> u64;

    /// Reads the counter and the hardware counter below it, at one moment.
    ///
    /// Context: as [`Operations::read`].
    fn read_snapshot(&self) -> Snapshot;

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
// SAFETY: A shared reference gives access to nothing.
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
        config: Config,
        data: T,
    ) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            data,
            clocksource <- Opaque::try_ffi_init(|slot: *mut bindings::clocksource| {
                let clocksource = bindings::clocksource {
                    read: Some(Self::read),
                    read_snapshot: Some(Self::read_snapshot),
                    enable: Some(Self::enable),
                    suspend: Some(Self::suspend),
                    resume: Some(Self::resume),
                    name: config.name.as_char_ptr(),
                    mask: u64::MAX,
                    rating: config.rating,
                    id: config.id.as_raw(),
                    vdso_clock_mode: config.vdso_clock_mode as bindings::vdso_clock_mode,
                    flags: bindings::CLOCK_SOURCE_IS_CONTINUOUS as c_ulong,
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
    unsafe extern "C" fn read(clocksource: *mut bindings::clocksource) -> u64 {
        // SAFETY: The core calls back with a clocksource that is registered.
        unsafe { Self::data(clocksource) }.read()
    }

    /// # Safety
    ///
    /// To be called by the timekeeping core alone.
    unsafe extern "C" fn read_snapshot(
        clocksource: *mut bindings::clocksource,
        hw: *mut bindings::clocksource_hw_snapshot,
    ) -> u64 {
        // SAFETY: The core calls back with a clocksource that is registered.
        let snapshot = unsafe { Self::data(clocksource) }.read_snapshot();
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
