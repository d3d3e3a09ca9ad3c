// SPDX-License-Identifier: GPL-2.0

//! The rules for `IA32_TSC_ADJUST` and for the synchronisation of the TSCs during CPU hotplug.
//!
//! They are those of the kernel's own `arch/x86/kernel/tsc_sync.c`, as a decision without state:
//! [`decide`] is asked when a CPU starts, and once more after each run of the check that it
//! asked for. What it says is to be done in the order of the fields of [`Decision`]. Who asks keeps
//! what a CPU is set to and the step at which it stands, and may ask again at any time with the
//! same step: when the host takes its word back, say, or gives it again.

pub use super::options::ReliableOption;

use core::fmt;

/// The rules, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Nothing writes the TSC, and `IA32_TSC_ADJUST` is written only where CPUID advertises it
    /// (`boot_cpu_has(X86_FEATURE_TSC_ADJUST)`, which stands before every access in
    /// `tsc_sync.c`). Applies where it does not.
    OnlyWhereAdvertised,
    /// On the boot CPU it is set to 0 if it is not 0, except where sockets are reset asynchronously
    /// (`tsc_sanitize_first_cpu()`). Applies where it is set.
    BootCpuToZero,
    /// A starting CPU gets the value of the CPU that came up first on its socket
    /// (`tsc_store_and_check_tsc_adjust()`). Applies where the two differ.
    SiblingToSocket,
    /// The first CPU of another socket, if the check of it fails, is moved to where the check
    /// fails no longer, in at most [`MAX_RUNS`] runs (`check_tsc_sync_target()`). Applies where it
    /// is moved.
    SocketIntoStep,
    /// A reliable TSC is not checked; what the rules before say of the register holds all the same
    /// (`tsc_clocksource_reliable` in `check_tsc_sync_target()`). Applies where a check is
    /// skipped for it.
    ReliableIsNotChecked,
    /// Where TSCs fall apart the host says so through its clock, and mode `tsc` is over until it
    /// says otherwise. Not in `tsc_sync.c`, which has no host. Applies where the host's word is
    /// withdrawn.
    HostsWord,
}

impl Rule {
    /// All rules, in their order.
    pub const ALL: &'static [Self] = &[
        Self::OnlyWhereAdvertised,
        Self::BootCpuToZero,
        Self::SiblingToSocket,
        Self::SocketIntoStep,
        Self::ReliableIsNotChecked,
        Self::HostsWord,
    ];

    /// The rule's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OnlyWhereAdvertised => "only-where-advertised",
            Self::BootCpuToZero => "boot-cpu-to-zero",
            Self::SiblingToSocket => "sibling-to-socket",
            Self::SocketIntoStep => "socket-into-step",
            Self::ReliableIsNotChecked => "reliable-is-not-checked",
            Self::HostsWord => "hosts-word",
        }
    }
}

/// A set of rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules(u8);

impl Rules {
    /// Whether the rule is one of them.
    pub const fn contains(self, rule: Rule) -> bool {
        self.0 & (1 << rule as u8) != 0
    }

    /// The rules, in their order.
    pub fn iter(self) -> impl Iterator<Item = Rule> {
        Rule::ALL
            .iter()
            .copied()
            .filter(move |rule| self.contains(*rule))
    }

    const fn with(self, rule: Rule, applies: bool) -> Self {
        Self(self.0 | (applies as u8) << rule as u8)
    }
}

/// How often the check is run at most where TSC_ADJUST can be moved in between; else once.
pub const MAX_RUNS: u8 = 3;

/// How long the check runs for the first CPU of a socket, in ms (`loop_timeout()`).
pub const FIRST_MS: u32 = 20;

/// How long the check runs for a CPU of whose socket another one is up, in ms.
pub const SIBLING_MS: u32 = 2;

/// How often the TSC_ADJUST of a CPU is verified, in s, one CPU after the other.
///
/// The kernel looks at a CPU's when that goes idle, at most once a second, which is no occasion
/// that a module has. An interrupt of one CPU a second is what it has instead.
pub const VERIFY_PERIOD_S: u32 = 1;

/// The CPU that came up first on a socket, as another one there finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Its TSC_ADJUST as it came up.
    pub boot_value: i64,
    /// What its TSC_ADJUST was set to since; the boot value if it was left alone.
    pub set_to: i64,
    /// Whether it was found in step with the other sockets, or is the boot CPU.
    pub in_step: bool,
}

/// Which CPU is starting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The boot CPU.
    Boot,
    /// The first one on its socket that is up, the boot CPU's aside.
    FirstOnSocket,
    /// Another one on its socket was up before.
    Sibling(Reference),
}

/// What the check has found in a run; see `tsc_sync.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Neither CPU saw the time of the other one ahead of its own.
    Passed,
    /// One CPU did, and always the same.
    Warped {
        /// What to add to the starting CPU's TSC_ADJUST.
        correction: i64,
    },
    /// Both did, or the TSC of one of them went back by itself.
    WarpedRandomly {
        /// The largest warp, in cycles.
        warp: u64,
    },
    /// The two hardly ran at the same time, so a warp would not have been seen.
    Unseen,
    /// The TSC of one of them stands still, or as good as.
    StandsStill,
    /// The other CPU did not come, or did not end.
    Absent,
}

/// Where a CPU stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is starting.
    Starting,
    /// The check has run.
    Checked {
        /// How often, this time included.
        run: u8,
        /// What the CPU's TSC_ADJUST was set to in this run.
        set_to: i64,
        /// What this run has found.
        outcome: Outcome,
    },
}

/// Counts the runs of one session for [`Step::Checked`].
///
/// A run in which nothing was seen has not failed, so it is not one of those after which a CPU is
/// given up; the last one of all ends the session all the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    seen: u8,
}

impl Runs {
    /// The step after run number `run`, from 1 on, with TSC_ADJUST at `set_to`.
    pub fn step(&mut self, run: u8, set_to: i64, outcome: Outcome) -> Step {
        let run = if outcome == Outcome::Unseen {
            run
        } else {
            self.seen = self.seen.saturating_add(1);
            self.seen
        };
        Step::Checked {
            run,
            set_to,
            outcome,
        }
    }
}

/// What a decision is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Input {
    /// The CPU's TSC_ADJUST as it came up; `None` where CPUID does not advertise the register.
    pub boot_value: Option<i64>,
    /// Which CPU it is.
    pub place: Place,
    /// Whether sockets are reset asynchronously (`tsc_async_resets`).
    pub async_resets: bool,
    /// Whether the TSC is taken for reliable: [`is_reliable`].
    pub reliable: bool,
    /// Whether the host has withdrawn its word for the TSC: [`HostsWord::Withdrawn`].
    pub withdrawn: bool,
    /// Where the CPU stands.
    pub step: Step,
}

/// Whether to run the check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// There is nothing to check, or nothing more.
    Skip,
    /// To be run, for so many ms.
    Run(u32),
}

/// Why there is no mode `tsc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The CPU's TSC is off.
    Warped,
    /// The TSCs do not go alike.
    WarpedRandomly,
    /// A TSC stands still.
    StandsStill,
    /// The check came to no end or to no result.
    NotChecked,
    /// The CPU goes by the first one of its socket, which is not in step.
    SocketOutOfStep,
    /// The host has withdrawn its word.
    Withdrawn,
}

impl Reason {
    /// The reason in words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Warped => "TSC out of step",
            Self::WarpedRandomly => "TSC warps randomly",
            Self::StandsStill => "TSC stands still",
            Self::NotChecked => "TSC not checked",
            Self::SocketOutOfStep => "socket's TSC out of step",
            Self::Withdrawn => "withdrawn by the host",
        }
    }
}

/// What the CPU's TSC is good for. The clock as a whole may go by the TSC where that is
/// [`Verdict::Allowed`] for every CPU that is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The check has to run first. Until then no mode `tsc` on this CPU.
    Pending,
    /// Mode `tsc` is allowed.
    Allowed,
    /// It is not.
    Denied(Reason),
}

/// What there is to be logged of a CPU; [`fmt::Display`] has the text behind the CPU's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// [`Rule::BootCpuToZero`] applied. A fault of the firmware, or of a hypervisor.
    BootCpuSet {
        /// The value found.
        found: i64,
    },
    /// The boot CPU's is not 0 and was left.
    BootCpuLeft {
        /// The value found.
        found: i64,
    },
    /// The CPU came up with another value than the first one of its socket: once for all CPUs.
    DiffersOnSocket {
        /// The value found.
        found: i64,
        /// The value of the socket.
        socket: i64,
    },
    /// [`Rule::SocketIntoStep`] applied.
    Moved {
        /// By how much.
        by: i64,
        /// To which value.
        to: i64,
    },
    /// The check has failed for good.
    Failed(Outcome),
    /// The TSC was in step, and is so no more.
    FellApart {
        /// By how many cycles it is ahead at least; behind, where negative.
        by: i64,
    },
}

impl Message {
    /// The message's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BootCpuSet { .. } => "boot-cpu-set",
            Self::BootCpuLeft { .. } => "boot-cpu-left",
            Self::DiffersOnSocket { .. } => "differs-on-socket",
            Self::Moved { .. } => "moved",
            Self::Failed(_) => "failed",
            Self::FellApart { .. } => "fell-apart",
        }
    }

    /// Whether the message is to be logged once only, for whichever CPU comes first.
    pub const fn once(self) -> bool {
        matches!(self, Self::DiffersOnSocket { .. })
    }
}

/// What ends messages of a CPU that is out of step.
const UNTIL: &str = "; no mode tsc until the CPU is started anew or tsc_reliable= is written, \
                     and it passes";

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::BootCpuSet { found } => {
                write!(f, "TSC_ADJUST was {found} on the boot CPU, set to 0")
            }
            Self::BootCpuLeft { found } => write!(
                f,
                "TSC_ADJUST is {found} on the boot CPU and stays: sockets are reset asynchronously"
            ),
            Self::DiffersOnSocket { found, socket } => write!(
                f,
                "TSC_ADJUST {found} differs from {socket} on the same socket, all are set alike"
            ),
            Self::Moved { by, to } => {
                write!(f, "TSC out of step, TSC_ADJUST moved by {by} to {to}")
            }
            Self::Failed(outcome) => {
                match outcome {
                    // Not to be had: a check that passed has not failed.
                    Outcome::Passed => f.write_str("TSC in step")?,
                    Outcome::Warped { correction } => {
                        write!(f, "TSC out of step by {} cycles", -i128::from(correction))?
                    }
                    Outcome::WarpedRandomly { warp } => {
                        write!(f, "TSC warps randomly, by up to {warp} cycles")?
                    }
                    Outcome::Unseen => {
                        return f.write_str(
                            "TSC not compared, the two CPUs hardly ran at once; \
                             no mode tsc until they do",
                        );
                    }
                    Outcome::StandsStill => f.write_str("TSC stands still")?,
                    Outcome::Absent => {
                        return f.write_str(
                            "TSC not compared, a CPU did not come; no mode tsc until it does",
                        );
                    }
                }
                f.write_str(UNTIL)
            }
            Self::FellApart { by } => {
                write!(
                    f,
                    "TSC out of step by {by} cycles or more, and was not{UNTIL}"
                )
            }
        }
    }
}

/// What is to be done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What to write to `IA32_TSC_ADJUST` of the CPU, if anything.
    pub write: Option<i64>,
    /// What the register then holds, to be remembered and verified; `None` where there is none.
    pub set_to: Option<i64>,
    /// Whether to run the check, for the first time or again.
    pub check: Check,
    /// What follows for mode `tsc`.
    pub verdict: Verdict,
    /// What to log.
    pub log: Option<Message>,
    /// The rules that applied.
    pub rules: Rules,
}

/// Whether the check may be run again: only where the CPU can be moved before.
const fn may_move(input: &Input) -> bool {
    matches!(
        (input.boot_value, input.place),
        (Some(_), Place::FirstOnSocket)
    )
}

/// Decides.
pub fn decide(input: &Input) -> Decision {
    let mut decision = match input.step {
        Step::Starting => start(input),
        Step::Checked {
            run,
            set_to,
            outcome,
        } => checked(input, run, set_to, outcome),
    };
    if input.withdrawn {
        decision.verdict = Verdict::Denied(Reason::Withdrawn);
    }
    decision.rules = decision
        .rules
        .with(Rule::OnlyWhereAdvertised, input.boot_value.is_none())
        .with(Rule::HostsWord, input.withdrawn);
    decision
}

fn start(input: &Input) -> Decision {
    let mut decision = Decision {
        write: None,
        set_to: input.boot_value,
        check: Check::Skip,
        verdict: Verdict::Allowed,
        log: None,
        rules: Rules::default(),
    };
    // The register first, reliable or not.
    let check = match (input.place, input.boot_value) {
        (Place::Boot, Some(found)) if found != 0 => {
            if input.async_resets {
                decision.log = Some(Message::BootCpuLeft { found });
            } else {
                decision.set(0, Rule::BootCpuToZero);
                decision.log = Some(Message::BootCpuSet { found });
            }
            Check::Skip
        }
        (Place::Boot, _) => Check::Skip,
        (Place::FirstOnSocket, _) => Check::Run(FIRST_MS),
        // Nothing is known of the CPU's TSC but what the check can tell.
        (Place::Sibling(_), None) => Check::Run(SIBLING_MS),
        (Place::Sibling(reference), Some(found)) => {
            if found != reference.set_to {
                decision.set(reference.set_to, Rule::SiblingToSocket);
            }
            // A socket that was moved has another value than what its CPUs come up with; one that
            // comes back from offline may have that already.
            if found != reference.boot_value && found != reference.set_to {
                decision.log = Some(Message::DiffersOnSocket {
                    found,
                    socket: reference.boot_value,
                });
            }
            if !reference.in_step && !input.reliable {
                decision.verdict = Verdict::Denied(Reason::SocketOutOfStep);
            }
            Check::Skip
        }
    };
    if check != Check::Skip {
        if input.reliable {
            decision.rules = decision.rules.with(Rule::ReliableIsNotChecked, true);
        } else {
            decision.check = check;
            decision.verdict = Verdict::Pending;
        }
    }
    decision
}

fn checked(input: &Input, run: u8, set_to: i64, outcome: Outcome) -> Decision {
    let mut decision = Decision {
        write: None,
        set_to: input.boot_value.and(Some(set_to)),
        check: Check::Skip,
        verdict: Verdict::Pending,
        log: None,
        rules: Rules::default(),
    };
    let again = may_move(input) && run < MAX_RUNS;
    let reason = match outcome {
        Outcome::Passed => {
            decision.verdict = Verdict::Allowed;
            return decision;
        }
        Outcome::Warped { correction } if again => {
            // The TSC is a number modulo 2^64, and so is what is added to it.
            let to = set_to.wrapping_add(correction);
            decision.set(to, Rule::SocketIntoStep);
            decision.log = Some(Message::Moved { by: correction, to });
            decision.check = Check::Run(FIRST_MS);
            return decision;
        }
        Outcome::Unseen if again => {
            decision.check = Check::Run(FIRST_MS);
            return decision;
        }
        Outcome::Warped { .. } => Reason::Warped,
        Outcome::WarpedRandomly { .. } => Reason::WarpedRandomly,
        Outcome::StandsStill => Reason::StandsStill,
        Outcome::Unseen | Outcome::Absent => Reason::NotChecked,
    };
    decision.verdict = Verdict::Denied(reason);
    decision.log = Some(Message::Failed(outcome));
    decision
}

impl Decision {
    fn set(&mut self, value: i64, rule: Rule) {
        self.write = Some(value);
        self.set_to = Some(value);
        self.rules = self.rules.with(rule, true);
    }
}

/// What the host says of the TSC, through its clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostsWord {
    /// Nothing.
    None,
    /// That it is stable and in step: TSC_INVARIANT of Hyper-V, or the stable bit of kvmclock with
    /// an invariant TSC.
    Given,
    /// That it is so no more: the stable bit was cleared, the page withdrawn.
    Withdrawn,
}

/// Whether the TSC is reliable: then it is not checked, and the clock needs no watchdog
/// (`CLOCK_SOURCE_MUST_VERIFY`) for its sake.
///
/// `feature` is `X86_FEATURE_TSC_RELIABLE`. Linux sets it at boot by what the host says then and
/// never clears it, so the host's later word goes before it.
pub const fn is_reliable(option: ReliableOption, feature: bool, host: HostsWord) -> bool {
    match (option, host) {
        (ReliableOption::Always, _) => true,
        (ReliableOption::Never, _) => false,
        (ReliableOption::Auto, HostsWord::Given) => true,
        (ReliableOption::Auto, HostsWord::Withdrawn) => false,
        (ReliableOption::Auto, HostsWord::None) => feature,
    }
}

/// What is kept of a CPU's verdict.
///
/// A verdict that stands on a TSC being reliable does so only for as long as it is. And who goes by
/// the first CPU of its socket has no verdict of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// As the CPU of its socket by whose TSC_ADJUST it goes.
    Socket,
    /// Found in step, or the boot CPU.
    InStep,
    /// Not checked, since it was reliable.
    Skipped,
    /// To be checked.
    Pending,
    /// Not in step, or not found to be.
    Denied(Reason),
}

impl Standing {
    /// All of them that a [`Decision`] without a withdrawn word leads to, for numbering them.
    const ALL: [Self; 9] = [
        Self::Socket,
        Self::InStep,
        Self::Skipped,
        Self::Pending,
        Self::Denied(Reason::Warped),
        Self::Denied(Reason::WarpedRandomly),
        Self::Denied(Reason::StandsStill),
        Self::Denied(Reason::NotChecked),
        Self::Denied(Reason::SocketOutOfStep),
    ];

    /// What to keep of a decision that was made from that input.
    pub fn of(input: &Input, decision: &Decision) -> Self {
        if let (Place::Sibling(_), Some(_), Step::Starting) =
            (input.place, input.boot_value, input.step)
        {
            return Self::Socket;
        }
        match decision.verdict {
            Verdict::Pending => Self::Pending,
            Verdict::Denied(reason) => Self::Denied(reason),
            Verdict::Allowed if decision.rules.contains(Rule::ReliableIsNotChecked) => {
                Self::Skipped
            }
            Verdict::Allowed => Self::InStep,
        }
    }

    /// Its name in the status file; of one that is denied, the reason.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Socket => "as its socket",
            Self::InStep => "in step",
            Self::Skipped => "not checked, reliable",
            Self::Pending => "to be checked",
            Self::Denied(reason) => reason.name(),
        }
    }

    /// The verdict that it stands for, where the TSC is reliable or is not; [`Standing::Socket`]
    /// adds nothing to that of the other CPU.
    pub const fn verdict(self, reliable: bool) -> Verdict {
        match self {
            Self::Socket | Self::InStep => Verdict::Allowed,
            Self::Skipped | Self::Pending if reliable => Verdict::Allowed,
            Self::Skipped | Self::Pending => Verdict::Pending,
            Self::Denied(reason) => Verdict::Denied(reason),
        }
    }

    /// Whether the check is worth another run by itself: it came to no result.
    pub const fn is_open(self, reliable: bool) -> bool {
        matches!(self, Self::Denied(Reason::NotChecked))
            || matches!(self.verdict(reliable), Verdict::Pending)
    }

    /// A number for it.
    pub fn to_number(self) -> u64 {
        // What is not in the list is not kept by the driver; then it is to be checked.
        let pending = Self::ALL.iter().position(|other| *other == Self::Pending);
        Self::ALL
            .iter()
            .position(|other| *other == self)
            .or(pending)
            .map_or(0, |number| number as u64)
    }

    /// What has that number.
    pub fn from_number(number: u64) -> Self {
        usize::try_from(number)
            .ok()
            .and_then(|number| Self::ALL.get(number).copied())
            .unwrap_or(Self::Pending)
    }
}

/// What was found on a CPU that is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its TSC_ADJUST, where CPUID advertises the register.
    pub value: Option<i64>,
    /// What it was set to.
    pub set_to: i64,
    /// Whether that it was changed has been logged before.
    pub warned: bool,
    /// Whether the CPU comes back from a suspend: then it is logged anew.
    pub resume: bool,
    /// What was found instead at the last look, and written over.
    pub overwritten: Option<i64>,
    /// Whether the kernel verifies the register as well, by a record of its own: it does not where
    /// the TSC is unstable to it.
    pub kernel_verifies: bool,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restore {
    /// What to write to `IA32_TSC_ADJUST`, if anything.
    pub write: Option<i64>,
    /// What the CPU is taken to be set to from now on.
    pub set_to: i64,
    /// Whether to log it.
    pub log: bool,
    /// To be remembered for [`Found::warned`].
    pub warned: bool,
    /// To be remembered for [`Found::overwritten`].
    pub overwritten: Option<i64>,
}

/// Decides about a TSC_ADJUST that somebody else may have changed (`tsc_verify_tsc_adjust()`).
///
/// It is written back. Where the kernel verifies it too and the very same value is there again at
/// the next look, it is the kernel that has written it, by its own record: two who correct each
/// other would go on for ever, so that value it is from then on. What it is good for the check
/// has to say.
pub fn verify(found: &Found) -> Restore {
    let changed = found.value.filter(|value| *value != found.set_to);
    let mut restore = Restore {
        write: None,
        set_to: found.set_to,
        log: changed.is_some() && (found.resume || !found.warned),
        warned: changed.is_some() || found.warned,
        overwritten: None,
    };
    if let Some(value) = changed {
        if found.kernel_verifies && found.overwritten == Some(value) {
            restore.set_to = value;
        } else {
            restore.write = Some(found.set_to);
            restore.overwritten = Some(value);
        }
    }
    restore
}
