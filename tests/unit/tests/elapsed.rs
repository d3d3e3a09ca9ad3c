// SPDX-License-Identifier: GPL-2.0

//! What passes while the clock changes what it counts.
#![cfg(not(loom))]

use paraclock_unit::logic::{
    elapsed::{
        Anchor, Elapsed, Fit, Instant, LONGEST, LONGEST_DEBT, Line, NS, Span, Verdict, passed, rate,
    },
    frequency::Frequency,
    page::Params as _,
    pvclock, reference_tsc,
};
use proptest::prelude::*;

fn span_of(elapsed: Elapsed) -> Span {
    i128::from(elapsed.ns) * NS + i128::from(elapsed.frac)
}

/// A reference TSC page of `hz` that gives `units` of 100 ns at `tsc`.
fn page_at(hz: u64, tsc: u64, units: i64) -> reference_tsc::Params {
    let scale = u64::try_from((10_000_000_u128 << 64) / u128::from(hz)).expect("above 10 MHz");
    let product = ((u128::from(tsc) * u128::from(scale)) >> 64) as u64;
    reference_tsc::Params {
        scale,
        offset: (units as u64).wrapping_sub(product),
    }
}

/// At the bounds, to 2^-32 ns.
#[test]
fn what_passes_at_the_bounds() {
    let at = |span| passed(Instant::new(0), Instant::new(span));
    let elapsed = |ns, frac| Elapsed { ns, frac };
    assert_eq!(
        (at(0).verdict, at(0).elapsed),
        (Verdict::Went, elapsed(0, 0))
    );
    assert_eq!(at(1).elapsed, elapsed(0, 1));
    assert_eq!(at(NS + 1).elapsed, elapsed(1, 1));
    assert_eq!(at(LONGEST).elapsed, elapsed(3_600_000_000_000, 0));
    assert_eq!(at(LONGEST + 1).verdict, Verdict::Jumped);
    assert_eq!((at(-1).verdict, at(-1).ahead), (Verdict::Held, 1));
    assert_eq!(at(-1).elapsed, elapsed(0, 0));
    assert_eq!(at(-LONGEST_DEBT).ahead, LONGEST_DEBT);
    assert_eq!(at(-LONGEST_DEBT - 1).verdict, Verdict::WentBack);
    assert_eq!(at(-LONGEST_DEBT - 1).ahead, 0);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(20_000) })]

    /// Hyper-V's page, in arithmetic that does not end at 128 bits: 100 ns times scale in halves.
    #[test]
    fn a_reference_tsc_page_to_the_last_bit(tsc: u64, scale in 0..1u64 << 54, offset in -(1i64 << 53)..1 << 53) {
        let params = reference_tsc::Params { scale, offset: offset as u64 };
        let product = u128::from(tsc) * u128::from(scale);
        let (whole, part) = (product >> 64, product & u128::from(u64::MAX));
        // Counts end at 2^56 units.
        prop_assume!(whole < 1 << 54);
        let expected = (whole as i128 + i128::from(offset)) * 100 * NS + ((part * 100) >> 32) as i128;
        prop_assert_eq!(params.instant(tsc), Instant::new(expected));
        // The count is the same, rounded down to its unit.
        let count = reference_tsc::Params::instant_of(params.at(tsc));
        let lost = params.instant(tsc).since(count);
        prop_assert!((0..(100 * NS) >> 8).contains(&lost), "{}", lost);
    }

    /// kvmclock's page: the count is the same in whole ns.
    #[test]
    fn a_pvclock_page_to_the_last_bit(
        tsc_timestamp: u64, delta in 0..1u64 << 40, system_time in 0..1u64 << 60,
        mul in 1u32 << 31.., shift in -3i8..3,
    ) {
        let params = pvclock::Params { tsc_timestamp, system_time, mul, shift, flags: 0 };
        let tsc = tsc_timestamp.wrapping_add(delta);
        let lost = params.instant(tsc).since(pvclock::Params::instant_of(params.at(tsc)));
        // To the right a host shifts bits out, before it multiplies.
        prop_assert!((0..NS + if shift < 0 { NS << 3 } else { 0 }).contains(&lost), "{}", lost);
        // And backwards it is as far.
        let before = params.instant(tsc_timestamp.wrapping_sub(delta));
        let here = pvclock::Params::instant_of(system_time);
        prop_assert_eq!(here.since(before), params.instant(tsc).since(here));
    }

    #[test]
    fn no_page_overflows(tsc: u64, a: u64, b: u64, mul: u32, shift: i8, ahead in -(LONGEST)..LONGEST) {
        let of_hyperv = reference_tsc::Params { scale: a, offset: b };
        let of_kvm = pvclock::Params { tsc_timestamp: a, system_time: b, mul, shift, flags: 0 };
        let kvm = Anchor { line: Line::Page(of_kvm), ahead };
        let hyperv = Anchor { line: Line::Page(of_hyperv), ahead };
        for (old, new) in [
            (kvm.instant(tsc), hyperv.instant(tsc)),
            (hyperv.instant(tsc), kvm.moved(of_kvm, a).instant(b)),
        ] {
            let passed = passed(old, new);
            prop_assert!(span_of(passed.elapsed) <= LONGEST);
            prop_assert!((0..=LONGEST_DEBT).contains(&passed.ahead));
        }
    }

    /// The definition: no time is lost or made up, none goes back, and what is off is owed.
    #[test]
    fn what_passes(old in -(1i128 << 95)..1 << 95, span in -4 * LONGEST_DEBT..2 * LONGEST) {
        let (old, new) = (Instant::new(old), Instant::new(old + span));
        let passed = passed(old, new);
        let elapsed = span_of(passed.elapsed);
        prop_assert!(elapsed >= 0);
        match passed.verdict {
            Verdict::Went => prop_assert!(elapsed == span && passed.ahead == 0),
            Verdict::Held => prop_assert!(span < 0 && elapsed == 0 && passed.ahead == -span),
            Verdict::WentBack => {
                prop_assert!(span < -LONGEST_DEBT && elapsed == 0 && passed.ahead == 0)
            }
            Verdict::Jumped => prop_assert!(span > LONGEST && elapsed == 0 && passed.ahead == 0),
        }
        prop_assert!((-LONGEST_DEBT..=LONGEST).contains(&span) == matches!(passed.verdict, Verdict::Went | Verdict::Held));
    }

    /// The point lies where the counter says, and nearer than any single reading.
    #[test]
    fn a_fit_is_not_off_by_more_than_half_of_what_is_open(
        hz in 1_000_000_000..4_000_000_000_u64,
        start in 0..1_u64 << 50,
        readings in prop::collection::vec((0..5000_u64, 0..4000_u64, 0..4000_u64), 1..8),
    ) {
        let frequency = Frequency::new(hz).expect("believed");
        let truth = |tsc: u64| i128::from(tsc) * 1_000_000_000 * NS / i128::from(hz);
        let mut fit = Fit::new(100 * NS, frequency);
        let mut tsc = start;
        let mut narrowest = Span::MAX;
        for (pause, enter, leave) in readings {
            tsc += pause;
            let at = truth(tsc + enter) / (100 * NS) * (100 * NS);
            fit.add(tsc, Instant::new(at), tsc + enter + leave);
            narrowest = narrowest.min(truth(enter + leave) + 100 * NS);
            tsc += enter + leave;
        }
        let point = fit.point().expect("a reading");
        let anchor: Anchor<reference_tsc::Params> = Anchor { line: Line::Point(point), ahead: 0 };
        let off = anchor.instant(tsc).since(Instant::new(truth(tsc))).abs();
        prop_assert!(off <= narrowest / 2 + NS, "{} ns", off / NS);
    }

    #[test]
    fn a_rate_is_good_to_2_to_the_minus_41(hz in 1_000_000..100_000_000_000_u64) {
        let found = u128::from(rate(Frequency::new(hz).expect("believed")));
        let exact = (1_000_000_000_u128 << 48) / u128::from(hz);
        prop_assert_eq!(found, exact);
        prop_assert!(exact >= 1 << 41);
    }

    /// A page that takes the place of a point changes nothing at that moment.
    #[test]
    fn moving_an_anchor_moves_no_time(tsc in 0..1u64 << 50, hz in 1_000_000_000..4_000_000_000_u64, units in 0..1i64 << 50, off in -1000..1000i64) {
        let anchor = Anchor { line: Line::Page(page_at(hz, tsc, units)), ahead: 5 * NS };
        let moved = anchor.moved(page_at(hz, tsc, units + off), tsc);
        prop_assert_eq!(anchor.instant(tsc), moved.instant(tsc));
        // What the next change makes good.
        prop_assert!((moved.ahead - 5 * NS + i128::from(off) * 100 * NS).abs() <= 100 * NS);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    /// 200 migrations between random frequencies with jumps both ways: the clock is where the
    /// host's reference is, whatever the pages lose by their rounding to 100 ns, and wherever there is
    /// no page but the counter.
    #[test]
    fn errors_do_not_add_up(
        moves in prop::collection::vec(
            (1_000_000_000..4_000_000_000_u64, any::<u32>(), 0..50_000_000_u64, 0..9000_u64, any::<bool>()),
            200,
        ),
    ) {
        // Truth is in 2^-32 ns. A host rounds it to its units as it likes.
        let mut truth: Span = 12_345 * 100 * NS;
        let mut tsc = 1_u64 << 40;
        let mut line = Line::Page(page_at(2_000_000_000, tsc, 12_345));
        let mut hz = 2_000_000_000_u64;
        let mut ahead = 0;
        let mut clock = Anchor { line, ahead }.instant(tsc);
        let began = (clock, truth);
        for (new_hz, jump, cycles, blackout, has_page) in moves {
            // The old frequency up to the notification.
            let anchor = Anchor { line, ahead };
            let old = anchor.instant(tsc);
            tsc += cycles;
            truth += (i128::from(cycles) * 1_000_000_000 * NS) / i128::from(hz);
            let stood = anchor.instant(tsc);
            clock = clock.plus(stood.since(old));
            // The acknowledgement, and a moment later.
            truth += i128::from(blackout) * NS;
            tsc = if jump & 1 == 0 { tsc + u64::from(jump) } else { tsc.saturating_sub(u64::from(jump)) };
            hz = new_hz;
            let frequency = Frequency::new(hz).expect("believed");
            let units = (truth / (100 * NS)) as i64;
            let new_line = if has_page {
                Line::Page(page_at(hz, tsc, units))
            } else {
                let mut fit = Fit::new(100 * NS, frequency);
                for reading in 0..6u64 {
                    let after = reading * 1000;
                    let at = truth + i128::from(after + 300) * 1_000_000_000 * NS / i128::from(hz);
                    let count = at / (100 * NS) * (100 * NS);
                    fit.add(tsc + after, Instant::new(count), tsc + after + 500);
                }
                Line::Point(fit.point().expect("six readings"))
            };
            let new = Anchor { line: new_line, ahead: 0 }.instant(tsc);
            let passed = passed(stood, new);
            prop_assert!(matches!(passed.verdict, Verdict::Went | Verdict::Held), "{:?}", passed);
            clock = clock.plus(span_of(passed.elapsed));
            line = new_line;
            ahead = passed.ahead;
            // A unit that was cut off, or half of what a fit leaves open, and what is owed.
            let off = clock.since(began.0) - (truth - began.1);
            prop_assert!(off.abs() <= 450 * NS, "off by {} ns", off / NS);
            prop_assert_eq!(clock, Anchor { line, ahead }.instant(tsc));
        }
    }
}
