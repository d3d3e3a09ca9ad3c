// SPDX-License-Identifier: GPL-2.0

//! What came of a guest: a pass, a failure of what is tested, or a death of the rig.
//!
//! QEMU exits with 0 after a triple fault as it does after a clean power-off, and the software emulation of
//! SVM now and then loses a guest without a word. So a run passes only if its own end marker was seen, and the
//! rest is told apart by what the kernels said before they stopped.

use crate::console::{Line, Source};
use regex::Regex;
use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

/// A message of the kernel that no healthy run prints, with the lines after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub source: Source,
    pub lines: Vec<String>,
}

impl Fault {
    pub fn headline(&self) -> &str {
        self.lines.first().map_or("", String::as_str)
    }
}

/// How many lines of a splat are kept for the summary; all of it is in the log.
const FAULT_LINES: usize = 30;

static FAULT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        r"^(?:Kernel panic - not syncing|Oops\b|BUG: |WARNING: |watchdog: |kernel BUG at |",
        r"[^:]{0,40}: general protection fault|general protection fault|traps: PANIC|PANIC: |",
        r"INFO: task \S+ blocked for more than|INFO: possible |INFO: trying to register |INFO: rcu\w* |",
        r"rcu: INFO: |rcu: .*(?:detected stall|kthread starved)|unchecked MSR access error|UBSAN: |KASAN: |",
        r"(?:list_add|list_del) corruption|rust_kernel: panicked at|[^ ]*: panicked at |",
        r"int3: 0000|invalid opcode: 0000|divide error: 0000|stack segment: 0000|double fault: 0000|",
        r"clocksource: .*(?:'paraclock'|paraclock).*unstable|",
        r"sysfs: cannot create duplicate filename|irq \d+: nobody cared)",
    ))
    .expect("a constant pattern that the unit tests compile")
});

/// What the built-in driver's `sched_clock()` has to say where a test has the host refuse Hyper-V's counter, and
/// an NMI comes while the page is being rewritten: it does not expect that, and goes on.
static ASKED_FOR: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"^unchecked MSR access error: RDMSR from 0x40000020 at rIP: \S+ \(read_hv_reference_tsc\+",
    )
    .expect("a constant pattern that the unit tests compile")
});

/// The kernel's last words before the machine goes off in good order.
static POWER_OFF: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^reboot: Power down").expect("a constant pattern that the unit tests compile")
});

/// KVM or the inner QEMU gave the guest up.
static KVM_ERROR: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"KVM internal error|KVM: entry failed|error: kvm run failed|kvm_run returned")
        .expect("a constant pattern that the unit tests compile")
});

/// True if this line of a kernel's log is a splat's first.
pub fn is_fault(text: &str) -> bool {
    FAULT.is_match(text) && !ASKED_FOR.is_match(text)
}

pub fn is_power_off(line: &Line) -> bool {
    line.kernel && POWER_OFF.is_match(&line.text)
}

pub fn is_kvm_error(line: &Line) -> bool {
    !line.kernel && KVM_ERROR.is_match(&line.text)
}

/// Finds every splat in `lines`, one after the other.
pub fn faults(source: Source, lines: &[Line]) -> Vec<Fault> {
    let mut found: Vec<Fault> = Vec::new();
    let mut room = 0;
    for line in lines.iter().filter(|l| l.kernel) {
        if room > 0 {
            room -= 1;
            if let Some(fault) = found.last_mut() {
                fault.lines.push(line.text.clone());
            }
        } else if is_fault(&line.text) {
            found.push(Fault {
                source,
                lines: vec![line.text.clone()],
            });
            room = FAULT_LINES - 1;
        }
    }
    found
}

/// The bits of /proc/sys/kernel/tainted that a fault leaves: machine check, bad page, die, warning, soft lockup.
const TAINTED_BY_FAULT: u64 = (1 << 4) | (1 << 5) | (1 << 7) | (1 << 9) | (1 << 14);

pub fn tainted_by_fault(mask: u64) -> bool {
    mask & TAINTED_BY_FAULT != 0
}

/// How a death looked from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Death {
    /// Nothing more was printed.
    Hang { silent: Duration },
    /// The machine went away without a word: a reset or a triple fault.
    Reset,
    /// The machine was powered off before the end marker.
    PowerOff,
    /// KVM or the QEMU in L1 gave up.
    Kvm(String),
    /// L1's kernel, which runs nothing of what is tested, printed a splat.
    HostFault(String),
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Death::Hang { silent } => {
                write!(f, "hang (nothing printed for {} s)", silent.as_secs())
            }
            Death::Reset => f.write_str("reset or triple fault, without a word"),
            Death::PowerOff => f.write_str("powered off before the end marker"),
            Death::Kvm(line) => write!(f, "the hypervisor gave up: {line}"),
            Death::HostFault(line) => write!(f, "L1's kernel: {line}"),
        }
    }
}

/// What came of one flavour's run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The end marker was seen. Whether the tests passed is in their results.
    Finished { status: i32 },
    /// A panic, an Oops, a warning, a lockup: a failure, never retried.
    KernelFault(Vec<Fault>),
    /// Alive to the last, but it took too long: a failure.
    TimedOut { after: Duration },
    /// The machine died silently: the rig's fault as far as can be told; retried.
    RigDeath { who: Source, death: Death },
    /// QEMU itself could not do what it was told.
    QemuError(String),
    /// The machine died before this flavour's turn.
    NotRun,
}

/// How the outermost QEMU came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// By itself, with this exit status (128 + n for signal n).
    Exited { status: i32, stderr: String },
    /// Killed by us, because nothing had been printed for so long.
    Silent { who: Source, silent: Duration },
    /// Killed by us, because it took too long while still printing.
    Overtime { after: Duration },
    /// Killed by us, because a kernel had panicked and did not reset, or KVM had given up.
    GaveUp { why: String },
    /// Killed by us on purpose; all that was wanted had been seen.
    Done,
}

/// What is known about one flavour's run when the machine has stopped.
pub struct Evidence<'a> {
    pub started: bool,
    /// From the end marker: the status of init's task and the taint mask.
    pub end: Option<(i32, u64)>,
    /// L2's lines.
    pub lines: &'a [Line],
    /// Exit status of the QEMU that ran L2, where it came back.
    pub inner_status: Option<i32>,
    /// L1's lines while this flavour ran; what QEMU printed to its standard error is among them.
    pub host_lines: &'a [Line],
    pub stop: &'a Stop,
}

/// Judges one run.
pub fn judge(e: &Evidence<'_>) -> Verdict {
    if !e.started {
        return match e.stop {
            Stop::Exited { status, stderr } if *status != 0 => {
                Verdict::QemuError(qemu_said(*status, stderr))
            }
            _ => Verdict::NotRun,
        };
    }
    let mut splats = faults(Source::L2, e.lines);
    if let Some((status, tainted)) = e.end {
        if splats.is_empty() && tainted_by_fault(tainted) {
            let line = format!(
                "/proc/sys/kernel/tainted is {tainted}: the kernel complained where nobody saw it"
            );
            splats.push(Fault {
                source: Source::L2,
                lines: vec![line],
            });
        }
        if splats.is_empty() {
            return Verdict::Finished { status };
        }
    }
    if !splats.is_empty() {
        return Verdict::KernelFault(splats);
    }
    if let Some(line) = e.host_lines.iter().find(|l| is_kvm_error(l)) {
        return Verdict::RigDeath {
            who: Source::L2,
            death: Death::Kvm(line.text.clone()),
        };
    }
    if let Some(status) = e.inner_status {
        return inner_end(e, status);
    }
    if let Some(fault) = faults(Source::L1, e.host_lines).first() {
        return Verdict::RigDeath {
            who: Source::L1,
            death: Death::HostFault(fault.headline().to_owned()),
        };
    }
    match e.stop {
        Stop::Exited { status: 0, .. } => Verdict::RigDeath {
            who: Source::L1,
            death: Death::Reset,
        },
        Stop::Exited { status, stderr } => Verdict::QemuError(qemu_said(*status, stderr)),
        Stop::Silent { who, silent } => Verdict::RigDeath {
            who: *who,
            death: Death::Hang { silent: *silent },
        },
        Stop::Overtime { after } => Verdict::TimedOut { after: *after },
        Stop::GaveUp { why } => Verdict::RigDeath {
            who: Source::L2,
            death: Death::Kvm(why.clone()),
        },
        Stop::Done => Verdict::NotRun,
    }
}

/// The QEMU that ran L2 came back without L2 having said that it was done.
fn inner_end(e: &Evidence<'_>, status: i32) -> Verdict {
    let who = Source::L2;
    match status {
        0 if e.lines.iter().any(is_power_off) => Verdict::RigDeath {
            who,
            death: Death::PowerOff,
        },
        0 => Verdict::RigDeath {
            who,
            death: Death::Reset,
        },
        // Killed by a signal: nothing in L1 does that to it, but a CPU that computes wrongly may.
        128.. => Verdict::RigDeath {
            who,
            death: Death::Kvm(format!("QEMU in L1 died of signal {}", status - 128)),
        },
        _ => {
            let said: Vec<&str> = e
                .host_lines
                .iter()
                .filter(|l| !l.kernel)
                .map(|l| l.text.as_str())
                .collect();
            Verdict::QemuError(qemu_said(status, &said.join("\n")))
        }
    }
}

fn qemu_said(status: i32, stderr: &str) -> String {
    let line = stderr
        .lines()
        .map(str::trim)
        .rfind(|l| !l.is_empty() && !l.contains("warning: ") && !l.starts_with("@rig"))
        .unwrap_or("and printed nothing");
    format!("QEMU exited with {status}: {line}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(lines: &[(bool, &str)]) -> Vec<Line> {
        let line = |&(kernel, text): &(bool, &str)| match kernel {
            true => Line::kernel(Duration::ZERO, "[    1.000000] ", text),
            false => Line::user(Duration::ZERO, text),
        };
        lines.iter().map(line).collect()
    }

    fn gone() -> Stop {
        Stop::Exited {
            status: 0,
            stderr: String::new(),
        }
    }

    struct Case {
        started: bool,
        end: Option<(i32, u64)>,
        lines: Vec<Line>,
        inner: Option<i32>,
        host: Vec<Line>,
        stop: Stop,
    }

    impl Default for Case {
        fn default() -> Self {
            Case {
                started: true,
                end: None,
                lines: Vec::new(),
                inner: None,
                host: Vec::new(),
                stop: gone(),
            }
        }
    }

    impl Case {
        fn judge(&self) -> Verdict {
            judge(&Evidence {
                started: self.started,
                end: self.end,
                lines: &self.lines,
                inner_status: self.inner,
                host_lines: &self.host,
                stop: &self.stop,
            })
        }
    }

    #[test]
    fn finished() {
        let c = Case {
            end: Some((0, 1 << 12 | 1 << 18)),
            inner: Some(0),
            ..Case::default()
        };
        assert_eq!(c.judge(), Verdict::Finished { status: 0 });
        let c = Case {
            end: Some((1, 0)),
            stop: Stop::Silent {
                who: Source::L2,
                silent: Duration::ZERO,
            },
            ..c
        };
        assert_eq!(
            c.judge(),
            Verdict::Finished { status: 1 },
            "it hung only after it was done"
        );
    }

    #[test]
    fn panic_is_a_failure_however_the_machine_stopped() {
        let lines = log(&[
            (true, "paraclock: hi"),
            (true, "Kernel panic - not syncing: Fatal"),
            (true, "CPU: 0"),
        ]);
        for (inner, stop) in [
            (Some(0), gone()),
            (None, gone()),
            (
                None,
                Stop::Silent {
                    who: Source::L2,
                    silent: Duration::from_secs(60),
                },
            ),
        ] {
            let c = Case {
                lines: lines.clone(),
                inner,
                stop,
                ..Case::default()
            };
            let Verdict::KernelFault(f) = c.judge() else {
                panic!("{:?}", c.judge())
            };
            assert_eq!(f[0].lines, ["Kernel panic - not syncing: Fatal", "CPU: 0"]);
        }
    }

    #[test]
    fn a_warning_spoils_a_finished_run() {
        let lines = log(&[(
            true,
            "WARNING: kernel/time/clocksource.c:1 at f+0x1/0x2, CPU#0: insmod/99",
        )]);
        let c = Case {
            lines,
            end: Some((0, 0)),
            inner: Some(0),
            ..Case::default()
        };
        assert!(matches!(c.judge(), Verdict::KernelFault(_)));
        let c = Case {
            end: Some((0, 1 << 9)),
            inner: Some(0),
            ..Case::default()
        };
        assert!(
            matches!(c.judge(), Verdict::KernelFault(_)),
            "the taint mask tells of a warning nobody saw"
        );
    }

    #[test]
    fn what_is_a_fault() {
        for text in [
            "BUG: kernel NULL pointer dereference, address: 0000000000000000",
            "Oops: general protection fault, probably for non-canonical address",
            "Oops: 0002 [#1] SMP NOPTI",
            "watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [hammer:77]",
            "WARNING: possible circular locking dependency detected",
            "WARNING: CPU: 0 PID: 1 at kernel/x.c:1 f+0x0/0x1",
            "INFO: task insmod:55 blocked for more than 120 seconds.",
            "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "kernel BUG at lib/list_debug.c:1!",
            "unchecked MSR access error: WRMSR to 0x4b564d01",
            "clocksource: timekeeping watchdog on CPU1: Marking clocksource 'paraclock' as unstable because",
            "rust_kernel: panicked at src/x.rs:1",
            "traps: PANIC: double fault, error_code: 0x0",
        ] {
            assert!(is_fault(text), "{text}");
        }
        for text in [
            "paraclock: WARNING: is a word here",
            "Spectre V2 : WARNING: Unprivileged eBPF is enabled",
            "NMI watchdog: Perf NMI watchdog permanently disabled",
            "Oopsie",
            "rcu: Hierarchical RCU implementation.",
            "rcu: \tRCU CPU stall warnings timeout set to 21 (rcu_cpu_stall_timeout).",
            "clocksource: Switched to clocksource paraclock",
            "unchecked MSR access error: RDMSR from 0x40000020 at rIP: 0xffffffff82e90cd2 (read_hv_reference_tsc+0x52/0x70)",
        ] {
            assert!(!is_fault(text), "{text}");
        }
    }

    #[test]
    fn user_space_cannot_fake_a_fault() {
        let c = Case {
            lines: log(&[(false, "# BUG: quoted")]),
            end: Some((0, 0)),
            ..Case::default()
        };
        assert_eq!(c.judge(), Verdict::Finished { status: 0 });
    }

    #[test]
    fn triple_fault_of_l2() {
        let c = Case {
            inner: Some(0),
            lines: log(&[(false, "ok 1 a")]),
            ..Case::default()
        };
        assert_eq!(
            c.judge(),
            Verdict::RigDeath {
                who: Source::L2,
                death: Death::Reset
            }
        );
    }

    #[test]
    fn power_off_without_the_marker() {
        let c = Case {
            inner: Some(0),
            lines: log(&[(true, "reboot: Power down")]),
            ..Case::default()
        };
        assert_eq!(
            c.judge(),
            Verdict::RigDeath {
                who: Source::L2,
                death: Death::PowerOff
            }
        );
    }

    #[test]
    fn triple_fault_of_l1() {
        assert_eq!(
            Case::default().judge(),
            Verdict::RigDeath {
                who: Source::L1,
                death: Death::Reset
            }
        );
        let early = Case {
            started: false,
            ..Case::default()
        };
        assert_eq!(early.judge(), Verdict::NotRun);
    }

    #[test]
    fn hang() {
        let silent = Duration::from_secs(60);
        let c = Case {
            stop: Stop::Silent {
                who: Source::L2,
                silent,
            },
            ..Case::default()
        };
        assert_eq!(
            c.judge(),
            Verdict::RigDeath {
                who: Source::L2,
                death: Death::Hang { silent }
            }
        );
    }

    #[test]
    fn alive_but_late_is_a_failure() {
        let after = Duration::from_secs(300);
        let c = Case {
            stop: Stop::Overtime { after },
            ..Case::default()
        };
        assert_eq!(c.judge(), Verdict::TimedOut { after });
    }

    #[test]
    fn kvm_gives_up() {
        let host = log(&[(false, "KVM internal error. Suberror: 1")]);
        let c = Case {
            host,
            stop: Stop::GaveUp { why: "x".into() },
            ..Case::default()
        };
        assert!(matches!(
            c.judge(),
            Verdict::RigDeath {
                death: Death::Kvm(_),
                ..
            }
        ));
        let c = Case {
            inner: Some(139),
            ..Case::default()
        };
        assert!(matches!(
            c.judge(),
            Verdict::RigDeath {
                death: Death::Kvm(_),
                ..
            }
        ));
    }

    #[test]
    fn qemu_cannot() {
        let host = log(&[
            (false, "qemu-system-x86_64: warning: x"),
            (false, "qemu-system-x86_64: no such cpu"),
        ]);
        let c = Case {
            inner: Some(1),
            host,
            ..Case::default()
        };
        assert_eq!(
            c.judge(),
            Verdict::QemuError("QEMU exited with 1: qemu-system-x86_64: no such cpu".into())
        );
        let stop = Stop::Exited {
            status: 1,
            stderr: "qemu: -accel kvm: no\n".into(),
        };
        let c = Case {
            started: false,
            stop,
            ..Case::default()
        };
        assert_eq!(
            c.judge(),
            Verdict::QemuError("QEMU exited with 1: qemu: -accel kvm: no".into())
        );
    }

    #[test]
    fn l1s_own_splat_is_the_rigs() {
        let host = log(&[(true, "BUG: unable to handle page fault")]);
        let c = Case {
            host,
            ..Case::default()
        };
        assert!(matches!(
            c.judge(),
            Verdict::RigDeath {
                who: Source::L1,
                death: Death::HostFault(_)
            }
        ));
    }
}
