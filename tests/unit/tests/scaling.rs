// SPDX-License-Identifier: GPL-2.0

//! The page's arithmetic: against 128-bit arithmetic, and against KVM's own instructions.
#![cfg(not(loom))]

use paraclock_unit::logic::{
    page::{Invalid, Params as _},
    pvclock::{Params, VcpuTimeInfo},
};
use proptest::prelude::*;

/// What KVM's documentation says that a page means, with no bit lost but those that its shift
/// drops: the product in 128 bits, from a shift done by powers of two.
fn reference_scale(delta: u64, mul: u32, shift: i8) -> u64 {
    let shifted = if shift < 0 {
        u128::from(delta) / (1u128 << shift.unsigned_abs())
    } else {
        (u128::from(delta) * (1u128 << shift)) % (1u128 << 64)
    };
    ((shifted * u128::from(mul)) / (1u128 << 32) % (1u128 << 64)) as u64
}

/// The instructions by which KVM and the C driver scale: a 64-bit multiplication, and a shift of
/// its 128-bit product by 32.
#[cfg(target_arch = "x86_64")]
fn instructions_scale(delta: u64, mul: u32, shift: i8) -> u64 {
    let shifted = if shift < 0 {
        delta >> shift.unsigned_abs()
    } else {
        delta << shift
    };
    let mut low = shifted;
    // SAFETY: Arithmetic on registers alone, all of which are named.
    unsafe {
        core::arch::asm!(
            "mul {mul}",
            "shrd rax, rdx, 32",
            mul = in(reg) u64::from(mul),
            inout("rax") low,
            out("rdx") _,
            options(pure, nomem, nostack),
        );
    }
    low
}

/// How a host finds scale and shift for a TSC: the TSC's frequency is halved, or ns a second
/// doubled, until their quotient is a fraction below one, which is then taken to 32 bits.
fn host_scale(tsc_hz: u64) -> (u32, i8) {
    const NSEC_PER_SEC: u64 = 1_000_000_000;
    let mut shift = 0i8;
    let mut ticks = tsc_hz;
    while ticks > 2 * NSEC_PER_SEC || ticks > u64::from(u32::MAX) {
        ticks /= 2;
        shift -= 1;
    }
    let mut ticks = u32::try_from(ticks).expect("halved until it fits");
    let mut ns = NSEC_PER_SEC;
    while u64::from(ticks) <= ns {
        if ticks & (1 << 31) != 0 {
            ns /= 2;
        } else {
            ticks *= 2;
        }
        shift += 1;
    }
    let mul = (u128::from(ns) << 32) / u128::from(ticks);
    (u32::try_from(mul).expect("a fraction below one"), shift)
}

fn params(mul: u32, shift: i8) -> Params {
    Params {
        mul,
        shift,
        ..Params::default()
    }
}

/// The definition of a valid page: all of it in whole numbers of 128 bits, nothing rounded.
fn reference_validate(mul: u32, shift: i8) -> Result<(), Invalid> {
    if mul == 0 {
        return Err(Invalid::ZeroMultiplier);
    }
    if !(-31..=31).contains(&shift) {
        return Err(Invalid::Shift);
    }
    // hz = 10^9 * 2^32 / (mul * 2^shift), cross-multiplied; 2^31 keeps it whole.
    let numerator = (1_000_000_000u128 << 32) << 31;
    let denominator = u128::from(mul) << (31 + i32::from(shift));
    if denominator * 1_000_000 <= numerator && numerator <= denominator * 100_000_000_000 {
        Ok(())
    } else {
        Err(Invalid::Frequency)
    }
}

/// Numbers of every magnitude, the ends of each power of two among them.
fn magnitudes() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        (0u32..64, any::<u64>()).prop_map(|(bits, value)| value >> bits),
        (0u32..64, -2i64..=2).prop_map(|(bit, off)| (1u64 << bit).wrapping_add_signed(off)),
    ]
}

fn muls() -> impl Strategy<Value = u32> {
    magnitudes().prop_map(|value| value as u32)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn scale_is_exact(delta in magnitudes(), mul in muls(), shift in -31i8..=31) {
        prop_assert_eq!(params(mul, shift).scale(delta), reference_scale(delta, mul, shift));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn scale_is_the_hosts(delta in magnitudes(), mul in muls(), shift in -31i8..=31) {
        prop_assert_eq!(params(mul, shift).scale(delta), instructions_scale(delta, mul, shift));
    }

    #[test]
    fn time_counts_from_the_timestamp(
        tsc in magnitudes(),
        tsc_timestamp in magnitudes(),
        system_time in magnitudes(),
        mul in muls(),
        shift in -31i8..=31,
    ) {
        let params = Params { tsc_timestamp, system_time, mul, shift, flags: 0 };
        let delta = tsc.wrapping_sub(tsc_timestamp);
        prop_assert_eq!(
            params.at(tsc),
            system_time.wrapping_add(reference_scale(delta, mul, shift))
        );
    }

    #[test]
    fn a_hosts_scale_is_valid_and_means_its_frequency(khz in 1_000u64..=99_999_999) {
        let hz = khz * 1000;
        let (mul, shift) = host_scale(hz);
        let params = params(mul, shift);
        prop_assert_eq!(params.validate(), Ok(()), "{} Hz: mul {} shift {}", hz, mul, shift);
        // The halved frequency loses bits below 2^31, the multiplier those below 2^-32.
        let seen = params.tsc_hz().expect("a valid scale");
        let bound = hz / (1 << 29) + 1;
        prop_assert!(seen.abs_diff(hz) <= bound, "{} Hz read as {} Hz", hz, seen);
    }

    /// A kHz makes another scale, and nothing else does.
    #[test]
    fn another_scale_is_another_tsc(
        khz in 1_000u64..=99_999_990,
        more in 0u64..10,
        now in any::<[u64; 2]>(),
        flags in any::<u8>(),
    ) {
        let of = |khz: u64| {
            let (mul, shift) = host_scale(khz * 1000);
            params(mul, shift)
        };
        let [tsc_timestamp, system_time] = now;
        let other = Params { tsc_timestamp, system_time, flags, ..of(khz + more) };
        prop_assert_eq!(of(khz).same_tsc(&other), more == 0);
        prop_assert_eq!(other.same_tsc(&of(khz)), more == 0);
    }

    #[test]
    fn validate_is_its_definition(mul in muls(), shift in any::<i8>()) {
        prop_assert_eq!(params(mul, shift).validate(), reference_validate(mul, shift));
    }

    #[test]
    fn tsc_hz_is_its_definition(mul in muls(), shift in any::<i8>()) {
        let expected = (mul != 0 && (-31..=31).contains(&shift)).then(|| {
            let numerator = (1_000_000_000u128 << 32) << 31;
            let denominator = u128::from(mul) << (31 + i32::from(shift));
            u64::try_from(numerator / denominator).unwrap_or(u64::MAX)
        });
        prop_assert_eq!(params(mul, shift).tsc_hz(), expected);
    }

    /// Nothing that a host may write makes the arithmetic panic; overflow is checked here.
    #[test]
    fn no_content_panics(
        tsc in any::<u64>(),
        tsc_timestamp in any::<u64>(),
        system_time in any::<u64>(),
        mul in any::<u32>(),
        shift in any::<i8>(),
        flags in any::<u8>(),
    ) {
        let params = Params { tsc_timestamp, system_time, mul, shift, flags };
        let _ = (params.at(tsc), params.validate(), params.tsc_hz());
        let _ = (params.is_stable(), params.guest_stopped());
    }
}

/// Where the definition turns, for every shift there is.
#[test]
fn validate_turns_at_its_boundaries() {
    for shift in -32i8..=32 {
        let exact = |hz: u128| {
            // The multiplier at which the frequency is `hz`, rounded down.
            let numerator = (1_000_000_000u128 << 32) << 32;
            numerator / (hz << (32 + i32::from(shift)))
        };
        for turn in [exact(1_000_000), exact(100_000_000_000), 0, 1 << 32] {
            for off in -3i128..=3 {
                let Ok(mul) = u32::try_from(turn as i128 + off) else {
                    continue;
                };
                assert_eq!(
                    params(mul, shift).validate(),
                    reference_validate(mul, shift),
                    "mul {mul} shift {shift}"
                );
            }
        }
    }
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "a release build does not check")]
fn overflow_is_checked_in_this_build() {
    let wrapped = std::panic::catch_unwind(|| std::hint::black_box(u64::MAX) + 1);
    assert!(wrapped.is_err(), "no_content_panics could not fail");
}

#[test]
fn known_frequencies() {
    // mul and shift as seen on a host whose TSC runs at 2.1 GHz, and by hand at 1 GHz.
    assert_eq!(params(4_090_445_043, -1).tsc_hz(), Some(2_100_000_000));
    assert_eq!(params(1 << 31, 1).tsc_hz(), Some(1_000_000_000));
    assert_eq!(host_scale(1_000_000_000), (1 << 31, 1));
    assert_eq!(host_scale(1_000_000), (4_194_304_000, 10));
    assert_eq!(params(1 << 31, 1).scale(12_345), 12_345);
}

/// The layout is the interface's: `struct pvclock_vcpu_time_info`, 32 bytes.
#[test]
fn layout() {
    use std::mem::{align_of, offset_of, size_of};
    assert_eq!(size_of::<VcpuTimeInfo>(), 32);
    assert_eq!(align_of::<VcpuTimeInfo>(), 8);
    assert_eq!(offset_of!(VcpuTimeInfo, version), 0);
    assert_eq!(offset_of!(VcpuTimeInfo, tsc_timestamp), 8);
    assert_eq!(offset_of!(VcpuTimeInfo, system_time), 16);
    assert_eq!(offset_of!(VcpuTimeInfo, tsc_to_system_mul), 24);
    assert_eq!(offset_of!(VcpuTimeInfo, tsc_shift), 28);
    assert_eq!(offset_of!(VcpuTimeInfo, flags), 29);
}
