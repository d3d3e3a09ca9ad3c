// SPDX-License-Identifier: GPL-2.0

//! The reference TSC page's arithmetic: against 128-bit arithmetic, and against what KVM writes.
#![cfg(not(loom))]

use paraclock_unit::logic::{
    page::{Invalid, NoSample, Page, Params as _, Version, examine, sample, sample_expected},
    pvclock,
    reference_tsc::{COUNT_HZ, FRACTION_BITS, Params, ReferenceTscPage, counted, judge},
};
use proptest::prelude::*;

/// Counts in 100 ns.
const UNIT: u64 = 1 << FRACTION_BITS;

/// What the TLFS says that a page means, in the count's finer unit: the 128-bit product, its
/// bits below the fraction cut off, and the offset. Modulo 2^64.
fn reference_at(tsc: u64, scale: u64, offset: i64) -> u64 {
    let product = u128::from(tsc) * u128::from(scale);
    let fine = product / (1u128 << 64 >> FRACTION_BITS);
    let offset = (i128::from(offset) * i128::from(UNIT)) as u128;
    (fine.wrapping_add(offset) % (1u128 << 64)) as u64
}

/// The page that KVM writes for a kvmclock of these parameters: `compute_tsc_page_parameters()`
/// in `arch/x86/kvm/hyperv.c`, by the equations in its comment. `None` where it gives up.
fn kvms_page(clock: &pvclock::Params) -> Option<Params> {
    let mul = u128::from(clock.mul);
    let shift = u32::try_from(32 + i32::from(clock.shift)).expect("validated");
    // tsc_to_system_mul >= 100 << (32 - tsc_shift): the TSC is too slow for 64 bits of scale.
    if mul << shift >= 100 << 64 {
        return None;
    }
    let scale = u64::try_from((mul << shift) / 100).expect("checked above");
    // tsc_offset = (system_time - scaled tsc_timestamp) / 100, on unsigned numbers of 64 bits.
    let scaled = ((u128::from(clock.tsc_timestamp) * u128::from(scale)) >> 64) as u64;
    let offset = (clock.system_time / 100).wrapping_sub(scaled);
    Some(Params { scale, offset })
}

/// kvmclock's scale and shift for a TSC: the shift brings the TSC's frequency between 1/2 and 1
/// GHz..2 GHz, the multiplier is what is missing, in units of 2^-32.
fn kvms_clock(hz: u64) -> (u32, i8) {
    let mut shift = 0i8;
    let mut scaled = u128::from(hz);
    let ghz = 1_000_000_000u128;
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

    #[test]
    fn at_is_128_bit_arithmetic(tsc in any::<u64>(), scale in any::<u64>(), offset in any::<i64>()) {
        let params = Params { scale, offset: offset as u64 };
        prop_assert_eq!(params.at(tsc), reference_at(tsc, scale, offset));
    }

    /// Without the fraction it is the time in 100 ns of `hv_read_tsc_page_tsc()` as the TLFS has it.
    #[test]
    fn the_whole_part_is_the_tlfs(
        hz in *Params::TSC_HZ.start()..10_000_000_000,
        tsc in 0..1u64 << 54,
        offset in 0..1u64 << 50,
    ) {
        let scale = ((10_000_000u128 << 64) / u128::from(hz)) as u64;
        let whole = ((u128::from(tsc) * u128::from(scale)) >> 64) as u64 + offset;
        prop_assert!(whole < 1 << (63 - FRACTION_BITS));
        let params = Params { scale, offset };
        prop_assert_eq!(params.at(tsc) / UNIT, whole);
        prop_assert!(params.at(tsc) >= counted(whole));
    }

    /// Where KVM has written it as well, of kHz.
    #[test]
    fn another_scale_is_another_tsc(
        khz in 100_000u64..10_000_000,
        more in 0u64..10,
        offset in any::<u64>(),
    ) {
        let of = |khz: u64| {
            let (mul, shift) = kvms_clock(khz * 1000);
            let clock = pvclock::Params { mul, shift, ..pvclock::Params::default() };
            kvms_page(&clock).expect("an ordinary frequency")
        };
        let other = Params { offset, ..of(khz + more) };
        prop_assert_eq!(of(khz).same_tsc(&other), more == 0);
    }

    /// A later TSC never gives an earlier time, for decades at the lowest of these frequencies.
    #[test]
    fn time_follows_the_tsc(
        hz in 200_000_000u64..10_000_000_000,
        tsc in 0..1u64 << 60,
        later in 0..1u64 << 40,
    ) {
        let scale = ((10_000_000u128 << 64) / u128::from(hz)) as u64;
        let params = Params { scale, offset: 0 };
        prop_assert!(params.at(tsc + later) >= params.at(tsc));
    }

    /// What KVM writes is its kvmclock, to the rounding of either.
    #[test]
    fn kvms_page_is_kvms_clock(
        hz in 100_000_000u64..10_000_000_000,
        tsc_timestamp in 0..1u64 << 55,
        system_time in 0..1u64 << 55,
        passed in 0..1u64 << 36,
    ) {
        let (mul, shift) = kvms_clock(hz);
        let clock = pvclock::Params { tsc_timestamp, system_time, mul, shift, flags: 0 };
        prop_assert_eq!(clock.validate(), Ok(()));
        let page = kvms_page(&clock).expect("an ordinary frequency");
        prop_assert_eq!(page.validate(), Ok(()));
        // The scale loses less than one unit of 2^-64, by which the TSC at the beginning is
        // multiplied twice, once without the fraction.
        let ns = u128::from(page.at(tsc_timestamp + passed)) * 100 / u128::from(UNIT);
        let expected = u128::from(clock.at(tsc_timestamp + passed));
        prop_assert!(ns.abs_diff(expected) <= 202, "{} and {}", ns, expected);
    }

    /// Whatever the page says, the arithmetic ends, and says so of what is no clock.
    #[test]
    fn any_page_is_judged(tsc in any::<u64>(), scale in any::<u64>(), offset in any::<u64>()) {
        let params = Params { scale, offset };
        let since = params.since(tsc);
        if params.is_before(tsc) {
            prop_assert_eq!(since, 0);
        } else {
            prop_assert_eq!(since, params.at(tsc));
        }
        // By the definition: 10 MHz * 2^64 / scale.
        let valid = scale != 0
            && (10_000_000u128 << 64) / u128::from(scale) <= u128::from(*Params::TSC_HZ.end());
        // A frequency is rounded down: at the very boundary it may be one more.
        let at_boundary = scale != 0
            && (10_000_000u128 << 64) / u128::from(scale) == u128::from(*Params::TSC_HZ.end());
        prop_assert!(at_boundary || params.validate().is_ok() == valid);
        prop_assert_eq!(Params::from_words(params.to_words()), params);
    }
}

#[test]
fn validate_names_the_reason() {
    let scale = |scale| Params { scale, offset: 0 }.validate();
    assert_eq!(scale(0), Err(Invalid::ZeroMultiplier));
    assert_eq!(scale(1), Err(Invalid::Frequency));
    // 1 THz, and the first scale that is believed.
    assert_eq!(
        scale(((1u128 << 64) / 100_000) as u64),
        Err(Invalid::Frequency)
    );
    let fastest = (1u128 << 64).div_ceil(10_000) as u64;
    assert_eq!(scale(fastest - 1), Err(Invalid::Frequency));
    assert_eq!(scale(fastest), Ok(()));
    assert_eq!(scale(u64::MAX), Ok(()));
}

#[test]
fn a_count_is_an_exact_part_of_a_ns() {
    // The clocksource's multiplier is 25/64 ns shifted, without a rest.
    assert_eq!(u64::from(COUNT_HZ) * 25, 64 * 1_000_000_000);
    assert_eq!(Params::PER_US * 1_000_000, u64::from(COUNT_HZ));
}

#[test]
fn both_values_that_were_ever_named_withdraw_the_page() {
    assert_eq!(judge(0), Version::Withdrawn);
    assert_eq!(judge(u32::MAX), Version::Withdrawn);
    for sequence in [1, 2, 3, 0x7fff_ffff, 0x8000_0000, u32::MAX - 1] {
        assert_eq!(judge(sequence), Version::Settled);
    }
}

/// A page whose host writes it, or does not, between the reader's looks.
struct Looked {
    pages: [ReferenceTscPage; 2],
    looks: std::cell::Cell<usize>,
    change_at: usize,
}

impl Looked {
    fn new(before: ReferenceTscPage, after: ReferenceTscPage, change_at: usize) -> Self {
        Self {
            pages: [before, after],
            looks: std::cell::Cell::new(0),
            change_at,
        }
    }

    fn look(&self) -> ReferenceTscPage {
        let look = self.looks.replace(self.looks.get() + 1);
        self.pages[usize::from(look >= self.change_at)]
    }
}

impl Page for Looked {
    type Params = Params;

    fn version(&self) -> u32 {
        self.look().sequence
    }

    fn judge(version: u32) -> Version {
        judge(version)
    }

    fn params(&self) -> Params {
        Params {
            scale: self.look().scale,
            offset: self.look().offset,
        }
    }

    fn rmb(&self) {}
}

fn page(sequence: u32, value: u64) -> ReferenceTscPage {
    ReferenceTscPage::new(
        sequence,
        Params {
            scale: value << 56,
            offset: value,
        },
    )
}

/// Whenever the host changes the page, a sample is of before or of after.
#[test]
fn a_sample_is_of_one_sequence() {
    for change_at in 0..6 {
        let (before, after) = (page(7, 1), page(8, 2));
        match sample(&Looked::new(before, after, change_at), || 0) {
            Ok(sample) => {
                let whole = if sample.version == 7 { before } else { after };
                let seen = ReferenceTscPage::new(sample.version, sample.params);
                assert_eq!(seen, whole, "changed at look {change_at}");
                assert!([0, 4, 5].contains(&change_at), "at look {change_at}");
            }
            Err(none) => {
                assert_eq!(none, NoSample::Unsettled);
                assert!((1..4).contains(&change_at), "at look {change_at}");
            }
        }
    }
}

#[test]
fn a_page_that_is_withdrawn_is_not_waited_for() {
    for sequence in [0, u32::MAX] {
        let withdrawn = Looked::new(page(sequence, 1), page(sequence, 1), 0);
        assert_eq!(sample(&withdrawn, || 0), Err(NoSample::Withdrawn(sequence)));
        assert_eq!(withdrawn.looks.get(), 1, "the sequence alone is looked at");
        assert_eq!(examine(&withdrawn, 3, || 0), Err(Invalid::Withdrawn));
    }
    let good = Looked::new(page(7, 1), page(7, 1), 0);
    assert!(sample_expected(&good, || 0, 7).is_some());
    assert!(sample_expected(&good, || 0, 8).is_none());
    // A state of the reader that matches no page.
    assert!(sample_expected(&good, || 0, 1 << 32 | 7).is_none());
    assert!(examine(&good, 1, || 0).is_ok());
}
