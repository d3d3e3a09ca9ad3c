// SPDX-License-Identifier: GPL-2.0

//! `rig demo`: the driver at work in a guest, for a person to look at.

use crate::context::Context;
use crate::guest::{self, log_of};
use crate::session::Limits;
use crate::suite;
use crate::verdict::Verdict;
use crate::vm::{Expect, Host, Task};
use anyhow::{Result, bail};

/// Fails unless the clock was selected, in the mode that this host asks for, and the readings agreed.
pub fn run(cx: &Context, host: Host) -> Result<()> {
    let flavour = host.flavour();
    let done = suite::run_one(cx, Task::Demo, flavour, "demo", Limits::default(), true)?;
    let log = log_of(cx, &done.log);
    if let Verdict::Finished { status: 1.. } = done.verdict {
        bail!("something was wrong with the clock, as told above (log: {log})");
    }
    if !matches!(done.verdict, Verdict::Finished { status: 0 }) {
        bail!(
            "the demonstration failed: {} (log: {log})",
            guest::explain(&done.verdict)
        );
    }
    let lines: Vec<&str> = done
        .lines
        .iter()
        .filter(|l| !l.kernel)
        .map(|l| l.text.as_str())
        .collect();
    if let Some(wrong) = unexpected(&lines, flavour.expect()) {
        bail!("{wrong} (log: {log})");
    }
    let place = if cx.choice()?.direct {
        "on this machine's KVM"
    } else {
        "on the KVM of the nested rig"
    };
    println!("{}", summary(place, flavour.expect()));
    Ok(())
}

/// What the guest's marks `@demo key=value` say that was not to be expected.
fn unexpected(lines: &[&str], expect: Expect) -> Option<String> {
    let wanted = [
        ("clocksource", "paraclock"),
        ("backend", expect.backend),
        ("mode", expect.mode),
        ("vdso", expect.vdso),
        ("page_owner", expect.owner),
    ];
    let seen = |key: &str| {
        let mark = format!("@demo {key}=");
        lines
            .iter()
            .find_map(|l| l.strip_prefix(mark.as_str()))
            .unwrap_or("unknown")
            .trim()
    };
    let list = |value: &dyn Fn(&str, &'static str) -> String| {
        let words: Vec<String> = wanted
            .iter()
            .map(|&(key, want)| format!("{key} {}", value(key, want)))
            .collect();
        words.join(", ")
    };
    wanted
        .iter()
        .any(|&(key, want)| seen(key) != want)
        .then(|| {
            format!(
                "expected {}; seen {}",
                list(&|_, want| want.to_owned()),
                list(&|key, _| seen(key).to_owned())
            )
        })
}

/// The last line.
fn summary(place: &str, expect: Expect) -> String {
    let Expect { backend, mode, .. } = expect;
    let way = if expect.vdso == "none" {
        "by the system call"
    } else {
        "through the vDSO"
    };
    format!(
        "The guest {place} keeps time by clocksource paraclock with backend {backend} in mode {mode}, read {way}."
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::Flavour;

    const HYPERV: [&str; 6] = [
        "@demo backend=hyperv",
        "noise",
        "@demo mode=page",
        "@demo vdso=hvclock",
        "@demo page_owner=adopted",
        "@demo clocksource=paraclock",
    ];

    #[test]
    fn what_is_as_expected_passes() {
        assert_eq!(unexpected(&HYPERV, Flavour::HypervPage.expect()), None);
    }

    #[test]
    fn another_hosts_clock_does_not() {
        let wrong = unexpected(&HYPERV, Flavour::KvmAdopt.expect()).expect("that is Hyper-V's");
        assert!(
            wrong.contains("backend kvm") && wrong.contains("backend hyperv"),
            "{wrong}"
        );
        // A mark that is missing is no expectation fulfilled.
        for without in 0..HYPERV.len() {
            let mut lines = HYPERV.to_vec();
            let is_mark = lines.remove(without).starts_with('@');
            assert_eq!(
                unexpected(&lines, Flavour::HypervPage.expect()).is_some(),
                is_mark
            );
        }
    }

    #[test]
    fn the_last_line_names_the_backend() {
        assert!(summary("here", Flavour::Hyperv.expect()).contains("backend hyperv in mode tsc"));
        assert!(summary("here", Flavour::HypervMsr.expect()).contains("system call"));
    }
}
