// SPDX-License-Identifier: GPL-2.0

//! What the administrator may ask for: the values of the module's parameters.

/// Makes an enumeration whose members have a name in the parameters and in the status file.
macro_rules! named {
    ($(#[$doc:meta])* $type:ident { $($(#[$member_doc:meta])* $member:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $type {
            $($(#[$member_doc])* $member,)*
        }

        impl $type {
            /// All members, in the order of their declaration.
            pub const ALL: &'static [Self] = &[$(Self::$member,)*];

            /// The member's name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$member => $name,)*
                }
            }

            /// Finds the member that has the given name, a newline at its end passed over.
            pub fn from_name(name: &[u8]) -> Option<Self> {
                let name = name.strip_suffix(b"\n").unwrap_or(name);
                Self::ALL
                    .iter()
                    .copied()
                    .find(|member| member.name().as_bytes() == name)
            }
        }
    };
}

named! {
    /// The parameter `backend`: whose clock to read.
    BackendOption {
        /// The best that the host offers.
        Auto = "auto",
        /// KVM's.
        Kvm = "kvm",
        /// Hyper-V's.
        Hyperv = "hyperv",
    }
}

named! {
    /// The parameter `mode`: what to read.
    ModeOption {
        /// The cheapest that is right on this host at this moment.
        Auto = "auto",
        /// The TSC alone.
        Tsc = "tsc",
        /// The page that the host rewrites.
        Page = "page",
        /// The host's counter, by an MSR.
        Msr = "msr",
    }
}

named! {
    /// What the clock reads at the moment.
    Mode {
        /// The page that the host rewrites, scaled by the TSC.
        Page = "page",
    }
}

named! {
    /// Whose clock is read.
    Backend {
        /// KVM's.
        Kvm = "kvm",
    }
}

/// Why a combination of parameters cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsupported {
    /// This backend is not built in.
    Backend(BackendOption),
    /// The backend has no such mode.
    Mode(Backend, ModeOption),
}

/// Resolves what was asked for.
///
/// # Errors
///
/// [`Unsupported`], naming what was asked for and cannot be had.
pub const fn resolve(
    backend: BackendOption,
    mode: ModeOption,
) -> Result<(Backend, Mode), Unsupported> {
    let backend = match backend {
        BackendOption::Auto | BackendOption::Kvm => Backend::Kvm,
        BackendOption::Hyperv => return Err(Unsupported::Backend(backend)),
    };
    match mode {
        ModeOption::Auto | ModeOption::Page => Ok((backend, Mode::Page)),
        ModeOption::Tsc | ModeOption::Msr => Err(Unsupported::Mode(backend, mode)),
    }
}

/// By how much the clock is rated above the C clock beside which it stands.
pub const RATING_STEP: i32 = 50;

/// The range of ratings that may be asked for: those of `struct clocksource`'s guide.
pub const RATINGS: core::ops::RangeInclusive<i32> = 1..=499;

/// The rating of the C driver's `kvm-clock`, which leaves a TSC that the host keeps invariant the
/// first place (`kvmclock_init()` in `arch/x86/kernel/kvmclock.c`).
pub const fn kvm_clock_rating(tsc_invariant: bool) -> i32 {
    if tsc_invariant {
        299
    } else {
        400
    }
}
