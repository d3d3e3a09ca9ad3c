// SPDX-License-Identifier: GPL-2.0

//! `rig bench`: what the clock costs, beside the C clocks in one run.
//!
//! The outer QEMU counts instructions (`-icount shift=0`), and its TSC ticks once for each, in L2 as well. So the
//! figures do not depend on the machine or on who else uses it; each host is run twice to show it. Nanoseconds come
//! from a process on this machine. What may cost how much stands in `tests/bench/limits.toml`.

use crate::context::Context;
use crate::exec;
use crate::guest::{self, log_of};
use crate::progress::Step;
use crate::session::Limits as Patience;
use crate::suite;
use crate::verdict::Verdict;
use crate::vm::{Flavour, Host, Task};
use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use paraclock_bench::figure::{self, Figure};
use paraclock_bench::limits::Limits;
use paraclock_bench::native::Native;
use paraclock_bench::{module, plot, table};
use serde::Serialize;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// How often each host is run.
const RUNS: usize = 2;
/// How long each clock is compared with the reference, where nobody asks for longer.
const DRIFT_SECONDS: u64 = 5;
/// The host of the guests in which the driver registers pages of its own.
const OWN_PAGES: &str = "own-pages";
const DRIFT_VARIABLE: &str = "BENCH_DRIFT_SECONDS";

/// Whose guest is measured, by the names of `limits.toml`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Guest {
    /// KVM's clock, on a real KVM
    Kvm,
    /// Hyper-V's, as KVM emulates it
    Hyperv,
    /// Hyper-V's on the test host, through migrations
    Migrate,
    /// KVM's on the test host, likewise
    MigrateKvm,
}

impl Guest {
    fn flavour(self) -> Flavour {
        match self {
            Guest::Kvm => Host::Kvm.flavour(),
            Guest::Hyperv => Host::Hyperv.flavour(),
            Guest::Migrate => Flavour::BenchHyperv,
            Guest::MigrateKvm => Flavour::BenchKvm,
        }
    }
}

/// `build/bench/results.json`
#[derive(Serialize)]
struct Results<'a> {
    /// What the figures are of.
    kernel: &'a str,
    machine: &'a paraclock_bench::native::Machine,
    figures: &'a [Figure],
}

fn drift_seconds() -> Result<u64> {
    match std::env::var(DRIFT_VARIABLE) {
        Ok(text) if !text.is_empty() => text.parse().with_context(|| {
            format!("{DRIFT_VARIABLE} has to be a number of seconds, and is `{text}`")
        }),
        _ => Ok(DRIFT_SECONDS),
    }
}

/// What L2's kernel is told beside the rest.
pub fn guest_words() -> Vec<String> {
    vec![
        // Instructions are counted on one CPU; the others come up for the figures that are about them.
        "maxcpus=1".to_owned(),
        // Without CONSTANT_TSC the kernel takes the TSCs of several CPUs for unsynchronised, and offers no `tsc`.
        "tsc=reliable".to_owned(),
        format!("rig.drift={}", drift_seconds().unwrap_or(DRIFT_SECONDS)),
    ]
}

/// Judges the limits of one host, or of all.
pub fn run(cx: &Context, host: Option<Guest>) -> Result<()> {
    let limits = Limits::load(&cx.root.join("tests/bench/limits.toml"))?;
    let drift = drift_seconds()?;
    let mut hosts = Vec::new();
    for name in limits.hosts() {
        let known = Guest::from_str(name, false).map_err(|e| {
            anyhow::anyhow!("tests/bench/limits.toml names a host that the rig does not know: {e}")
        })?;
        if host.is_none_or(|wanted| wanted == known) {
            hosts.push((name, known));
        }
    }
    if hosts.is_empty() {
        bail!(
            "there are no limits for that host; there are for {}",
            limits.hosts().join(" and for ")
        );
    }
    let out = cx.build().join("bench");
    fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    let (mut figures, mut over, mut text) = (Vec::new(), Vec::new(), String::new());
    let mut repeated = String::new();
    for (name, host) in hosts {
        let mut runs = Vec::new();
        for number in 1..=RUNS {
            let (mut run, log) = count(
                cx,
                host.flavour(),
                name,
                &format!("bench-{name}-{number}"),
                drift,
            )?;
            limits.compare(&mut run);
            let exceeded = limits.exceeded(name, &run);
            over.extend(
                exceeded
                    .into_iter()
                    .map(|line| format!("{line} (run {number}, log: {log})")),
            );
            runs.push(run);
        }
        text += &format!(
            "\n{name}: the least of many, in the guest; (ratio to the C clock that reads the same)\n\n"
        );
        text += &table::of_host(&runs[0], name);
        text += "\n";
        text += &limits.describe(name);
        for run in &runs[1..] {
            let found = figure::differences(&runs[0], run);
            repeated += &table::of_differences(name, runs[0].len(), &found);
        }
        figures.append(&mut runs[0]);
    }
    let memory = memory(cx)?;
    let native = nanoseconds(cx, &out)?;
    let machine = &native.machine;
    text += &format!(
        "\nnanoseconds on this machine: {}, TSC {:.0} MHz; {} rounds of {} calls, the clocks in turns;\n\
         load {:.2} before, {:.1} % stolen, put aside {} times. Of the driver's host they say nothing.\n\n",
        machine.cpu,
        machine.tsc_hz as f64 / 1e6,
        machine.rounds,
        machine.calls,
        machine.load,
        machine.steal,
        machine.preempted
    );
    text += &table::of_native(&native.figures);
    let ko = cx
        .payload()?
        .modules
        .iter()
        .find(|p| p.ends_with("paraclock.ko"));
    let sizes = module::figures(ko.context("no paraclock.ko")?)?;
    text += "\nsize of paraclock.ko, in bytes\n\n";
    for size in &sizes {
        text += &format!("    {:<28}{:>10}\n", size.name, table::number(size.value));
    }
    text += "\nmemory taken while it is loaded with pages of its own, by the number of possible CPUs\n\n";
    text += &table::of_host(&memory, OWN_PAGES);
    text += &format!("\nrepeated\n\n{repeated}");
    let (below, at, above) = table::tally(&figures);
    figures.extend(native.figures.iter().cloned());
    figures.extend(sizes);
    figures.extend(memory);
    write(cx, &out, &text, &native, &figures)?;
    print!("{text}");
    println!();
    if over.is_empty() {
        println!(
            "bench: within all limits; of the driver's counts {below} are below the C clock's, {at} the same, {above} above"
        );
        return Ok(());
    }
    for line in &over {
        println!("over: {line}");
    }
    bail!(
        "paraclock costs more than it may, in {} figures; the first: {}",
        over.len(),
        over[0]
    );
}

fn write(cx: &Context, out: &Path, text: &str, native: &Native, figures: &[Figure]) -> Result<()> {
    let results = Results {
        kernel: &cx.artifacts()?.kernel.release,
        machine: &native.machine,
        figures,
    };
    let json = serde_json::to_string_pretty(&results).context("results that are no JSON")?;
    for (name, content) in [("results.json", json.as_str()), ("table.txt", text)] {
        let path = out.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let plots = plot::all(figures, out)?;
    eprintln!(
        "    {}: results.json, table.txt and {} plots",
        crate::context::shown(out, &cx.root),
        plots.len()
    );
    Ok(())
}

/// What memory the driver takes, by the number of possible CPUs, with pages of its own.
fn memory(cx: &Context) -> Result<Vec<Figure>> {
    let mut all = Vec::new();
    for &flavour in Flavour::BENCH_MEMORY {
        let (mut figures, _) = count(cx, flavour, OWN_PAGES, flavour.name(), 0)?;
        all.append(&mut figures);
    }
    Ok(all)
}

/// Runs a guest, and returns its figures and its log.
fn count(
    cx: &Context,
    flavour: Flavour,
    host: &str,
    logs: &str,
    drift: u64,
) -> Result<(Vec<Figure>, String)> {
    // Emulated time runs about as fast as real time, and there are up to five clocks.
    let slow = Duration::from_secs(drift * 10);
    let patience = Patience {
        boot_silence: Duration::from_secs(300),
        silence: Duration::from_secs(300) + slow,
        run: Duration::from_secs(900) + slow,
        ..Patience::default()
    };
    let done = suite::run_one(cx, Task::Bench, flavour, logs, patience, false)?;
    let log = log_of(cx, &done.log);
    if !matches!(done.verdict, Verdict::Finished { status: 0 }) {
        bail!(
            "the benchmark failed: {} (log: {log})",
            guest::explain(&done.verdict)
        );
    }
    let lines = done
        .lines
        .iter()
        .filter(|l| !l.kernel)
        .map(|l| l.text.as_str());
    let figures = figure::parse_all(lines, host)
        .with_context(|| format!("the guest's figures (log: {log})"))?;
    if figures.is_empty() {
        bail!("the guest printed no figure (log: {log})");
    }
    Ok((figures, log))
}

/// Measures on this machine, in a process of its own.
fn nanoseconds(cx: &Context, out: &Path) -> Result<Native> {
    let mut step = Step::start("measuring on this machine");
    let output = out.join("native.json");
    let mut cargo = exec::command("cargo");
    cargo
        .args([
            "run",
            "--quiet",
            "--release",
            "--locked",
            "-p",
            "paraclock-bench",
            "--",
        ])
        .arg("--kernel")
        .arg(&cx.artifacts()?.kernel.build)
        .arg("--program")
        .arg(cx.root.join("tests/bench/c/clocks.c"))
        .arg("--work")
        .arg(out.join("native"))
        .arg("--output")
        .arg(&output)
        .current_dir(&cx.root);
    let log = cx.logs("bench-native").join("run.log");
    let done = exec::logged(&mut cargo, &log, &mut step)?;
    if !done.success {
        bail!(
            "the measurement failed ({}):\n    {}\n    log: {}",
            done.status,
            exec::telling_lines(&done.output).join("\n    "),
            log.display()
        );
    }
    let json =
        fs::read_to_string(&output).with_context(|| format!("cannot read {}", output.display()))?;
    let native: Native = serde_json::from_str(&json)
        .with_context(|| format!("{} makes no sense", output.display()))?;
    step.finish(&format!("{} figures", native.figures.len()));
    Ok(native)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host of the file that the rig does not know would never be measured.
    #[test]
    fn the_hosts_of_the_limits_are_known() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let limits = Limits::load(&root.join("tests/bench/limits.toml")).unwrap();
        for host in limits.hosts() {
            assert!(Guest::from_str(host, false).is_ok(), "{host}");
        }
    }

    #[test]
    fn the_guest_is_told() {
        let words = guest_words();
        assert!(words.iter().all(|w| !w.contains(' ')), "{words:?}");
        assert!(words.iter().any(|w| w.starts_with("rig.drift=")));
    }
}
