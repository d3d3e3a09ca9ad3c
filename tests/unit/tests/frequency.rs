// SPDX-License-Identifier: GPL-2.0

//! The TSC's frequency, out of what a host says.
#![cfg(not(loom))]

use paraclock_unit::logic::{
    frequency::{Frequency, Refused},
    page::Params as _,
    pvclock, reference_tsc,
};
use proptest::prelude::*;

/// Every frequency that is believed.
fn frequencies() -> impl Strategy<Value = u64> {
    // As likely at each order of magnitude.
    (0..5u32, 1_000_000..10_000_000_u64).prop_map(|(tens, hz)| hz * 10u64.pow(tens))
}

/// Those that a reference TSC page can say.
fn above_10_mhz() -> impl Strategy<Value = u64> {
    (1..5u32, 1_000_200..10_000_000_u64).prop_map(|(tens, hz)| hz * 10u64.pow(tens))
}

/// The scale of a reference TSC page, rounded down as KVM has it, where there is one.
fn scale_of(hz: u64) -> Option<u64> {
    u64::try_from((10_000_000_u128 << 64) / u128::from(hz)).ok()
}

/// kvmclock's scale: see `kvm_get_time_scale()`.
fn pvclock_of(hz: u64) -> (u32, i8) {
    let ghz = 1_000_000_000_u128;
    let (mut shift, mut scaled) = (0i8, u128::from(hz));
    while scaled > 2 * ghz {
        scaled >>= 1;
        shift -= 1;
    }
    while scaled <= ghz {
        scaled <<= 1;
        shift += 1;
    }
    (((ghz << 32) / scaled) as u32, shift)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(20_000) })]

    /// The scale has 64 bits, so at 100 GHz it is good to 10^-15 of the frequency: less than a Hz.
    #[test]
    fn a_reference_tsc_page_says_it_to_the_hz(hz in above_10_mhz()) {
        let Some(scale) = scale_of(hz) else { return Ok(()) };
        let params = reference_tsc::Params { scale, offset: 0 };
        prop_assert_eq!(params.frequency().map(Frequency::hz), Ok(hz));
    }

    /// To the nearest, of any scale.
    #[test]
    fn a_reference_tsc_page_is_rounded(hz in above_10_mhz(), off in 0..1000u64) {
        let Some(scale) = scale_of(hz).and_then(|scale| scale.checked_mul(1000 - off / 2)) else {
            return Ok(());
        };
        let exact = ((10_000_000_u128 << 64) + u128::from(scale / 2)) / u128::from(scale);
        if let Ok(found) = Frequency::of_reference_tsc(scale) {
            prop_assert_eq!(u128::from(found.hz()), exact);
        }
    }

    #[test]
    fn kvmclock_is_rounded(mul in 1u32.., shift in -5i8..5) {
        let scale = if shift < 0 { u128::from(mul) << 32 >> -shift } else { u128::from(mul) << 32 << shift };
        let exact = ((1_000_000_000_u128 << 64) + scale / 2) / scale;
        if let Ok(found) = Frequency::of_pvclock(mul, shift) {
            prop_assert_eq!(u128::from(found.hz()), exact);
        }
    }

    /// The multiplier has 31 bits and more.
    #[test]
    fn kvmclock_says_it_to_a_billionth(hz in frequencies()) {
        let (mul, shift) = pvclock_of(hz);
        let params = pvclock::Params { mul, shift, ..pvclock::Params::default() };
        let found = params.frequency().expect("believed").hz();
        prop_assert!(found.abs_diff(hz) <= 1 + hz / 1_000_000_000 * 2, "{} for {}", found, hz);
        // Against the exact one, rounded.
        let exact = (1_000_000_000_u128 << (32 + 32)) / (u128::from(mul) << (32 + i32::from(shift)));
        prop_assert!(u128::from(found).abs_diff(exact) <= 1);
    }

    /// Whatever was known before, if it was right to 100 ppm.
    #[test]
    fn refining_finds_what_dividing_finds(hz in above_10_mhz(), ppb in -99_000_i64..99_000) {
        let Some(scale) = scale_of(hz) else { return Ok(()) };
        let guess = (hz as i128 + hz as i128 * i128::from(ppb) / 1_000_000_000) as u64;
        let Ok(guess) = Frequency::new(guess) else { return Ok(()) };
        prop_assert!(guess.is_of_reference_tsc(scale));
        let refined = guess.refine(scale).expect("near").hz();
        // At 100 GHz 19 bits of the scale are left to find the difference by.
        prop_assert!(refined.abs_diff(hz) <= 1 + hz / 4_000_000_000, "{} for {}", refined, hz);
    }

    #[test]
    fn refining_refuses_what_is_another_one(hz in above_10_mhz(), ppm in 102..500_000_u64, up: bool) {
        let Some(scale) = scale_of(hz) else { return Ok(()) };
        let off = hz / 1_000_000 * ppm + ppm;
        let Ok(guess) = Frequency::new(if up { hz + off } else { hz - off }) else { return Ok(()) };
        prop_assert_eq!(guess.refine(scale), Err(Refused::Contradiction));
        prop_assert!(!guess.is_of_reference_tsc(scale));
    }

    /// What the timekeeping core makes of it is the frequency, to half a unit.
    #[test]
    fn scale_and_freq_are_the_frequency(hz in frequencies()) {
        let (scale, freq) = Frequency::new(hz).expect("believed").scale_and_freq();
        prop_assert_eq!(1_000_000_000 % scale, 0);
        let back = u64::from(scale) * u64::from(freq);
        prop_assert!(back.abs_diff(hz) * 2 <= u64::from(scale));
        prop_assert!(scale == 1 || hz / u64::from(scale / 2) >= u64::from(u32::MAX), "the least");
    }

    #[test]
    fn anything_is_a_frequency_or_refused(scale: u64, mul: u32, shift: i8, hz: u64, guess in frequencies()) {
        for frequency in [
            Frequency::of_reference_tsc(scale),
            Frequency::of_pvclock(mul, shift),
            Frequency::new(hz),
            Frequency::new(guess).and_then(|guess| guess.refine(scale)),
        ].into_iter().flatten() {
            prop_assert!(Frequency::HZ.contains(&frequency.hz()));
        }
    }
}

#[test]
fn nonsense_is_refused_by_name() {
    assert_eq!(Frequency::new(0), Err(Refused::Zero));
    assert_eq!(Frequency::new(999_999), Err(Refused::OutOfRange));
    assert_eq!(
        Frequency::new(1_000_000_000_000),
        Err(Refused::OutOfRange),
        "1 THz"
    );
    assert_eq!(Frequency::new(u64::MAX), Err(Refused::OutOfRange));
    assert_eq!(Frequency::of_reference_tsc(0), Err(Refused::Zero));
    assert_eq!(
        Frequency::of_reference_tsc(1),
        Err(Refused::Zero),
        "beyond 64 bits"
    );
    assert_eq!(Frequency::of_pvclock(0, 0), Err(Refused::Zero));
    assert_eq!(Frequency::of_pvclock(1, 32), Err(Refused::OutOfRange));
    assert_eq!(Frequency::of_pvclock(1, -128), Err(Refused::OutOfRange));
}

#[test]
fn two_statements_have_to_agree_within_100_ppm() {
    let hz = |hz| Frequency::new(hz);
    let two = |a, b| Frequency::checked(hz(a), Some(hz(b)));
    assert_eq!(two(2_000_000_000, 2_000_000_000), hz(2_000_000_000));
    assert_eq!(two(2_000_000_000, 2_000_200_000), hz(2_000_000_000));
    assert_eq!(two(2_000_200_000, 2_000_000_000), hz(2_000_200_000));
    assert_eq!(
        two(2_000_000_000, 2_000_200_001),
        Err(Refused::Contradiction)
    );
    assert_eq!(
        two(2_000_200_001, 2_000_000_000),
        Err(Refused::Contradiction)
    );
    assert_eq!(two(2_000_000_000, 0), Err(Refused::Zero));
    assert_eq!(two(0, 2_000_000_000), Err(Refused::Zero));
    assert_eq!(
        Frequency::checked(hz(2_000_000_000), None),
        hz(2_000_000_000)
    );
    assert_eq!(
        Frequency::checked(Err(Refused::Unknown), Some(hz(2_000_000_000))),
        Err(Refused::Unknown)
    );
}
