// SPDX-License-Identifier: GPL-2.0

//! Finding KVM's and Hyper-V's leaves, among one another and those of others.
#![cfg(not(loom))]

use paraclock_unit::logic::cpuid::{
    FIRST_BASE, HYPERV_INTERFACE, HYPERV_SIGNATURE, Hyperv, KVM_FEATURE_CLOCKSOURCE,
    KVM_FEATURE_CLOCKSOURCE_STABLE_BIT, KVM_FEATURE_CLOCKSOURCE2, KVM_SIGNATURE, Kvm, LAST_BASE,
    Registers, SystemTimeMsr, find, has_invariant_tsc,
};
use std::{cell::RefCell, collections::BTreeMap};

/// A processor whose other leaves read as zero.
#[derive(Default)]
struct Cpu {
    leaves: BTreeMap<u32, Registers>,
    asked: RefCell<Vec<u32>>,
}

impl Cpu {
    fn with(mut self, base: u32, last: u32, signature: &[u8; 12], features: u32) -> Self {
        let register = |at: usize| {
            let bytes = signature[at..at + 4].try_into().expect("four bytes");
            u32::from_le_bytes(bytes)
        };
        self.leaves
            .insert(base, [last, register(0), register(4), register(8)]);
        self.leaves.insert(base + 1, [features, 0, 0, 0]);
        self
    }

    fn cpuid(&self, leaf: u32) -> Registers {
        self.asked.borrow_mut().push(leaf);
        self.leaves.get(&leaf).copied().unwrap_or_default()
    }
}

#[test]
fn found_at_every_place_and_no_other() {
    for base in (FIRST_BASE..=LAST_BASE).step_by(0x100) {
        let cpu = Cpu::default().with(base, base + 1, &KVM_SIGNATURE, 0x0100_0008);
        let kvm = Kvm::find(|leaf| cpu.cpuid(leaf));
        let features = 0x0100_0008;
        assert_eq!(kvm, Some(Kvm { base, features }), "base {base:#x}");
    }
    assert_eq!(FIRST_BASE, 0x4000_0000);
    assert_eq!(LAST_BASE, 0x4000_ff00);
    for base in [0x3fff_ff00, 0x4000_0080, 0x4001_0000] {
        let cpu = Cpu::default().with(base, base + 1, &KVM_SIGNATURE, 1);
        assert_eq!(Kvm::find(|leaf| cpu.cpuid(leaf)), None, "base {base:#x}");
    }
}

#[test]
fn none_is_none_after_every_place_was_looked_at() {
    let cpu = Cpu::default();
    assert_eq!(Kvm::find(|leaf| cpu.cpuid(leaf)), None);
    let places: Vec<u32> = (0x4000_0000..=0x4000_ff00).step_by(0x100).collect();
    assert_eq!(*cpu.asked.borrow(), places);
}

#[test]
fn every_byte_of_the_signature_counts() {
    for at in 0..12 {
        let mut signature = KVM_SIGNATURE;
        signature[at] ^= 1;
        let cpu = Cpu::default().with(FIRST_BASE, FIRST_BASE + 1, &signature, 1);
        assert_eq!(Kvm::find(|leaf| cpu.cpuid(leaf)), None, "byte {at}");
    }
}

#[test]
fn behind_hyperv() {
    let cpu = Cpu::default()
        .with(0x4000_0000, 0x4000_000a, &HYPERV_SIGNATURE, 0x7766)
        .with(0x4000_0100, 0x4000_0101, &KVM_SIGNATURE, 9);
    let kvm = Kvm::find(|leaf| cpu.cpuid(leaf)).expect("KVM is there");
    assert_eq!((kvm.base, kvm.features), (0x4000_0100, 9));
    let hyperv = find(|leaf| cpu.cpuid(leaf), &HYPERV_SIGNATURE);
    assert_eq!(hyperv, Some(0x4000_0000));
}

#[test]
fn the_first_of_two_is_taken() {
    let cpu = Cpu::default()
        .with(0x4000_0300, 0x4000_0301, &KVM_SIGNATURE, 1)
        .with(0x4000_0200, 0x4000_0201, &KVM_SIGNATURE, 8);
    let kvm = Kvm::find(|leaf| cpu.cpuid(leaf)).expect("KVM is there");
    assert_eq!((kvm.base, kvm.features), (0x4000_0200, 8));
}

#[test]
fn the_features_leaf_is_read_only_where_it_is_there() {
    let base = 0x4000_0100;
    for (last, features) in [
        (0, 9),        // an old host
        (base + 1, 9), // the usual
        (base + 0x10, 9),
        (u32::MAX, 9),
        (base, 0), // the interface has no such leaf
        (base - 1, 0),
        (1, 0),
    ] {
        let cpu = Cpu::default().with(base, last, &KVM_SIGNATURE, 9);
        let kvm = Kvm::find(|leaf| cpu.cpuid(leaf)).expect("KVM is there");
        assert_eq!(kvm.features, features, "last leaf {last:#x}");
    }
}

#[test]
fn which_msr() {
    assert_eq!(SystemTimeMsr::Old.number(), 0x12);
    assert_eq!(SystemTimeMsr::New.number(), 0x4b56_4d01);
    assert_eq!(KVM_FEATURE_CLOCKSOURCE, 1);
    assert_eq!(KVM_FEATURE_CLOCKSOURCE2, 8);
    assert_eq!(KVM_FEATURE_CLOCKSOURCE_STABLE_BIT, 0x0100_0000);
    for features in 0..16 {
        for stable in [false, true] {
            let kvm = Kvm {
                base: FIRST_BASE,
                features: features | u32::from(stable) << 24,
            };
            let expected = match (features & 8 != 0, features & 1 != 0) {
                (true, _) => Some(SystemTimeMsr::New),
                (false, true) => Some(SystemTimeMsr::Old),
                (false, false) => None,
            };
            assert_eq!(kvm.system_time_msr(), expected, "features {features:#x}");
            assert_eq!(kvm.has_stable_bit(), stable);
        }
    }
}

/// A host that offers Hyper-V's interface at `base`, with these privileges and features.
fn hyperv(base: u32, last: u32, interface: u32, privileges: u32, features: u32) -> Cpu {
    let mut cpu = Cpu::default().with(base, last, &HYPERV_SIGNATURE, interface);
    cpu.leaves
        .insert(base + 3, [privileges, 0xffff, 0xffff, features]);
    cpu
}

#[test]
fn hyperv_is_found_by_signature_and_interface() {
    assert_eq!(HYPERV_INTERFACE, 0x3123_7648);
    for base in (FIRST_BASE..=LAST_BASE).step_by(0x100) {
        let cpu = hyperv(base, base + 0xa, HYPERV_INTERFACE, 0x2e72, 0x100);
        let found = Hyperv::find(|leaf| cpu.cpuid(leaf));
        let (privileges, features) = (0x2e72, 0x100);
        let expected = Hyperv {
            base,
            privileges,
            features,
        };
        assert_eq!(found, Some(expected), "base {base:#x}");
    }
    // The signature alone is what others show as well, to be taken for Hyper-V by old guests.
    for interface in [0, 0x3023_7648, 0x3123_7649] {
        let cpu = hyperv(FIRST_BASE, FIRST_BASE + 0xa, interface, !0, !0);
        assert_eq!(Hyperv::find(|leaf| cpu.cpuid(leaf)), None);
    }
    // Without all the leaves that an interface of this kind has at least.
    for (last, there) in [(0, false), (4, false), (5, true), (0xa, true)] {
        let cpu = hyperv(FIRST_BASE, FIRST_BASE + last, HYPERV_INTERFACE, 2, 0);
        let found = Hyperv::find(|leaf| cpu.cpuid(leaf));
        assert_eq!(found.is_some(), there, "last leaf {last}");
    }
    // KVM alone is none.
    let cpu = Cpu::default().with(FIRST_BASE, FIRST_BASE + 1, &KVM_SIGNATURE, 9);
    assert_eq!(Hyperv::find(|leaf| cpu.cpuid(leaf)), None);
}

/// The bits as the TLFS has them, each for itself.
#[test]
fn every_privilege_is_one_bit() {
    for (privilege, bit) in [
        (Hyperv::REFERENCE_COUNTER, 1),
        (Hyperv::REFERENCE_TSC, 9),
        (Hyperv::FREQUENCY_MSRS, 11),
        (Hyperv::REENLIGHTENMENT, 13),
        (Hyperv::TSC_INVARIANT, 15),
    ] {
        for privileges in [1 << bit, !(1 << bit)] {
            let found = Hyperv {
                base: FIRST_BASE,
                privileges,
                features: 0,
            };
            assert_eq!(found.has(privilege), privileges == 1 << bit, "bit {bit}");
        }
    }
    for (privileges, features, there) in [
        (1 << 11, 1 << 8, true),
        (1 << 11, !(1 << 8), false),
        (!(1 << 11), 1 << 8, false),
    ] {
        let found = Hyperv {
            base: FIRST_BASE,
            privileges,
            features,
        };
        assert_eq!(found.has_frequency_msrs(), there);
    }
}

#[test]
fn an_invariant_tsc_is_bit_8_of_a_leaf_that_is_there() {
    let cpu = |last: u32, edx: u32| {
        has_invariant_tsc(|leaf| match leaf {
            0x8000_0000 => [last, 0, 0, 0],
            // What is not there reads as something else.
            0x8000_0007 => [!0, !0, !0, edx],
            _ => [!0; 4],
        })
    };
    assert!(cpu(0x8000_0007, 1 << 8));
    assert!(cpu(0x8000_001f, !0));
    assert!(!cpu(0x8000_001f, !(1 << 8)));
    assert!(!cpu(0x8000_0006, 1 << 8));
    assert!(!cpu(0, 1 << 8));
    assert!(!cpu(0x8001_0000, 1 << 8), "no extended leaf");
}
