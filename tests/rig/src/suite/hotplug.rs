// SPDX-License-Identifier: GPL-2.0

//! CPUs that come and go: TSC_ADJUST and the TSCs of two sockets, on the test host with all that can be wrong
//! with them, and on a real KVM as far as its host lets them be wrong.

use super::guests::{Teller, judge};
use crate::console::{Line, Source};
use crate::context::Context;
use crate::guest::{self, Audience};
use crate::report::Report;
use crate::session::{Limits, Phase};
use crate::vm::run::Watcher;
use crate::vm::testhost::qmp::{Qmp, Vcpu};
use crate::vm::{Flavour, Task};
use anyhow::{Context as _, Result};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// How often every CPU goes offline and comes back.
const TURNS: &str = "HOTPLUG_TURNS";
/// By default, in some ten seconds.
const DEFAULT: u32 = 20;
/// In a kernel that watches itself, all takes some times as long.
const DEBUG: u32 = 10;
/// What one of them takes on a machine that has other things to do.
const EACH: Duration = Duration::from_secs(2);
/// What one test takes at most that has no such number.
const TEST: Duration = Duration::from_secs(180);

/// How many, where nobody has asked for any number.
static TURNS_BY_DEFAULT: AtomicU32 = AtomicU32::new(DEFAULT);

fn asked() -> Result<u32> {
    match std::env::var(TURNS) {
        Ok(text) if !text.is_empty() => text
            .parse()
            .ok()
            .filter(|n| (1..=10_000).contains(n))
            .with_context(|| format!("{TURNS}={text} is no number from 1 to 10000")),
        _ => Ok(TURNS_BY_DEFAULT.load(Relaxed)),
    }
}

fn patience(turns: u32) -> Duration {
    TEST + EACH * turns
}

/// What the guest is told of it. What is wrong with the number is told by [`run`].
pub fn guest_words() -> Vec<String> {
    let turns = asked().unwrap_or(DEFAULT);
    vec![
        format!("rig.turns={turns}"),
        format!("rig.patience={}", patience(turns).as_secs()),
    ]
}

pub fn run(cx: &Context, report: &mut Report) -> Result<()> {
    let flavours: Vec<Flavour> = Flavour::HOTPLUG
        .iter()
        .copied()
        .filter(|f| cx.flavours.is_empty() || cx.flavours.contains(f))
        .collect();
    run_in(cx, report, &flavours, "hotplug")
}

/// The same, shorter, where the driver has the most to do.
pub fn run_debug(cx: &Context, report: &mut Report) -> Result<()> {
    TURNS_BY_DEFAULT.store(DEBUG, Relaxed);
    run_in(cx, report, &[Flavour::HotplugHyperv], "hotplug-debug")
}

fn run_in(cx: &Context, report: &mut Report, flavours: &[Flavour], logs: &str) -> Result<()> {
    let turns = asked()?;
    if flavours.is_empty() {
        report.skip("hotplug", "it has none of the flavours that were asked for");
        return Ok(());
    }
    let logs = cx.fresh_logs(logs)?;
    cx.artifacts()?;
    let payload = cx.payload()?;
    let limits = Limits {
        run: Limits::default().run + patience(turns),
        ..Limits::default()
    };
    // Each kind in machines of its own.
    let (here, nested): (Vec<Flavour>, Vec<Flavour>) =
        flavours.iter().partition(|f| f.test_host().is_some());
    let mut plugger = Plugger {
        teller: Teller::new(
            cx,
            &format!("hotplug: guests, every CPU {turns} times off and on ({TURNS}= for more)"),
        ),
        socket: None,
    };
    for (flavours, logs) in [(here, logs.join("testhost")), (nested, logs.join("kvm"))] {
        let Some(first) = flavours.first() else {
            continue;
        };
        if first.test_host().is_none() {
            cx.choice()?;
        }
        let results = guest::run(
            cx,
            Task::Hotplug,
            &flavours,
            limits,
            payload,
            &logs,
            &mut plugger,
        )?;
        for f in &results.finals {
            judge(report, f);
            report.rig_deaths.extend(f.deaths.iter().cloned());
        }
        for (fault, log) in &results.host_faults {
            report.fail("the host's kernel", fault.lines.join("\n"), Some(log));
        }
    }
    plugger.teller.finish();
    Ok(())
}

/// Shows progress, and plugs vCPUs in where a guest asks for them.
struct Plugger {
    teller: Teller,
    socket: Option<PathBuf>,
}

impl Plugger {
    /// `plug SOCKET CORE`
    fn asked(&mut self, words: &str) {
        if let Err(e) = self.plug(words) {
            // The guest waits for it, and says that it has not come.
            self.teller
                .note(&format!("the guest asks for `{words}`: {e:#}"));
        }
    }

    fn plug(&self, words: &str) -> Result<()> {
        let (socket_id, core_id) = place(words).context("that is no vCPU")?;
        let monitor = self.socket.as_deref().context("there is no monitor")?;
        Qmp::connect(monitor)?.plug(&Vcpu {
            driver: "EPYC-x86_64-cpu",
            id: format!("vcpu-{socket_id}-{core_id}"),
            socket_id,
            core_id,
            thread_id: 0,
        })
    }
}

fn place(words: &str) -> Option<(u32, u32)> {
    let (socket, core) = words.strip_prefix("plug ")?.split_once(' ')?;
    Some((socket.parse().ok()?, core.parse().ok()?))
}

impl Audience for Plugger {
    fn watcher(&mut self) -> &mut dyn Watcher {
        self
    }

    fn again(&mut self, flavour: Flavour, why: &str) {
        self.teller.again(flavour, why);
    }
}

impl Watcher for Plugger {
    fn started(&mut self, qmp: Option<&Path>) {
        self.socket = qmp.map(Path::to_owned);
    }

    fn line(&mut self, source: Source, line: &Line) {
        self.teller.line(source, line);
        let text = line.text.trim_start_matches(['#', ' ']);
        if let Some(words) = text.strip_prefix("@host ")
            && source == Source::L2
            && !line.kernel
        {
            self.asked(words.trim());
        }
    }

    fn phase(&mut self, phase: Phase, at: Duration) {
        self.teller.phase(phase, at);
    }

    fn tick(&mut self, phase: Phase, at: Duration) {
        self.teller.tick(phase, at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_asks_for_a_vcpu_by_its_place() {
        assert_eq!(place("plug 2 1"), Some((2, 1)));
        for words in ["plug 2", "plug 2 1 0", "plug -1 0", "migrate 3", ""] {
            assert_eq!(place(words), None, "{words}");
        }
    }

    #[test]
    fn the_guest_is_told_a_number_and_the_time_for_it() {
        let words = guest_words();
        assert!(words.iter().any(|w| w.starts_with("rig.turns=")));
        assert!(patience(500) > Duration::from_secs(1000));
    }
}
