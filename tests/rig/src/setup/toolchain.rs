// SPDX-License-Identifier: GPL-2.0

//! What compiles the kernel: LLVM, rustc with the sources of `core`, bindgen.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::cache;
use super::cmd::{self, Meter};
use super::version::Version;
use super::{Site, apt};
use crate::progress::Step;

/// The suffix of LLVM's programs: `make LLVM=-19`.
pub const LLVM: &str = "-19";
/// Where Debian's LLVM of that version keeps libclang, for bindgen.
const LIBCLANG_PATH: &str = "/usr/lib/llvm-19/lib";
/// Documentation/process/changes.rst of Linux 7.3.
const RUSTC_MIN: Version = Version(1, 85, 0);
const BINDGEN_MIN: Version = Version(0, 71, 1);
const BINDGEN_OURS: &str = "0.73.2";
/// Crates that `cargo install` compiles for it.
const BINDGEN_CRATES: u64 = 44;

/// A complete toolchain, as an environment for `make`.
#[derive(Clone, Debug)]
pub struct Toolchain {
    pub rustc: String,
    pub clang: String,
    pub bindgen_version: Version,
    /// `library` of rustc's sources, where rustup has not put it beside rustc.
    pub rust_lib_src: Option<PathBuf>,
    /// `PATH` with bindgen in it.
    pub path_env: OsString,
}

impl Toolchain {
    /// All of it, installed into the cache where it is missing.
    pub fn ensure(site: &Site) -> Result<Self> {
        let rustc = rustc_version()?;
        let clang = clang_version()?;
        let rust_lib_src = ensure_rust_src(site, &rustc)?;
        let (bindgen, bindgen_version) = ensure_bindgen(site)?;
        let mut path = OsString::new();
        if let Some(dir) = bindgen.parent() {
            path.push(dir);
            path.push(":");
        }
        path.push(std::env::var_os("PATH").unwrap_or_default());
        Ok(Self {
            rustc,
            clang,
            bindgen_version,
            rust_lib_src,
            path_env: path,
        })
    }

    /// One line for keys.
    pub fn identity(&self) -> String {
        format!(
            "{} | {} | bindgen {}",
            self.rustc, self.clang, self.bindgen_version
        )
    }

    /// What `make` has to be given beside `LLVM=`, for the kernel and for modules.
    pub fn environment(&self) -> Vec<(OsString, OsString)> {
        let mut env = vec![
            ("PATH".into(), self.path_env.clone()),
            ("LIBCLANG_PATH".into(), LIBCLANG_PATH.into()),
            ("KBUILD_BUILD_USER".into(), "paraclock".into()),
            ("KBUILD_BUILD_HOST".into(), "paraclock".into()),
        ];
        if let Some(dir) = &self.rust_lib_src {
            env.push(("RUST_LIB_SRC".into(), dir.into()));
        }
        env
    }

    /// `make` for the kernel's build system.
    pub fn make(&self) -> Command {
        let mut c = cmd::command("make");
        c.envs(self.environment());
        c.arg(format!("LLVM={LLVM}"));
        c
    }
}

fn rustc_version() -> Result<String> {
    let line = cmd::output(cmd::command("rustc").arg("--version"))
        .context("rustc is needed, 1.85 or newer: install Rust (rustup, or Debian's rustc)")?;
    let line = line.trim().to_owned();
    match Version::find(&line) {
        Some(v) if v >= RUSTC_MIN => Ok(line),
        _ => bail!(
            "`rustc --version` says \"{line}\", and Linux 7.3 needs {RUSTC_MIN} or newer: \
             `rustup update stable`, or install a newer rustc"
        ),
    }
}

fn clang_version() -> Result<String> {
    let clang = format!("clang{LLVM}");
    let text = cmd::output(cmd::command(&clang).arg("--version"))
        .with_context(|| format!("{clang} is needed: run scripts/bootstrap as root"))?;
    for tool in ["ld.lld", "llvm-ar", "llvm-objcopy"] {
        let name = format!("{tool}{LLVM}");
        if cmd::find_program(&name).is_none() {
            bail!("{name} is not installed: run scripts/bootstrap as root");
        }
    }
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

/// `None` where the sources are in rustc's own sysroot, where Kbuild looks by itself.
fn ensure_rust_src(site: &Site, rustc: &str) -> Result<Option<PathBuf>> {
    const PROBE: &str = "core/src/lib.rs";
    let sysroot = || -> Result<PathBuf> {
        let dir = cmd::output(cmd::command("rustc").args(["--print", "sysroot"]))?;
        Ok(Path::new(dir.trim()).join("lib/rustlib/src/rust/library"))
    };
    if sysroot()?.join(PROBE).is_file() {
        return Ok(None);
    }
    let version = Version::find(rustc).context("rustc's version")?;
    let dir = site.cache.path(format!("rust-src/{version}"));
    let library = dir.join("library");
    if dir.join(cache::STAMP).is_file() && library.join(PROBE).is_file() {
        return Ok(Some(library));
    }
    let mut step = Step::start(format!("sources of Rust's core library, {version}"));
    let log = site.log("rust-src");
    if cmd::find_program("rustup").is_some() {
        let mut c = cmd::command("rustup");
        c.args(["component", "add", "rust-src"]);
        match cmd::run(&mut c, &log, &mut step, None) {
            Ok(_) if sysroot()?.join(PROBE).is_file() => {
                step.finish("by rustup");
                return Ok(None);
            }
            _ => step.note("rustup cannot bring them; trying Debian's package rust-src"),
        }
    }
    let _lock = site.cache.lock()?;
    let apt = site.apt_trixie(&log)?;
    apt.update(&mut step)?;
    let wanted = apt
        .versions("rust-src")?
        .into_iter()
        .find(|v| Version::find(v) == Some(version))
        .with_context(|| {
            format!(
                "there is no rust-src {version} in Debian, and rustup could not bring it: \
                 `rustup component add rust-src`, or use a rustc that Debian has"
            )
        })?;
    let debs = site.cache.path(format!("downloads/rust-src-{version}"));
    let record = apt.download(&[format!("rust-src={wanted}")], &debs, &mut step)?;
    let tree = extract(site, &debs, &record, &log, &mut step)?;
    let found = tree.path().join(format!("usr/src/rustc-{version}/library"));
    if !found.join(PROBE).is_file() {
        bail!("Debian's rust-src {wanted} has no {}", found.display());
    }
    cache::remove_tree(&dir)?;
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    // The whole of rustc's tree: `library` has links that lead out of it.
    std::fs::rename(&found, &library).context("move the sources into the cache")?;
    cache::write_atomically(&dir.join(cache::STAMP), b"")?;
    step.finish("from Debian's package");
    Ok(Some(library))
}

/// Unpacks verified packages into a temporary directory of the cache.
pub fn extract(
    site: &Site,
    debs: &Path,
    record: &apt::Record,
    log: &Path,
    step: &mut Step,
) -> Result<tempfile::TempDir> {
    record.verify(debs)?;
    let tree = site.temporary()?;
    for d in &record.downloads {
        let mut c = cmd::command("dpkg-deb");
        c.arg("--extract").arg(debs.join(&d.file)).arg(tree.path());
        cmd::run(&mut c, log, step, None)?;
    }
    Ok(tree)
}

fn ensure_bindgen(site: &Site) -> Result<(PathBuf, Version)> {
    let version_of = |program: &Path| -> Option<Version> {
        let text = cmd::output(Command::new(program).arg("--version")).ok()?;
        Version::find(&text)
    };
    let mut found_old = None;
    if let Some(program) = cmd::find_program("bindgen") {
        match version_of(&program) {
            Some(v) if v >= BINDGEN_MIN => return Ok((program, v)),
            v => found_old = v,
        }
    }
    let root = site.cache.path(format!("tools/bindgen-{BINDGEN_OURS}"));
    let program = root.join("bin/bindgen");
    if let Some(v) = version_of(&program) {
        return Ok((program, v));
    }
    let _lock = site.cache.lock()?;
    if let Some(v) = version_of(&program) {
        return Ok((program, v));
    }
    site.cache.require_space(600, "building bindgen")?;
    let mut step = Step::start(format!("bindgen {BINDGEN_OURS}"));
    if let Some(v) = found_old {
        step.note(&format!(
            "bindgen {v} on the path is older than {BINDGEN_MIN}; it is left alone"
        ));
    }
    let target = site.temporary()?;
    let mut c = cmd::command("cargo");
    c.args([
        "install",
        "--locked",
        "bindgen-cli",
        "--version",
        BINDGEN_OURS,
    ])
    .arg("--root")
    .arg(&root)
    .env("CARGO_TARGET_DIR", target.path())
    // It runs for seconds: what counts is how long it takes to compile.
    .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
    .env("CARGO_PROFILE_RELEASE_LTO", "off")
    .env("CARGO_TERM_PROGRESS_WHEN", "never");
    let meter = Meter {
        counts: &|l| l.trim_start().starts_with("Compiling "),
        unit: "crates",
        expected: BINDGEN_CRATES,
    };
    cmd::run(&mut c, &site.log("bindgen"), &mut step, Some(meter)).context(
        "bindgen could not be built; where there is no network, put bindgen 0.71.1 or newer on the path",
    )?;
    let version = version_of(&program).context("the bindgen just built does not run")?;
    step.finish("");
    Ok((program, version))
}
