// SPDX-License-Identifier: GPL-2.0

//! The kernel series: `git am` takes it, and the kernel builds after each patch.

use super::files;
use crate::context::Context;
use crate::exec;
use crate::progress::Step;
use crate::report::Report;
use anyhow::{Context as _, Result};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

pub fn run(cx: &Context, report: &mut Report) -> Result<()> {
    let kernel = &cx.artifacts()?.kernel;
    for patch in &kernel.patch_builds {
        let name = format!("{} builds", patch.name);
        if patch.already_applied {
            report.skip(name, "the kernel source given by KSRC has it already");
        } else if patch.ok {
            report.pass(name);
        } else {
            report.fail(
                name,
                patch.error.as_deref().unwrap_or("it does not"),
                Some(&patch.log),
            );
        }
    }
    let patches: Vec<PathBuf> = files::list(&cx.root)?
        .into_iter()
        // What stands in a folder below is not of the series.
        .filter(|p| p.parent() == Some(Path::new("patches")) && files::has_extension(p, "patch"))
        .map(|p| cx.root.join(p))
        .collect();
    if patches.is_empty() {
        report.skip("git am", "there is no patch");
        return Ok(());
    }
    let built: BTreeSet<String> = kernel.patch_builds.iter().map(|p| p.name.clone()).collect();
    for patch in &patches {
        let name = patch
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if !built.contains(&name) {
            report.fail(
                format!("{name} builds"),
                "the set-up did not build it",
                None,
            );
        }
    }
    git_am(cx, report, &kernel.source, &patches)
}

/// On a repository of the files that the series touches, as they were before it: taking the patches back out of
/// the patched source gives those, and costs a second where a repository of the whole source costs minutes.
fn git_am(cx: &Context, report: &mut Report, source: &Path, patches: &[PathBuf]) -> Result<()> {
    let name = "git am takes the series";
    let mut step = Step::start(name);
    let scratch = tempfile::Builder::new()
        .prefix("rig-am-")
        .tempdir()
        .context("cannot create a scratch directory")?;
    let repo = scratch.path();
    let log = cx.logs("patches").join("git-am.log");
    for path in touched(patches)? {
        let (from, to) = (source.join(&path), repo.join(&path));
        if let Some(dir) = to.parent() {
            fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        // A file that the series removes is not there.
        if from.is_file() {
            fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        }
    }
    let mut script = String::from(
        "set -e\nexport GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=rig GIT_AUTHOR_EMAIL=rig@localhost\n\
         export GIT_COMMITTER_NAME=rig GIT_COMMITTER_EMAIL=rig@localhost\ngit init -q .\n",
    );
    for patch in patches.iter().rev() {
        script += &format!("git apply -R '{}'\n", patch.display());
    }
    script += "git add -Af .\ngit commit -q -m base\ngit am --keep-cr";
    for patch in patches {
        script += &format!(" '{}'", patch.display());
    }
    let done = exec::logged(
        exec::command("sh").arg("-c").arg(&script).current_dir(repo),
        &log,
        &mut step,
    )?;
    report.program(name, &done, &log);
    step.finish(if done.success { "ok" } else { "FAILED" });
    Ok(())
}

/// The files that the series changes.
fn touched(patches: &[PathBuf]) -> Result<BTreeSet<String>> {
    let mut paths = BTreeSet::new();
    for patch in patches {
        let text = fs::read(patch).with_context(|| format!("cannot read {}", patch.display()))?;
        for line in String::from_utf8_lossy(&text).lines() {
            let path = line
                .strip_prefix("--- a/")
                .or_else(|| line.strip_prefix("+++ b/"));
            paths.extend(path.map(|p| p.trim_end().to_owned()));
        }
    }
    Ok(paths)
}
