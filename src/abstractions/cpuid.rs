// SPDX-License-Identifier: GPL-2.0

//! The CPUID instruction.
//!
//! C header: `arch/x86/include/asm/cpuid/api.h`

use crate::{
    bindings,
    logic::cpuid::Registers, //
};

/// Returns what CPUID says in the given leaf: EAX, EBX, ECX and EDX.
///
/// Context: any. In a guest this exits to the hypervisor.
pub(crate) fn cpuid(leaf: u32) -> Registers {
    let mut registers = [0; 4];
    // SAFETY: CPUID has no preconditions on x86-64; `registers` is valid for writes of the four
    // registers.
    unsafe { bindings::paraclock_cpuid(leaf, registers.as_mut_ptr()) };
    registers
}

/// Whether a hypervisor says that it is there, so that its leaves may be looked at.
pub(crate) fn has_hypervisor() -> bool {
    // SAFETY: The function reads a CPU feature; it has no preconditions.
    unsafe { bindings::paraclock_has_hypervisor() }
}
