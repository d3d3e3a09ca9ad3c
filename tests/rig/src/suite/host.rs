// SPDX-License-Identifier: GPL-2.0

//! The test host itself, since on a wrong host nothing is proven: what its guests say of it, what its trace
//! says, what it answers over its monitor, what it costs, and whether it is as KVM is where both have a say.

use super::guests::judge;
use crate::console::{Line, Source};
use crate::context::{Context, shown};
use crate::guest::{self, Audience, Final};
use crate::progress::{Step, human};
use crate::report::{Outcome, Report};
use crate::session::{Limits, Phase};
use crate::verdict::Verdict;
use crate::vm::run::Watcher;
use crate::vm::testhost::TRACE;
use crate::vm::testhost::command::{Command, Migration, Storm};
use crate::vm::testhost::qmp::Qmp;
use crate::vm::testhost::reply::{self, Now, Reply, Stat, Switch};
use crate::vm::{Flavour, Task};
use anyhow::{Context as _, Result, bail};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// From power-on to the first line of init.
const BOOT: Duration = Duration::from_secs(6);
/// Migrations a second that the rig asks for. How many come is told and not judged: between two of them stand
/// this machine's scheduler and QEMU's main loop, and the guest's own test has the bound.
const PACE: f64 = 400.0;
/// Of RDTSC, in RDTSCs without the device.
const COST: f64 = 2.0;
/// Switches that a guest with a clock of its own has to have gone through.
const SWITCHES: usize = 1000;
/// A reading is a handful of facts at least: fewer, and the list was not printed.
const FACTS: usize = 20;
/// Of the machine with SVM, in the suite. `rig soak` takes longer.
const SOAK_SECONDS: u64 = 15;
/// How often it is tried.
const SOAK_TURNS: u32 = 3;
/// How long each of the storms lasts, in the guests that have one.
const STORM: &str = "STORM_SECONDS";
const STORM_DEFAULT: u32 = 10;
/// What one test takes at most besides.
const TEST: Duration = Duration::from_secs(240);

fn storm_asked() -> Result<u32> {
    match std::env::var(STORM) {
        Ok(text) if !text.is_empty() => text
            .parse()
            .ok()
            .filter(|n| (1..=86_400).contains(n))
            .with_context(|| format!("{STORM}={text} is no number from 1 to 86400")),
        _ => Ok(STORM_DEFAULT),
    }
}

/// On a machine that has other things to do, the commands of a storm come late.
fn patience(storm: u32) -> Duration {
    TEST + Duration::from_secs(u64::from(storm) * 2)
}

/// What the guest is told of it. What is wrong with the number is told by [`run`].
pub fn guest_words() -> Vec<String> {
    let storm = storm_asked().unwrap_or(STORM_DEFAULT);
    vec![
        format!("rig.storm={storm}"),
        format!("rig.patience={}", patience(storm).as_secs()),
    ]
}

pub fn run(cx: &Context, report: &mut Report) -> Result<()> {
    let wanted = |f: &Flavour| cx.flavours.is_empty() || cx.flavours.contains(f);
    let flavours: Vec<Flavour> = Flavour::TEST_HOST.iter().copied().filter(wanted).collect();
    let nested = Some(Flavour::BothKvm).filter(wanted);
    if flavours.is_empty() && nested.is_none() {
        report.skip("host", "it has none of the flavours that were asked for");
        return Ok(());
    }
    let logs = cx.fresh_logs("host")?;
    let mut told = Told::default();
    if !flavours.is_empty() {
        told.extend(guests(cx, report, &flavours, &logs)?);
    }
    if let Some(flavour) = nested {
        told.extend(on_kvm(cx, report, flavour, &logs)?);
    }
    cost(report, &told);
    facts(report, &told);
    if cx.flavours.is_empty() {
        soak_once(cx, report, &logs)?;
    }
    Ok(())
}

/// What guests print for us to compare: user space's lines, without the runner's prefix.
type Told = HashMap<Flavour, Vec<String>>;

fn told(f: &Final) -> Vec<String> {
    f.lines
        .iter()
        .filter(|l| !l.kernel)
        .map(|l| plain(&l.text).to_owned())
        .collect()
}

/// Without what TAP and the runner put before a diagnostic.
fn plain(text: &str) -> &str {
    text.trim_start_matches(['#', ' '])
}

/// All flavours of the test host, each in a machine of its own.
fn guests(cx: &Context, report: &mut Report, flavours: &[Flavour], logs: &Path) -> Result<Told> {
    let storm = storm_asked()?;
    cx.artifacts()?;
    let payload = cx.payload()?;
    let title = format!("test host, storms of {storm} s ({STORM}= for more)");
    let mut director = Director::new(cx, &title);
    let limits = Limits {
        run: Limits::default().run + patience(storm),
        ..Limits::default()
    };
    let results = guest::run(
        cx,
        Task::TestHost,
        flavours,
        limits,
        payload,
        logs,
        &mut director,
    )?;
    director.join();
    let mut boots = Vec::new();
    for f in &results.finals {
        judge(report, f);
        if let Some(at) = boot_time(&f.lines) {
            boots.push((f.flavour, at));
        }
        if f.flavour.test_host().is_some_and(|s| s.device) {
            let path = f.log.with_file_name(TRACE);
            trace(report, f.flavour, &path);
        }
    }
    boot(report, &boots);
    for (flavour, driven) in &director.driven {
        let name = format!("{flavour}/monitor");
        match driven {
            Ok(d) => d.judge(report, &name),
            Err(e) => report.fail(&name, format!("{e:#}"), None),
        }
    }
    for &f in flavours {
        // Both have a test that asks for it.
        let asks = matches!(f, Flavour::HostHyperv | Flavour::HostKvm);
        if asks && !director.driven.iter().any(|(g, _)| *g == f) {
            report.fail(
                format!("{f}/monitor"),
                "the guest never asked for commands over the monitor",
                None,
            );
        }
    }
    director.step.finish("");
    Ok(results
        .finals
        .iter()
        .map(|f| (f.flavour, told(f)))
        .collect())
}

fn boot_time(lines: &[Line]) -> Option<Duration> {
    lines
        .iter()
        .find(|l| !l.kernel && l.text.starts_with("@rig start "))
        .map(|l| l.at)
}

/// The bound is the machine's, not that of whoever else computes here: the best of all boots counts.
fn boot(report: &mut Report, boots: &[(Flavour, Duration)]) {
    let Some(best) = boots.iter().map(|(_, at)| *at).min() else {
        report.fail("boot", "no guest has come up", None);
        return;
    };
    let all: Vec<String> = boots
        .iter()
        .map(|(f, at)| format!("{f} {:.1} s", at.as_secs_f64()))
        .collect();
    let name = format!(
        "boot: power-on to init in {:.1} s ({})",
        best.as_secs_f64(),
        all.join(", ")
    );
    if best <= BOOT {
        report.pass(name);
    } else {
        report.fail(
            name,
            format!("expected at most {} s at best", BOOT.as_secs()),
            None,
        );
    }
}

/// The trace of all switches of one machine: reference time is the same on both sides of each.
fn trace(report: &mut Report, flavour: Flavour, path: &Path) {
    let read = || -> Result<Vec<Switch>> {
        let text =
            fs::read_to_string(path).with_context(|| format!("no trace {}", path.display()))?;
        reply::trace(&text)
    };
    let switches = match read() {
        Ok(s) => s,
        Err(e) => {
            report.fail(format!("{flavour}/trace"), format!("{e:#}"), Some(path));
            return;
        }
    };
    let clock = matches!(flavour, Flavour::HostHyperv | Flavour::HostKvm);
    let least = if clock { SWITCHES } else { 1 };
    match unlike(&switches, least) {
        None => report.pass(format!(
            "{flavour}/trace: {} switches, reference time the same on both sides of each",
            switches.len()
        )),
        Some(why) => report.fail(format!("{flavour}/trace"), why, Some(path)),
    }
}

/// What is wrong with a trace.
fn unlike(switches: &[Switch], least: usize) -> Option<String> {
    if switches.len() < least {
        return Some(format!(
            "expected {least} switches or more, seen {}",
            switches.len()
        ));
    }
    if let Some(s) = switches.iter().find(|s| s.step() != 0) {
        return Some(format!(
            "reference time steps at switch {}: expected 0 units, seen {} ({s:?})",
            s.number,
            s.step()
        ));
    }
    switches
        .windows(2)
        .find(|w| w[1].number != w[0].number + 1 || w[1].host_ns < w[0].host_ns)
        .map(|w| {
            format!(
                "switch {} is followed by {}, {} ns by {} ns",
                w[0].number, w[1].number, w[0].host_ns, w[1].host_ns
            )
        })
}

/// What came of the commands that the rig gave while a guest hammered its clock.
#[derive(Debug)]
struct Driven {
    asked: u64,
    switches: Vec<Switch>,
    took: Duration,
    before: Now,
    after: Now,
    stat: Stat,
    /// Commands of a storm, read back.
    storm: usize,
}

impl Driven {
    fn rate(&self) -> f64 {
        self.asked as f64 / self.took.as_secs_f64()
    }

    fn judge(&self, report: &mut Report, name: &str) {
        let wrong = unlike(&self.switches, usize::try_from(self.asked).unwrap_or(0))
            .or_else(|| self.clock())
            .or_else(|| {
                (self.after.pending || self.stat.switches < self.asked)
                    .then(|| format!("expected all to be done, seen {:?}", self.stat))
            });
        let name = format!(
            "{name}: {} migrations at {:.0} a second; {} commands of a storm",
            self.asked,
            self.rate(),
            self.storm
        );
        match wrong {
            None => report.pass(name),
            Some(why) => report.fail(name, why, None),
        }
    }

    /// Reference time and the host's go on alike, and their two units agree.
    fn clock(&self) -> Option<String> {
        let ns = |n: &Now| (i128::from(n.ref_ns), i128::from(n.host_ns));
        let ((r0, h0), (r1, h1)) = (ns(&self.before), ns(&self.after));
        if r1 - r0 != h1 - h0 {
            return Some(format!(
                "the host's clock went on by {} ns and reference time by {} ns",
                h1 - h0,
                r1 - r0
            ));
        }
        let units = i128::from(self.after.ref_100ns) * 100;
        ((units - r1).abs() > 200).then(|| {
            format!(
                "reference time is {r1} ns, and {} units of 100 ns",
                self.after.ref_100ns
            )
        })
    }
}

/// So many migrations, paced, while the guest reads its clock.
fn drive(socket: &Path, asked: u64) -> Result<Driven> {
    let mut qmp = Qmp::connect(socket)?;
    let before = Now::parse(&qmp.command(&Command::Now)?)?;
    let start = Instant::now();
    for i in 0..asked {
        let migration = Migration {
            // Some frequency, the same ones in each run.
            khz: 1_000_000 + i.wrapping_mul(2_654_435_761) % 3_400_000,
            jump: Some(i64::try_from(i % 7).unwrap_or(0) * 1_000_000_007),
            ..Migration::default()
        };
        qmp.command(&Command::Migrate(migration))?;
        let due = start + Duration::from_secs_f64((i + 1) as f64 / PACE);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    let took = start.elapsed();
    let mut switches = Vec::new();
    let mut from = before.generation;
    let end = before.generation + asked;
    while from < end {
        let reply = qmp.command(&Command::Trace { from, count: 64 })?;
        let next: u64 = reply.get("next")?;
        if next <= from {
            bail!("the trace ends at {next}, and {end} switches were expected");
        }
        for text in &reply.rest {
            switches.push(Switch::parse(text)?);
        }
        from = next;
    }
    Ok(Driven {
        asked,
        switches,
        took,
        before,
        storm: storms(&mut qmp)?,
        stat: Stat::parse(&qmp.command(&Command::Stat)?)?,
        after: Now::parse(&qmp.command(&Command::Now)?)?,
    })
}

/// A seed makes one sequence, another seed another, and every line of both is a command that we know.
fn storms(qmp: &mut Qmp) -> Result<usize> {
    const COUNT: u64 = 300;
    let mut list = |seed: u64| -> Result<Reply> {
        let kinds = Some("all".to_owned());
        let count = COUNT;
        qmp.command(&Command::Storm(Storm::List { seed, count, kinds }))
    };
    let (first, again, other) = (list(7)?.rest, list(7)?.rest, list(8)?.rest);
    if first != again || first == other || first.len() as u64 != COUNT {
        bail!(
            "a storm of {COUNT} commands: {} commands, the same seed gives {} sequence and another seed {} one",
            first.len(),
            if first == again {
                "the same"
            } else {
                "another"
            },
            if first == other {
                "the same"
            } else {
                "another"
            },
        );
    }
    for line in &first {
        let command: Command = line
            .parse()
            .context("the storm has a line that is no command of ours")?;
        let back: Command = command.to_string().parse().context("a line of our own")?;
        if back != command {
            bail!("`{line}` is read as {command:?}, and that, written, as {back:?}");
        }
    }
    Ok(first.len())
}

/// Hears what the guests ask the rig for, and does it over their monitors.
struct Director {
    step: Step,
    verbose: bool,
    results: u64,
    flavour: Option<Flavour>,
    socket: Option<PathBuf>,
    thread: Option<(Flavour, JoinHandle<Result<Driven>>)>,
    driven: Vec<(Flavour, Result<Driven>)>,
}

impl Director {
    fn new(cx: &Context, title: &str) -> Director {
        Director {
            step: Step::start(format!("{title}: guests")),
            verbose: cx.verbose,
            results: 0,
            flavour: None,
            socket: None,
            thread: None,
            driven: Vec::new(),
        }
    }

    fn join(&mut self) {
        if let Some((flavour, thread)) = self.thread.take() {
            let done = thread
                .join()
                .unwrap_or_else(|_| bail!("the thread that drives the monitor has panicked"));
            self.driven.push((flavour, done));
        }
    }

    /// `@host migrate N`
    fn asked(&mut self, words: &str) {
        let count = words.strip_prefix("migrate ").and_then(|n| n.parse().ok());
        let (Some(count), Some(flavour), Some(socket)) = (count, self.flavour, self.socket.clone())
        else {
            self.step.note(&format!(
                "the guest asks for `{words}`, which cannot be done"
            ));
            return;
        };
        self.join();
        self.thread = Some((flavour, std::thread::spawn(move || drive(&socket, count))));
    }
}

impl Audience for Director {
    fn watcher(&mut self) -> &mut dyn Watcher {
        self
    }

    fn again(&mut self, flavour: Flavour, why: &str) {
        self.step
            .note(&format!("rig death, {flavour} is run again: {why}"));
    }
}

impl Watcher for Director {
    fn started(&mut self, qmp: Option<&Path>) {
        self.join();
        self.socket = qmp.map(Path::to_owned);
    }

    fn line(&mut self, source: Source, line: &Line) {
        if self.verbose {
            guest::print_line(source, line);
        }
        if source == Source::L1 || line.kernel {
            return;
        }
        let text = plain(&line.text);
        if let Some(words) = text.strip_prefix("@host ") {
            self.asked(words.trim());
        } else if text.starts_with("ok ") || text.starts_with("not ok ") {
            self.results += 1;
        }
    }

    fn phase(&mut self, phase: Phase, at: Duration) {
        if let Phase::GuestUp(f) = phase {
            self.flavour = Some(f);
        }
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

/// The tests that a real KVM has to pass as well, in its guest.
fn on_kvm(cx: &Context, report: &mut Report, flavour: Flavour, logs: &Path) -> Result<Told> {
    cx.artifacts()?;
    let payload = cx.payload()?;
    cx.choice()?;
    let mut director = Director::new(cx, "real KVM, for comparison");
    let results = guest::run(
        cx,
        Task::TestHost,
        &[flavour],
        Limits::default(),
        payload,
        &logs.join("kvm"),
        &mut director,
    )?;
    let mut told_here = Told::new();
    for f in &results.finals {
        judge(report, f);
        report.rig_deaths.extend(f.deaths.iter().cloned());
        told_here.insert(f.flavour, told(f));
    }
    // What asks for the test host has nothing to say here.
    report
        .items
        .retain(|i| !(i.name.starts_with(flavour.name()) && matches!(i.outcome, Outcome::Skip(_))));
    director.step.finish("");
    Ok(told_here)
}

/// `cost: threads=N ns=X`
fn costs(lines: &[String]) -> BTreeMap<u32, f64> {
    lines
        .iter()
        .filter_map(|l| l.strip_prefix("cost: "))
        .filter_map(|l| {
            let r = reply::Record::new(l);
            Some((r.get("threads").ok()?, r.get("ns").ok()?))
        })
        .collect()
}

/// RDTSC with the device and without it, as one program measured it on both machines.
fn cost(report: &mut Report, told: &Told) {
    let (Some(with), Some(without)) = (told.get(&Flavour::HostTsc), told.get(&Flavour::HostPlain))
    else {
        return;
    };
    let (with, without) = (costs(with), costs(without));
    if with.is_empty() || !with.keys().eq(without.keys()) {
        report.fail(
            "cost of RDTSC",
            format!("expected figures of both machines, seen {with:?} and {without:?}"),
            None,
        );
        return;
    }
    for (threads, ns) in &with {
        let plain = without[threads];
        let name = format!(
            "cost of RDTSC, {threads} at once: {ns:.1} ns with the device, {plain:.1} ns without"
        );
        if *ns <= COST * plain {
            report.pass(name);
        } else {
            report.fail(
                name,
                format!(
                    "expected at most {COST} times as much, seen {:.2}",
                    ns / plain
                ),
                None,
            );
        }
    }
}

/// `fact: NAME = VALUE`, in the order in which they were found.
fn fact_list(lines: &[String]) -> BTreeMap<&str, &str> {
    lines
        .iter()
        .filter_map(|l| l.strip_prefix("fact: ")?.split_once(" = "))
        .map(|(name, value)| (name.trim(), value.trim()))
        .collect()
}

/// Where both hosts have a say, they say the same.
fn facts(report: &mut Report, told: &Told) {
    let (Some(ours), Some(theirs)) = (told.get(&Flavour::HostBoth), told.get(&Flavour::BothKvm))
    else {
        return;
    };
    let (ours, theirs) = (fact_list(ours), fact_list(theirs));
    let (same, different) = compare(&ours, &theirs);
    for line in &different {
        report.fail("conformance", line, None);
    }
    if same < FACTS {
        report.fail(
            "conformance",
            format!("expected {FACTS} facts or more that both hosts have, seen {same} alike"),
            None,
        );
    } else if different.is_empty() {
        report.pass(format!(
            "conformance: {same} facts, the same on the test host and on KVM"
        ));
    }
}

/// What a host lacks it says, and then there is nothing to compare.
const ABSENT: &str = "absent";

fn compare(ours: &BTreeMap<&str, &str>, theirs: &BTreeMap<&str, &str>) -> (usize, Vec<String>) {
    let mut same = 0;
    let mut different = Vec::new();
    for name in ours
        .keys()
        .chain(theirs.keys().filter(|k| !ours.contains_key(*k)))
    {
        let (a, b) = (ours.get(name), theirs.get(name));
        match (a, b) {
            (Some(a), Some(b)) if *a == ABSENT || *b == ABSENT => {}
            (Some(a), Some(b)) if a == b => same += 1,
            _ => different.push(format!(
                "{name}: on the test host {}, on KVM {}",
                a.unwrap_or(&"not printed"),
                b.unwrap_or(&"not printed")
            )),
        }
    }
    (same, different)
}

/// Once, and as anywhere in the nested rig again at most twice: the driver is not loaded, so what goes wrong is
/// the emulation's fault, which is known to be there and rare. How rare, `rig soak` tells.
fn soak_once(cx: &Context, report: &mut Report, logs: &Path) -> Result<()> {
    for turn in 1..=SOAK_TURNS {
        let done = soak_run(cx, SOAK_SECONDS, &logs.join(format!("soak-{turn}")))?;
        let name = format!("soak: {}", done.title);
        match done.wrong {
            None => {
                report.pass(name);
                break;
            }
            Some(why) if turn == SOAK_TURNS => report.fail(name, why, Some(&done.log)),
            Some(why) => report.rig_deaths.push(format!("{name}: {}", why.trim())),
        }
    }
    Ok(())
}

struct Soak {
    title: String,
    wrong: Option<String>,
    log: PathBuf,
}

fn soak_run(cx: &Context, seconds: u64, log: &Path) -> Result<Soak> {
    cx.artifacts()?;
    let payload = cx.payload()?;
    let mut director = Director::new(cx, "SVM under load");
    let mut ended = guest::hammer(cx, seconds, payload, log, &mut director)?;
    let outcome = ended.outcomes.pop().context("a run without an outcome")?;
    let mut wrong = match &outcome.verdict {
        Verdict::Finished { status: 0 } => None,
        Verdict::Finished { status } => Some(format!("the readers end with status {status}")),
        other => Some(guest::explain(other)),
    };
    if let Some(fault) = ended.host_faults.first() {
        wrong.get_or_insert(format!("L1's kernel: {}", fault.headline()));
    }
    let title = format!(
        "L2 reads its clock on 2 vCPUs for {}",
        human(Duration::from_secs(seconds))
    );
    director.step.finish("");
    let log = log.join("l2.log");
    Ok(Soak { title, wrong, log })
}

/// `rig soak`: true if no machine died.
pub fn soak(cx: &Context, seconds: u64, times: u64) -> Result<bool> {
    let logs = cx.fresh_logs("soak")?;
    let mut died = 0;
    for turn in 1..=times {
        let done = soak_run(cx, seconds, &logs.join(format!("turn-{turn}")))?;
        match done.wrong {
            None => println!("{turn} of {times}: {}: survived", done.title),
            Some(why) => {
                died += 1;
                println!(
                    "{turn} of {times}: {}: {} (log: {})",
                    done.title,
                    why.trim(),
                    shown(&done.log, &cx.root)
                );
            }
        }
    }
    println!("soak: {} of {times} turns survived", times - died);
    Ok(died == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn switch(number: u64, reference: (u64, u64)) -> Switch {
        Switch {
            number,
            host_ns: number * 10,
            reference,
            tsc: (0, 0),
            khz: (1, 2),
        }
    }

    #[test]
    fn a_trace_that_is_right() {
        let all: Vec<Switch> = (5..10).map(|n| switch(n, (n, n))).collect();
        assert_eq!(unlike(&all, 5), None);
        assert!(unlike(&all, 6).unwrap().contains("expected 6"));
        assert!(unlike(&[], 1).is_some());
    }

    #[test]
    fn a_trace_with_a_step_or_a_hole() {
        let mut all: Vec<Switch> = (5..10).map(|n| switch(n, (n, n))).collect();
        all[3].reference.1 -= 1;
        assert!(unlike(&all, 5).unwrap().contains("seen -1"));
        all[3].reference.1 += 1;
        all.remove(2);
        assert!(unlike(&all, 4).unwrap().contains("6 is followed by 8"));
    }

    #[test]
    fn costs_are_read() {
        let lines = ["cost: threads=1 ns=43.5", "x", "cost: threads=2 ns=80"].map(str::to_owned);
        let found = costs(&lines);
        assert_eq!(found[&1], 43.5);
        assert_eq!(found.len(), 2);
    }

    fn told_of(cost: f64) -> Told {
        let lines = |ns: f64| vec![format!("cost: threads=1 ns={ns}")];
        [
            (Flavour::HostTsc, lines(cost)),
            (Flavour::HostPlain, lines(50.0)),
        ]
        .into()
    }

    #[test]
    fn cost_is_bounded() {
        for (ns, failed) in [(99.0, 0), (101.0, 1)] {
            let mut report = Report::default();
            cost(&mut report, &told_of(ns));
            assert_eq!((report.failed(), report.items.len()), (failed, 1));
        }
    }

    #[test]
    fn facts_are_compared_where_both_have_them() {
        let ours = BTreeMap::from([("a", "1"), ("b", "#GP"), ("c", "absent"), ("d", "1")]);
        let theirs = BTreeMap::from([("a", "1"), ("b", "0"), ("c", "7"), ("e", "1")]);
        let (same, different) = compare(&ours, &theirs);
        assert_eq!(same, 1);
        assert_eq!(different.len(), 3, "{different:?}");
        assert!(different[0].contains("b: on the test host #GP, on KVM 0"));
        assert!(different[2].contains("e: on the test host not printed"));
    }

    #[test]
    fn too_few_facts_are_no_pass() {
        let line = vec!["fact: a = 1".to_owned()];
        let told: Told = [(Flavour::HostBoth, line.clone()), (Flavour::BothKvm, line)].into();
        let mut report = Report::default();
        facts(&mut report, &told);
        assert_eq!(report.failed(), 1);
    }

    #[test]
    fn a_guests_word_is_found_behind_prefixes() {
        assert_eq!(plain("# # @host migrate 300"), "@host migrate 300");
    }
}
