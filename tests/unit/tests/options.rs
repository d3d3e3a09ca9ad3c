// SPDX-License-Identifier: GPL-2.0

//! The parameters: every value there is, and what is none.
#![cfg(not(loom))]

use paraclock_unit::logic::options::{
    Backend, BackendOption, Mode, ModeOption, Offer, RATINGS, Refusal, ReliableOption,
    default_rating, resolve,
};
use proptest::prelude::*;

/// Checks that the names are these, that each leads back, and that nothing else does.
macro_rules! names {
    ($test:ident, $type:ident, $names:expr) => {
        #[test]
        fn $test() {
            let names: Vec<&str> = $type::ALL.iter().map(|member| member.name()).collect();
            assert_eq!(names, $names);
            for member in $type::ALL {
                let name = member.name();
                assert_eq!($type::from_name(name.as_bytes()), Some(*member));
                let line = format!("{name}\n");
                assert_eq!($type::from_name(line.as_bytes()), Some(*member));
                for not in [
                    format!("{name}\n\n"),
                    format!(" {name}"),
                    format!("{name} "),
                    format!("{name}\0"),
                    name.to_uppercase(),
                    name[1..].to_owned(),
                    name[..name.len() - 1].to_owned(),
                ] {
                    assert_eq!($type::from_name(not.as_bytes()), None, "{not:?}");
                }
            }
            for not in ["", "\n", "\0", "0", "1", "default"] {
                assert_eq!($type::from_name(not.as_bytes()), None, "{not:?}");
            }
        }
    };
}

names!(backends, BackendOption, ["auto", "kvm", "hyperv"]);
names!(modes, ModeOption, ["auto", "tsc", "page", "msr"]);
names!(reliable, ReliableOption, ["auto", "always", "never"]);

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_a_name_or_none(name in prop::collection::vec(any::<u8>(), 0..16)) {
        if let Some(member) = ModeOption::from_name(&name) {
            prop_assert_eq!(name.strip_suffix(b"\n").unwrap_or(&name), member.name().as_bytes());
        }
    }
}

/// Every host there can be.
fn offers() -> impl Iterator<Item = Offer> {
    (0..64).map(|bits| Offer {
        kvm: bits & 1 != 0,
        kvm_stable: bits & 3 == 3,
        kvm_tsc: bits & 19 == 19,
        hyperv_page: bits & 4 != 0,
        hyperv_counter: bits & 8 != 0,
        hyperv_tsc: bits & 40 == 40,
    })
}

/// What can be read there, and nothing else.
fn is_there(offer: &Offer, backend: Backend, mode: Mode) -> bool {
    match (backend, mode) {
        (Backend::Kvm, Mode::Page) => offer.kvm,
        (Backend::Kvm, Mode::Msr) => false,
        // What is resolved is what is there beside it.
        (_, Mode::Tsc) => false,
        (Backend::Hyperv, Mode::Page) => offer.hyperv_page,
        (Backend::Hyperv, Mode::Msr) => offer.hyperv_counter,
    }
}

#[test]
fn every_combination_on_every_host() {
    for offer in offers() {
        for &backend in BackendOption::ALL {
            for &mode in ModeOption::ALL {
                let resolved = resolve(backend, mode, &offer);
                let case = format!("{backend:?} {mode:?} {offer:?}");
                let kvm_msr = (backend, mode) == (BackendOption::Kvm, ModeOption::Msr);
                assert_eq!(resolved == Err(Refusal::Unsupported), kvm_msr, "{case}");
                let needs_tsc = mode == ModeOption::Tsc;
                match resolved {
                    Ok((of_backend, of_mode)) => {
                        assert!(backend.allows(of_backend) && mode.allows(of_mode), "{case}");
                        assert!(is_there(&offer, of_backend, of_mode), "{case}");
                        assert!(!needs_tsc || offer.has_tsc(of_backend), "{case}");
                    }
                    Err(Refusal::Unsupported) => {}
                    Err(Refusal::NotOffered) => {
                        for &of_backend in Backend::ALL {
                            for &of_mode in Mode::ALL {
                                let allowed = backend.allows(of_backend) && mode.allows(of_mode);
                                let there = is_there(&offer, of_backend, of_mode)
                                    && (!needs_tsc || offer.has_tsc(of_backend));
                                assert!(!(allowed && there), "{case}");
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The rule for two interfaces, as it is documented.
#[test]
fn of_two_interfaces_kvms_unless_it_is_unstable() {
    let all = Offer {
        kvm: true,
        kvm_stable: true,
        hyperv_page: true,
        hyperv_counter: true,
        ..Offer::default()
    };
    let auto = |offer: &Offer| resolve(BackendOption::Auto, ModeOption::Auto, offer);
    assert_eq!(auto(&all), Ok((Backend::Kvm, Mode::Page)));
    let unstable = Offer {
        kvm_stable: false,
        ..all
    };
    assert_eq!(auto(&unstable), Ok((Backend::Hyperv, Mode::Page)));
    let pageless = Offer {
        hyperv_page: false,
        ..unstable
    };
    assert_eq!(auto(&pageless), Ok((Backend::Kvm, Mode::Page)));
    let counter = Offer {
        kvm: false,
        ..pageless
    };
    assert_eq!(auto(&counter), Ok((Backend::Hyperv, Mode::Msr)));
    assert_eq!(auto(&Offer::default()), Err(Refusal::NotOffered));
    // The mode that only one of them has.
    let msr = resolve(BackendOption::Auto, ModeOption::Msr, &all);
    assert_eq!(msr, Ok((Backend::Hyperv, Mode::Msr)));
    // Whoever vouches for the TSC, where that was asked for.
    let tsc = |offer: &Offer| resolve(BackendOption::Auto, ModeOption::Tsc, offer);
    assert_eq!(tsc(&all), Err(Refusal::NotOffered));
    let of_hyperv = Offer {
        hyperv_tsc: true,
        ..all
    };
    assert_eq!(tsc(&of_hyperv), Ok((Backend::Hyperv, Mode::Page)));
    assert_eq!(auto(&of_hyperv), Ok((Backend::Kvm, Mode::Page)));
    let of_both = Offer {
        kvm_tsc: true,
        ..of_hyperv
    };
    assert_eq!(tsc(&of_both), Ok((Backend::Kvm, Mode::Page)));
}

/// The C clocks' own ratings, with a TSC that changes and with one that does not.
#[test]
fn ratings() {
    let clocks = [
        (Backend::Kvm, Mode::Page, [400, 299]),
        (Backend::Hyperv, Mode::Page, [500, 250]),
        // Beside `tsc` itself, where that is invariant.
        (Backend::Kvm, Mode::Tsc, [400, 300]),
        (Backend::Hyperv, Mode::Tsc, [500, 300]),
        (Backend::Hyperv, Mode::Msr, [495, 245]),
    ];
    for (backend, mode, c_clock) in clocks {
        for (invariant, c_clock) in [false, true].into_iter().zip(c_clock) {
            let rating = default_rating(backend, mode, invariant);
            assert!(rating > c_clock, "{backend:?} {mode:?}: {rating}");
            assert!(RATINGS.contains(&rating), "the default may be asked for");
            if mode == Mode::Msr {
                let page = default_rating(backend, Mode::Page, invariant);
                assert!(rating < page - 50, "below the C clock that reads the page");
            }
        }
    }
    assert!(!RATINGS.contains(&0) && !RATINGS.contains(&600));
}
