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
use crate::vm::{Flavour, Host, Task};
use anyhow::{Result, bail};
use regex::Regex;
use std::collections::BTreeMap;
use std::time::Duration;

/// What a call may cost. What a system call costs beside the clock is the kernel's configuration's
/// affair, so there the C clock of the same run is the only measure.
struct Bound {
    clock: &'static str,
    path: &'static str,
    /// Whatever the C clock costs.
    at_most: Option<u64>,
    /// The C clock that may not cost less, but for the allowance.
    control: &'static str,
    /// What the clock does that the C clock leaves undone.
    allowance: u64,
}

/// The clamp, in mode msr: a counter that a host sets back must not take time back. The C clock hands on
/// what the counter says.
const CLAMP: u64 = 13;

const KVM: &[Bound] = &[
    Bound {
        clock: "paraclock",
        path: "vdso",
        at_most: Some(126),
        control: "kvm-clock",
        allowance: 0,
    },
    Bound {
        clock: "paraclock",
        path: "syscall",
        at_most: None,
        control: "kvm-clock",
        allowance: 0,
    },
];

const HYPERV: &[Bound] = &[
    Bound {
        clock: "paraclock",
        path: "vdso",
        at_most: Some(112),
        control: "hyperv_clocksource_tsc_page",
        allowance: 0,
    },
    Bound {
        clock: "paraclock",
        path: "syscall",
        at_most: None,
        control: "hyperv_clocksource_tsc_page",
        allowance: 0,
    },
    // The vDSO cannot serve it, and makes the call.
    Bound {
        clock: "paraclock:mode=msr",
        path: "vdso",
        at_most: None,
        control: "hyperv_clocksource_msr",
        allowance: CLAMP,
    },
    Bound {
        clock: "paraclock:mode=msr",
        path: "syscall",
        at_most: None,
        control: "hyperv_clocksource_msr",
        allowance: CLAMP,
    },
];

/// Cost by clocksource and path.
type Costs = BTreeMap<(String, String), u64>;

/// Judges the bounds of one host, or of all.
pub fn run(cx: &Context, host: Option<Host>) -> Result<()> {
    let all: [(Host, &[Bound]); 2] = [(Host::Kvm, KVM), (Host::Hyperv, HYPERV)];
    let chosen: Vec<&(Host, &[Bound])> = all
        .iter()
        .filter(|(h, _)| host.is_none_or(|wanted| wanted == *h))
        .collect();
    if chosen.is_empty() {
        bail!("there are no bounds for that host; there are for kvm and for hyperv");
    }
    let mut over = Vec::new();
    for (host, bounds) in chosen {
        over.extend(judge(cx, *host, bounds)?);
    }
    if over.is_empty() {
        println!("bench: paraclock is within its bounds, and costs no more than the C clocks");
        return Ok(());
    }
    for line in &over {
        println!("over: {line}");
    }
    bail!("paraclock costs more than it may: {}", over.join("; "));
}

/// Measures on one host, and returns what of the bounds does not hold.
fn judge(cx: &Context, host: Host, bounds: &[Bound]) -> Result<Vec<String>> {
    let flavour = host.flavour();
    let limits = Limits {
        boot_silence: Duration::from_secs(300),
        silence: Duration::from_secs(300),
        run: Duration::from_secs(900),
        ..Limits::default()
    };
    let name = format!("bench-{flavour}");
    let done = suite::run_one(cx, Task::Bench, flavour, &name, limits, false)?;
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
    print!("{}", table(flavour, &costs, bounds));
    Ok(exceeded(&costs, bounds)
        .into_iter()
        .map(|line| format!("{line} (log: {log})"))
        .collect())
}

fn parse<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Costs> {
    let line = Regex::new(r"^bench: clock=(\S+) path=(\S+) ticks=(\d+)$")?;
    let mut costs = Costs::new();
    for c in lines.filter_map(|l| line.captures(l)) {
        costs.insert((c[1].to_owned(), c[2].to_owned()), c[3].parse()?);
    }
    Ok(costs)
}

fn table(flavour: Flavour, costs: &Costs, bounds: &[Bound]) -> String {
    let mut text = format!(
        "\n{flavour}: instructions a call of clock_gettime(CLOCK_MONOTONIC), the least of 200 runs of 100 calls:\n\n    {:<28}{:>10}{:>14}\n",
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
            "    {clock:<28}{:>10}{:>14}\n",
            cost("vdso"),
            cost("syscall")
        );
    }
    text += "\n";
    for bound in bounds {
        let at_most = bound
            .at_most
            .map_or(String::new(), |at_most| format!("{at_most} and "));
        let allowance = match bound.allowance {
            0 => String::new(),
            more => format!(" and {more}, for the clamp"),
        };
        text += &format!(
            "    bound: {}, {}: at most {at_most}{}'s{allowance}\n",
            bound.clock, bound.path, bound.control
        );
    }
    text + "\n"
}

/// What of the bounds does not hold, or cannot be told.
fn exceeded(costs: &Costs, bounds: &[Bound]) -> Vec<String> {
    let mut over = Vec::new();
    for &Bound {
        clock,
        path,
        at_most,
        control,
        allowance,
    } in bounds
    {
        let get = |clock: &str| costs.get(&(clock.to_owned(), path.to_owned()));
        let Some(&ours) = get(clock) else {
            over.push(format!("{path}: {clock} was not measured"));
            continue;
        };
        if let Some(bound) = at_most.filter(|&bound| ours > bound) {
            over.push(format!(
                "{path}: {clock}: expected at most {bound}, seen {ours}"
            ));
        }
        match get(control) {
            Some(&theirs) if ours > theirs + allowance => {
                let allowed = match allowance {
                    0 => String::new(),
                    more => format!(" and {more}"),
                };
                over.push(format!(
                    "{path}: {clock}: expected at most {control}'s {theirs}{allowed}, seen {ours}"
                ));
            }
            Some(_) => {}
            None => over.push(format!("{path}: {control} was not measured")),
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
        assert!(exceeded(&costs(&[&C[..], &good].concat()), KVM).is_empty());
        let bad = [
            "bench: clock=paraclock path=vdso ticks=127",
            "bench: clock=paraclock path=syscall ticks=391",
        ];
        assert_eq!(exceeded(&costs(&[&C[..], &bad].concat()), KVM).len(), 2);
    }

    /// Each mode beside the C clock that reads the same.
    #[test]
    fn modes_have_bounds_of_their_own() {
        let mut lines = vec![
            "bench: clock=hyperv_clocksource_tsc_page path=vdso ticks=112",
            "bench: clock=hyperv_clocksource_tsc_page path=syscall ticks=366",
            "bench: clock=hyperv_clocksource_msr path=vdso ticks=3164",
            "bench: clock=hyperv_clocksource_msr path=syscall ticks=3122",
            "bench: clock=paraclock path=vdso ticks=112",
            "bench: clock=paraclock path=syscall ticks=366",
            "bench: clock=paraclock:mode=msr path=vdso ticks=3177",
            "bench: clock=paraclock:mode=msr path=syscall ticks=3135",
        ];
        assert!(exceeded(&costs(&lines), HYPERV).is_empty());
        lines[4] = "bench: clock=paraclock path=vdso ticks=113";
        lines[7] = "bench: clock=paraclock:mode=msr path=syscall ticks=3136";
        let over = exceeded(&costs(&lines), HYPERV);
        assert_eq!(over.len(), 3, "{over:?}");
        assert!(
            over[2].contains("hyperv_clocksource_msr's 3122"),
            "{over:?}"
        );
    }

    #[test]
    fn what_was_not_measured_does_not_hold() {
        assert_eq!(exceeded(&costs(&C), KVM).len(), 2);
        assert_eq!(
            exceeded(&costs(&["bench: clock=paraclock path=vdso ticks=1"]), KVM).len(),
            2
        );
        assert_eq!(exceeded(&Costs::new(), HYPERV).len(), HYPERV.len());
    }

    #[test]
    fn the_table_has_every_clock() {
        let text = table(Flavour::KvmAdopt, &costs(&C), KVM);
        assert!(
            text.contains("kvm-clock") && text.contains("126") && text.contains("391"),
            "{text}"
        );
    }
}
