// SPDX-License-Identifier: GPL-2.0

//! The commands for a kernel of one's own: `make modules` and `make modules_install` with `KDIR=`, in a copy of
//! the checkout, as they leave objects beside the sources.

use super::files;
use crate::context::Context;
use crate::exec;
use crate::progress::Step;
use crate::report::Report;
use anyhow::{Context as _, Result};
use std::fs;

pub fn run(cx: &Context, report: &mut Report) -> Result<()> {
    let kernel = &cx.artifacts()?.kernel;
    let scratch = tempfile::Builder::new()
        .prefix("rig-install-")
        .tempdir()
        .context("cannot create a scratch directory")?;
    let copy = scratch.path().join("checkout");
    for path in files::list(&cx.root)? {
        let to = copy.join(&path);
        if let Some(dir) = to.parent() {
            fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        fs::copy(cx.root.join(&path), &to)
            .with_context(|| format!("cannot copy {}", path.display()))?;
    }
    let installed = scratch.path().join("installed");
    fs::create_dir_all(&installed).context("cannot create a scratch directory")?;
    for target in ["modules", "modules_install"] {
        let name = format!("make {target} KDIR=");
        let mut step = Step::start(&name);
        let log = cx.logs("install").join(format!("{target}.log"));
        let mut make = exec::command("make");
        make.envs(kernel.environment.iter().map(|(k, v)| (k, v)))
            .arg("-C")
            .arg(&copy)
            .arg(target)
            .arg(format!("KDIR={}", kernel.build.display()))
            .arg(format!("INSTALL_MOD_PATH={}", installed.display()));
        let done = exec::logged(&mut make, &log, &mut step)?;
        let left = if target == "modules" {
            copy.join("paraclock.ko")
        } else {
            installed
                .join("lib/modules")
                .join(&kernel.release)
                .join("updates/paraclock.ko")
        };
        if !done.success || left.is_file() {
            report.program(&name, &done, &log);
        } else {
            report.fail(
                &name,
                format!("expected {}, which is not there", left.display()),
                Some(&log),
            );
        }
        step.finish("");
    }
    Ok(())
}
