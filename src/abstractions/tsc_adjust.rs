// SPDX-License-Identifier: GPL-2.0

//! `IA32_TSC_ADJUST`, and what else the kernel knows of the TSCs of all CPUs.
//!
//! C headers: `arch/x86/include/asm/tsc.h`, `arch/x86/include/asm/cpufeature.h`

use super::cpu::Pinned;
use crate::bindings;
use kernel::{
    error::to_result,
    prelude::*, //
};

/// The TSC's frequency in kHz, as the kernel has it (`tsc_khz`).
///
/// Context: any.
pub(crate) fn tsc_khz() -> u32 {
    // SAFETY: The function reads a variable of the kernel; it has no preconditions.
    unsafe { bindings::paraclock_tsc_khz() }
}

/// Whether the kernel takes the TSC for reliable: `X86_FEATURE_TSC_RELIABLE`, which it sets at boot.
///
/// Context: any.
pub(crate) fn has_reliable_feature() -> bool {
    // SAFETY: The function reads a CPU feature; it has no preconditions.
    unsafe { bindings::paraclock_has_tsc_reliable() }
}

/// Has the next event of this CPU's timer come no later than it would have, after its TSC was moved by so
/// many cycles: where that is by a TSC deadline (`IA32_TSC_DEADLINE`), and one is armed.
///
/// Context: interrupts disabled.
pub(crate) fn move_deadline(_here: &Pinned, by: i64) {
    // SAFETY: The function writes the register only where the CPU has it and a deadline is armed, and
    // a value other than 0: that arms it for another time and has no other effect. Accesses that
    // fault are caught.
    unsafe { bindings::paraclock_move_deadline(by) };
}

/// `IA32_TSC_ADJUST`: what each CPU adds to its TSC (SDM, volume 3, "IA32_TSC_ADJUST Support").
///
/// # Invariants
///
/// CPUID advertises the register (leaf 7, EBX bit 1).
#[derive(Clone, Copy)]
pub(crate) struct AdjustRegister(());

impl AdjustRegister {
    const NUMBER: u32 = 0x3b;

    /// The register, where CPUID advertises it.
    pub(crate) fn find() -> Option<Self> {
        // INVARIANT: It does.
        //
        // SAFETY: The function reads a CPU feature; it has no preconditions.
        unsafe { bindings::paraclock_has_tsc_adjust() }.then_some(Self(()))
    }

    /// Reads it on the CPU on which the caller runs, in cycles.
    ///
    /// Context: any.
    ///
    /// # Errors
    ///
    /// `EIO` where the read faults in spite of CPUID, which is a hypervisor's fault.
    pub(crate) fn read(self, _here: &Pinned) -> Result<i64> {
        let mut value = 0;
        // SAFETY: A read that faults is caught and reported; `value` is valid for a write.
        to_result(unsafe { bindings::paraclock_rdmsrq_safe(Self::NUMBER, &mut value) })
            .map_err(|_| EIO)?;
        Ok(value as i64)
    }

    /// Writes it on the CPU on which the caller runs, in cycles. The CPU's TSC changes by as much, and
    /// with it what stands on that: its `sched_clock()`, where that is the TSC, and when its timer
    /// fires, where that is by a TSC deadline ([`move_deadline`]).
    ///
    /// Context: any.
    ///
    /// # Errors
    ///
    /// As [`AdjustRegister::read`].
    pub(crate) fn write(self, _here: &Pinned, value: i64) -> Result {
        // SAFETY: By the type invariant the register is there, and all it changes is what the TSC
        // reads as, on which no memory access depends. A write that faults is caught.
        to_result(unsafe { bindings::paraclock_wrmsrq_safe(Self::NUMBER, value as u64) })
            .map_err(|_| EIO)
    }
}
