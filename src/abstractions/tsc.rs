// SPDX-License-Identifier: GPL-2.0

//! The time stamp counter.
//!
//! C header: `arch/x86/include/asm/tsc.h`

use crate::bindings;

/// Reads the TSC in program order (`rdtsc_ordered()`), in cycles.
///
/// Not earlier than any load that precedes it: by RDTSCP, which waits for these, or by LFENCE and
/// RDTSC, whichever this CPU does better; the kernel patches it in when it loads the module. What
/// follows is only kept back by the compiler.
///
/// Context: any.
#[inline(always)]
pub(crate) fn rdtsc_ordered() -> u64 {
    let tsc: u64;

    // SAFETY: RDTSC is allowed in the kernel on every CPU that has a TSC, which all of x86-64
    // have, and all variants of it only write RAX, RDX and, by RDTSCP, RCX, all named as outputs,
    // and clear the upper half of each. No memory is accessed; the default options keep it in place
    // among accesses to memory. The variants do not use the stack.
    unsafe {
        core::arch::asm!(
            include!(concat!(
                env!("PARACLOCK_OBJ"),
                "/src/abstractions/generated_rdtsc_ordered.rs"
            )),
            // Here, where the compiler cannot choose the wrong one of two registers for the result.
            "shlq $32, %rdx",
            "orq %rdx, %rax",
            out("rax") tsc,
            out("rdx") _,
            out("rcx") _,
            options(att_syntax, nostack),
        )
    };

    tsc
}

/// Whether the TSC runs at one rate in all states of the CPU and the kernel has nothing against
/// it.
///
/// This is where the built-in kvm-clock is rated below the TSC.
pub(crate) fn is_invariant() -> bool {
    // SAFETY: The function reads CPU features and a flag of the kernel; it has no preconditions.
    unsafe { bindings::paraclock_has_invariant_tsc() }
}

/// Whether the kernel has found the TSC unstable, or never looked: as a guest of Hyper-V without
/// `AccessTscInvariantControls` it does not.
///
/// Context: any.
pub(crate) fn is_unstable() -> bool {
    // SAFETY: The function reads a flag of the kernel; it has no preconditions.
    unsafe { bindings::paraclock_tsc_is_unstable() }
}
