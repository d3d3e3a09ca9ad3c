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

/// Numbers of Hyper-V's synthetic MSRs: TLFS, "Synthetic MSRs"; `include/hyperv/hvgdk_mini.h`.
pub(crate) mod hyperv {
    /// `HV_X64_MSR_TIME_REF_COUNT`: the partition's reference time, in 100 ns.
    pub(crate) const TIME_REF_COUNT: u32 = 0x4000_0020;
    /// `HV_X64_MSR_REFERENCE_TSC`: the address of the reference TSC page.
    pub(crate) const REFERENCE_TSC: u32 = 0x4000_0021;
    /// `HV_X64_MSR_TSC_FREQUENCY`: the TSC's frequency, in Hz.
    pub(crate) const TSC_FREQUENCY: u32 = 0x4000_0022;
}

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

/// Reads an MSR of the CPU on which the caller runs, and of any where it is the partition's.
///
/// Context: any, NMIs included.
///
/// # Errors
///
/// `EIO` where the read faults: there is no such MSR.
pub(crate) fn read(msr: u32) -> Result<u64> {
    let mut value = 0;
    // SAFETY: A read that faults is caught and reported; `value` is valid for a write.
    match unsafe { bindings::paraclock_rdmsrq_safe(msr, &mut value) } {
        0 => Ok(value),
        _ => Err(EIO),
    }
}

/// Reads the partition's reference time, in 100 ns; `None` where the read faults.
///
/// As [`read`], without the call of a C helper, since it is on the path of each reading where the
/// clock reads the counter.
///
/// Context: any, NMIs included, on any CPU.
#[inline(always)]
pub(crate) fn read_time_ref_count() -> Option<u64> {
    // Wider than the instruction's halves, as in `rdtsc_ordered()`.
    let low: u64;
    let high: u64;

    // SAFETY: Where the MSR is not there, or not granted, the instruction faults, and by its entry
    // in the exception table execution goes on behind it, with the registers as they were.
    // Where it does not fault, it clears their upper halves. Reading it has no effect. No memory is
    // accessed and no flags are changed; the default options keep it in place among accesses to
    // memory.
    unsafe {
        core::arch::asm!(
            include!(concat!(
                env!("PARACLOCK_OBJ"),
                "/src/abstractions/generated_rdmsr.rs"
            )),
            in("ecx") hyperv::TIME_REF_COUNT,
            lateout("rax") low,
            // Stays, where it faults: a count of 2^63 is 29,000 years away.
            inout("rdx") u64::from(u32::MAX) => high,
            options(att_syntax, nostack, preserves_flags),
        )
    };

    // The sign alone tells: what is in the lower half after a fault is nobody's.
    let high = high << 32;
    (high as i64 >= 0).then_some(low | high)
}

/// An MSR whose value is the guest-physical address of memory that the hypervisor writes to, with
/// bit 0 to enable it.
///
/// # Invariants
///
/// The MSR of this number is of that kind: with bit 0 clear it is disabled, and no value of it does
/// anything but name an address. The bits of `preserved` are to be written as they are read.
#[derive(Clone, Copy)]
pub(crate) struct AddressMsr {
    number: u32,
    preserved: u64,
}

/// The bit that enables an [`AddressMsr`].
pub(crate) const ENABLE: u64 = 1;

impl AddressMsr {
    /// The MSR that names a vCPU's pvclock page to KVM.
    pub(crate) const fn kvm_system_time(msr: SystemTimeMsr) -> Self {
        // INVARIANT: By Documentation/virt/kvm/x86/msr.rst, for both numbers.
        Self {
            number: msr.number(),
            preserved: 0,
        }
    }

    /// The MSR that names the partition's reference TSC page to Hyper-V
    /// (`HV_X64_MSR_REFERENCE_TSC`): it is the same one on every CPU.
    pub(crate) const fn hyperv_reference_tsc() -> Self {
        // INVARIANT: By the TLFS, "Reference Time Stamp Counter (TSC) Page MSR".
        Self {
            number: hyperv::REFERENCE_TSC,
            preserved: 0xffe,
        }
    }

    /// The MSR's number.
    pub(crate) const fn number(self) -> u32 {
        self.number
    }

    /// The address in a value of the MSR.
    pub(crate) const fn address(self, value: u64) -> u64 {
        value & !ENABLE & !self.preserved
    }

    /// Writes an address and the enable bit, with what is to be preserved.
    ///
    /// # Safety
    ///
    /// Where the bit is set, as for [`AddressMsr::enable`].
    unsafe fn write(self, value: u64) -> Result {
        let preserved = match self.preserved {
            0 => 0,
            mask => read(self.number)? & mask,
        };
        // SAFETY: By the type invariant the MSR takes an address, and by the function's
        // requirements the hypervisor may write there. A write that faults is caught and reported.
        to_result(unsafe { bindings::paraclock_wrmsrq_safe(self.number, value | preserved) })
            .map_err(|_| EIO)
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
        // SAFETY: By the function's requirements.
        unsafe { self.write(gpa | ENABLE) }
    }

    /// Makes the hypervisor stop writing, for the CPU on which the caller runs.
    ///
    /// Context: any, NMIs included, with preemption off.
    ///
    /// # Errors
    ///
    /// `EIO` where the write faults.
    pub(crate) fn disable(self) -> Result {
        // SAFETY: The bit is clear.
        unsafe { self.write(0) }
    }
}
