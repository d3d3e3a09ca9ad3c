// SPDX-License-Identifier: GPL-2.0

//! The driver in guests of a real KVM: a suite for each hypervisor whose clock it reads. They differ in
//! their flavours and in nothing else.

use crate::console::{Line, Source};
use crate::context::Context;
use crate::guest::{self, Audience, Final};
use crate::ktap::{self, Status};
use crate::progress::{Step, human};
use crate::report::Report;
use crate::session::{Limits, Phase};
use crate::verdict::Verdict;
use crate::vm::run::Watcher;
use crate::vm::{Flavour, Task};
use anyhow::{Context as _, Result};
use std::time::Duration;

pub fn kvm(cx: &Context, report: &mut Report) -> Result<()> {
    run(cx, report, "kvm", Flavour::KVM)
}

pub fn hyperv(cx: &Context, report: &mut Report) -> Result<()> {
    run(cx, report, "hyperv", Flavour::HYPERV)
}

fn run(cx: &Context, report: &mut Report, suite: &str, flavours: &[Flavour]) -> Result<()> {
    let flavours: Vec<Flavour> = flavours
        .iter()
        .copied()
        .filter(|f| cx.flavours.is_empty() || cx.flavours.contains(f))
        .collect();
    if flavours.is_empty() {
        report.skip(suite, "it has none of the flavours that were asked for");
        return Ok(());
    }
    let logs = cx.fresh_logs(suite)?;
    cx.artifacts()?;
    let payload = cx.payload()?;
    cx.choice()?;
    let mut audience = Teller::new(cx, &format!("{suite}: guests"));
    let results = guest::run(
        cx,
        Task::Check,
        &flavours,
        Limits::default(),
        payload,
        &logs,
        &mut audience,
    )?;
    for f in &results.finals {
        judge(report, f);
        report.rig_deaths.extend(f.deaths.iter().cloned());
    }
    for (fault, log) in &results.host_faults {
        // The rest of the run was in order, yet this kernel carries the series as well.
        report.fail("the host's kernel", fault.lines.join("\n"), Some(log));
    }
    audience.finish();
    Ok(())
}

/// One flavour's results, each under the flavour's name.
pub(super) fn judge(report: &mut Report, f: &Final) {
    let flavour = f.flavour;
    let user: Vec<&str> = f
        .lines
        .iter()
        .filter(|l| !l.kernel)
        .map(|l| l.text.as_str())
        .collect();
    let found = ktap::parse(user.iter().copied());
    let failed = found.failed();
    for case in &found.cases {
        let name = format!("{flavour}/{}", case.name);
        match &case.status {
            Status::Pass => report.pass(name),
            Status::Skip(why) => report.skip(name, why),
            Status::Fail => {
                let why = case
                    .diagnostics
                    .iter()
                    .map(|d| d.trim_start_matches("# "))
                    .collect::<Vec<_>>();
                let why = if why.is_empty() {
                    "it printed no reason".to_owned()
                } else {
                    last(&why, 12)
                };
                report.fail(name, why, Some(&f.log));
            }
        }
    }
    // A run that was cut short has its failure below; that results are missing then is no news.
    if matches!(f.verdict, Verdict::Finished { .. }) {
        for problem in &found.problems {
            report.fail(format!("{flavour}/KTAP"), problem, Some(&f.log));
        }
    }
    match &f.verdict {
        Verdict::Finished { status: 0 } if found.cases.is_empty() => {
            report.fail(format!("{flavour}/KTAP"), "no result at all", Some(&f.log));
        }
        Verdict::Finished { status: 0 } => {}
        Verdict::Finished { status } if failed == 0 => {
            report.fail(
                format!("{flavour}/init"),
                format!("no test failed, but the status is {status}"),
                Some(&f.log),
            );
        }
        Verdict::Finished { .. } => {}
        verdict => report.fail(
            format!("{flavour}/guest"),
            guest::explain(verdict),
            Some(&f.log),
        ),
    }
}

fn last(lines: &[&str], n: usize) -> String {
    lines[lines.len().saturating_sub(n)..].join("\n")
}

/// Progress: a line a phase, and the number of results so far.
pub(super) struct Teller {
    step: Step,
    results: u64,
    verbose: bool,
}

impl Teller {
    pub(super) fn new(cx: &Context, title: &str) -> Teller {
        Teller {
            step: Step::start(title.to_owned()),
            results: 0,
            verbose: cx.verbose,
        }
    }

    pub(super) fn note(&mut self, text: &str) {
        self.step.note(text);
    }

    pub(super) fn finish(self) {
        self.step.finish("");
    }
}

impl Audience for Teller {
    fn watcher(&mut self) -> &mut dyn Watcher {
        self
    }

    fn again(&mut self, flavour: Flavour, why: &str) {
        self.step
            .note(&format!("rig death, {flavour} is run again: {why}"));
    }
}

impl Watcher for Teller {
    fn line(&mut self, source: Source, line: &Line) {
        if self.verbose {
            guest::print_line(source, line);
        }
        let text = line.text.trim_start_matches(['#', ' ']);
        if source == Source::L2
            && !line.kernel
            && (text.starts_with("ok ") || text.starts_with("not ok "))
        {
            self.results += 1;
        }
    }

    fn phase(&mut self, phase: Phase, at: Duration) {
        self.step.note(&format!(
            "{} ({} since power-on)",
            guest::phase_name(phase),
            human(at)
        ));
    }

    fn tick(&mut self, phase: Phase, _at: Duration) {
        self.step.tick(
            &format!(
                "{}, {} results so far",
                guest::phase_name(phase),
                self.results
            ),
            None,
        );
    }
}

/// For whoever starts one guest and reads what it prints: every line of it that is its user's.
pub fn run_one(
    cx: &Context,
    task: Task,
    flavour: Flavour,
    name: &str,
    limits: Limits,
    show: bool,
) -> Result<Final> {
    let logs = cx.fresh_logs(name)?;
    cx.artifacts()?;
    let payload = cx.payload()?;
    if task != Task::Bench && flavour.test_host().is_none() {
        cx.choice()?;
    }
    let mut audience = Printer {
        step: Step::start(format!("{name}: booting the guest")),
        show,
        verbose: cx.verbose,
    };
    let mut results = guest::run(cx, task, &[flavour], limits, payload, &logs, &mut audience)?;
    results.finals.pop().context("a run without a result")
}

struct Printer {
    step: Step,
    show: bool,
    verbose: bool,
}

impl Audience for Printer {
    fn watcher(&mut self) -> &mut dyn Watcher {
        self
    }

    fn again(&mut self, _: Flavour, why: &str) {
        self.step.note(&format!(
            "the rig died, and the guest is started again: {why}"
        ));
    }
}

impl Watcher for Printer {
    fn line(&mut self, source: Source, line: &Line) {
        if self.verbose {
            guest::print_line(source, line);
        } else if self.show && source == Source::L2 && !line.kernel && !line.text.starts_with('@') {
            println!("{}", line.text);
        }
    }

    fn phase(&mut self, phase: Phase, at: Duration) {
        self.step.note(&format!(
            "{} ({} since power-on)",
            guest::phase_name(phase),
            human(at)
        ));
    }

    fn tick(&mut self, phase: Phase, _at: Duration) {
        if !matches!(phase, Phase::GuestUp(_)) {
            self.step.tick(&guest::phase_name(phase), None);
        }
    }
}
