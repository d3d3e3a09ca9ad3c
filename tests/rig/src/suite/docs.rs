// SPDX-License-Identifier: GPL-2.0

//! The documentation, built by Sphinx with every warning an error.

use crate::context::Context;
use crate::exec;
use crate::progress::Step;
use crate::report::Report;
use anyhow::Result;

pub fn run(cx: &Context, report: &mut Report) -> Result<()> {
    let name = "Sphinx";
    let mut step = Step::start(name);
    let log = cx.logs("docs").join("sphinx.log");
    let mut sphinx = exec::command("sphinx-build");
    // -E: warnings of pages that have not changed are told only when they are read.
    sphinx
        .args(["-W", "--keep-going", "-E", "-q", "-b", "html"])
        .arg(cx.root.join("Documentation"))
        .arg(cx.build().join("docs"));
    let done = exec::logged(&mut sphinx, &log, &mut step)?;
    report.program(name, &done, &log);
    step.finish(if done.success { "ok" } else { "FAILED" });
    Ok(())
}
