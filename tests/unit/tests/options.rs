// SPDX-License-Identifier: GPL-2.0

//! The parameters: every value there is, and what is none.
#![cfg(not(loom))]

use paraclock_unit::logic::options::{
    Backend, BackendOption, Mode, ModeOption, RATING_STEP, RATINGS, Unsupported, kvm_clock_rating,
    resolve,
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

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_a_name_or_none(name in prop::collection::vec(any::<u8>(), 0..16)) {
        if let Some(member) = ModeOption::from_name(&name) {
            prop_assert_eq!(name.strip_suffix(b"\n").unwrap_or(&name), member.name().as_bytes());
        }
    }
}

#[test]
fn resolved_every_combination() {
    for &backend in BackendOption::ALL {
        for &mode in ModeOption::ALL {
            let expected = match (backend, mode) {
                (BackendOption::Hyperv, _) => Err(Unsupported::Backend(backend)),
                (_, ModeOption::Auto | ModeOption::Page) => Ok((Backend::Kvm, Mode::Page)),
                (_, ModeOption::Tsc | ModeOption::Msr) => {
                    Err(Unsupported::Mode(Backend::Kvm, mode))
                }
            };
            assert_eq!(resolve(backend, mode), expected, "{backend:?} {mode:?}");
        }
    }
}

#[test]
fn ratings() {
    assert_eq!(kvm_clock_rating(true), 299);
    assert_eq!(kvm_clock_rating(false), 400);
    for invariant in [false, true] {
        let rating = kvm_clock_rating(invariant) + RATING_STEP;
        assert!(RATINGS.contains(&rating), "the default may be asked for");
    }
    assert!(!RATINGS.contains(&0) && !RATINGS.contains(&500));
}
