// SPDX-License-Identifier: GPL-2.0

//! Model-specific registers.
//!
//! C header: `arch/x86/include/asm/msr.h`

use crate::{
    bindings,
    logic::cpuid::SystemTimeMsr, //
};
use kernel::{
    cpu::CpuId,
    error::to_result,
    prelude::*, //
};

/// Reads an MSR of the given CPU, by an IPI where that is another one.
///
/// Context: may sleep, interrupts enabled; the caller keeps the CPU online.
///
/// # Errors
///
/// `EIO` where the read faults: there is no such MSR; `ENXIO` where the CPU is not online.
pub(crate) fn read_on(cpu: CpuId, msr: u32) -> Result<u64> {
    let mut value = 0;
    // SAFETY: A read that faults is caught and reported, an offline CPU is as well; `value` is
    // valid for a write during the call, which waits for its end.
    to_result(unsafe { bindings::paraclock_rdmsrq_safe_on_cpu(cpu.as_u32(), msr, &mut value) })?;
    Ok(value)
}

/// An MSR whose value is the guest-physical address of memory that the hypervisor writes to, with
/// bit 0 to enable it.
///
/// # Invariants
///
/// The MSR of this number is of that kind: 0 disables it, and no other value of it does anything
/// but name an address.
#[derive(Clone, Copy)]
pub(crate) struct AddressMsr(u32);

/// The bit that enables an [`AddressMsr`].
pub(crate) const ENABLE: u64 = 1;

impl AddressMsr {
    /// The MSR that names a vCPU's pvclock page to KVM.
    pub(crate) const fn kvm_system_time(msr: SystemTimeMsr) -> Self {
        // INVARIANT: By Documentation/virt/kvm/x86/msr.rst, for both numbers.
        Self(msr.number())
    }

    /// The MSR's number.
    pub(crate) const fn number(self) -> u32 {
        self.0
    }

    /// Makes the hypervisor write to the memory at `gpa`, for the CPU on which the caller runs.
    ///
    /// Context: any, with preemption off.
    ///
    /// # Safety
    ///
    /// The memory has to be of the size that the MSR stands for, accessed by volatile loads only,
    /// and has to stay until the MSR was disabled on this CPU.
    ///
    /// # Errors
    ///
    /// `EIO` where the write faults.
    pub(crate) unsafe fn enable(self, gpa: u64) -> Result {
        // SAFETY: By the type invariant the MSR takes an address; by the function's requirements the
        // hypervisor may write there. A write that faults is caught and reported.
        to_result(unsafe { bindings::paraclock_wrmsrq_safe(self.0, gpa | ENABLE) }).map_err(|_| EIO)
    }

    /// Makes the hypervisor stop writing, for the CPU on which the caller runs.
    ///
    /// Context: any, NMIs included, with preemption off.
    ///
    /// # Errors
    ///
    /// `EIO` where the write faults.
    pub(crate) fn disable(self) -> Result {
        // SAFETY: By the type invariant, 0 disables. A write that faults is caught and reported.
        to_result(unsafe { bindings::paraclock_wrmsrq_safe(self.0, 0) }).map_err(|_| EIO)
    }
}
