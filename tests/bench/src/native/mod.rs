// SPDX-License-Identifier: GPL-2.0

//! Nanoseconds on this machine's CPU, each clock beside the others in one run.
//!
//! The machine may be shared and may change its speed, so a figure by itself is worth nothing: the
//! clocks take turns, a few thousand calls each, in an order that changes from round to round, and
//! with each round goes a bare `rdtscp`, to which the others are compared round by round. That is
//! why this is no use of a benchmark framework: those measure one thing after the other.

mod clocks;
mod driver;
mod image;

use crate::figure::Figure;
use anyhow::{Context, Result, ensure};
pub use clocks::Kernel;
use clocks::{Call, Clock, Scale};
use core::arch::x86_64::{_mm_lfence, _rdtsc};
use core::hint::black_box;
use serde::{Deserialize, Serialize};
use std::fs;
use std::time::{Duration, Instant};

/// Rounds, of which the minimum and the median are taken.
pub const ROUNDS: usize = 301;
/// Calls of one clock in a round.
pub const CALLS: u32 = 5_000;

/// What the machine was like meanwhile.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    pub tsc_hz: u64,
    pub rounds: usize,
    pub calls: u32,
    /// Load of the last minute before.
    pub load: f64,
    /// Share of the CPU time that the hypervisor gave to others, in percent.
    pub steal: f64,
    /// How often the measurement was put aside.
    pub preempted: i64,
}

/// What is written to a file for whoever makes the tables.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Native {
    pub machine: Machine,
    pub figures: Vec<Figure>,
}

fn tsc() -> u64 {
    // SAFETY: Every x86-64 CPU has both.
    unsafe {
        _mm_lfence();
        _rdtsc()
    }
}

/// The TSC's frequency.
fn hz(over: Duration) -> u64 {
    let (begin, from) = (Instant::now(), tsc());
    while begin.elapsed() < over {
        core::hint::spin_loop();
    }
    let (time, to) = (begin.elapsed(), tsc());
    (u128::from(to - from) * 1_000_000_000 / time.as_nanos().max(1)) as u64
}

/// Cycles of so many calls.
#[inline(never)]
fn batch(clock: &Clock, calls: u32) -> u64 {
    let start = tsc();
    match clock.call {
        Call::Read(read, page) => {
            for _ in 0..calls {
                // SAFETY: The page is the function's; see Kernel::clocks().
                black_box(unsafe { read(page) });
            }
        }
        Call::Vdso(clock_gettime, id) => {
            let mut time = libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            for _ in 0..calls {
                // SAFETY: `time` is valid for a write.
                unsafe { clock_gettime(id, black_box(&mut time)) };
            }
        }
    }
    tsc() - start
}

/// Time of all CPUs and what of it was stolen, of `/proc/stat`.
fn cpu_time(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().find(|l| l.starts_with("cpu "))?;
    let fields: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|f| f.parse().ok())
        .collect();
    Some((fields.iter().take(8).sum(), *fields.get(7)?))
}

fn preempted() -> i64 {
    // SAFETY: A structure of integers.
    let mut usage: libc::rusage = unsafe { core::mem::zeroed() };
    // SAFETY: `usage` is valid for a write.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    usage.ru_nivcsw
}

/// Stays on one CPU from here on.
fn pin() -> Result<()> {
    // SAFETY: A set of bits, that is then filled in; and a call without a precondition.
    let done = unsafe {
        let cpu = usize::try_from(libc::sched_getcpu()).context("no CPU to stay on")?;
        let mut set: libc::cpu_set_t = core::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &set)
    };
    ensure!(
        done == 0,
        "cannot stay on one CPU: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}

/// A quantile of values in order.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = (sorted.len().saturating_sub(1) as f64 * q).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// Checks that the clocks say what their pages say, and does nothing else.
pub fn verify(kernel: &Kernel) -> Result<()> {
    kernel
        .clocks(Scale::new(hz(Duration::from_millis(50)))?)
        .map(drop)
}

/// Measures all of them.
pub fn measure(kernel: &Kernel, rounds: usize) -> Result<Native> {
    pin()?;
    let hz = hz(Duration::from_millis(200));
    let clocks = kernel.clocks(Scale::new(hz)?)?;
    let all = &clocks.all;
    let stat = || {
        fs::read_to_string("/proc/stat")
            .ok()
            .and_then(|s| cpu_time(&s))
            .unwrap_or_default()
    };
    let load = fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|l| l.split(' ').next()?.parse().ok())
        .unwrap_or_default();
    let (before, aside) = (stat(), preempted());
    let mut cycles: Vec<Vec<u64>> = vec![Vec::with_capacity(rounds); all.len()];
    for clock in all {
        batch(clock, CALLS);
    }
    for round in 0..rounds {
        for i in 0..all.len() {
            let i = (i + round) % all.len();
            cycles[i].push(batch(&all[i], CALLS));
        }
    }
    let after = stat();
    let machine = Machine {
        cpu: cpu_name(),
        tsc_hz: hz,
        rounds,
        calls: CALLS,
        load,
        steal: (after.1 - before.1) as f64 * 100.0 / ((after.0 - before.0).max(1)) as f64,
        preempted: preempted() - aside,
    };
    Ok(Native {
        machine,
        figures: figures(all, &cycles, hz),
    })
}

fn cpu_name() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    info.lines()
        .find_map(|l| l.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown".to_owned(), |(_, name)| name.to_owned())
}

/// To a hundredth: the rest is noise.
fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn figures(all: &[Clock], cycles: &[Vec<u64>], hz: u64) -> Vec<Figure> {
    let ns = |cycles: u64| cycles as f64 * 1e9 / hz as f64 / f64::from(CALLS);
    let bare = &cycles[0];
    let mut figures = Vec::new();
    for (clock, cycles) in all.iter().zip(cycles) {
        let times = sorted(cycles.iter().map(|&c| ns(c)));
        let least_bare = bare.iter().copied().min().unwrap_or(0);
        let ratios = sorted(cycles.iter().zip(bare).map(|(&c, &b)| c as f64 / b as f64));
        let mut add = |what: &str, value: f64, ratio: Option<f64>| {
            figures.push(Figure {
                name: format!("ns.{}.{what}", clock.name),
                clock: clock.clock.to_owned(),
                mode: clock.mode.to_owned(),
                host: clock.host.to_owned(),
                value: rounded(value),
                unit: "ns".to_owned(),
                control: ratio.map(|_| "rdtscp".to_owned()),
                ratio: ratio.map(|r| (r * 1000.0).round() / 1000.0),
            });
        };
        let least = quantile(&times, 0.0);
        add("min", least, Some(least / ns(least_bare)));
        add(
            "median",
            quantile(&times, 0.5),
            Some(quantile(&ratios, 0.5)),
        );
        add(
            "spread",
            quantile(&times, 0.9) - quantile(&times, 0.1),
            None,
        );
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_stat() {
        let stat = "cpu  10 0 20 60 0 0 0 10 5 0\ncpu0 1 2 3\n";
        assert_eq!(cpu_time(stat), Some((100, 10)));
        assert_eq!(cpu_time("nothing"), None);
    }

    #[test]
    fn quantiles() {
        let values = sorted([3.0, 1.0, 2.0].into_iter());
        assert_eq!(
            (
                quantile(&values, 0.0),
                quantile(&values, 0.5),
                quantile(&values, 1.0)
            ),
            (1.0, 2.0, 3.0)
        );
    }
}
