// SPDX-License-Identifier: GPL-2.0

//! The outer QEMU: Debian stable's source, our patches, x86-64 system emulation alone.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::Site;
use super::apt::Record;
use super::cache::{self, STAMP};
use super::cmd::{self, Meter};
use super::key::{Key, sha256_file};
use super::version::Version;
use crate::progress::Step;

/// The release that tests/host/ is a series for.
pub(super) const WANTED: (u32, u32) = (10, 0);
const PACKAGE: &str = "qemu";
/// Raised where a change of this file makes finished builds useless.
const REVISION: &str = "1";
pub(super) const TARGET: &str = "qemu-system-x86_64";
pub(super) const CONFIGURE: &[&str] = &[
    "--target-list=x86_64-softmmu",
    "--without-default-features",
    "--enable-tcg",
    "--enable-fdt=system",
    "--disable-install-blobs",
    "--disable-kvm",
    "--disable-tools",
    "--disable-docs",
];
/// Compilation steps, before they have been counted here.
pub(super) const STEPS: u64 = 920;
pub(super) const SPACE_MIB: u64 = 2500;

/// The program, built where it is not in the cache.
pub fn ensure(site: &Site) -> Result<PathBuf> {
    let (record, downloads) = source(site)?;
    let patches = site.patches("tests/host")?;
    let requirements = site.root.join("scripts/qemu-build-requirements.txt");
    let compiler = cmd::output(cmd::command("cc").arg("--version"))?;
    let mut key = Key::new("qemu")
        .with("revision", REVISION)
        .with("source", record.digest())
        .with("compiler", compiler.lines().next().unwrap_or_default())
        .with("requirements", sha256_file(&requirements)?)
        .with("configure", CONFIGURE.join(" "));
    for p in &patches {
        key = key.with(&p.name, &p.sha256);
    }
    let key = key.finish();
    let dir = site.cache.path("qemu").join(&key);
    let program = dir.join("bin").join(TARGET);
    let finished = || dir.join(STAMP).is_file() && program.is_file();
    if finished() {
        cache::touch(&dir.join(STAMP));
        return Ok(program);
    }
    let _lock = site.cache.lock()?;
    if finished() {
        return Ok(program);
    }
    site.cache.expire("qemu", 3, &key)?;
    site.cache.require_space(SPACE_MIB, "building QEMU")?;
    let log = site.log(&format!("qemu-{key}"));
    record.verify(&downloads)?;

    // Kept under a name of its own until it is done: an interrupted build goes on.
    let work = site.cache.path("qemu").join(format!("{key}.work"));
    let tree = work.join("src");
    if !work.join("prepared").is_file() {
        cache::remove_tree(&work)?;
        let mut step = Step::start("unpacking QEMU's source");
        unpack(&record, &downloads, &tree, &log, &mut step)?;
        for p in &patches {
            p.keep_in(&work.join("patches"))?
                .apply(&tree, &log, &mut step)?;
        }
        step.finish(&format!("{} patches applied", patches.len()));
        let mut step = Step::start("configuring QEMU");
        configure(&requirements, &work, &tree, &log, &mut step)?;
        step.finish("");
        cache::write_atomically(&work.join("prepared"), b"")?;
    }

    let mut step = Step::start("building the outer QEMU");
    let expected = total_steps(&work.join("build")).unwrap_or(STEPS);
    let mut ninja = cmd::command("ninja");
    ninja.arg("-C").arg(work.join("build")).arg(TARGET);
    let meter = Meter {
        counts: &|l| l.starts_with('['),
        unit: "steps",
        expected,
    };
    cmd::run(&mut ninja, &log, &mut step, Some(meter))?;

    let built = work.join("build").join(TARGET);
    let version = cmd::output(cmd::command(&built.to_string_lossy()).arg("--version"))
        .context("the QEMU just built does not start")?;
    let bin = dir.join("bin");
    cache::remove_tree(&dir)?;
    fs::create_dir_all(&bin).with_context(|| format!("create {}", bin.display()))?;
    fs::copy(&built, &program).context("install QEMU into the cache")?;
    cache::write_atomically(&dir.join(STAMP), version.as_bytes())?;
    cache::remove_tree(&work)?;
    step.finish(version.lines().next().unwrap_or_default());
    Ok(program)
}

/// QEMU's source package, downloaded where it has to be.
pub fn source(site: &Site) -> Result<(Record, PathBuf)> {
    let dir = site.cache.path("downloads/qemu-source");
    if let Some(record) = Record::load(&dir) {
        return Ok((record, dir));
    }
    let _lock = site.cache.lock()?;
    let log = site.log("qemu-source");
    let mut step = Step::start("Debian's source package of QEMU");
    let apt = site.apt_trixie(&log)?;
    apt.update(&mut step)?;
    let record = apt.download_source(PACKAGE, &dir, &mut step)?;
    let archive = original(&record, &dir)?;
    let name = archive
        .file_name()
        .map(|n| n.to_string_lossy().into_owned());
    let name = name.unwrap_or_default();
    match Version::find(&name) {
        Some(v) if (v.0, v.1) == WANTED => step.finish(&format!("{v}, signature verified by apt")),
        _ => bail!(
            "Debian's QEMU source is {name}, and tests/host/ is a series for {}.{}: it has to be rebased",
            WANTED.0,
            WANTED.1
        ),
    }
    Ok((record, dir))
}

/// Upstream's archive among the files of the source package.
fn original(record: &Record, dir: &Path) -> Result<PathBuf> {
    record
        .downloads
        .iter()
        .find(|d| d.file.contains(".orig.tar."))
        .map(|d| dir.join(&d.file))
        .with_context(|| {
            format!(
                "QEMU's source package in {} has no .orig.tar",
                dir.display()
            )
        })
}

fn unpack(
    record: &Record,
    downloads: &Path,
    tree: &Path,
    log: &Path,
    step: &mut Step,
) -> Result<()> {
    fs::create_dir_all(tree).with_context(|| format!("create {}", tree.display()))?;
    let mut c = cmd::command("tar");
    c.args([
        "--extract",
        "--strip-components=1",
        "--no-same-owner",
        "--file",
    ])
    .arg(original(record, downloads)?)
    .arg("--directory")
    .arg(tree);
    cmd::run(&mut c, log, step, None)?;
    leave_blobs(tree)
}

/// Debian's archive has no firmware blobs, and meson wants to unpack them as soon as it finds bzip2.
pub(super) fn leave_blobs(tree: &Path) -> Result<()> {
    let path = tree.join("meson.build");
    let text = fs::read_to_string(&path).context("read QEMU's meson.build")?;
    let changed = text.replace(
        "unpack_edk2_blobs = bzip2.found()",
        "unpack_edk2_blobs = false",
    );
    if changed == text && !text.contains("unpack_edk2_blobs = false") {
        bail!("QEMU's meson.build does not set unpack_edk2_blobs as expected");
    }
    fs::write(&path, changed).context("write QEMU's meson.build")
}

/// In a Python environment of its own, with meson and what it needs at known checksums.
pub(super) fn configure(
    requirements: &Path,
    work: &Path,
    tree: &Path,
    log: &Path,
    step: &mut Step,
) -> Result<()> {
    let venv = work.join("venv");
    // Debian's, for which scripts/bootstrap installs the module venv.
    let python = if Path::new("/usr/bin/python3").exists() {
        "/usr/bin/python3"
    } else {
        "python3"
    };
    let mut c = cmd::command(python);
    c.args(["-m", "venv"]).arg(&venv);
    cmd::run(&mut c, log, step, None)
        .context("Python's venv is needed to build QEMU: run scripts/bootstrap as root")?;
    let mut c = cmd::command(&venv.join("bin/python3").to_string_lossy());
    c.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--require-hashes",
        "--no-deps",
        "-r",
    ])
    .arg(requirements);
    cmd::run(&mut c, log, step, None)
        .context("QEMU's build tools could not be fetched by pip: is the network there?")?;
    let build = work.join("build");
    fs::create_dir_all(&build).context("create QEMU's build directory")?;
    let mut c = cmd::command(&tree.join("configure").to_string_lossy());
    c.current_dir(&build)
        .arg(format!("--python={}", venv.join("bin/python3").display()))
        .args(CONFIGURE);
    cmd::run(&mut c, log, step, None).map(drop)
}

/// How much ninja has to do.
pub(super) fn total_steps(build: &Path) -> Option<u64> {
    let plan = cmd::output(
        cmd::command("ninja")
            .arg("-C")
            .arg(build)
            .args(["-n", TARGET]),
    )
    .ok()?;
    steps_in_plan(&plan)
}

/// The `M` of the last line `[N/M] ...`.
fn steps_in_plan(plan: &str) -> Option<u64> {
    let line = plan.lines().rev().find(|l| l.starts_with('['))?;
    let total = line.split_once('/')?.1.split_once(']')?.0;
    total.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_from_a_plan() {
        let plan =
            "ninja: Entering directory `build'\n[1/1140] Compiling a.c\n[2/1140] Linking b\n";
        assert_eq!(steps_in_plan(plan), Some(1140));
        assert_eq!(steps_in_plan("ninja: no work to do.\n"), None);
    }
}
