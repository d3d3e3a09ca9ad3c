// SPDX-License-Identifier: GPL-2.0

//! Finding a hypervisor's CPUID leaves.
//!
//! A host may offer several interfaces at once, each with a signature at a multiple of 0x100
//! above 0x40000000 (QEMU puts Hyper-V's first and KVM's behind it); none of them is at a fixed
//! place. Source: `Documentation/virt/kvm/x86/cpuid.rst`; the kernel's own scan is
//! `cpuid_base_hypervisor()`.

/// The four registers that CPUID returns, in the order EAX, EBX, ECX, EDX.
pub type Registers = [u32; 4];

/// The first leaf at which an interface may stand.
pub const FIRST_BASE: u32 = 0x4000_0000;
/// The last leaf at which an interface may stand.
pub const LAST_BASE: u32 = 0x4000_ff00;

/// The leaf whose register EAX is the last of the extended leaves.
const EXTENDED: u32 = 0x8000_0000;
/// Advanced power management: what the TSC does while the CPU idles.
const POWER: u32 = 0x8000_0007;

/// Whether the TSC is invariant: it runs at one rate in all states of the CPU (bit 8 of EDX).
///
/// For a guest that is a promise of its host's, which cannot be moved to where it would not hold.
pub fn has_invariant_tsc(cpuid: impl Fn(u32) -> Registers) -> bool {
    let [last, ..] = cpuid(EXTENDED);
    // Where there are no such leaves a CPU returns some other one.
    (POWER..EXTENDED + 0x1_0000).contains(&last) && cpuid(POWER)[3] & 1 << 8 != 0
}

/// The signature of KVM: "KVMKVMKVM", padded with zeros.
pub const KVM_SIGNATURE: [u8; 12] = *b"KVMKVMKVM\0\0\0";

/// `MSR_KVM_SYSTEM_TIME` and its wall clock: the old numbers are there.
pub const KVM_FEATURE_CLOCKSOURCE: u32 = 1 << 0;
/// `MSR_KVM_SYSTEM_TIME_NEW` and its wall clock: the new numbers are there.
pub const KVM_FEATURE_CLOCKSOURCE2: u32 = 1 << 3;
/// The host maintains `PVCLOCK_TSC_STABLE_BIT`.
pub const KVM_FEATURE_CLOCKSOURCE_STABLE_BIT: u32 = 1 << 24;

/// Finds the first base leaf with the given signature, between [`FIRST_BASE`] and [`LAST_BASE`].
pub fn find(cpuid: impl Fn(u32) -> Registers, signature: &[u8; 12]) -> Option<u32> {
    (FIRST_BASE..=LAST_BASE).step_by(0x100).find(|&base| {
        let [_, ebx, ecx, edx] = cpuid(base);
        [ebx, ecx, edx]
            .iter()
            .flat_map(|register| register.to_le_bytes())
            .eq(signature.iter().copied())
    })
}

/// KVM's interface, as far as its clock goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kvm {
    /// The leaf at which the interface stands.
    pub base: u32,
    /// The features it advertises: `KVM_FEATURE_*`.
    pub features: u32,
}

/// The MSR by which a vCPU names its page to KVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SystemTimeMsr {
    /// `MSR_KVM_SYSTEM_TIME`.
    Old,
    /// `MSR_KVM_SYSTEM_TIME_NEW`.
    New,
}

impl SystemTimeMsr {
    /// The MSR's number.
    pub const fn number(self) -> u32 {
        match self {
            SystemTimeMsr::Old => 0x12,
            SystemTimeMsr::New => 0x4b56_4d01,
        }
    }
}

impl Kvm {
    /// Finds KVM's interface.
    pub fn find(cpuid: impl Fn(u32) -> Registers) -> Option<Self> {
        let base = find(&cpuid, &KVM_SIGNATURE)?;
        // The first register of the base leaf is the last leaf of the interface. Old hosts leave
        // it 0 and mean base + 1.
        let [last, ..] = cpuid(base);
        let features = if last == 0 || last > base {
            cpuid(base + 1)[0]
        } else {
            0
        };
        Some(Self { base, features })
    }

    /// The MSR to use, the new one where both are there; `None` where there is no clock.
    pub const fn system_time_msr(&self) -> Option<SystemTimeMsr> {
        if self.features & KVM_FEATURE_CLOCKSOURCE2 != 0 {
            Some(SystemTimeMsr::New)
        } else if self.features & KVM_FEATURE_CLOCKSOURCE != 0 {
            Some(SystemTimeMsr::Old)
        } else {
            None
        }
    }

    /// Whether the host's stable bit can be trusted.
    pub const fn has_stable_bit(&self) -> bool {
        self.features & KVM_FEATURE_CLOCKSOURCE_STABLE_BIT != 0
    }
}

/// The signature of Hyper-V, and of every host that offers its interface.
pub const HYPERV_SIGNATURE: [u8; 12] = *b"Microsoft Hv";

/// What the leaf behind the signature says where the interface is the TLFS's: "Hv#1".
pub const HYPERV_INTERFACE: u32 = u32::from_le_bytes(*b"Hv#1");

/// The number of leaves that an interface of this kind has at least, behind its first.
const HYPERV_LEAVES: u32 = 5;

/// Hyper-V's interface, as far as its clock goes.
///
/// Source: TLFS, "Feature and Interface Discovery"; `include/hyperv/hvgdk_mini.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hyperv {
    /// The leaf at which the interface stands.
    pub base: u32,
    /// The privileges of this partition: EAX of leaf 3 (`HV_PARTITION_PRIVILEGE_MASK`).
    pub privileges: u32,
    /// Further features: EDX of leaf 3.
    pub features: u32,
}

impl Hyperv {
    /// `AccessPartitionReferenceCounter`: the reference counter may be read.
    pub const REFERENCE_COUNTER: u32 = 1 << 1;
    /// `AccessPartitionReferenceTsc`: the reference TSC page may be enabled.
    pub const REFERENCE_TSC: u32 = 1 << 9;
    /// `AccessFrequencyRegs`: the frequency MSRs may be read.
    pub const FREQUENCY_MSRS: u32 = 1 << 11;
    /// `AccessReenlightenmentControls`: the guest may ask for notifications.
    pub const REENLIGHTENMENT: u32 = 1 << 13;
    /// `AccessTscInvariantControls`: the TSC keeps its frequency across migrations.
    pub const TSC_INVARIANT: u32 = 1 << 15;
    /// In the features: the frequency MSRs are there.
    pub const FEATURE_FREQUENCY_MSRS: u32 = 1 << 8;

    /// The privileges that concern the clock, by their names in the TLFS.
    pub const PRIVILEGES: [(u32, &'static str); 5] = [
        (Self::REFERENCE_COUNTER, "AccessPartitionReferenceCounter"),
        (Self::REFERENCE_TSC, "AccessPartitionReferenceTsc"),
        (Self::FREQUENCY_MSRS, "AccessFrequencyRegs"),
        (Self::REENLIGHTENMENT, "AccessReenlightenmentControls"),
        (Self::TSC_INVARIANT, "AccessTscInvariantControls"),
    ];

    /// Finds Hyper-V's interface.
    pub fn find(cpuid: impl Fn(u32) -> Registers) -> Option<Self> {
        let base = find(&cpuid, &HYPERV_SIGNATURE)?;
        let [last, ..] = cpuid(base);
        if last < base + HYPERV_LEAVES || cpuid(base + 1)[0] != HYPERV_INTERFACE {
            return None;
        }
        let [privileges, _, _, features] = cpuid(base + 3);
        Some(Self {
            base,
            privileges,
            features,
        })
    }

    /// Whether the partition has a privilege.
    pub const fn has(&self, privilege: u32) -> bool {
        self.privileges & privilege != 0
    }

    /// Whether the frequency MSRs may be read.
    pub const fn has_frequency_msrs(&self) -> bool {
        self.has(Self::FREQUENCY_MSRS) && self.features & Self::FEATURE_FREQUENCY_MSRS != 0
    }
}
