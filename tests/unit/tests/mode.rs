// SPDX-License-Identifier: GPL-2.0

//! The mode machine: over every ground there is, and over hosts that change it all the time.
#![cfg(not(loom))]

use paraclock_unit::logic::{
    frequency::Refused,
    mode::{
        Decision, Ground, Guarantee, LONGEST_HOLD_US, Machine, NoGuarantee, Page, SHORTEST_HOLD_US,
        STEADY_US, Why,
    },
    options::{Mode, ModeOption},
};
use proptest::prelude::*;

const GOOD: Ground = Ground {
    guarantee: Ok(Guarantee::Reenlightenment),
    page: Page::Good,
    is_stable: true,
    is_unstable_to_kernel: false,
    is_synchronized: true,
    is_apart: false,
    frequency: Ok(()),
    is_suspended: false,
};

const BAD: Ground = Ground {
    page: Page::Withdrawn,
    ..GOOD
};

/// Every ground there is.
fn grounds() -> Vec<Ground> {
    let mut grounds = Vec::new();
    let bools = [false, true];
    for guarantee in [
        Ok(Guarantee::Reenlightenment),
        Ok(Guarantee::Invariant),
        Err(NoGuarantee::NotOffered),
        Err(NoGuarantee::NotArmed),
    ] {
        for page in [
            Page::Good,
            Page::Withdrawn,
            Page::Implausible,
            Page::Changed,
            Page::Unknown,
            Page::None,
        ] {
            for frequency in [
                Ok(()),
                Err(Refused::Unknown),
                Err(Refused::Zero),
                Err(Refused::OutOfRange),
                Err(Refused::Contradiction),
            ] {
                for bits in 0..32 {
                    grounds.push(Ground {
                        guarantee,
                        page,
                        is_stable: bools[bits & 1],
                        is_unstable_to_kernel: bools[bits >> 1 & 1],
                        is_synchronized: bools[bits >> 2 & 1],
                        is_apart: bools[bits >> 4 & 1],
                        frequency,
                        is_suspended: bools[bits >> 3 & 1],
                    });
                }
            }
        }
    }
    grounds
}

/// The rule of the design, said once more: each thing that mode `tsc` needs.
fn is_enough(ground: &Ground) -> bool {
    ground.guarantee.is_ok()
        && [Page::Good, Page::None].contains(&ground.page)
        && ground.is_stable
        && !(ground.is_unstable_to_kernel && ground.guarantee == Ok(Guarantee::Invariant))
        && ground.is_synchronized
        && ground.frequency.is_ok()
        && !ground.is_suspended
}

#[test]
fn every_ground_for_everything_that_is_wanted() {
    for ground in grounds() {
        for (base, apart) in [
            (Mode::Page, Mode::Page),
            (Mode::Page, Mode::Msr),
            (Mode::Msr, Mode::Msr),
        ] {
            for &wanted in ModeOption::ALL {
                let mut machine = Machine::new(base, apart, wanted);
                let Decision { mode, why } = machine.decide(&ground, 5);
                let tsc = is_enough(&ground) && wanted.allows_tsc();
                assert_eq!(mode == Mode::Tsc, tsc, "{ground:?} {wanted:?}");
                // Who reads a page reads the TSC, so that is no way out where TSCs are apart.
                let other = if ground.is_apart && wanted.allows_tsc() && !is_enough(&ground) {
                    apart
                } else {
                    base
                };
                assert!(mode == Mode::Tsc || mode == other);
                assert_eq!(why == Why::Asked, !wanted.allows_tsc());
                assert_eq!(matches!(why, Why::Guaranteed(_)), tsc);
                assert!(!why.reason().is_empty());
                // Mode `tsc` is left at once, for the same reason.
                let mut machine = Machine::new(base, apart, wanted);
                machine.decide(&GOOD, 0);
                assert_eq!(machine.decide(&ground, 5), Decision { mode, why });
            }
        }
    }
}

/// What is nobody's fault does not make the hold-off longer, and a long time in mode `tsc` makes it
/// short, whatever ends that.
#[test]
fn bad_times_are_forgotten_whatever_ends_the_good_ones() {
    let suspended = Ground {
        is_suspended: true,
        ..GOOD
    };
    let unchecked = Ground {
        is_synchronized: false,
        ..GOOD
    };
    for end in [suspended, unchecked] {
        let mut machine = Machine::new(Mode::Page, Mode::Msr, ModeOption::Auto);
        let mut now = 0;
        while machine.hold_us() < LONGEST_HOLD_US {
            machine.decide(&GOOD, now);
            now += machine.hold_us();
            assert_eq!(machine.decide(&GOOD, now).mode, Mode::Tsc);
            machine.decide(&BAD, now);
        }
        machine.decide(&GOOD, now);
        now += LONGEST_HOLD_US;
        machine.decide(&GOOD, now);
        machine.decide(&end, now + 1);
        assert_eq!(machine.hold_us(), LONGEST_HOLD_US);
        machine.decide(&GOOD, now + 1);
        now += 1 + LONGEST_HOLD_US;
        machine.decide(&GOOD, now);
        machine.decide(&end, now + 16 * LONGEST_HOLD_US);
        assert_eq!(machine.hold_us(), SHORTEST_HOLD_US);
    }
}

/// A CPU that comes up and is not compared yet is nobody's fault; one that is off is.
#[test]
fn a_cpu_that_was_not_compared_holds_nothing_off() {
    for is_apart in [false, true] {
        let mut machine = Machine::new(Mode::Page, Mode::Msr, ModeOption::Auto);
        let ground = Ground {
            is_synchronized: false,
            is_apart,
            ..GOOD
        };
        for turn in 1..=5 {
            assert_eq!(
                machine.decide(&GOOD, 0).mode == Mode::Tsc,
                !is_apart || turn == 1
            );
            machine.decide(&ground, 0);
        }
        assert_eq!(
            (machine.left(), machine.hold_us()),
            if is_apart {
                (1, SHORTEST_HOLD_US)
            } else {
                (5, 0)
            }
        );
    }
}

#[test]
fn each_reason_has_its_words() {
    let mut reasons: Vec<&str> = grounds()
        .iter()
        .filter_map(|ground| ground.supports_tsc().err())
        .map(Why::reason)
        .collect();
    reasons.sort_unstable();
    reasons.dedup();
    // Two of the guarantee, four of the page, four of the frequency, and the four bits.
    assert_eq!(reasons.len(), 14, "{reasons:#?}");
}

/// One thing that is wrong is the one that is named.
#[test]
fn the_reason_is_the_one_that_is_wrong() {
    let because = |ground: Ground| ground.supports_tsc().expect_err("not enough");
    for page in [
        Page::Withdrawn,
        Page::Implausible,
        Page::Changed,
        Page::Unknown,
    ] {
        assert_eq!(because(Ground { page, ..GOOD }), Why::Page(page));
    }
    assert_eq!(
        because(Ground {
            is_stable: false,
            ..GOOD
        }),
        Why::NotStable
    );
    assert_eq!(
        because(Ground {
            is_unstable_to_kernel: true,
            guarantee: Ok(Guarantee::Invariant),
            ..GOOD
        }),
        Why::UnstableToKernel
    );
    assert_eq!(
        because(Ground {
            is_synchronized: false,
            ..GOOD
        }),
        Why::NotSynchronized
    );
    assert_eq!(
        because(Ground {
            frequency: Err(Refused::Contradiction),
            ..GOOD
        }),
        Why::Frequency(Refused::Contradiction)
    );
    assert_eq!(
        because(Ground {
            is_suspended: true,
            ..GOOD
        }),
        Why::Suspended
    );
    assert_eq!(
        because(Ground {
            guarantee: Err(NoGuarantee::NotArmed),
            ..GOOD
        }),
        Why::NoGuarantee(NoGuarantee::NotArmed)
    );
}

/// A host that takes its word back each time the clock has come to rely on it.
#[test]
fn the_hold_off_doubles_and_ends() {
    let mut machine = Machine::new(Mode::Page, Mode::Msr, ModeOption::Auto);
    let (mut now, mut hold) = (0, SHORTEST_HOLD_US);
    assert_eq!(
        machine.decide(&GOOD, now).mode,
        Mode::Tsc,
        "the first time at once"
    );
    for left in 1..30 {
        now += 40_000;
        assert_eq!(machine.decide(&BAD, now).mode, Mode::Page);
        assert_eq!(machine.left(), left);
        assert_eq!(machine.hold_us(), hold);
        now += 40_000;
        let since = now;
        while machine.decide(&GOOD, now).mode != Mode::Tsc {
            assert_eq!(machine.decide(&GOOD, now).why, Why::HeldOff);
            now += 40_000;
        }
        assert!((hold..hold + 40_000).contains(&(now - since)));
        hold = (2 * hold).min(LONGEST_HOLD_US);
    }
    assert_eq!(hold, LONGEST_HOLD_US);
    // It calms down: after a while the next time is as the first.
    now += 16 * LONGEST_HOLD_US;
    machine.decide(&GOOD, now);
    machine.decide(&BAD, now + 1);
    assert_eq!(machine.hold_us(), SHORTEST_HOLD_US);
}

#[test]
fn the_ground_has_to_be_there_without_a_break() {
    let mut machine = Machine::new(Mode::Page, Mode::Msr, ModeOption::Auto);
    machine.decide(&GOOD, 0);
    machine.decide(&BAD, 1000);
    for now in (2000..10_000_000).step_by(90_000) {
        assert_eq!(machine.decide(&GOOD, now).mode, Mode::Page);
        assert_eq!(machine.decide(&BAD, now + 89_000).mode, Mode::Page);
    }
    assert_eq!(machine.left(), 1);
}

#[test]
fn the_administrator_and_a_suspend_are_no_fault_of_the_host() {
    let mut machine = Machine::new(Mode::Page, Mode::Msr, ModeOption::Auto);
    machine.decide(&GOOD, 0);
    machine.want(Mode::Page, ModeOption::Page);
    assert_eq!(machine.decide(&GOOD, 10).mode, Mode::Page);
    machine.want(Mode::Page, ModeOption::Tsc);
    assert_eq!(machine.decide(&GOOD, 20).mode, Mode::Tsc);
    let asleep = Ground {
        is_suspended: true,
        ..GOOD
    };
    assert_eq!(machine.decide(&asleep, 30).mode, Mode::Page);
    assert_eq!(machine.decide(&GOOD, 40).mode, Mode::Tsc);
    assert_eq!(machine.left(), 0);
    // The history is forgotten with a word of his.
    machine.decide(&BAD, 50);
    assert_eq!(machine.decide(&GOOD, 60).why, Why::HeldOff);
    machine.want(Mode::Page, ModeOption::Auto);
    assert_eq!(machine.decide(&GOOD, 70).mode, Mode::Tsc);
}

#[test]
fn what_could_not_be_entered_is_tried_again_later() {
    let mut machine = Machine::new(Mode::Page, Mode::Msr, ModeOption::Auto);
    assert_eq!(machine.decide(&GOOD, 0).mode, Mode::Tsc);
    machine.failed();
    assert_eq!(machine.decide(&GOOD, 10).why, Why::HeldOff);
    assert_eq!(machine.decide(&GOOD, 10 + SHORTEST_HOLD_US).mode, Mode::Tsc);
    assert_eq!(machine.left(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    /// Whatever a host does: never in mode `tsc` without the ground, never back before the ground
    /// has been there for the hold-off, and in the long run not more often than it is worth.
    #[test]
    fn no_host_makes_it_flap(
        steps in prop::collection::vec((1_000..200_000u64, prop::bool::weighted(0.8), 0..4u8), 1..800),
        stretch in 1..60u64,
    ) {
        let mut machine = Machine::new(Mode::Page, Mode::Msr, ModeOption::Auto);
        let (mut now, mut good_since, mut was_tsc, mut left) = (0u64, None, false, 0u64);
        for (step, is_good, kind) in steps {
            now += step * stretch;
            let ground = if is_good { GOOD } else {
                match kind {
                    0 => BAD,
                    1 => Ground { is_stable: false, ..GOOD },
                    2 => Ground { page: Page::Changed, ..GOOD },
                    _ => Ground { frequency: Err(Refused::Zero), ..GOOD },
                }
            };
            good_since = is_good.then(|| good_since.unwrap_or(now));
            let hold = machine.hold_us();
            let mode = machine.decide(&ground, now).mode;
            let is_tsc = mode == Mode::Tsc;
            prop_assert!(is_good || !is_tsc);
            if is_tsc && !was_tsc {
                prop_assert!(now - good_since.expect("it is good") >= hold);
            }
            if !is_tsc && is_good {
                prop_assert!(now - good_since.expect("it is good") < hold, "it comes back");
            }
            left += u64::from(was_tsc && !is_tsc);
            was_tsc = is_tsc;
            prop_assert_eq!(machine.left(), left);
            prop_assert!(machine.hold_us() <= LONGEST_HOLD_US);
        }
        // As often as the hold-off doubles, for each time that the clock was steady.
        prop_assert!(left <= 11 * (1 + now / STEADY_US), "{} in {} us", left, now);
    }
}
