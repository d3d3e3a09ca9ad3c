// SPDX-License-Identifier: GPL-2.0

//! In which mode the clock has to be, and why.
//!
//! The TSC alone is the clock where the host vouches for it: it changes on the guest's request only
//! (Hyper-V's reenlightenment), or never (an invariant TSC). All of what that stands on is one
//! look, [`Ground`]; [`Machine::decide`] makes of it a mode and the reason for it.
//!
//! Mode `tsc` is left as soon as its ground is gone, and entered again once the ground has been
//! there without a break for the *hold-off*. The hold-off doubles each time, up to
//! [`LONGEST_HOLD_US`], unless the clock has been in mode `tsc` for long enough in between, so a
//! host that gives its word and takes it back all the time does not take the clock along.

use super::{
    frequency::Refused,
    options::{
        Mode,
        ModeOption, //
    }, //
};

/// Why the TSC may be read alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarantee {
    /// The host emulates the old TSC until this guest is ready for the new one.
    Reenlightenment,
    /// The TSC never changes.
    Invariant,
}

/// What there is of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// It is good, and says what it said before.
    Good,
    /// The host has withdrawn it, or never lets it settle.
    Withdrawn,
    /// It cannot be a clock's, or contradicts the counter.
    Implausible,
    /// It says another frequency or time than before, and nothing was announced.
    Changed,
    /// It was rewritten while it was looked at, or could not be compared with the counter: to be
    /// looked at again.
    Unknown,
    /// There is none, and none is needed: the counter is the reference.
    None,
}

/// What mode `tsc` stands on, at one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ground {
    /// What the host guarantees.
    pub guarantee: Result<Guarantee, NoGuarantee>,
    /// What the page is like.
    pub page: Page,
    /// Whether the host says that the TSCs of all CPUs are in step.
    pub is_stable: bool,
    /// Whether the kernel has something against the TSC.
    pub is_unstable_to_kernel: bool,
    /// Whether the TSCs of all CPUs were found in step.
    pub is_synchronized: bool,
    /// Whether they were found to be apart, or one is being moved, which is more than not to have been
    /// compared.
    pub is_apart: bool,
    /// What is wrong with the frequency.
    pub frequency: Result<(), Refused>,
    /// Whether the system sleeps, or is about to.
    pub is_suspended: bool,
}

/// Why the host does not guarantee anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoGuarantee {
    /// It offers neither.
    NotOffered,
    /// It offers reenlightenment, and the kernel cannot ask for it.
    NotArmed,
}

/// Why the clock is in the mode in which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The administrator has asked for it.
    Asked,
    /// Nothing else is there.
    Only,
    /// The host guarantees it.
    Guaranteed(Guarantee),
    /// Mode `tsc` has no ground: the host does not guarantee anything.
    NoGuarantee(NoGuarantee),
    /// Because of the page.
    Page(Page),
    /// The host does not vouch for the TSCs of all CPUs.
    NotStable,
    /// The kernel does not trust the TSC.
    UnstableToKernel,
    /// The TSCs of the CPUs are apart.
    NotSynchronized,
    /// Because of the TSC's frequency.
    Frequency(Refused),
    /// The system sleeps, or is about to.
    Suspended,
    /// The ground is there, but not for long enough.
    HeldOff,
}

impl Why {
    /// Says it in words, for the status file and the log.
    pub const fn reason(self) -> &'static str {
        match self {
            Why::Asked => "asked for",
            Why::Only => "nothing else is there",
            Why::Guaranteed(Guarantee::Reenlightenment) => {
                "the TSC changes on request only (reenlightenment)"
            }
            Why::Guaranteed(Guarantee::Invariant) => "the TSC never changes (invariant)",
            Why::NoGuarantee(NoGuarantee::NotOffered) => {
                "the host offers neither reenlightenment nor an invariant TSC"
            }
            Why::NoGuarantee(NoGuarantee::NotArmed) => {
                "reenlightenment is offered, but could not be enabled"
            }
            Why::Page(Page::Withdrawn) => "the host has withdrawn its page, or never finishes it",
            Why::Page(Page::Implausible) => "the host's page is not a clock's",
            Why::Page(Page::Changed) => "the host's page changed without a notification",
            Why::Page(Page::Unknown) => "the host's page could not be compared with the counter",
            Why::Page(Page::Good | Page::None) => "the host's page",
            Why::NotStable => "the host does not vouch for the TSCs of all CPUs",
            Why::UnstableToKernel => "the kernel has marked the TSC unstable",
            Why::NotSynchronized => "the TSCs of the CPUs are not in step",
            Why::Frequency(refused) => refused.reason(),
            Why::Suspended => "the system is suspended",
            Why::HeldOff => "the TSC is good again, but not for long enough",
        }
    }
}

impl Ground {
    /// Whether mode `tsc` may be entered or kept.
    ///
    /// # Errors
    ///
    /// The first of the reasons against it: those that stay before those that pass.
    pub fn supports_tsc(&self) -> Result<Guarantee, Why> {
        let guarantee = self.guarantee.map_err(Why::NoGuarantee)?;
        // Without an invariant TSC the kernel has never looked, on Hyper-V, and calls it unstable.
        // There it is the host's page that says whether the TSCs are in step.
        if self.is_unstable_to_kernel && guarantee == Guarantee::Invariant {
            return Err(Why::UnstableToKernel);
        }
        if !self.is_synchronized {
            return Err(Why::NotSynchronized);
        }
        if self.is_suspended {
            return Err(Why::Suspended);
        }
        match self.page {
            Page::Good | Page::None => {}
            page => return Err(Why::Page(page)),
        }
        if !self.is_stable {
            return Err(Why::NotStable);
        }
        self.frequency.map_err(Why::Frequency)?;
        Ok(guarantee)
    }
}

/// The shortest hold-off, in us.
pub const SHORTEST_HOLD_US: u64 = 100_000;

/// How often the hold-off doubles at the most.
const LEVELS: u32 = 9;

/// The longest hold-off, in us: 51.2 s.
pub const LONGEST_HOLD_US: u64 = SHORTEST_HOLD_US << LEVELS;

/// How many hold-offs mode `tsc` has to have lasted for the next one to be the shortest again.
const STEADY_HOLDS: u64 = 16;

/// How long it has to have lasted for that at the least, in us.
pub const STEADY_US: u64 = 10_000_000;

/// What the clock has to be in, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The mode.
    pub mode: Mode,
    /// The reason.
    pub why: Why,
}

/// What the clock can be in, and what the administrator wants of that; the history that the
/// hold-off needs.
///
/// Times are in us, of a clock that does not go back.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// The mode to be in where it is not `tsc`.
    base: Mode,
    /// The mode to be in where the TSCs were found to be apart: who reads a page reads the TSC.
    apart: Mode,
    wanted: ModeOption,
    /// In mode `tsc`: since when.
    entered: Option<u64>,
    /// Where mode `tsc` was left: since when its ground has been there.
    good_since: Option<u64>,
    /// How often mode `tsc` was left without having lasted, for something that the host has done; 0
    /// if it was never left at all, or the administrator has asked anew.
    level: u32,
    left: u64,
}

impl Machine {
    /// Begins in mode `base`, without a history. Mode `apart` needs no TSC, where there is such a
    /// mode; else it is `base`.
    pub const fn new(base: Mode, apart: Mode, wanted: ModeOption) -> Self {
        Self {
            base,
            apart,
            wanted,
            entered: None,
            good_since: None,
            level: 0,
            left: 0,
        }
    }

    /// What the administrator wants, and to forget the history: it is his word against it.
    ///
    /// `base` is the mode to be in where that is not `tsc`.
    pub fn want(&mut self, base: Mode, wanted: ModeOption) {
        self.base = base;
        self.wanted = wanted;
        self.level = 0;
        self.good_since = None;
    }

    /// What the administrator wants.
    pub const fn wanted(&self) -> ModeOption {
        self.wanted
    }

    /// Whether mode `tsc` may come about.
    pub const fn wants_tsc(&self) -> bool {
        matches!(self.wanted, ModeOption::Auto | ModeOption::Tsc)
    }

    /// How long the ground has to be there before mode `tsc` is entered again, in us.
    pub const fn hold_us(&self) -> u64 {
        match self.level {
            0 => 0,
            level => SHORTEST_HOLD_US << (level - 1),
        }
    }

    /// How often mode `tsc` was left because its ground was gone.
    pub const fn left(&self) -> u64 {
        self.left
    }

    /// The mode to be in at `now`, on this ground. To be followed.
    pub fn decide(&mut self, ground: &Ground, now: u64) -> Decision {
        if !self.wants_tsc() {
            self.entered = None;
            self.good_since = None;
            return Decision {
                mode: self.base,
                why: Why::Asked,
            };
        }
        match ground.supports_tsc() {
            Ok(guarantee) => {
                let since = *self.good_since.get_or_insert(now);
                if self.entered.is_none() && now.saturating_sub(since) < self.hold_us() {
                    return Decision {
                        mode: self.base,
                        why: Why::HeldOff,
                    };
                }
                self.entered.get_or_insert(now);
                Decision {
                    mode: Mode::Tsc,
                    why: Why::Guaranteed(guarantee),
                }
            }
            Err(why) => {
                self.leave(ground, why, now);
                let mode = if ground.is_apart {
                    self.apart
                } else {
                    self.base
                };
                Decision { mode, why }
            }
        }
    }

    /// The mode that was decided on could not be entered.
    pub fn failed(&mut self) {
        self.entered = None;
        self.good_since = None;
        self.level = self.level.max(1);
    }

    fn leave(&mut self, ground: &Ground, why: Why, now: u64) {
        self.good_since = None;
        let Some(entered) = self.entered.take() else {
            return;
        };
        let steady = (self.hold_us() * STEADY_HOLDS).max(STEADY_US);
        if now.saturating_sub(entered) >= steady {
            self.level = self.level.min(1);
        }
        let is_suspended = why == Why::Suspended;
        self.left += u64::from(!is_suspended);
        // A CPU that came up and could not be compared at once is nobody's fault, nor is a suspend.
        let is_innocent = is_suspended || why == Why::NotSynchronized && !ground.is_apart;
        if is_innocent {
            return;
        }
        self.level = if now.saturating_sub(entered) >= steady {
            1
        } else {
            (self.level + 1).min(LEVELS + 1)
        };
    }
}
