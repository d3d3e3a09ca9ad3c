// SPDX-License-Identifier: GPL-2.0

//! The kernel's own readers of time, for the test modules.

use crate::cpu::Pinned;
use kernel::bindings;

extern "C" {
    /// Of `hammer_helpers.c`.
    fn paraclock_hammer_pvclock() -> u64;
}

/// The C clock's reading of this CPU's page, in ns; 0 where it has none. Any context.
pub(crate) fn pvclock(_here: &Pinned) -> u64 {
    // SAFETY: The caller stays on its CPU, and so the page is that CPU's.
    unsafe { paraclock_hammer_pvclock() }
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

/// A reading of the current clocksource by `ktime_get_snapshot_id()`.
pub(crate) struct Snapshot {
    /// In the clocksource's own cycles.
    pub(crate) cycles: u64,
    /// The hardware counter below it.
    pub(crate) hw_cycles: u64,
    hw_id: u32,
}

impl Snapshot {
    /// Whether the hardware counter is the TSC.
    pub(crate) fn is_of_tsc(&self) -> bool {
        self.hw_id == bindings::clocksource_ids_CSID_X86_TSC
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
        hw_id: snapshot.hw_csid,
    })
}
