// SPDX-License-Identifier: GPL-2.0

//! The QEMU that runs in L1: Debian's, with its libraries and firmware, and no more.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use goblin::elf::Elf;
use walkdir::WalkDir;

use super::apt::Record;
use super::cache::{self, STAMP};
use super::key::Key;
use super::{Site, cmd, toolchain};
use crate::progress::{Step, human};

const PACKAGE: &str = "qemu-system-x86";
const SUITE: &str = "bookworm-backports";
/// Raised where a change of this file makes finished trees useless.
const REVISION: &str = "1";
const PROGRAM: &str = "usr/bin/qemu-system-x86_64";
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
/// Where Debian's QEMU looks for firmware; serves the outer QEMU too.
pub const FIRMWARE: &[&str] = &["usr/share/seabios", "usr/share/qemu"];
/// The firmware that an x86 machine without a network card can ask for.
const FIRMWARE_FILES: &[&str] = &[
    "usr/share/seabios/bios-256k.bin",
    "usr/share/seabios/bios.bin",
    "usr/share/seabios/bios-microvm.bin",
    "usr/share/seabios/vgabios-stdvga.bin",
    "usr/share/qemu/kvmvapic.bin",
    "usr/share/qemu/linuxboot.bin",
    "usr/share/qemu/linuxboot_dma.bin",
    "usr/share/qemu/multiboot.bin",
    "usr/share/qemu/multiboot_dma.bin",
    "usr/share/qemu/pvh.bin",
];
const SPACE_MIB: u64 = 900;

/// The tree, made where it is not in the cache.
pub fn ensure(site: &Site) -> Result<PathBuf> {
    let debs = site.cache.path("downloads/inner");
    let path_for = |record: &Record| {
        let key = Key::new("inner")
            .with("revision", REVISION)
            .with("packages", record.digest())
            .finish();
        (site.cache.path("inner").join(&key), key)
    };
    let finished =
        |dir: &Path| dir.join(STAMP).is_file() && dir.join("tree").join(PROGRAM).is_file();
    if let Some(record) = Record::load(&debs) {
        let (dir, _) = path_for(&record);
        if finished(&dir) {
            cache::touch(&dir.join(STAMP));
            return Ok(dir.join("tree"));
        }
    }
    let _lock = site.cache.lock()?;
    let log = site.log("inner-qemu");
    let mut step = Step::start("Debian's QEMU for L1");
    site.cache.require_space(SPACE_MIB, "the inner QEMU")?;
    let record = match Record::load(&debs) {
        Some(record) => record,
        None => {
            let apt = site.apt_bookworm(&log)?;
            apt.update(&mut step)?;
            let packages = apt.closure(PACKAGE, SUITE)?;
            if packages.is_empty() {
                bail!(
                    "apt found nothing to install for {PACKAGE}; its log: {}",
                    log.display()
                );
            }
            step.note(&format!(
                "{} packages, {} after the lists",
                packages.len(),
                human(step.elapsed())
            ));
            apt.download(&packages, &debs, &mut step)?
        }
    };
    let (dir, key) = path_for(&record);
    if !finished(&dir) {
        let whole = toolchain::extract(site, &debs, &record, &log, &mut step)?;
        cache::remove_tree(&dir)?;
        let tree = dir.join("tree");
        let count = copy_needed(whole.path(), &tree)?;
        // On this machine, with the tree's own loader and libraries: does it start?
        let version = cmd::output(
            cmd::command(&tree.join(LOADER).to_string_lossy())
                .arg("--library-path")
                .arg(tree.join("usr/lib/x86_64-linux-gnu"))
                .arg(tree.join(PROGRAM))
                .arg("--version"),
        )
        .context("the inner QEMU does not start")?;
        step.note(&format!(
            "{}: {count} files, {} MiB",
            version.lines().next().unwrap_or_default(),
            size(&tree) / (1 << 20)
        ));
        cache::write_atomically(&dir.join(STAMP), version.as_bytes())?;
        site.cache.expire("inner", 2, &key)?;
    }
    step.finish("");
    Ok(dir.join("tree"))
}

fn size(tree: &Path) -> u64 {
    WalkDir::new(tree)
        .into_iter()
        .filter_map(|e| e.ok()?.metadata().ok())
        .filter(std::fs::Metadata::is_file)
        .map(|m| m.len())
        .sum()
}

/// Copies the program, its firmware, and every library that one of them names.
fn copy_needed(whole: &Path, tree: &Path) -> Result<usize> {
    let mut copied = BTreeSet::new();
    for file in FIRMWARE_FILES {
        // Links are followed: a firmware file often is one.
        copy(&whole.join(file), &tree.join(file))?;
        copied.insert((*file).to_owned());
    }
    let mut queue = vec![(PROGRAM.to_owned(), find(whole, PROGRAM)?)];
    let loader = Path::new(LOADER)
        .file_name()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default();
    queue.push((LOADER.to_owned(), find_library(whole, &loader)?));
    while let Some((name, from)) = queue.pop() {
        if !copied.insert(name.clone()) {
            continue;
        }
        copy(&from, &tree.join(&name))?;
        let bytes = fs::read(&from).with_context(|| format!("read {}", from.display()))?;
        let elf =
            Elf::parse(&bytes).with_context(|| format!("{} is no ELF file", from.display()))?;
        for library in elf.libraries {
            if library == loader {
                continue;
            }
            let from = find_library(whole, library)?;
            queue.push((format!("usr/lib/x86_64-linux-gnu/{library}"), from));
        }
    }
    Ok(copied.len())
}

fn find(whole: &Path, name: &str) -> Result<PathBuf> {
    let path = whole.join(name);
    if !path.is_file() {
        bail!("the packages of {PACKAGE} have no {name}");
    }
    Ok(path)
}

/// In any of the directories that Debian's loader searches, and the private ones
/// (`usr/lib/x86_64-linux-gnu/pulseaudio`) that some libraries name by a run path.
fn find_library(whole: &Path, name: &str) -> Result<PathBuf> {
    const DIRECTORIES: &[&str] = &[
        "usr/lib/x86_64-linux-gnu",
        "lib/x86_64-linux-gnu",
        "lib64",
        "usr/lib64",
        "usr/lib",
        "lib",
    ];
    if let Some(path) = DIRECTORIES
        .iter()
        .filter_map(|d| inside(whole, &whole.join(d).join(name)))
        .next()
    {
        return Ok(path);
    }
    WalkDir::new(whole.join("usr/lib/x86_64-linux-gnu"))
        .max_depth(3)
        .into_iter()
        .filter_map(|e| Some(e.ok()?.into_path()))
        .filter(|p| p.file_name().is_some_and(|n| n == name))
        .find_map(|p| inside(whole, &p))
        .with_context(|| format!("no package of {PACKAGE} has the library {name}"))
}

/// The file behind `path`, unless an absolute link led out to this machine's own.
fn inside(whole: &Path, path: &Path) -> Option<PathBuf> {
    let real = path.canonicalize().ok()?;
    (real.is_file() && real.starts_with(whole.canonicalize().ok()?)).then_some(real)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("copy {} to {}", from.display(), to.display()))
}
