// SPDX-License-Identifier: GPL-2.0

//! `rig demo`: the driver at work in a guest, for a person to look at.

use crate::context::Context;
use crate::guest::{self, log_of};
use crate::session::Limits;
use crate::suite;
use crate::verdict::Verdict;
use crate::vm::Task;
use anyhow::{Result, bail};

/// Fails unless the clock was selected, in the mode that this host asks for, and the readings agreed.
pub fn run(cx: &Context) -> Result<()> {
    let done = suite::run_one(cx, Task::Demo, "demo", Limits::default(), true)?;
    let log = log_of(cx, &done.log);
    let value = |key: &str| {
        let mark = format!("@demo {key}=");
        done.lines
            .iter()
            .filter(|l| !l.kernel)
            .find_map(|l| l.text.strip_prefix(&mark))
            .unwrap_or("unknown")
            .trim()
    };
    if let Verdict::Finished { status: 1.. } = done.verdict {
        bail!("something was wrong with the clock, as told above (log: {log})");
    }
    if !matches!(done.verdict, Verdict::Finished { status: 0 }) {
        bail!(
            "the demonstration failed: {} (log: {log})",
            guest::explain(&done.verdict)
        );
    }
    let (clock, backend, mode, vdso) = (
        value("clocksource"),
        value("backend"),
        value("mode"),
        value("vdso"),
    );
    if (clock, backend, mode, vdso) != ("paraclock", "kvm", "page", "pvclock") {
        bail!(
            "expected clocksource paraclock, backend kvm, mode page, vdso pvclock; seen clocksource {clock}, \
             backend {backend}, mode {mode}, vdso {vdso} (log: {log})"
        );
    }
    let direct = cx.choice()?.direct;
    let place = if direct {
        "on this machine's KVM"
    } else {
        "on the KVM of the nested rig"
    };
    println!(
        "The guest {place} keeps time by clocksource paraclock with backend kvm in mode page, read through the vDSO."
    );
    Ok(())
}
