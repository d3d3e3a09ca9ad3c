// SPDX-License-Identifier: GPL-2.0

//! The kernel: its source, our patches, its configuration, its build.
//!
//! The build directory lies inside the source, so that Kbuild refers to the source by
//! relative paths. A finished tree can then be copied as the base of another one (another
//! state of the patches), and only what the patches touch is compiled again.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::apt::Record;
use super::cache::{self, STAMP};
use super::cmd::{self, Meter};
use super::key::{Key, fingerprint_tree, sha256_file};
use super::toolchain::{self, LLVM, Toolchain};
use super::version::Version;
use super::{Kernel, Patch, Site};
use crate::progress::Step;

/// Patches and driver are for this release of Linux.
const WANTED: (u32, u32) = (7, 3);
const PACKAGE: &str = "linux-source-7.3";
/// Raised where a change of this file makes finished builds useless.
const REVISION: &str = "1";
/// Inside the source, see above.
const BUILD_DIR: &str = "build-paraclock";
/// Compilation steps of a full build, before one has been counted here.
const STEPS: u64 = 1240;
/// How far an unfinished build has come.
const STATE: &str = "state.json";
/// What a build takes on disk, the source among it.
const SPACE_MIB: u64 = 3500;
/// What is built in the end, and what is built to see whether a patch builds.
const FINAL: &[&str] = &["all", "headers"];
const BETWEEN: &[&str] = &["vmlinux", "modules"];
/// Finished trees that are kept.
const KEEP: usize = 3;

/// What came of building the kernel up to and with one patch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PatchBuild {
    pub name: String,
    pub ok: bool,
    /// Whether it was in the given source already, and was not built by itself.
    pub already_applied: bool,
    pub log: PathBuf,
    pub error: Option<String>,
    /// Applied, and its build not finished.
    pending: bool,
    sha256: String,
}

impl PatchBuild {
    fn new(name: &str, sha256: String, log: &Path) -> Self {
        Self {
            name: name.to_owned(),
            ok: true,
            already_applied: false,
            log: log.to_owned(),
            error: None,
            pending: false,
            sha256,
        }
    }
}

/// In the stamp of a finished tree, and in the state of an unfinished one.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    /// Source and toolchain: trees that agree in it can be made from each other.
    base: String,
    patches: Vec<PatchBuild>,
    /// A patch that was being applied: its tree is not to be trusted.
    applying: bool,
    release: String,
}

/// Where the source comes from.
enum Source {
    Debian(Record, PathBuf),
    Tarball(PathBuf, String),
    Tree(PathBuf, String),
}

impl Source {
    fn identity(&self) -> String {
        match self {
            Self::Debian(record, _) => record.digest(),
            Self::Tarball(_, hash) => format!("tarball {hash}"),
            Self::Tree(path, hash) => format!("tree {} {hash}", path.display()),
        }
    }

    fn find(site: &Site, ksrc: Option<&Path>) -> Result<Self> {
        if let Some(given) = ksrc {
            let path = given
                .canonicalize()
                .with_context(|| format!("KSRC={}: no such file or directory", given.display()))?;
            if path.is_file() {
                let hash = sha256_file(&path)?;
                return Ok(Self::Tarball(path, hash));
            }
            check_version(&path, "KSRC=")?;
            let hash = fingerprint_tree(&path)?;
            return Ok(Self::Tree(path, hash));
        }
        let dir = site.cache.path("downloads/linux-source");
        if let Some(record) = Record::load(&dir) {
            return Ok(Self::Debian(record, dir));
        }
        let _lock = site.cache.lock()?;
        if let Some(record) = Record::load(&dir) {
            return Ok(Self::Debian(record, dir));
        }
        site.cache
            .require_space(600, "the kernel's source package")?;
        let log = site.log("kernel-source");
        let mut step = Step::start(format!("Debian's package {PACKAGE}"));
        let apt = site.apt_trixie(&log)?;
        apt.update(&mut step)?;
        let version = apt.versions(PACKAGE)?.into_iter().next().with_context(|| {
            format!("Debian's trixie-backports has no {PACKAGE}: pass a Linux 7.3 tree or tarball by KSRC=")
        })?;
        let record = apt.download(&[format!("{PACKAGE}={version}")], &dir, &mut step)?;
        step.finish(&format!("{version}, signature verified by apt"));
        Ok(Self::Debian(record, dir))
    }

    /// Lays the source out in `tree`, which is empty.
    fn unpack(&self, site: &Site, tree: &Path, log: &Path, step: &mut Step) -> Result<()> {
        let untar = |archive: &Path, step: &mut Step| -> Result<()> {
            let mut c = cmd::command("tar");
            c.args([
                "--extract",
                "--strip-components=1",
                "--no-same-owner",
                "--file",
            ])
            .arg(archive)
            .arg("--directory")
            .arg(tree);
            cmd::run(&mut c, log, step, None).map(drop)
        };
        match self {
            Self::Debian(record, debs) => {
                let unpacked = toolchain::extract(site, debs, record, log, step)?;
                untar(
                    &unpacked.path().join(format!("usr/src/{PACKAGE}.tar.xz")),
                    step,
                )?;
            }
            Self::Tarball(path, _) => untar(path, step)?,
            Self::Tree(path, _) => {
                let mut c = cmd::command("rsync");
                c.args(["--archive", "--exclude=/.git"])
                    .arg(format!("{}/", path.display()))
                    .arg(tree);
                cmd::run(&mut c, log, step, None)?;
                if tree.join(".config").exists() || tree.join("include/config").exists() {
                    // Kbuild wants a clean source for a build directory of its own.
                    let mut c = cmd::command("make");
                    c.arg("-C").arg(tree).arg("mrproper");
                    cmd::run(&mut c, log, step, None)?;
                }
            }
        }
        check_version(tree, "this kernel source")
    }
}

fn check_version(tree: &Path, what: &str) -> Result<()> {
    let makefile = fs::read_to_string(tree.join("Makefile"))
        .with_context(|| format!("{what}: {} is not a kernel tree", tree.display()))?;
    let found = Version::of_kernel_makefile(&makefile);
    match found {
        Some(v) if (v.0, v.1) == WANTED => Ok(()),
        Some(v) => bail!(
            "{what}: {} is Linux {v}, and the patches are for Linux {}.{}: give KSRC= a tree or tarball of {}.{}, \
             or leave it out to use Debian's",
            tree.display(),
            WANTED.0,
            WANTED.1,
            WANTED.0,
            WANTED.1
        ),
        None => bail!("{what}: {} is not a kernel tree", tree.display()),
    }
}

/// The lines of the fragment that the configuration does not have.
fn lost_lines(fragment: &str, config: &str) -> Vec<String> {
    let settings: std::collections::HashMap<&str, &str> = config
        .lines()
        .filter(|l| l.starts_with("CONFIG_"))
        .filter_map(|l| l.split_once('='))
        .collect();
    fragment
        .lines()
        .map(str::trim)
        .filter(|line| {
            if let Some(name) = line
                .strip_prefix("# ")
                .and_then(|l| l.strip_suffix(" is not set"))
            {
                return settings.contains_key(name);
            }
            if line.is_empty() || line.starts_with('#') {
                return false;
            }
            match line.split_once('=') {
                Some((name, "n")) => settings.contains_key(name),
                Some((name, value)) => settings.get(name) != Some(&value),
                None => true,
            }
        })
        .map(str::to_owned)
        .collect()
}

/// What a patch that is not the last one has to build: a kernel, or where all that it changes is KVM's own, the
/// objects of that, which is known not to be read elsewhere and takes a third of the time.
fn between(patch: &Patch) -> &'static [&'static str] {
    const KVM: &str = "arch/x86/kvm/";
    let is_kvm = |path: &str| path.starts_with(KVM) || path == "arch/x86/include/asm/kvm_host.h";
    let mut changes = patch.changes().peekable();
    if changes.peek().is_some() && changes.all(is_kvm) {
        &[KVM]
    } else {
        BETWEEN
    }
}

/// How many patches at the head of both lists are the same.
fn common_prefix(built: &[PatchBuild], wanted: &[Patch]) -> usize {
    built
        .iter()
        .zip(wanted)
        .take_while(|(b, w)| b.sha256 == w.sha256)
        .count()
}

/// Another tree of the cache, of the same source.
struct Relative {
    path: PathBuf,
    state: State,
    /// How many patches at the head of the series are in both.
    same: usize,
    finished: bool,
}

struct Builder<'a> {
    site: &'a Site,
    tools: &'a Toolchain,
    directory: PathBuf,
    source: PathBuf,
    build: PathBuf,
    log: PathBuf,
    state: State,
}

/// What is to be built, known once the source is there.
pub struct Plan<'a> {
    site: &'a Site,
    tools: &'a Toolchain,
    source: Source,
    patches: Vec<Patch>,
    fragment: String,
    debug: bool,
    base: String,
    key: String,
    directory: PathBuf,
}

impl<'a> Plan<'a> {
    /// Finds the source, downloaded where it has to be, and the key of what comes of it.
    pub fn new(
        site: &'a Site,
        tools: &'a Toolchain,
        ksrc: Option<&Path>,
        debug: bool,
    ) -> Result<Self> {
        let source = Source::find(site, ksrc)?;
        let patches = site.patches("patches")?;
        let mut fragment = String::new();
        for name in ["kernel.config", "kernel-debug.config"] {
            if name == "kernel.config" || debug {
                let path = site.root.join("scripts").join(name);
                fragment += &fs::read_to_string(&path)
                    .with_context(|| format!("read {}", path.display()))?;
            }
        }
        let base = Key::new("kernel-base")
            .with("revision", REVISION)
            .with("source", source.identity())
            .with("tools", tools.identity())
            .with("llvm", LLVM)
            .finish();
        let mut key = Key::new("kernel")
            .with("base", &base)
            .with("config", &fragment);
        for p in &patches {
            key = key.with(&p.name, &p.sha256);
        }
        let key = key.finish();
        Ok(Self {
            directory: site.cache.path("kernel").join(&key),
            site,
            tools,
            source,
            patches,
            fragment,
            debug,
            base,
            key,
        })
    }

    /// The built kernel; fast where it is in the cache.
    pub fn ensure(self) -> Result<Kernel> {
        let finished = || finished(&self.directory, self.tools, self.debug);
        if let Some(kernel) = finished() {
            return Ok(kernel);
        }
        let _lock = self.site.cache.lock()?;
        if let Some(kernel) = finished() {
            return Ok(kernel);
        }
        let cache = &self.site.cache;
        cache.expire("kernel", KEEP, &self.key)?;
        cache.require_space(SPACE_MIB, "building the kernel")?;
        let mut builder = Builder {
            site: self.site,
            tools: self.tools,
            source: self.directory.join("src"),
            build: self.directory.join("src").join(BUILD_DIR),
            log: self.site.log(&format!("kernel-{}", self.key)),
            state: State {
                base: self.base.clone(),
                patches: Vec::new(),
                applying: false,
                release: String::new(),
            },
            directory: self.directory.clone(),
        };
        builder.start(&self.source, &self.patches)?;
        // Beside the result, to be taken out of it again by a later series.
        let kept = self.directory.join("patches");
        let patches: Result<Vec<Patch>> = self.patches.iter().map(|p| p.keep_in(&kept)).collect();
        builder.configure(&self.fragment, false)?;
        builder.apply_and_build(&patches?, &self.fragment)?;
        builder.check_module()?;
        builder.finish()?;
        finished().context("the kernel was built, but is not complete")
    }
}

fn finished(directory: &Path, tools: &Toolchain, debug: bool) -> Option<Kernel> {
    let stamp = directory.join(STAMP);
    let state: State = cache::read_json(&stamp)?;
    let source = directory.join("src");
    let build = source.join(BUILD_DIR);
    let kernel = Kernel {
        bzimage: build.join("arch/x86/boot/bzImage"),
        vmlinux: build.join("vmlinux"),
        debug,
        release: state.release,
        patch_builds: state.patches,
        environment: tools.environment(),
        llvm_arg: format!("LLVM={LLVM}"),
        source,
        build,
    };
    if !kernel.bzimage.is_file() || !kernel.vmlinux.is_file() {
        return None;
    }
    cache::touch(&stamp);
    Some(kernel)
}

impl Builder<'_> {
    fn state_file(&self) -> PathBuf {
        self.directory.join(STATE)
    }

    fn save(&self) -> Result<()> {
        cache::write_json(&self.state_file(), &self.state)
    }

    fn make(&self, targets: &[&str]) -> std::process::Command {
        let jobs = std::thread::available_parallelism().map_or(2, usize::from);
        let mut c = self.tools.make();
        c.arg("-C")
            .arg(&self.source)
            .arg(format!("O={BUILD_DIR}"))
            .arg(format!("-j{jobs}"))
            .args(targets);
        c
    }

    /// Gets a source: an interrupted one, a copy of a finished one, or a fresh one.
    fn start(&mut self, source: &Source, patches: &[Patch]) -> Result<()> {
        if let Some(state) = cache::read_json::<State>(&self.state_file())
            && !state.applying
            && state.base == self.state.base
        {
            self.state = state;
            eprintln!(
                "==> going on with the kernel build in {}",
                self.directory.display()
            );
            return Ok(());
        }
        cache::remove_tree(&self.directory)?;
        if let Some(relative) = self.relative(patches) {
            match self.take_over(relative, patches) {
                Ok(()) => return self.save(),
                Err(e) => {
                    eprintln!(
                        "==> that tree is not what its notes say it is, so the source is unpacked anew: {e:#}"
                    );
                    cache::remove_tree(&self.directory)?;
                    self.state.patches.clear();
                }
            }
        }
        let mut step = Step::start("unpacking the kernel's source");
        let fresh = self.site.temporary()?;
        source.unpack(self.site, fresh.path(), &self.log, &mut step)?;
        // The last patch that can be taken out is the last of those that are in.
        let inside = (0..patches.len())
            .rev()
            .find(|i| patches[*i].is_applied(fresh.path()))
            .map_or(0, |i| i + 1);
        self.state.patches = patches[..inside]
            .iter()
            .map(|p| PatchBuild {
                already_applied: true,
                ..PatchBuild::new(&p.name, p.sha256.clone(), &self.log)
            })
            .collect();
        fs::create_dir_all(&self.directory).context("create the kernel's directory")?;
        let fresh = fresh.keep();
        fs::rename(&fresh, &self.source).context("move the source into its place")?;
        step.finish(&if inside > 0 {
            format!("{inside} of our patches are in it already")
        } else {
            String::new()
        });
        self.save()
    }

    /// Makes a tree of an earlier build the one that is wanted, as far as they have the same patches.
    fn take_over(&mut self, relative: Relative, patches: &[Patch]) -> Result<()> {
        let Relative {
            path: other,
            state,
            same,
            finished,
        } = relative;
        let mut step = Step::start("kernel source, from an earlier build");
        fs::create_dir_all(&self.directory).context("create the kernel's directory")?;
        if finished {
            let mut c = cmd::command("cp");
            c.args(["--archive", "--reflink=auto"])
                .arg(other.join("src"))
                .arg(&self.source);
            cmd::run(&mut c, &self.log, &mut step, None)?;
        } else {
            // What was interrupted is of no use to others.
            fs::rename(other.join("src"), &self.source).context("take over a kernel tree")?;
            let _ = fs::remove_file(other.join(STATE));
        }
        let kept = other.join("patches");
        for patch in state.patches[same..].iter().rev() {
            let patch = Patch {
                name: patch.name.clone(),
                path: kept.join(&patch.name),
                sha256: patch.sha256.clone(),
                text: Vec::new(),
            };
            patch.revert(&self.source, &self.log, &mut step)?;
        }
        self.state.patches = state.patches[..same].to_vec();
        for (kept, patch) in self.state.patches.iter_mut().zip(patches) {
            kept.name.clone_from(&patch.name);
            let log = kept.log.file_name().map(|n| self.directory.join(n));
            if let Some(log) = log.filter(|log| fs::copy(&kept.log, log).is_ok()) {
                kept.log = log;
            }
        }
        if !finished {
            cache::remove_tree(&other)?;
        }
        step.finish(&format!("{same} of {} patches are in it", patches.len()));
        Ok(())
    }

    /// The tree that has most in common with the one wanted.
    fn relative(&self, patches: &[Patch]) -> Option<Relative> {
        fs::read_dir(self.site.cache.path("kernel"))
            .ok()?
            .filter_map(|e| {
                let path = e.ok()?.path();
                let done: Option<State> = cache::read_json(&path.join(STAMP));
                let finished = done.is_some();
                let state = done.or_else(|| cache::read_json(&path.join(STATE)))?;
                let same = common_prefix(&state.patches, patches);
                let usable = state.base == self.state.base
                    && !state.applying
                    && state.patches[same..].iter().all(|p| {
                        let copy = path.join("patches").join(&p.name);
                        !p.already_applied
                            && sha256_file(&copy).is_ok_and(|sha256| sha256 == p.sha256)
                    });
                usable.then_some(Relative {
                    path,
                    state,
                    same,
                    finished,
                })
            })
            .max_by_key(|r| (r.finished, r.same))
    }

    /// Configures the kernel. `whole`: with all patches, which bring options along, so that none may
    /// be unknown.
    fn configure(&self, fragment: &str, whole: bool) -> Result<()> {
        let mut step = Step::start("configuring the kernel");
        fs::create_dir_all(&self.build).context("create the build directory")?;
        let config = self.build.join(".config");
        cmd::run(&mut self.make(&["tinyconfig"]), &self.log, &mut step, None)?;
        let tiny = fs::read_to_string(&config).context("read .config")?;
        // The last setting of an option counts.
        fs::write(&config, tiny + fragment).context("write .config")?;
        cmd::run(
            &mut self.make(&["olddefconfig"]),
            &self.log,
            &mut step,
            None,
        )?;
        let merged = fs::read_to_string(&config).context("read .config")?;
        let lost = lost_lines(fragment, &merged);
        if whole && !lost.is_empty() {
            bail!(
                "scripts/kernel.config: `make olddefconfig` did not keep these lines (an option that this kernel \
                 does not have, or that depends on one that is off):\n    {}",
                lost.join("\n    ")
            );
        }
        step.finish("");
        Ok(())
    }

    fn steps_file(&self) -> PathBuf {
        self.site.cache.path("kernel/steps")
    }

    fn compile(&self, title: &str, targets: &[&str], log: &Path) -> Result<()> {
        let mut step = Step::start(title);
        let full = !self.build.join("vmlinux").is_file();
        let expected = fs::read_to_string(self.steps_file())
            .ok()
            .and_then(|t| t.trim().parse().ok())
            .unwrap_or(STEPS);
        let is_step =
            |l: &str| l.starts_with("  CC") || l.starts_with("  RUSTC") || l.starts_with("  AS ");
        let meter = full.then_some(Meter {
            counts: &is_step,
            unit: "files",
            expected,
        });
        let n = cmd::run(&mut self.make(targets), log, &mut step, meter)?;
        if full && n > 500 {
            cache::write_atomically(&self.steps_file(), format!("{n}\n").as_bytes())?;
        }
        step.finish("");
        Ok(())
    }

    /// Each patch has to build, one after the other; a broken one in the middle is for the
    /// tests to tell, a broken last one leaves no kernel.
    fn apply_and_build(&mut self, patches: &[Patch], fragment: &str) -> Result<()> {
        let total = patches.len();
        let mut built = false;
        for (i, patch) in patches.iter().enumerate() {
            let log = self.log.with_extension(format!("patch-{}.log", i + 1));
            match self.state.patches.get(i) {
                Some(done) if !done.pending => continue,
                Some(_) => {}
                None => {
                    self.state.applying = true;
                    self.save()?;
                    let mut step =
                        Step::start(format!("patch {} of {total}: {}", i + 1, patch.name));
                    patch.apply(&self.source, &self.log, &mut step)?;
                    step.finish("applied");
                    self.state.applying = false;
                    self.state.patches.push(PatchBuild {
                        pending: true,
                        ..PatchBuild::new(&patch.name, patch.sha256.clone(), &log)
                    });
                    self.save()?;
                }
            }
            let last = i + 1 == total;
            if last {
                self.configure(fragment, true)?;
            }
            let title = format!("building the kernel, patch {} of {total}", i + 1);
            let result = self.compile(&title, if last { FINAL } else { between(patch) }, &log);
            built = last;
            let error = match result {
                Err(error) if last => {
                    return Err(error.context(format!(
                        "the kernel does not build with all {total} patches, the last being {}",
                        patch.name
                    )));
                }
                Err(error) => {
                    eprintln!(
                        "    with {} the kernel does not build: {error:#}",
                        patch.name
                    );
                    Some(format!("{error:#}"))
                }
                Ok(()) => None,
            };
            // The cache may outlive this checkout.
            let kept = self.directory.join(format!("patch-{}.log", i + 1));
            fs::copy(&log, &kept).context("keep the log of a patch's build")?;
            if let Some(record) = self.state.patches.get_mut(i) {
                record.ok = error.is_none();
                record.error = error;
                record.log = kept;
                record.pending = false;
            }
            self.save()?;
        }
        if !built {
            self.configure(fragment, true)?;
            self.compile("building the kernel", FINAL, &self.log)?;
        }
        Ok(())
    }

    /// A Rust module out of the tree has to build against the result.
    fn check_module(&self) -> Result<()> {
        let mut step = Step::start("building a Rust module against the kernel");
        let module = self.site.temporary()?;
        fs::copy(
            self.source.join("samples/rust/rust_minimal.rs"),
            module.path().join("rust_minimal.rs"),
        )
        .context("copy the kernel's sample module")?;
        fs::write(module.path().join("Kbuild"), "obj-m := rust_minimal.o\n")
            .context("write the sample's Kbuild")?;
        let mut c = self.tools.make();
        c.arg("-C")
            .arg(&self.build)
            .arg(format!("M={}", module.path().display()))
            .arg("modules");
        cmd::run(&mut c, &self.log, &mut step, None)?;
        if !module.path().join("rust_minimal.ko").is_file() {
            bail!(
                "the kernel's sample module was not built; log: {}",
                self.log.display()
            );
        }
        step.finish("");
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.state.release = fs::read_to_string(self.build.join("include/config/kernel.release"))
            .context("read the kernel's release")?
            .trim()
            .to_owned();
        cache::write_json(&self.directory.join(STAMP), &self.state)?;
        // An old state must not be taken up again should the stamp go away.
        let _ = fs::remove_file(self.state_file());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::key::sha256_bytes;
    use super::*;

    fn patch_build(name: &str, content: &str) -> PatchBuild {
        PatchBuild::new(name, sha256_bytes(content.as_bytes()), Path::new(""))
    }

    #[test]
    fn lost_lines_are_found() {
        let config =
            "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=m\nCONFIG_S=\"-x\"\nCONFIG_N=16\n";
        let kept = "# a comment\n\nCONFIG_A=y\n# CONFIG_B is not set\n# CONFIG_GONE is not set\nCONFIG_C=m\nCONFIG_S=\"-x\"\nCONFIG_B=n\n";
        assert!(lost_lines(kept, config).is_empty());
        let lost = "CONFIG_B=y\n# CONFIG_A is not set\nCONFIG_C=y\nCONFIG_N=1\nCONFIG_NONE=y\nCONFIG_A=n\n";
        assert_eq!(lost_lines(lost, config).len(), 6);
    }

    #[test]
    fn what_has_to_be_built_between_depends_on_what_is_changed() {
        let patch = |text: &str| Patch {
            name: "1".to_owned(),
            path: PathBuf::new(),
            sha256: String::new(),
            text: text.as_bytes().to_vec(),
        };
        let kvm = "--- a/arch/x86/kvm/x86.c\n+++ b/arch/x86/kvm/x86.c\n";
        let header =
            "--- a/arch/x86/include/asm/kvm_host.h\n+++ b/arch/x86/include/asm/kvm_host.h\n";
        let removed = "--- a/kernel/time/clocksource.c\n+++ /dev/null\n";
        assert_eq!(
            between(&patch(&format!("{header}{kvm}"))),
            ["arch/x86/kvm/"]
        );
        assert_eq!(between(&patch(&format!("{kvm}{removed}"))), BETWEEN);
        assert_eq!(between(&patch("")), BETWEEN);
    }

    #[test]
    fn common_patches_are_counted() {
        let patch = |name: &str, content: &str| Patch {
            name: name.to_owned(),
            path: PathBuf::new(),
            sha256: sha256_bytes(content.as_bytes()),
            text: Vec::new(),
        };
        let built = [patch_build("1", "a"), patch_build("2", "b")];
        assert_eq!(common_prefix(&built, &[]), 0);
        assert_eq!(common_prefix(&built, &[patch("1", "a")]), 1);
        // The name is not what is built.
        assert_eq!(
            common_prefix(&built, &[patch("x", "a"), patch("y", "b"), patch("z", "c")]),
            2
        );
        assert_eq!(
            common_prefix(&built, &[patch("1", "z"), patch("2", "b")]),
            0
        );
    }

    #[test]
    fn other_kernels_are_refused() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let not_a_tree = check_version(dir.path(), "KSRC=").unwrap_err();
        assert!(format!("{not_a_tree:#}").contains("is not a kernel tree"));
        fs::write(
            dir.path().join("Makefile"),
            "VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 1\n",
        )?;
        let old = check_version(dir.path(), "KSRC=").unwrap_err().to_string();
        assert!(old.contains("Linux 6.12.1"), "{old}");
        fs::write(
            dir.path().join("Makefile"),
            "VERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = 9\n",
        )?;
        check_version(dir.path(), "KSRC=")
    }

    #[test]
    fn patches_apply_once_and_without_fuzz() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let tree = dir.path().join("tree");
        fs::create_dir(&tree)?;
        fs::write(tree.join("f"), "a\nb\nc\n")?;
        let path = dir.path().join("1.patch");
        fs::write(&path, "--- a/f\n+++ b/f\n@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n")?;
        let patch = Patch {
            name: "1.patch".into(),
            sha256: String::new(),
            path,
            text: Vec::new(),
        };
        let log = dir.path().join("log");
        let mut step = Step::start("test");
        assert!(!patch.is_applied(&tree));
        patch.apply(&tree, &log, &mut step)?;
        assert_eq!(fs::read_to_string(tree.join("f"))?, "a\nB\nc\n");
        assert!(patch.is_applied(&tree));
        let twice = patch.apply(&tree, &log, &mut step).unwrap_err();
        assert!(twice.to_string().contains("1.patch does not apply"));
        patch.revert(&tree, &log, &mut step)?;
        assert_eq!(fs::read_to_string(tree.join("f"))?, "a\nb\nc\n");
        fs::write(tree.join("f"), "a\nb\nC\n")?;
        assert!(patch.apply(&tree, &log, &mut step).is_err());
        Ok(())
    }
}
