// SPDX-License-Identifier: GPL-2.0

//! The kernel's own readers of time, for the test modules.

use crate::cpu::Pinned;
use core::{
    ffi::c_void,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    error::to_result,
    prelude::*, //
};

// Of `hammer_helpers.c`.
extern "C" {
    fn paraclock_hammer_pvclock() -> u64;
    fn paraclock_hammer_hv_page() -> *const c_void;
    fn paraclock_hammer_hv_read(page: *const c_void) -> u64;
    fn paraclock_hammer_hv_count(count: *mut u64) -> kernel::ffi::c_int;
}

/// The C clock's reading of this CPU's page, in ns; 0 where it has none. Any context.
pub(crate) fn pvclock(_here: &Pinned) -> u64 {
    // SAFETY: The caller stays on its CPU, and so the page is that CPU's.
    unsafe { paraclock_hammer_pvclock() }
}

/// How many of Hyper-V's clock's cycles a unit of its counter, 100 ns, has.
pub(crate) const HV_CYCLES: u64 = 256;

/// Cycles of Hyper-V's clock, in ns, rounded down.
pub(crate) const fn hv_ns(cycles: i64) -> i64 {
    // 100/256
    (cycles as i128 * 25).div_euclid(64) as i64
}

/// Hyper-V's page, as its MSR names it.
pub(crate) struct HvPage(NonNull<c_void>);

impl HvPage {
    /// Finds it; to be dropped before whoever registered the page can go.
    pub(crate) fn find() -> Option<Self> {
        // SAFETY: An MSR that is not there is handled.
        NonNull::new(unsafe { paraclock_hammer_hv_page() }.cast_mut()).map(Self)
    }

    /// The C clock's reading of it, in cycles; `None` where it is invalid. Any context.
    pub(crate) fn read(&self) -> Option<u64> {
        // SAFETY: The page is mapped as all RAM is; that nobody frees it meanwhile, which would do
        // no more than spoil the reading, is up to the test.
        match unsafe { paraclock_hammer_hv_read(self.0.as_ptr()) } {
            0 => None,
            cycles => Some(cycles),
        }
    }
}

/// Hyper-V's reference counter, in its units. Any context.
pub(crate) fn hv_count() -> Result<u64> {
    let mut count = 0;
    // SAFETY: `count` is valid for writes; an MSR that is not there is handled.
    to_result(unsafe { paraclock_hammer_hv_count(&mut count) })?;
    Ok(count)
}

/// `CLOCK_MONOTONIC`, in ns. Any context but NMI.
pub(crate) fn monotonic() -> u64 {
    // SAFETY: May be called wherever timekeeping is not suspended.
    (unsafe { bindings::ktime_get() }) as u64
}

/// `CLOCK_MONOTONIC_RAW`, in ns. Any context but NMI.
pub(crate) fn raw() -> u64 {
    // SAFETY: As above.
    (unsafe { bindings::ktime_get_raw() }) as u64
}

/// `CLOCK_BOOTTIME`, in ns. Any context but NMI.
pub(crate) fn boottime() -> u64 {
    // SAFETY: As above.
    (unsafe { bindings::ktime_get_with_offset(bindings::tk_offsets_TK_OFFS_BOOT) }) as u64
}

/// `CLOCK_MONOTONIC` for an NMI, in ns. Any context.
pub(crate) fn mono_fast() -> u64 {
    // SAFETY: May be called anywhere.
    unsafe { bindings::ktime_get_mono_fast_ns() }
}

/// `CLOCK_MONOTONIC_RAW` for an NMI, in ns. Any context.
pub(crate) fn raw_fast() -> u64 {
    // SAFETY: As above.
    unsafe { bindings::ktime_get_raw_fast_ns() }
}

/// `CLOCK_BOOTTIME` for an NMI, in ns. Any context.
pub(crate) fn boot_fast() -> u64 {
    // SAFETY: As above.
    unsafe { bindings::ktime_get_boot_fast_ns() }
}

/// `CLOCK_REALTIME` for an NMI, in ns. Any context.
pub(crate) fn real_fast() -> u64 {
    // SAFETY: As above.
    unsafe { bindings::ktime_get_real_fast_ns() }
}

/// The first auxiliary clock, in ns; 0 unless it is enabled. Any context but NMI.
pub(crate) fn auxiliary() -> u64 {
    let mut time: bindings::ktime_t = 0;
    // SAFETY: `time` is valid for writes.
    if unsafe { bindings::ktime_get_aux(bindings::CLOCK_AUX as bindings::clockid_t, &mut time) } {
        time as u64
    } else {
        0
    }
}

/// `CLOCK_MONOTONIC` as a snapshot has it, in ns; 0 where there is none. Any context but NMI.
pub(crate) fn snapshot_ns() -> u64 {
    snapshot().map_or(0, |s| s.systime)
}

/// A reading of the current clocksource by `ktime_get_snapshot_id()`.
pub(crate) struct Snapshot {
    /// In the clocksource's own cycles.
    pub(crate) cycles: u64,
    /// The hardware counter below it.
    pub(crate) hw_cycles: u64,
    /// The clock that was asked for, in ns.
    systime: u64,
    hw_id: u32,
}

impl Snapshot {
    /// Whether the hardware counter is the TSC.
    pub(crate) fn is_of_tsc(&self) -> bool {
        self.hw_id == bindings::clocksource_ids_CSID_X86_TSC
    }

    /// Whether there is no hardware counter.
    pub(crate) fn is_generic(&self) -> bool {
        self.hw_id == bindings::clocksource_ids_CSID_GENERIC
    }
}

/// Reads the current clocksource; `None` where the core gave no valid snapshot.
pub(crate) fn snapshot() -> Option<Snapshot> {
    let mut snapshot: bindings::system_time_snapshot = pin_init::zeroed();
    // SAFETY: `snapshot` is valid for writes, and CLOCK_MONOTONIC is one of the clocks that may be
    // asked for.
    unsafe {
        bindings::ktime_get_snapshot_id(
            bindings::CLOCK_MONOTONIC as bindings::clockid_t,
            &mut snapshot,
        )
    };
    (snapshot.valid != 0).then_some(Snapshot {
        cycles: snapshot.cycles,
        hw_cycles: snapshot.hw_cycles,
        systime: snapshot.systime as u64,
        hw_id: snapshot.hw_csid,
    })
}
