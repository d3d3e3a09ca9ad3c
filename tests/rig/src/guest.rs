// SPDX-License-Identifier: GPL-2.0

//! Runs flavours of the guest to their ends: in as few boots of L1 as can be, and again where the rig died.

use crate::console::{Line, Source};
use crate::context::{Context, shown};
use crate::session::{Ended, Limits, Outcome, Phase, Session};
use crate::verdict::{Fault, Stop, Verdict};
use crate::vm::initramfs::{self, Payload};
use crate::vm::run::{Launch, Watcher, watch};
use crate::vm::{Flavour, Task, direct, outer, testhost, tsc};
use anyhow::{Context as _, Result};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A death of the rig is followed by another try this often.
pub const RETRIES: usize = 2;

/// The test host has no SVM between itself and the guest, and no excuse.
fn retries(flavour: Flavour) -> usize {
    if flavour.test_host().is_some() {
        0
    } else {
        RETRIES
    }
}

/// What came of one flavour in the end.
#[derive(Debug)]
pub struct Final {
    pub flavour: Flavour,
    pub verdict: Verdict,
    /// L2's lines.
    pub lines: Vec<Line>,
    pub log: PathBuf,
    /// Deaths of the rig before.
    pub deaths: Vec<String>,
}

/// What came of all.
#[derive(Debug, Default)]
pub struct Results {
    pub finals: Vec<Final>,
    /// Splats of L1's kernel in runs that went on all the same, and where they are logged.
    pub host_faults: Vec<(Fault, PathBuf)>,
}

/// Who hears of what is going on.
pub trait Audience {
    fn watcher(&mut self) -> &mut dyn Watcher;
    /// The rig died and is started once more.
    fn again(&mut self, flavour: Flavour, why: &str);
}

/// Runs `task` in each flavour.
pub fn run(
    cx: &Context,
    task: Task,
    flavours: &[Flavour],
    limits: Limits,
    payload: &Payload,
    logs: &Path,
    audience: &mut dyn Audience,
) -> Result<Results> {
    let runner = Runner {
        cx,
        task,
        limits,
        image: match task {
            Task::Nested => cx.nested_image(payload)?,
            _ => cx.l2_image(payload)?,
        },
    };
    retry(flavours, logs, audience, |left, log, watcher| {
        runner.boot(left, log, watcher)
    })
}

/// Boots until every flavour has its verdict; `boot` runs one machine.
fn retry(
    flavours: &[Flavour],
    logs: &Path,
    audience: &mut dyn Audience,
    mut boot: impl FnMut(&[Flavour], &Path, &mut dyn Watcher) -> Result<Ended>,
) -> Result<Results> {
    let mut results = Results::default();
    let mut left: Vec<Flavour> = flavours.to_vec();
    let mut deaths: Vec<(Flavour, String)> = Vec::new();
    let mut fruitless = 0;
    for attempt in 1.. {
        let log = logs.join(format!("boot-{attempt}"));
        let ended = boot(&left, &log, audience.watcher())?;
        let died = |v: &Verdict| matches!(v, Verdict::RigDeath { .. });
        let whole = !ended.outcomes.iter().any(|o| died(&o.verdict));
        if whole {
            results.host_faults.extend(
                ended
                    .host_faults
                    .into_iter()
                    .map(|f| (f, log.join("l1.log"))),
            );
        }
        let before = left.len();
        for Outcome {
            flavour,
            verdict,
            lines,
        } in ended.outcomes
        {
            if let Verdict::RigDeath { who, death } = &verdict {
                let count = deaths.iter().filter(|(f, _)| *f == flavour).count();
                if count < retries(flavour) {
                    let why = format!("{flavour}: {who}: {death}");
                    audience.again(flavour, &why);
                    deaths.push((flavour, why));
                    continue;
                }
            }
            if verdict == Verdict::NotRun {
                continue;
            }
            left.retain(|f| *f != flavour);
            let deaths = deaths
                .iter()
                .filter(|(f, _)| *f == flavour)
                .map(|(_, why)| why.clone())
                .collect();
            let log = match flavour.test_host() {
                Some(_) => log.join(flavour.name()).join("l2.log"),
                None => log.join(if lines.is_empty() { "l1.log" } else { "l2.log" }),
            };
            results.finals.push(Final {
                flavour,
                verdict,
                lines,
                log,
                deaths,
            });
        }
        // Every boot either settles a flavour or is one of the deaths that are counted; if it is neither,
        // something is wrong that another boot does not cure.
        fruitless = if left.len() == before {
            fruitless + 1
        } else {
            0
        };
        if left.is_empty() || fruitless > RETRIES {
            break;
        }
    }
    for flavour in left {
        let deaths = deaths
            .iter()
            .filter(|(f, _)| *f == flavour)
            .map(|(_, why)| why.clone())
            .collect();
        let verdict = Verdict::NotRun;
        let log = logs.to_owned();
        results.finals.push(Final {
            flavour,
            verdict,
            lines: Vec::new(),
            log,
            deaths,
        });
    }
    results
        .finals
        .sort_by_key(|f| flavours.iter().position(|g| *g == f.flavour));
    Ok(results)
}

struct Runner<'a> {
    cx: &'a Context,
    task: Task,
    limits: Limits,
    /// L2's.
    image: PathBuf,
}

impl Runner<'_> {
    fn boot(&self, flavours: &[Flavour], log: &Path, watcher: &mut dyn Watcher) -> Result<Ended> {
        if flavours.iter().any(|f| f.test_host().is_some()) {
            return self.boot_test_host(flavours, log, watcher);
        }
        // Instructions are counted by the emulator, so a benchmark needs it wherever it runs.
        if self.task != Task::Bench && self.cx.choice()?.direct {
            self.boot_direct(flavours, log, watcher)
        } else {
            self.boot_nested(flavours, log, watcher)
        }
    }

    fn boot_nested(
        &self,
        flavours: &[Flavour],
        log: &Path,
        watcher: &mut dyn Watcher,
    ) -> Result<Ended> {
        let launch = nested(self.cx, self.task, flavours, &self.image)?;
        let mut session = Session::new(flavours, self.limits);
        let clock = Instant::now();
        let stop = watch(&launch, log, &mut session, clock, watcher)?;
        Ok(session.finish(&stop))
    }

    fn boot_direct(
        &self,
        flavours: &[Flavour],
        log: &Path,
        watcher: &mut dyn Watcher,
    ) -> Result<Ended> {
        let artifacts = self.cx.artifacts()?;
        let qemu = initramfs::inner_qemu(artifacts)?;
        self.boot_each(flavours, log, watcher, |flavour, _| {
            direct::launch(artifacts, &qemu, &self.image, self.task, flavour)
        })
    }

    fn boot_test_host(
        &self,
        flavours: &[Flavour],
        log: &Path,
        watcher: &mut dyn Watcher,
    ) -> Result<Ended> {
        let artifacts = self.cx.artifacts()?;
        self.boot_each(flavours, log, watcher, |flavour, log| {
            let shape = flavour
                .test_host()
                .with_context(|| format!("{flavour} does not run on the test host"))?;
            testhost::launch(artifacts, &self.image, self.task, flavour, shape, log)
        })
    }

    /// A machine for each flavour; this program takes L1's part and makes its marks.
    fn boot_each(
        &self,
        flavours: &[Flavour],
        log: &Path,
        watcher: &mut dyn Watcher,
        launch: impl Fn(Flavour, &Path) -> Result<Launch>,
    ) -> Result<Ended> {
        let mut all = Ended {
            outcomes: Vec::new(),
            host_faults: Vec::new(),
        };
        for &flavour in flavours {
            let log = log.join(flavour.name());
            let launch = launch(flavour, &log)?;
            let mut session = Session::new(&[flavour], self.limits);
            let clock = Instant::now();
            let mark = |at, text: String| Line::user(at, text);
            session.line(
                Source::L1,
                mark(clock.elapsed(), format!("@rig l1 run {flavour}")),
            );
            let stop = watch(&launch, &log, &mut session, clock, watcher)?;
            if let Stop::Exited { status, stderr } = &stop {
                for line in stderr.lines() {
                    session.line(Source::L1, mark(clock.elapsed(), line.to_owned()));
                }
                session.line(
                    Source::L1,
                    mark(
                        clock.elapsed(),
                        format!("@rig l1 ran {flavour} status={status}"),
                    ),
                );
            }
            all.outcomes.extend(session.finish(&stop).outcomes);
        }
        Ok(all)
    }
}

/// The command line of the nested rig, with its image built.
pub fn nested(cx: &Context, task: Task, flavours: &[Flavour], l2_image: &Path) -> Result<Launch> {
    let artifacts = cx.artifacts()?;
    let image = initramfs::l1(&cx.build().join("images"), &cx.guest(), artifacts, l2_image)?;
    Ok(outer::launch(
        artifacts,
        &image,
        task,
        flavours,
        tsc::khz()?,
        &[],
    ))
}

/// Boots L1 on the test host, its TSC being the device's, with an L2 whose CPUs all read its clock for so many
/// seconds. Once, whatever comes of it: this is about the machine itself.
pub fn hammer(
    cx: &Context,
    seconds: u64,
    payload: &Payload,
    log: &Path,
    watcher: &mut dyn Watcher,
) -> Result<Ended> {
    const SPARE: Duration = Duration::from_secs(180);
    let flavour = Flavour::KvmAdopt;
    let artifacts = cx.artifacts()?;
    let l2_image = cx.l2_image(payload)?;
    let image = initramfs::l1(
        &cx.build().join("images"),
        &cx.guest(),
        artifacts,
        &l2_image,
    )?;
    let mut launch = outer::launch(
        artifacts,
        &image,
        Task::Hammer,
        &[flavour],
        testhost::TSC_KHZ,
        &[format!("rig.more=rig.seconds={seconds}")],
    );
    launch.args.push("-device".into());
    launch
        .args
        .push(testhost::svm_host_device().to_string().into());
    let limits = Limits {
        // The guest counts seconds that it has slept, which are longer on a busy machine.
        run: Duration::from_secs(seconds) * 2 + SPARE,
        ..Limits::default()
    };
    let mut session = Session::new(&[flavour], limits);
    let stop = watch(&launch, log, &mut session, Instant::now(), watcher)?;
    Ok(session.finish(&stop))
}

/// A verdict that is not `Finished`, in words; the first line says it.
pub fn explain(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Finished { status } => format!("finished with status {status}"),
        Verdict::KernelFault(faults) => {
            let mut text = String::new();
            for fault in faults {
                text += &format!(
                    "kernel of {}: {}\n",
                    fault.source,
                    fault.lines.join("\n    ")
                );
            }
            text
        }
        Verdict::TimedOut { after } => format!(
            "still running after {} s, which is too long",
            after.as_secs()
        ),
        Verdict::RigDeath { who, death } => {
            format!("the rig died once more than is forgiven: {who}: {death}")
        }
        Verdict::QemuError(text) => text.clone(),
        Verdict::NotRun => "never had its turn: the rig died before".to_owned(),
    }
}

/// What a phase is called.
pub fn phase_name(phase: Phase) -> String {
    match phase {
        Phase::Firmware => "the emulated host boots".to_owned(),
        Phase::HostUp => "the emulated host is up".to_owned(),
        Phase::GuestBoots(f) => format!("{f} boots"),
        Phase::GuestUp(f) => format!("{f} is up"),
        Phase::GuestDone(f) => format!("{f} is done"),
        Phase::Ended => "power-off".to_owned(),
    }
}

/// Prints what the guests print, to standard error.
pub fn print_line(source: Source, line: &Line) {
    eprintln!(
        "{:8.2} {source}| {}{}",
        line.at.as_secs_f64(),
        line.stamp,
        line.text
    );
}

/// Where the logs of a run are, for a message.
pub fn log_of(cx: &Context, log: &Path) -> String {
    shown(log, &cx.root)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Death;
    use crate::vm::run::Quiet;

    struct Deaf(Quiet, usize);

    impl Audience for Deaf {
        fn watcher(&mut self) -> &mut dyn Watcher {
            &mut self.0
        }
        fn again(&mut self, _: Flavour, _: &str) {
            self.1 += 1;
        }
    }

    const ALL: [Flavour; 3] = [Flavour::KvmAdopt, Flavour::KvmOwn, Flavour::KvmAbsent];

    fn dead() -> Verdict {
        Verdict::RigDeath {
            who: Source::L2,
            death: Death::Reset,
        }
    }

    /// Runs with the given verdicts, boot by boot, and returns what was wanted at each.
    fn play(boots: &[&[Verdict]]) -> (Vec<Vec<Flavour>>, Results, usize) {
        let mut wanted = Vec::new();
        let mut deaf = Deaf(Quiet, 0);
        let mut next = boots.iter();
        let results = retry(&ALL, Path::new("/logs"), &mut deaf, |left, _, _| {
            wanted.push(left.to_vec());
            let verdicts = next.next().expect("one boot more than was planned");
            let outcome = |(f, v): (&Flavour, &Verdict)| Outcome {
                flavour: *f,
                verdict: v.clone(),
                lines: Vec::new(),
            };
            Ok(Ended {
                outcomes: left.iter().zip(verdicts.iter()).map(outcome).collect(),
                host_faults: Vec::new(),
            })
        })
        .unwrap();
        (wanted, results, deaf.1)
    }

    const DONE: Verdict = Verdict::Finished { status: 0 };

    #[test]
    fn all_in_one_boot() {
        let (wanted, results, again) = play(&[&[DONE, DONE, DONE]]);
        assert_eq!((wanted.len(), again), (1, 0));
        assert!(
            results
                .finals
                .iter()
                .all(|f| f.verdict == DONE && f.deaths.is_empty())
        );
    }

    #[test]
    fn only_what_was_not_finished_is_run_again() {
        let (wanted, results, again) = play(&[&[DONE, dead(), Verdict::NotRun], &[DONE, DONE]]);
        assert_eq!(wanted, [ALL.to_vec(), ALL[1..].to_vec()]);
        assert_eq!(again, 1);
        assert_eq!(results.finals[1].deaths.len(), 1);
        assert!(results.finals.iter().all(|f| f.verdict == DONE));
    }

    #[test]
    fn three_deaths_are_a_failure() {
        let (wanted, results, _) = play(&[&[dead(), DONE, DONE], &[dead()], &[dead()]]);
        assert_eq!(wanted.len(), 3);
        assert_eq!(results.finals[0].verdict, dead());
        assert_eq!(results.finals[0].deaths.len(), RETRIES);
    }

    #[test]
    fn a_failure_is_never_run_again() {
        let fault = Verdict::KernelFault(Vec::new());
        let (wanted, results, again) = play(&[&[
            fault.clone(),
            DONE,
            Verdict::TimedOut {
                after: Duration::ZERO,
            },
        ]]);
        assert_eq!((wanted.len(), again), (1, 0));
        assert_eq!(results.finals[0].verdict, fault);
    }

    #[test]
    fn boots_that_settle_nothing_come_to_an_end() {
        let none: &[Verdict] = &[Verdict::NotRun, Verdict::NotRun, Verdict::NotRun];
        let (_, results, _) = play(&[none, none, none]);
        assert!(results.finals.iter().all(|f| f.verdict == Verdict::NotRun));
    }
}
