// SPDX-License-Identifier: GPL-2.0

//! One run of the machine, as its consoles tell it: which flavour is on, since when, and whether it is
//! time to give up. No process is handled here, so all of it can be tested without one.
//!
//! The guests' init scripts print marks, lines of user space that start with `@rig`:
//!
//! ```text
//! L1  @rig l1 up                          L1's user space runs
//! L1  @rig l1 run kvm-adopt               L2 is started
//! L2  @rig start kvm-adopt check          L2's user space runs
//! L2  @rig alive 12.34                    heartbeat, at least every 10 s
//! L2  @rig end status=0 tainted=4096      all that was planned has been done
//! L1  @rig l1 ran kvm-adopt status=0      the QEMU that ran L2 has ended
//! L1  @rig l1 end                         power-off follows
//! ```

use crate::console::{Line, Source};
use crate::verdict::{self, Evidence, Stop, Verdict};
use crate::vm::{Flavour, is_wanted_crash};
use std::time::Duration;

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// L1, without a line printed.
    pub boot_silence: Duration,
    /// L2, without a line printed.
    pub silence: Duration,
    /// One flavour, from the start of L2 to its end.
    pub run: Duration,
    /// From a panic to the reset that `panic=-1` asks for, and for what is still to be printed.
    pub after_panic: Duration,
}

/// By how many times itself a limit of silence is extended where the machine has no CPU to run on.
const STARVED_FACTOR: u32 = 4;

impl Default for Limits {
    fn default() -> Self {
        Limits {
            boot_silence: Duration::from_secs(90),
            silence: Duration::from_secs(60),
            run: Duration::from_secs(600),
            after_panic: Duration::from_secs(10),
        }
    }
}

/// One flavour's turn.
#[derive(Debug, Default)]
pub struct Run {
    pub flavour: Option<Flavour>,
    pub started: Duration,
    /// L2's lines.
    pub lines: Vec<Line>,
    /// Where L1's lines of this run begin and end.
    host: (usize, Option<usize>),
    up: bool,
    end: Option<(i32, u64)>,
    inner_status: Option<i32>,
    last_output: Duration,
    /// When a line said that nothing more is to be expected.
    doomed: Option<(Duration, String)>,
}

/// What is going on, for whoever waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Firmware,
    HostUp,
    GuestBoots(Flavour),
    GuestUp(Flavour),
    GuestDone(Flavour),
    Ended,
}

#[derive(Debug)]
pub struct Session {
    limits: Limits,
    wanted: Vec<Flavour>,
    runs: Vec<Run>,
    current: bool,
    host_lines: Vec<Line>,
    host_doomed: Option<(Duration, String)>,
    /// L2's lines that came before L1's word of its start.
    early: Vec<Line>,
    last_host_output: Duration,
    /// Since the last line of either.
    starved: Duration,
    phase: Phase,
}

/// The outcome of one flavour.
#[derive(Debug)]
pub struct Outcome {
    pub flavour: Flavour,
    pub verdict: Verdict,
    /// L2's lines.
    pub lines: Vec<Line>,
}

/// The outcome of one run of the machine.
#[derive(Debug)]
pub struct Ended {
    pub outcomes: Vec<Outcome>,
    /// L1's own splats, seen in a run that went on all the same.
    pub host_faults: Vec<verdict::Fault>,
}

impl Session {
    pub fn new(wanted: &[Flavour], limits: Limits) -> Self {
        Session {
            limits,
            wanted: wanted.to_vec(),
            runs: Vec::new(),
            current: false,
            host_lines: Vec::new(),
            host_doomed: None,
            early: Vec::new(),
            last_host_output: Duration::ZERO,
            starved: Duration::ZERO,
            phase: Phase::Firmware,
        }
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The flavour on now, and since when.
    fn run(&mut self) -> Option<&mut Run> {
        if self.current {
            self.runs.last_mut()
        } else {
            None
        }
    }

    /// The machine would have run for so long, and this one had no CPU for it: it does not count as silence.
    pub fn starved(&mut self, without: Duration) {
        self.starved += without;
    }

    pub fn line(&mut self, source: Source, line: Line) {
        self.starved = Duration::ZERO;
        match source {
            Source::L1 => self.host_line(line),
            Source::L2 => self.guest_line(line),
        }
    }

    fn host_line(&mut self, line: Line) {
        self.last_host_output = line.at;
        let at = line.at;
        if line.kernel && line.text.starts_with("Kernel panic") {
            self.host_doomed.get_or_insert((at, line.text.clone()));
        }
        if verdict::is_kvm_error(&line)
            && let Some(run) = self.run()
        {
            run.doomed.get_or_insert((at, line.text.clone()));
        }
        let mark = if line.kernel {
            None
        } else {
            line.text.strip_prefix("@rig l1 ").map(str::to_owned)
        };
        self.host_lines.push(line);
        let Some(mark) = mark else { return };
        let mut words = mark.split_whitespace();
        match (words.next(), words.next()) {
            (Some("up"), _) => self.phase = Phase::HostUp,
            (Some("run"), Some(name)) => self.start(Flavour::from_name(name), at),
            (Some("ran"), _) => {
                let here = self.host_lines.len();
                let status = field(&mark, "status=").unwrap_or(-1);
                if let Some(run) = self.run() {
                    run.inner_status = Some(i32::try_from(status).unwrap_or(-1));
                    run.host.1 = Some(here);
                    run.last_output = at;
                }
                self.current = false;
            }
            (Some("end"), _) => self.phase = Phase::Ended,
            _ => {}
        }
    }

    fn start(&mut self, flavour: Option<Flavour>, at: Duration) {
        let host = (self.host_lines.len(), None);
        self.runs.push(Run {
            flavour,
            started: at,
            last_output: at,
            host,
            ..Run::default()
        });
        self.current = true;
        if let Some(f) = flavour {
            self.phase = Phase::GuestBoots(f);
        }
        for line in std::mem::take(&mut self.early) {
            self.guest_line(line);
        }
    }

    fn guest_line(&mut self, line: Line) {
        // A line may come before its run's start or after its end: L1 and L2 print on wires of their own.
        let Some(run) = self.runs.last_mut() else {
            self.early.push(line);
            return;
        };
        run.last_output = line.at;
        if line.kernel
            && line.text.starts_with("Kernel panic")
            && !is_wanted_crash(run.flavour, &line.text)
        {
            run.doomed.get_or_insert((line.at, line.text.clone()));
        }
        if !line.kernel {
            if line.text.starts_with("@rig second ") {
                // Another kernel in the same guest. Where a crash led into it, what that printed
                // is no fault.
                let crash = run
                    .lines
                    .iter()
                    .position(|l| l.kernel && is_wanted_crash(run.flavour, &l.text));
                run.lines.truncate(crash.unwrap_or(run.lines.len()));
            } else if line.text.starts_with("@rig start ") {
                run.up = true;
                if let Some(f) = run.flavour {
                    self.phase = Phase::GuestUp(f);
                }
            } else if let Some(rest) = line.text.strip_prefix("@rig end ") {
                // Without both numbers it is no end: a line may be cut short.
                if let (Some(status), Some(tainted)) =
                    (field(rest, "status="), field(rest, "tainted="))
                {
                    run.end = Some((i32::try_from(status).unwrap_or(-1), tainted.unsigned_abs()));
                    if let Some(f) = run.flavour {
                        self.phase = Phase::GuestDone(f);
                    }
                }
            }
        }
        run.lines.push(line);
    }

    /// Whether the machine has to be killed now.
    pub fn overdue(&self, now: Duration) -> Option<Stop> {
        let waited = |since: Duration| now.saturating_sub(since);
        // Not for ever: a machine that hangs may spin, and then waits for a CPU half of the time on a busy machine.
        let silence = |since: Duration, limit: Duration| {
            waited(since) > limit + self.starved.min(limit * STARVED_FACTOR)
        };
        if let Some((at, why)) = &self.host_doomed
            && waited(*at) > self.limits.after_panic
        {
            return Some(Stop::GaveUp { why: why.clone() });
        }
        let run = self.runs.last().filter(|_| self.current);
        let Some(run) = run else {
            return silence(self.last_host_output, self.limits.boot_silence).then_some(
                Stop::Silent {
                    who: Source::L1,
                    silent: waited(self.last_host_output),
                },
            );
        };
        if let Some((at, why)) = &run.doomed
            && waited(*at) > self.limits.after_panic
        {
            return Some(Stop::GaveUp { why: why.clone() });
        }
        if run.end.is_some() && waited(run.last_output) > self.limits.after_panic {
            // It was done, and hangs on its way out. What is left to run needs a new machine.
            return Some(Stop::Silent {
                who: Source::L2,
                silent: waited(run.last_output),
            });
        }
        if silence(run.last_output, self.limits.silence) {
            return Some(Stop::Silent {
                who: Source::L2,
                silent: waited(run.last_output),
            });
        }
        let after = waited(run.started);
        (after > self.limits.run).then_some(Stop::Overtime { after })
    }

    /// The machine has stopped: judges every flavour that was wanted.
    pub fn finish(mut self, stop: &Stop) -> Ended {
        let mut outcomes = Vec::new();
        for &flavour in &self.wanted {
            let index = self.runs.iter().position(|r| r.flavour == Some(flavour));
            let run = index
                .map(|i| std::mem::take(&mut self.runs[i]))
                .unwrap_or_default();
            let host_end = run.host.1.unwrap_or(self.host_lines.len());
            let host_lines = self.host_lines.get(run.host.0..host_end).unwrap_or(&[]);
            let verdict = verdict::judge(&Evidence {
                started: index.is_some(),
                end: run.end,
                lines: &run.lines,
                inner_status: run.inner_status,
                host_lines,
                stop,
            });
            outcomes.push(Outcome {
                flavour,
                verdict,
                lines: run.lines,
            });
        }
        // Not one was started: that, too, is the death of something, and has to be said of the first one.
        if let Some(first) = outcomes.first_mut()
            && first.verdict == Verdict::NotRun
        {
            first.verdict = self.never_started(stop);
        }
        Ended {
            outcomes,
            host_faults: verdict::faults(Source::L1, &self.host_lines),
        }
    }

    fn never_started(&self, stop: &Stop) -> Verdict {
        let silent = Stop::Silent {
            who: Source::L1,
            silent: Duration::ZERO,
        };
        verdict::judge(&Evidence {
            started: true,
            end: None,
            lines: &[],
            inner_status: None,
            host_lines: &self.host_lines,
            stop: if *stop == Stop::Done { &silent } else { stop },
        })
    }
}

/// L1's word that L2 has ended.
pub fn is_end_of_run(line: &Line) -> bool {
    !line.kernel && line.text.starts_with("@rig l1 ran ")
}

/// The number after `key` in a mark.
fn field(text: &str, key: &str) -> Option<i64> {
    text.split_whitespace()
        .find_map(|w| w.strip_prefix(key))?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Death;

    const BOTH: [Flavour; 2] = [Flavour::KvmAdopt, Flavour::KvmOwn];

    fn s(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn gone() -> Stop {
        Stop::Exited {
            status: 0,
            stderr: String::new(),
        }
    }

    /// Feeds `(second, source, text)`; a text that starts with `[` is the kernel's.
    fn feed(session: &mut Session, script: &[(u64, Source, &str)]) {
        for &(at, source, text) in script {
            let line = match text.strip_prefix('[') {
                Some(text) => Line::kernel(s(at), "[    0.000000] ", text),
                None => Line::user(s(at), text),
            };
            session.line(source, line);
        }
    }

    const FIRST: &[(u64, Source, &str)] = &[
        (4, Source::L1, "@rig l1 up"),
        (5, Source::L1, "@rig l1 run kvm-adopt"),
        (10, Source::L2, "@rig start kvm-adopt check"),
        (11, Source::L2, "ok 1 a"),
        (12, Source::L2, "@rig end status=0 tainted=4096"),
        (13, Source::L1, "@rig l1 ran kvm-adopt status=0"),
    ];

    fn verdicts(session: Session, stop: &Stop) -> Vec<Verdict> {
        session
            .finish(stop)
            .outcomes
            .into_iter()
            .map(|o| o.verdict)
            .collect()
    }

    #[test]
    fn a_good_run() {
        let mut x = Session::new(&BOTH, Limits::default());
        feed(&mut x, FIRST);
        assert_eq!(x.overdue(s(14)), None);
        feed(
            &mut x,
            &[
                (14, Source::L1, "@rig l1 run kvm-own"),
                (20, Source::L2, "@rig start kvm-own check"),
                (21, Source::L2, "@rig end status=1 tainted=0"),
                (22, Source::L1, "@rig l1 ran kvm-own status=0"),
                (22, Source::L1, "@rig l1 end"),
            ],
        );
        assert_eq!(x.phase(), Phase::Ended);
        assert_eq!(
            verdicts(x, &gone()),
            [
                Verdict::Finished { status: 0 },
                Verdict::Finished { status: 1 }
            ]
        );
    }

    #[test]
    fn what_was_finished_before_a_death_stays() {
        let mut x = Session::new(&BOTH, Limits::default());
        feed(&mut x, FIRST);
        feed(
            &mut x,
            &[
                (14, Source::L1, "@rig l1 run kvm-own"),
                (15, Source::L2, "[Linux"),
            ],
        );
        let v = verdicts(x, &gone());
        assert_eq!(v[0], Verdict::Finished { status: 0 });
        assert_eq!(
            v[1],
            Verdict::RigDeath {
                who: Source::L1,
                death: Death::Reset
            }
        );
    }

    #[test]
    fn a_death_before_the_turn() {
        let mut x = Session::new(&BOTH, Limits::default());
        feed(&mut x, &FIRST[..3]);
        let v = verdicts(x, &gone());
        assert_eq!(
            v[0],
            Verdict::RigDeath {
                who: Source::L1,
                death: Death::Reset
            }
        );
        assert_eq!(v[1], Verdict::NotRun);
    }

    #[test]
    fn l1_never_comes_up() {
        let x = Session::new(&BOTH, Limits::default());
        let stop = x.overdue(s(91)).expect("silent for too long");
        assert!(matches!(
            stop,
            Stop::Silent {
                who: Source::L1,
                ..
            }
        ));
        let v = verdicts(x, &stop);
        assert!(
            matches!(
                &v[0],
                Verdict::RigDeath {
                    who: Source::L1,
                    death: Death::Hang { .. }
                }
            ),
            "{v:?}"
        );
        assert_eq!(v[1], Verdict::NotRun);
        let x = Session::new(&BOTH, Limits::default());
        let v = verdicts(
            x,
            &Stop::Exited {
                status: 1,
                stderr: "no".into(),
            },
        );
        assert!(matches!(v[0], Verdict::QemuError(_)));
    }

    #[test]
    fn l2_hangs() {
        let mut x = Session::new(&BOTH, Limits::default());
        feed(&mut x, &FIRST[..4]);
        // L1's chatter does not make L2 alive.
        feed(&mut x, &[(60, Source::L1, "[something")]);
        assert_eq!(x.overdue(s(70)), None);
        let stop = x.overdue(s(72)).expect("silent for too long");
        assert_eq!(
            stop,
            Stop::Silent {
                who: Source::L2,
                silent: s(61)
            }
        );
    }

    #[test]
    fn a_machine_without_a_cpu_is_waited_for() {
        let mut x = Session::new(&BOTH, Limits::default());
        feed(&mut x, &FIRST[..4]);
        x.starved(s(50));
        assert_eq!(x.overdue(s(72)), None);
        assert!(x.overdue(s(122)).is_some());
        // Not for ever.
        x.starved(s(1000));
        assert_eq!(x.overdue(s(310)), None);
        assert!(x.overdue(s(312)).is_some());
        // What was before a line is over.
        feed(&mut x, &[(312, Source::L2, "@rig alive 300")]);
        assert_eq!(x.overdue(s(371)), None);
        assert!(x.overdue(s(373)).is_some());
    }

    #[test]
    fn an_end_mark_that_is_cut_short_is_none() {
        let mut x = Session::new(&BOTH[..1], Limits::default());
        feed(&mut x, &FIRST[..4]);
        feed(
            &mut x,
            &[
                (12, Source::L2, "@rig end status=0"),
                (13, Source::L1, "@rig l1 ran kvm-adopt status=0"),
            ],
        );
        assert_eq!(
            verdicts(x, &gone()),
            [Verdict::RigDeath {
                who: Source::L2,
                death: Death::Reset
            }]
        );
    }

    #[test]
    fn alive_for_too_long() {
        let mut x = Session::new(&BOTH[..1], Limits::default());
        feed(&mut x, &FIRST[..3]);
        for at in (20..700).step_by(10) {
            feed(&mut x, &[(at, Source::L2, "@rig alive 1.00")]);
            if let Some(stop) = x.overdue(s(at)) {
                assert!(matches!(stop, Stop::Overtime { .. }));
                assert!(matches!(verdicts(x, &stop)[0], Verdict::TimedOut { .. }));
                return;
            }
        }
        panic!("never overdue");
    }

    #[test]
    fn a_panic_that_does_not_reset() {
        let mut x = Session::new(&BOTH[..1], Limits::default());
        feed(&mut x, &FIRST[..3]);
        feed(
            &mut x,
            &[(11, Source::L2, "[Kernel panic - not syncing: x")],
        );
        assert_eq!(x.overdue(s(12)), None);
        let stop = x.overdue(s(22)).expect("doomed");
        assert!(matches!(verdicts(x, &stop)[0], Verdict::KernelFault(_)));
    }

    /// A crash that was asked for leads into the second kernel; any other is one.
    #[test]
    fn a_wanted_crash_is_no_fault() {
        let crash: &[(u64, Source, &str)] = &[
            (1, Source::L1, "@rig l1 up"),
            (2, Source::L1, "@rig l1 run kvm-crash"),
            (8, Source::L2, "@rig start kvm-crash check"),
            (
                9,
                Source::L2,
                "[Kernel panic - not syncing: sysrq triggered crash",
            ),
            (9, Source::L2, "[Call Trace:"),
        ];
        let second: &[(u64, Source, &str)] = &[
            (30, Source::L2, "@rig second kvm-crash"),
            (31, Source::L2, "@rig end status=0 tainted=0"),
            (32, Source::L1, "@rig l1 ran kvm-crash status=0"),
            (33, Source::L1, "@rig l1 end"),
        ];
        let mut x = Session::new(&[Flavour::KvmCrash], Limits::default());
        feed(&mut x, crash);
        assert_eq!(x.overdue(s(25)), None);
        feed(&mut x, second);
        assert_eq!(verdicts(x, &gone())[0], Verdict::Finished { status: 0 });

        // The same without the second kernel, and the same in a flavour that is not about it.
        let mut x = Session::new(&[Flavour::KvmCrash], Limits::default());
        feed(&mut x, crash);
        assert!(matches!(verdicts(x, &gone())[0], Verdict::KernelFault(_)));
        assert!(!is_wanted_crash(
            Some(Flavour::KvmOwn),
            "Kernel panic - not syncing: sysrq triggered crash"
        ));
    }

    #[test]
    fn l1s_splat_in_a_run_that_goes_on_is_told() {
        let mut x = Session::new(&BOTH[..1], Limits::default());
        feed(&mut x, &[(1, Source::L1, "[WARNING: CPU: 0 PID: 1 at x")]);
        feed(&mut x, FIRST);
        assert_eq!(x.finish(&gone()).host_faults.len(), 1);
    }
}
