// SPDX-License-Identifier: GPL-2.0

//! KUnit suites for what needs the kernel: the abstractions, and the logic on the kernel's own
//! atomics and barriers.
//!
//! They run when the module is loaded.

#[allow(dead_code)]
#[path = "../../src/abstractions/mod.rs"]
mod abstractions;
#[allow(dead_code)]
#[path = "../../src/bindings/mod.rs"]
mod bindings;
#[allow(dead_code, unreachable_pub)]
#[path = "../../src/logic/mod.rs"]
mod logic;

use kernel::{
    module::InPlaceModule,
    prelude::*, //
};

module! {
    type: Kunit,
    name: "paraclock_kunit",
    authors: ["The paraclock developers"],
    description: "KUnit suites of paraclock",
    license: "GPL",
}

extern "C" {
    /// `pvclock_scale_delta()`.
    fn paraclock_kunit_scale(delta: u64, mul: u32, shift: kernel::ffi::c_int) -> u64;
    /// Whether the kernel has found KVM's leaves.
    fn kvm_para_available() -> bool;
    /// `rdtsc_ordered()`.
    fn paraclock_kunit_rdtsc_ordered() -> u64;
    /// `cpuid_base_hypervisor()`.
    fn paraclock_kunit_hyperv_base() -> u32;
    /// `ms_hyperv.features`.
    fn paraclock_kunit_hyperv_features() -> u32;
    /// `hv_read_tsc_page_tsc()`; 0 where it says that the page is invalid.
    fn paraclock_kunit_read_reference_tsc(
        sequence: u32,
        scale: u64,
        offset: u64,
        tsc: *mut u64,
    ) -> u64;
}

/// Nothing but the suites.
struct Kunit;

impl InPlaceModule for Kunit {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        // SAFETY: There is nothing to initialise.
        unsafe { pin_init::pin_init_from_closure(|_| Ok(())) }
    }
}

#[kunit_tests(paraclock_arithmetic)]
mod arithmetic {
    use crate::{
        logic::{
            page::Params as _,
            page::Version,
            pvclock::Params,
            reference_tsc,
            reference_tsc::judge, //
        },
        paraclock_kunit_read_reference_tsc,
        paraclock_kunit_scale, //
    };

    /// Numbers without a pattern, the same in every run (splitmix64).
    struct Numbers(u64);

    impl Numbers {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }
    }

    #[test]
    fn scale_is_pvclock_scale_delta() {
        let mut numbers = Numbers(1);
        for _ in 0..100_000 {
            let delta = numbers.next() >> (numbers.next() % 64);
            let mul = numbers.next() as u32;
            let shift = (numbers.next() % 63) as i8 - 31;
            let params = Params {
                mul,
                shift,
                ..Params::default()
            };
            // SAFETY: Plain arithmetic; the amount of the shift is below 64.
            let c = unsafe { paraclock_kunit_scale(delta, mul, shift.into()) };
            assert_eq!(params.scale(delta), c);
        }
    }

    /// The vDSO, the C driver and this one have to count the same fraction.
    #[test]
    fn reference_time_is_hv_read_tsc_page_tsc() {
        let mut numbers = Numbers(2);
        for _ in 0..100_000 {
            let params = reference_tsc::Params {
                scale: numbers.next() >> (numbers.next() % 64),
                offset: numbers.next() >> (numbers.next() % 64),
            };
            let mut tsc = 0;
            // SAFETY: `tsc` is valid for writes; the rest is plain arithmetic.
            let c = unsafe {
                paraclock_kunit_read_reference_tsc(1, params.scale, params.offset, &mut tsc)
            };
            assert!(tsc != 0);
            assert_eq!(params.at(tsc), c);
        }
    }

    /// The sequences that withdraw a page are the ones for which the C side does not read it.
    #[test]
    fn page_is_withdrawn_as_for_the_kernel() {
        for sequence in [0, 1, 2, u32::MAX - 1, u32::MAX] {
            let mut tsc = 0;
            // SAFETY: As above.
            let c = unsafe { paraclock_kunit_read_reference_tsc(sequence, 0, 1, &mut tsc) };
            assert_eq!(matches!(judge(sequence), Version::Withdrawn), c == 0);
        }
    }
}

#[kunit_tests(paraclock_abstractions)]
mod kernel_side {
    use crate::{
        abstractions::{
            cpu::{
                self,
                HotplugReadGuard,
                Pinned, //
            },
            cpuid,
            msr,
            tsc::rdtsc_ordered,
            word::AtomicWord, //
        },
        kvm_para_available,
        logic::{
            clamp::Clamp,
            cpuid::{
                Hyperv,
                Kvm, //
            },
            word::Word, //
        },
        paraclock_kunit_hyperv_base,
        paraclock_kunit_hyperv_features,
        paraclock_kunit_rdtsc_ordered, //
    };
    use kernel::{
        cpu::CpuId,
        prelude::*, //
    };

    /// What the C side reads between two readings of ours lies between them.
    #[test]
    fn tsc_is_the_kernels() {
        for _ in 0..1000 {
            let _here = Pinned::new();
            let before = rdtsc_ordered();
            // SAFETY: RDTSC has no preconditions in the kernel.
            let between = unsafe { paraclock_kunit_rdtsc_ordered() };
            let after = rdtsc_ordered();
            assert!(before <= between && between <= after);
        }
    }

    #[test]
    fn absent_msr_is_an_error() {
        // 0x4b564dff is in KVM's range and nobody's.
        let boot = CpuId::from_u32(0).unwrap();
        assert_eq!(msr::read_on(boot, 0x4b56_4dff), Err(EIO));
    }

    #[test]
    fn msr_of_every_cpu_can_be_read() {
        // IA32_APIC_BASE is there on every CPU; its value differs in the BSP bit.
        let guard = HotplugReadGuard::new();
        for cpu in guard.online() {
            assert!(msr::read_on(cpu, 0x1b).is_ok());
        }
        assert_eq!(guard.online().count(), cpu::num_online() as usize);
    }

    /// Whatever the host offers, the kernel's own scan finds the same.
    #[test]
    fn kvm_is_found_as_by_the_kernel() {
        // SAFETY: The function has no preconditions.
        let found = unsafe { kvm_para_available() };
        assert!(cpuid::has_hypervisor());
        assert_eq!(Kvm::find(cpuid::cpuid).is_some(), found);
    }

    #[test]
    fn hyperv_is_found_as_by_the_kernel() {
        let found = Hyperv::find(cpuid::cpuid);
        // SAFETY: The function has no preconditions.
        let base = unsafe { paraclock_kunit_hyperv_base() };
        assert_eq!(found.map_or(0, |hyperv| hyperv.base), base);
        // SAFETY: As above.
        let features = unsafe { paraclock_kunit_hyperv_features() };
        if features != 0 {
            assert_eq!(found.map_or(0, |hyperv| hyperv.privileges), features);
        }
    }

    #[test]
    fn every_cpu_is_called() {
        let calls = AtomicWord::default();
        let guard = HotplugReadGuard::new();
        cpu::on_each(|| calls.increment());
        assert_eq!(calls.load(), guard.online().count() as u64);
    }

    /// The clamp on the kernel's atomics, with all CPUs at it at once.
    #[test]
    fn clamp_is_monotonic_across_cpus() {
        let clamp = Clamp::new(AtomicWord::default());
        let backward = AtomicWord::default();
        for _ in 0..100 {
            cpu::on_each(|| {
                for _ in 0..100 {
                    let before = clamp.last();
                    if clamp.raise(rdtsc_ordered()).count < before {
                        backward.increment();
                    }
                }
            });
        }
        assert_eq!(backward.load(), 0);
        assert!(clamp.last() != 0);
    }

    #[test]
    fn word_exchanges() {
        let word = AtomicWord::default();
        assert_eq!(word.compare_exchange(0, 7), Ok(()));
        assert_eq!(word.compare_exchange(0, 8), Err(7));
        assert_eq!(word.load_acquire(), 7);
    }
}
