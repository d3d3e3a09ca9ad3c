// SPDX-License-Identifier: GPL-2.0

//! The outer QEMU from a tree of the user's own. The tree is copied and not changed; the copy is built again
//! where the tree differs from last time, and only what differs is compiled.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::cache;
use super::cmd::{self, Meter};
use super::key::{Key, fingerprint_tree, sha256_file};
use super::qemu::{self, SPACE_MIB, STEPS, TARGET, WANTED};
use super::version::Version;
use super::{Patch, Site};
use crate::progress::Step;

/// A tree with this file has the series in it already.
const OF_THE_SERIES: &str = "hw/i386/guest-time.c";
/// What the finished program was made of.
const MADE_OF: &str = "made-of";

/// The program, built from `given` where that has changed.
pub fn ensure(site: &Site, given: &Path) -> Result<PathBuf> {
    let tree = check(given)?;
    let patches = site.patches("tests/host")?;
    let requirements = site.root.join("scripts/qemu-build-requirements.txt");
    let place = Key::new("qemu tree")
        .with("path", tree.display().to_string())
        .finish();
    let work = site.cache.path("qemu").join(format!("tree-{place}"));
    let program = work.join("build").join(TARGET);
    let mut made_of = Key::new("qemu tree")
        .with("tree", fingerprint_tree(&tree)?)
        .with("requirements", sha256_file(&requirements)?)
        .with("configure", qemu::CONFIGURE.join(" "));
    for p in &patches {
        made_of = made_of.with(&p.name, &p.sha256);
    }
    let made_of = made_of.finish();
    let finished = || {
        program.is_file()
            && fs::read_to_string(work.join(MADE_OF)).is_ok_and(|seen| seen == made_of)
    };
    if finished() {
        return Ok(program);
    }
    let _lock = site.cache.lock()?;
    if finished() {
        return Ok(program);
    }
    site.cache
        .require_space(2 * SPACE_MIB, "building QEMU from QEMU_SRC=")?;
    let log = site.log(&format!("qemu-tree-{place}"));
    fs::create_dir_all(&work).with_context(|| format!("create {}", work.display()))?;
    if work.join(MADE_OF).exists() {
        fs::remove_file(work.join(MADE_OF)).context("remove a stamp")?;
    }

    let mut step = Step::start(format!("copying {}", tree.display()));
    copy(&tree, &patches, &work, &log, &mut step)?;
    step.finish("");
    let src = work.join("src");
    if !work.join("build/build.ninja").is_file() {
        let mut step = Step::start("configuring QEMU");
        // What an interrupted run has left of it.
        for left in ["venv", "build"] {
            cache::remove_tree(&work.join(left))?;
        }
        qemu::configure(&requirements, &work, &src, &log, &mut step).with_context(|| {
            format!(
                "QEMU_SRC={}: its copy cannot be configured (a git checkout has its subprojects once it was \
                 configured itself, or after `meson subprojects download keycodemapdb`)",
                tree.display()
            )
        })?;
        step.finish("");
    }
    let mut step = Step::start("building the outer QEMU of QEMU_SRC=");
    let expected = qemu::total_steps(&work.join("build")).unwrap_or(STEPS);
    let mut ninja = cmd::command("ninja");
    ninja.arg("-C").arg(work.join("build")).arg(TARGET);
    let meter = Meter {
        counts: &|l| l.starts_with('['),
        unit: "steps",
        expected,
    };
    cmd::run(&mut ninja, &log, &mut step, Some(meter)).with_context(|| {
        format!(
            "QEMU_SRC={} does not build; its copy is in {}",
            tree.display(),
            src.display()
        )
    })?;
    let version = cmd::output(cmd::command(&program.to_string_lossy()).arg("--version"))
        .context("the QEMU just built does not start")?;
    cache::write_atomically(&work.join(MADE_OF), made_of.as_bytes())?;
    step.finish(version.lines().next().unwrap_or_default());
    Ok(program)
}

/// The tree, if it is one of QEMU and of the release that the series is for.
fn check(given: &Path) -> Result<PathBuf> {
    let tree = given
        .canonicalize()
        .with_context(|| format!("QEMU_SRC={}: no such directory", given.display()))?;
    let named = || {
        format!(
            "QEMU_SRC={} is not a tree of QEMU: it has no file VERSION of its kind",
            tree.display()
        )
    };
    let text = fs::read_to_string(tree.join("VERSION")).with_context(named)?;
    if !tree.join("target/i386/tcg").is_dir() {
        bail!(named());
    }
    match Version::find(text.trim()) {
        Some(v) if (v.0, v.1) == WANTED => Ok(tree),
        _ => bail!(
            "QEMU_SRC={} is QEMU {}, and tests/host/ is a series for {}.{}: give a tree of that, or leave it out to \
             use Debian's",
            tree.display(),
            text.trim(),
            WANTED.0,
            WANTED.1
        ),
    }
}

/// Into `work/src`, with the series. A file that is the same as before is left as it is, time stamp included.
fn copy(tree: &Path, patches: &[Patch], work: &Path, log: &Path, step: &mut Step) -> Result<()> {
    let fresh = work.join("fresh");
    cache::remove_tree(&fresh)?;
    let mut c = cmd::command("rsync");
    c.args(["--archive", "--exclude=/.git", "--exclude=/build"])
        .arg(format!("{}/", tree.display()))
        .arg(&fresh);
    cmd::run(&mut c, log, step, None)?;
    if !fresh.join(OF_THE_SERIES).exists() {
        for p in patches {
            if p.is_applied(&fresh) {
                continue;
            }
            p.keep_in(&work.join("patches"))?
                .apply(&fresh, log, step)
                .with_context(|| {
                    format!(
                        "QEMU_SRC={}: the series in tests/host/ does not go on it, and it has no {OF_THE_SERIES} of \
                         its own",
                        tree.display()
                    )
                })?;
        }
    }
    qemu::leave_blobs(&fresh)?;
    let mut c = cmd::command("rsync");
    c.args([
        "--recursive",
        "--links",
        "--perms",
        "--checksum",
        "--delete",
    ])
    .arg(format!("{}/", fresh.display()))
    .arg(work.join("src"));
    cmd::run(&mut c, log, step, None)?;
    cache::remove_tree(&fresh)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_tree_of_qemu_is_refused() {
        let error = format!("{:#}", check(Path::new("/nonexistent/qemu")).unwrap_err());
        assert!(error.contains("QEMU_SRC=/nonexistent/qemu"), "{error}");
        let dir = tempfile::tempdir().unwrap();
        let error = format!("{:#}", check(dir.path()).unwrap_err());
        assert!(error.contains("not a tree of QEMU"), "{error}");
        fs::write(dir.path().join("VERSION"), "10.0.13\n").unwrap();
        assert!(check(dir.path()).is_err(), "a VERSION alone is not enough");
        fs::create_dir_all(dir.path().join("target/i386/tcg")).unwrap();
        assert!(check(dir.path()).is_ok());
        fs::write(dir.path().join("VERSION"), "9.2.0\n").unwrap();
        let error = format!("{:#}", check(dir.path()).unwrap_err());
        assert!(error.contains("9.2.0") && error.contains("10.0"), "{error}");
    }
}
