// SPDX-License-Identifier: GPL-2.0

//! Updates in place: the driver on the test host, through migrations and all that goes wrong with them.

use super::guests::{Teller, judge};
use crate::context::Context;
use crate::guest;
use crate::report::{Outcome, Report};
use crate::session::Limits;
use crate::vm::{Flavour, Task};
use anyhow::{Context as _, Result};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// How many migrations the longest of the tests goes through.
const MIGRATIONS: &str = "MIGRATIONS";
/// By default, in about half a minute.
const DEFAULT: u32 = 400;
/// In a kernel that watches itself, all takes some times as long.
const DEBUG: u32 = 50;
/// What one of them takes on a machine that has other things to do.
const EACH: Duration = Duration::from_millis(250);
/// What one test takes at most that has no such number.
const TEST: Duration = Duration::from_secs(240);

/// How many, where nobody has asked for any number.
static MIGRATIONS_BY_DEFAULT: AtomicU32 = AtomicU32::new(DEFAULT);

fn asked() -> Result<u32> {
    asked_or(MIGRATIONS_BY_DEFAULT.load(Relaxed))
}

/// How many were asked for, of any suite.
pub(super) fn asked_or(default: u32) -> Result<u32> {
    match std::env::var(MIGRATIONS) {
        Ok(text) if !text.is_empty() => text
            .parse()
            .ok()
            .filter(|n| (1..=86_400).contains(n))
            .with_context(|| format!("{MIGRATIONS}={text} is no number from 1 to 86400")),
        _ => Ok(default),
    }
}

fn patience(migrations: u32) -> Duration {
    TEST + EACH * migrations
}

/// What the guest is told of it. What is wrong with the number is told by [`run`].
pub fn guest_words() -> Vec<String> {
    let migrations = asked().unwrap_or(DEFAULT);
    words(migrations, patience(migrations))
}

pub(super) fn words(migrations: u32, patience: Duration) -> Vec<String> {
    vec![
        format!("rig.migrations={migrations}"),
        format!("rig.patience={}", patience.as_secs()),
    ]
}

/// The same, shorter, in the guests that have the driver.
pub fn run_debug(cx: &Context, report: &mut Report) -> Result<()> {
    MIGRATIONS_BY_DEFAULT.store(DEBUG, Relaxed);
    run_in(
        cx,
        report,
        &[Flavour::UpdateHyperv, Flavour::UpdateKvm],
        "update-debug",
    )
}

pub fn run(cx: &Context, report: &mut Report) -> Result<()> {
    let flavours: Vec<Flavour> = Flavour::UPDATE
        .iter()
        .copied()
        .filter(|f| cx.flavours.is_empty() || cx.flavours.contains(f))
        .collect();
    run_in(cx, report, &flavours, "update")
}

fn run_in(cx: &Context, report: &mut Report, flavours: &[Flavour], logs: &str) -> Result<()> {
    let migrations = asked()?;
    migrate(
        cx,
        report,
        Task::Update,
        flavours,
        logs,
        migrations,
        patience(migrations),
    )
}

/// Runs guests that are migrated so often, which takes so long at most.
pub(super) fn migrate(
    cx: &Context,
    report: &mut Report,
    task: Task,
    flavours: &[Flavour],
    logs: &str,
    migrations: u32,
    patience: Duration,
) -> Result<()> {
    if flavours.is_empty() {
        report.skip(
            task.name(),
            "it has none of the flavours that were asked for",
        );
        return Ok(());
    }
    let logs = cx.fresh_logs(logs)?;
    cx.artifacts()?;
    let payload = cx.payload()?;
    let mut audience = Teller::new(
        cx,
        &format!("{task}: guests, {migrations} migrations ({MIGRATIONS}= for more)"),
    );
    let limits = Limits {
        run: Limits::default().run + patience,
        ..Limits::default()
    };
    let results = guest::run(cx, task, flavours, limits, payload, &logs, &mut audience)?;
    for f in &results.finals {
        judge(report, f);
    }
    if cx.flavours.is_empty() {
        forget_skips(report);
    }
    audience.finish();
    Ok(())
}

/// The control is for one of the guests and the rest for the other: what has its results in one of them is not
/// missed in the other.
fn forget_skips(report: &mut Report) {
    let ran: Vec<String> = report
        .items
        .iter()
        .filter_map(|i| {
            let (_, test) = i.name.split_once('/')?;
            Some(test.split_once('/')?.0.to_owned())
        })
        .collect();
    report.items.retain(|i| {
        let test = i.name.split_once('/').map_or("", |(_, test)| test);
        !matches!(i.outcome, Outcome::Skip(_)) || !ran.iter().any(|r| r == test)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_is_told_a_number_and_the_time_for_it() {
        let words = guest_words();
        assert!(words.iter().any(|w| w.starts_with("rig.migrations=")));
        assert!(patience(10_000) > Duration::from_secs(2000));
    }

    #[test]
    fn only_what_ran_elsewhere_is_forgotten() {
        let mut report = Report::default();
        report.pass("update-hyperv/update_migrate/no step back");
        report.skip("update-hyperv/update_migrate/a time namespace", "none");
        report.skip("update-control/update_migrate", "another guest's");
        report.skip("update-control/update_control.sh", "no tsc");
        forget_skips(&mut report);
        let names: Vec<&str> = report.items.iter().map(|i| i.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "update-hyperv/update_migrate/no step back",
                "update-hyperv/update_migrate/a time namespace",
                "update-control/update_control.sh",
            ]
        );
    }
}
