// SPDX-License-Identifier: GPL-2.0

//! `rig bench`: what a reading costs, in instructions, beside the C clocks in one run.
//!
//! The outer QEMU counts instructions (`-icount shift=0`), and its TSC ticks once for each, in L2 as well. So the
//! figures do not depend on the machine or on who else uses it.

use crate::context::Context;
use crate::guest::{self, log_of};
use crate::session::Limits;
use crate::suite;
use crate::verdict::Verdict;
use crate::vm::Task;
use anyhow::{Result, bail};
use regex::Regex;
use std::collections::BTreeMap;
use std::time::Duration;

/// The paths, and what a call may cost by each, whatever the C kvm-clock costs in the same run, which
/// is the other bound. What a system call costs beside the clock is the kernel's configuration's
/// affair, so there the C clock is the only measure.
const BOUNDS: [(&str, Option<u64>); 2] = [("vdso", Some(126)), ("syscall", None)];

/// Cost by clocksource and path.
type Costs = BTreeMap<(String, String), u64>;

pub fn run(cx: &Context) -> Result<()> {
    let limits = Limits {
        boot_silence: Duration::from_secs(300),
        silence: Duration::from_secs(300),
        run: Duration::from_secs(900),
        ..Limits::default()
    };
    let done = suite::run_one(cx, Task::Bench, "bench", limits, false)?;
    let log = log_of(cx, &done.log);
    if !matches!(done.verdict, Verdict::Finished { status: 0 }) {
        bail!(
            "the benchmark failed: {} (log: {log})",
            guest::explain(&done.verdict)
        );
    }
    let costs = parse(
        done.lines
            .iter()
            .filter(|l| !l.kernel)
            .map(|l| l.text.as_str()),
    )?;
    print!("{}", table(&costs));
    let over = exceeded(&costs);
    if over.is_empty() {
        println!("bench: paraclock is within its bounds, and costs no more than kvm-clock");
        return Ok(());
    }
    for line in &over {
        println!("over: {line}");
    }
    bail!(
        "paraclock costs more than it may: {} (log: {log})",
        over.join("; ")
    );
}

fn parse<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Costs> {
    let line = Regex::new(r"^bench: clock=(\S+) path=(\S+) ticks=(\d+)$")?;
    let mut costs = Costs::new();
    for c in lines.filter_map(|l| line.captures(l)) {
        costs.insert((c[1].to_owned(), c[2].to_owned()), c[3].parse()?);
    }
    Ok(costs)
}

fn table(costs: &Costs) -> String {
    let mut text = format!(
        "\nInstructions a call of clock_gettime(CLOCK_MONOTONIC), the least of 200 runs of 100 calls:\n\n    {:<16}{:>10}{:>14}\n",
        "clocksource", "vDSO", "system call"
    );
    let mut clocks: Vec<&String> = costs.keys().map(|(clock, _)| clock).collect();
    clocks.dedup();
    for clock in clocks {
        let cost = |path: &str| {
            costs
                .get(&(clock.clone(), path.to_owned()))
                .map_or("-".to_owned(), u64::to_string)
        };
        text += &format!(
            "    {clock:<16}{:>10}{:>14}\n",
            cost("vdso"),
            cost("syscall")
        );
    }
    let bound = |i: usize| match BOUNDS[i].1 {
        Some(bound) => bound.to_string(),
        None => "kvm-clock's".to_owned(),
    };
    text += &format!("    {:<16}{:>10}{:>14}\n\n", "bound", bound(0), bound(1));
    text
}

/// What of the bounds does not hold, or cannot be told.
fn exceeded(costs: &Costs) -> Vec<String> {
    let mut over = Vec::new();
    for (path, bound) in BOUNDS {
        let get = |clock: &str| costs.get(&(clock.to_owned(), path.to_owned()));
        let Some(&ours) = get("paraclock") else {
            over.push(format!("{path}: paraclock was not measured"));
            continue;
        };
        if let Some(bound) = bound.filter(|&bound| ours > bound) {
            over.push(format!("{path}: expected at most {bound}, seen {ours}"));
        }
        match get("kvm-clock") {
            Some(&theirs) if ours > theirs => {
                over.push(format!(
                    "{path}: expected at most kvm-clock's {theirs}, seen {ours}"
                ));
            }
            Some(_) => {}
            None => over.push(format!("{path}: kvm-clock was not measured")),
        }
    }
    over
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(lines: &[&str]) -> Costs {
        parse(lines.iter().copied()).unwrap()
    }

    const C: [&str; 2] = [
        "bench: clock=kvm-clock path=vdso ticks=126",
        "bench: clock=kvm-clock path=syscall ticks=391",
    ];

    #[test]
    fn within_and_over() {
        let good = [
            "bench: clock=paraclock path=vdso ticks=126",
            "noise",
            "bench: clock=paraclock path=syscall ticks=390",
        ];
        assert!(exceeded(&costs(&[&C[..], &good].concat())).is_empty());
        let bad = [
            "bench: clock=paraclock path=vdso ticks=127",
            "bench: clock=paraclock path=syscall ticks=391",
        ];
        assert_eq!(exceeded(&costs(&[&C[..], &bad].concat())).len(), 2);
    }

    #[test]
    fn what_was_not_measured_does_not_hold() {
        assert_eq!(exceeded(&costs(&C)).len(), 2);
        assert_eq!(
            exceeded(&costs(&["bench: clock=paraclock path=vdso ticks=1"])).len(),
            2
        );
    }

    #[test]
    fn the_table_has_every_clock() {
        let text = table(&costs(&C));
        assert!(
            text.contains("kvm-clock") && text.contains("126") && text.contains("391"),
            "{text}"
        );
    }
}
