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
    /// The parameter `tsc_reliable`: whether the TSC is taken for reliable.
    ReliableOption {
        /// By the host's word and the CPU feature.
        Auto = "auto",
        /// Whatever they say.
        Always = "always",
        /// Whatever they say.
        Never = "never",
    }
}

named! {
    /// What the clock reads.
    Mode {
        /// The TSC alone.
        Tsc = "tsc",
        /// The page that the host rewrites, scaled by the TSC.
        Page = "page",
        /// The host's counter, by an MSR.
        Msr = "msr",
    }
}

named! {
    /// Whose clock is read.
    Backend {
        /// KVM's.
        Kvm = "kvm",
        /// Hyper-V's.
        Hyperv = "hyperv",
    }
}

/// What a host offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// KVM's clock.
    pub kvm: bool,
    /// KVM's clock, and the host maintains `PVCLOCK_TSC_STABLE_BIT`.
    pub kvm_stable: bool,
    /// The same, and the TSC is invariant.
    pub kvm_tsc: bool,
    /// Hyper-V's reference TSC page.
    pub hyperv_page: bool,
    /// Hyper-V's reference counter.
    pub hyperv_counter: bool,
    /// The same, and the TSC changes on request only, or never.
    pub hyperv_tsc: bool,
}

/// Why what was asked for cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The driver has no such mode, or not with this backend.
    Unsupported,
    /// The host does not offer it.
    NotOffered,
}

/// Everything that can be read where that is not the TSC alone, the best first: the rule for a host
/// that offers two interfaces.
///
/// KVM's own interface goes before the one that KVM imitates. Neither page can be more right than
/// the other, since KVM computes both from the same parameters. But where the host's TSCs fall
/// apart, kvmclock goes on with a page per vCPU, while the reference TSC page is withdrawn and each
/// reading of the counter leaves the guest; Linux has chosen KVM as well there, so that
/// kvmclock's pages are registered already; and only they tell that the guest was stopped. What
/// speaks for the other page, that it is read in a few instructions less, is less.
///
/// Without the stable bit kvmclock is the worse one: the vDSO cannot read it at all.
///
/// Where the TSC alone may be read that is the same TSC, whoever vouches for it, so it does not
/// change the order. A host that shows both interfaces has shown Linux KVM's, and Linux asks for
/// reenlightenment on Hyper-V's only.
const CHOICES: [Choice; 4] = [
    Choice {
        backend: Backend::Kvm,
        mode: Mode::Page,
        is_offered: |offer| offer.kvm && offer.kvm_stable,
    },
    Choice {
        backend: Backend::Hyperv,
        mode: Mode::Page,
        is_offered: |offer| offer.hyperv_page,
    },
    Choice {
        backend: Backend::Kvm,
        mode: Mode::Page,
        is_offered: |offer| offer.kvm,
    },
    Choice {
        backend: Backend::Hyperv,
        mode: Mode::Msr,
        is_offered: |offer| offer.hyperv_counter,
    },
];

/// Something that can be read, and where.
struct Choice {
    backend: Backend,
    mode: Mode,
    is_offered: fn(&Offer) -> bool,
}

impl Offer {
    /// Whether the TSC alone may be read, by the word of this backend's host.
    pub const fn has_tsc(&self, backend: Backend) -> bool {
        match backend {
            Backend::Kvm => self.kvm_tsc,
            Backend::Hyperv => self.hyperv_tsc,
        }
    }
}

impl BackendOption {
    /// Whether the backend may be had by this option.
    pub const fn allows(self, backend: Backend) -> bool {
        match self {
            BackendOption::Auto => true,
            BackendOption::Kvm => matches!(backend, Backend::Kvm),
            BackendOption::Hyperv => matches!(backend, Backend::Hyperv),
        }
    }
}

impl ModeOption {
    /// Whether the mode may be had by this option: with the TSC alone there has to be something
    /// else, for as long as that is no good.
    pub const fn allows(self, mode: Mode) -> bool {
        match self {
            ModeOption::Auto | ModeOption::Tsc => true,
            ModeOption::Page => matches!(mode, Mode::Page),
            ModeOption::Msr => matches!(mode, Mode::Msr),
        }
    }

    /// Whether the TSC alone may be read by this option.
    pub const fn allows_tsc(self) -> bool {
        matches!(self, ModeOption::Auto | ModeOption::Tsc)
    }
}

/// Resolves what was asked for on a host that offers this: what to read where that is not the TSC
/// alone.
///
/// # Errors
///
/// [`Refusal`].
pub fn resolve(
    backend: BackendOption,
    mode: ModeOption,
    offer: &Offer,
) -> Result<(Backend, Mode), Refusal> {
    let mut refusal = Refusal::Unsupported;
    for choice in CHOICES {
        if backend.allows(choice.backend) && mode.allows(choice.mode) {
            let suffices = mode != ModeOption::Tsc || offer.has_tsc(choice.backend);
            if suffices && (choice.is_offered)(offer) {
                return Ok((choice.backend, choice.mode));
            }
            refusal = Refusal::NotOffered;
        }
    }
    Err(refusal)
}

/// By how much the clock is rated above the C clock beside which it stands.
pub const RATING_STEP: i32 = 50;

/// The range of ratings that may be asked for. `struct clocksource`'s guide ends at 499; the
/// reference TSC page's C clock stands above it, at 500.
pub const RATINGS: core::ops::RangeInclusive<i32> = 1..=599;

/// The default rating, for a clock whose best mode is `mode`.
///
/// `tsc_invariant` is where the C driver leaves the TSC the first place: for KVM's clock where
/// the CPU says so (`kvmclock_init()` in `arch/x86/kernel/kvmclock.c`), for Hyper-V's where the
/// host grants it (`hv_init_tsc_clocksource()` in `drivers/clocksource/hyperv_timer.c`).
///
/// There the C clock `tsc`, at 300, is what it stands beside. It reads the same TSC, at the same
/// cost, and does not hear of it when the host takes its word back: so where mode `tsc` may come
/// about, this clock stands above it. Where the administrator does not want that mode it does not.
///
/// In mode `msr` the clock stands above the C clock that reads the counter as well, and below the
/// one of the page, which is a hundred times cheaper.
pub const fn default_rating(backend: Backend, mode: Mode, tsc_invariant: bool) -> i32 {
    match (backend, mode, tsc_invariant) {
        (Backend::Kvm, _, false) => 400 + RATING_STEP,
        (Backend::Kvm, _, true) => 299 + RATING_STEP,
        (Backend::Hyperv, Mode::Tsc | Mode::Page, false) => 500 + RATING_STEP,
        (Backend::Hyperv, Mode::Tsc, true) => 300 + RATING_STEP,
        (Backend::Hyperv, Mode::Page, true) => 250 + RATING_STEP,
        (Backend::Hyperv, Mode::Msr, false) => 499,
        (Backend::Hyperv, Mode::Msr, true) => 249,
    }
}
