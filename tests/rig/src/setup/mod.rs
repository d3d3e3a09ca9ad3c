// SPDX-License-Identifier: GPL-2.0

//! From a bare machine to a built kernel, an outer QEMU and the tree of the inner one.
//!
//! All of it is kept in a cache, in directories named by a hash of what they were made
//! from; a directory is complete when its stamp is there.

mod apt;
mod cache;
mod cmd;
mod inner;
mod kernel;
mod key;
mod qemu;
mod qemu_tree;
mod toolchain;
mod version;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::progress::human;
use cache::Cache;
pub use kernel::PatchBuild;
use toolchain::Toolchain;

/// What an empty cache grows to.
const FIRST_SPACE_MIB: u64 = 6000;

/// What the user may choose.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A kernel tree or tarball to use in place of Debian's; it is copied, never changed.
    pub ksrc: Option<PathBuf>,
    /// A tree of QEMU's source to use in place of Debian's; it is copied, never changed.
    pub qemu_src: Option<PathBuf>,
    /// The checkout, where it is not the one that this program was built in.
    pub root: Option<PathBuf>,
    /// The kernel that watches itself, in place of the usual one.
    pub debug: bool,
}

/// Everything that the other parts of the rig need.
#[derive(Clone, Debug)]
pub struct Artifacts {
    /// The cache's directory.
    pub cache: PathBuf,
    pub kernel: Kernel,
    /// The patched `qemu-system-x86_64` that runs L1.
    pub qemu_outer: PathBuf,
    /// Where the outer QEMU finds its firmware: one `-L` each.
    pub firmware: Vec<PathBuf>,
    /// Root of a tree with Debian's QEMU and all that it needs, for L1's initramfs.
    pub inner_tree: PathBuf,
}

/// The kernel and what builds modules for it.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The patched source.
    pub source: PathBuf,
    /// The build directory: `make -C` this.
    pub build: PathBuf,
    pub bzimage: PathBuf,
    pub vmlinux: PathBuf,
    /// It watches itself, which takes time and memory.
    pub debug: bool,
    /// The output of `make kernelrelease`.
    pub release: String,
    /// The patches in their order, and whether each one builds.
    pub patch_builds: Vec<PatchBuild>,
    /// All that `make` needs in its environment, `PATH` among it.
    pub environment: Vec<(OsString, OsString)>,
    /// The argument `LLVM=...` of every `make`.
    pub llvm_arg: String,
}

/// The checkout and the cache.
pub struct Site {
    root: PathBuf,
    cache: Cache,
}

impl Site {
    fn open(options: &Options) -> Result<Self> {
        Ok(Self {
            root: match &options.root {
                Some(root) => root.clone(),
                None => checkout_root()?,
            },
            cache: Cache::open()?,
        })
    }

    fn log(&self, name: &str) -> PathBuf {
        self.root.join(format!("build/logs/setup-{name}.log"))
    }

    /// A directory on the cache's file system that goes away by itself.
    fn temporary(&self) -> Result<tempfile::TempDir> {
        let dir = self.cache.path("tmp");
        std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        tempfile::tempdir_in(&dir)
            .with_context(|| format!("create a directory in {}", dir.display()))
    }

    /// The kernel's and QEMU's sources, and a newer Rust.
    fn apt_trixie(&self, log: &Path) -> Result<apt::Apt> {
        let suites = [("deb-src", "trixie"), ("deb", "trixie-backports")];
        apt::Apt::prepare(&self.cache, log, "trixie", &suites)
    }

    /// The inner QEMU, with the libraries of the release that it was built for.
    fn apt_bookworm(&self, log: &Path) -> Result<apt::Apt> {
        let suites = [("deb", "bookworm"), ("deb", "bookworm-backports")];
        apt::Apt::prepare(&self.cache, log, "bookworm", &suites)
    }

    /// The patches in a directory of the checkout, in their order.
    fn patches(&self, directory: &str) -> Result<Vec<Patch>> {
        let dir = self.root.join(directory);
        let Ok(entries) = std::fs::read_dir(&dir) else {
            return Ok(Vec::new());
        };
        let mut patches = Vec::new();
        for entry in entries {
            let path = entry
                .with_context(|| format!("list {}", dir.display()))?
                .path();
            if path.extension().is_some_and(|e| e == "patch") {
                let text =
                    std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
                patches.push(Patch {
                    name: path
                        .file_name()
                        .map(|n| n.to_string_lossy().into_owned())
                        .unwrap_or_default(),
                    sha256: key::sha256_bytes(&text),
                    path,
                    text,
                });
            }
        }
        patches.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(patches)
    }
}

/// One patch of a series.
#[derive(Clone, Debug)]
struct Patch {
    name: String,
    path: PathBuf,
    sha256: String,
    text: Vec<u8>,
}

impl Patch {
    /// The files that it changes, adds or removes, most of them twice.
    fn changes(&self) -> impl Iterator<Item = &str> {
        std::str::from_utf8(&self.text)
            .unwrap_or_default()
            .lines()
            .filter_map(|l| {
                l.strip_prefix("--- a/")
                    .or_else(|| l.strip_prefix("+++ b/"))
            })
    }

    /// A copy to build with: somebody may edit the checkout during a long build, and the
    /// result has to be what its key says.
    fn keep_in(&self, directory: &Path) -> Result<Self> {
        let path = directory.join(&self.name);
        cache::write_atomically(&path, &self.text)?;
        Ok(Self {
            path,
            ..self.clone()
        })
    }

    fn command(&self, tree: &Path, arguments: &[&str]) -> std::process::Command {
        let mut c = cmd::command("patch");
        c.args(["-p1", "--fuzz=0", "--batch", "--no-backup-if-mismatch"])
            .args(arguments)
            .arg("--directory")
            .arg(tree)
            .arg("--input")
            .arg(&self.path);
        c
    }

    fn apply(&self, tree: &Path, log: &Path, step: &mut crate::progress::Step) -> Result<()> {
        // Without --forward, --batch would take a patch out that is in already.
        cmd::run(&mut self.command(tree, &["--forward"]), log, step, None)
            .map(drop)
            .with_context(|| {
                format!(
                    "the patch {} does not apply to {}: rebase it, or use the kernel version it was made for",
                    self.name,
                    tree.display()
                )
            })
    }

    fn revert(&self, tree: &Path, log: &Path, step: &mut crate::progress::Step) -> Result<()> {
        cmd::run(&mut self.command(tree, &["--reverse"]), log, step, None)
            .map(drop)
            .with_context(|| format!("take {} out again", self.name))
    }

    fn is_applied(&self, tree: &Path) -> bool {
        self.command(tree, &["--reverse", "--dry-run", "--silent", "--force"])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    }
}

/// The checkout that this program belongs to.
pub fn checkout_root() -> Result<PathBuf> {
    let is_root = |p: &Path| p.join("scripts/kernel.config").is_file();
    let here = std::env::current_dir().context("current directory")?;
    if let Some(root) = here.ancestors().find(|p| is_root(p)) {
        return Ok(root.to_owned());
    }
    let built_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    match built_in.canonicalize() {
        Ok(root) if is_root(&root) => Ok(root),
        _ => bail!("this is not a checkout of paraclock: run it from inside one"),
    }
}

/// The kernel, built where it has to be.
pub fn ensure_kernel(options: &Options) -> Result<Kernel> {
    let site = Site::open(options)?;
    let tools = Toolchain::ensure(&site)?;
    kernel::Plan::new(&site, &tools, options.ksrc.as_deref(), options.debug)?.ensure()
}

/// Everything, built where it has to be.
pub fn ensure(options: &Options) -> Result<Artifacts> {
    let site = Site::open(options)?;
    if !site.cache.path("kernel").exists() {
        site.cache
            .require_space(FIRST_SPACE_MIB, "the first set-up")?;
    }
    let tools = Toolchain::ensure(&site)?;
    // All that needs the network comes first, so that it fails before the long builds.
    let plan = kernel::Plan::new(&site, &tools, options.ksrc.as_deref(), options.debug)?;
    let inner_tree = inner::ensure(&site)?;
    let kernel;
    let qemu_outer = if let Some(tree) = &options.qemu_src {
        // Whatever is wrong with it is said before the kernel is built.
        let qemu = qemu_tree::ensure(&site, tree)?;
        kernel = plan.ensure()?;
        qemu
    } else {
        qemu::source(&site)?;
        kernel = plan.ensure()?;
        qemu::ensure(&site)?
    };
    Ok(Artifacts {
        firmware: inner::FIRMWARE.iter().map(|d| inner_tree.join(d)).collect(),
        cache: site.cache.root().to_owned(),
        kernel,
        qemu_outer,
        inner_tree,
    })
}

/// `rig setup`
pub fn command_setup(options: &Options) -> Result<()> {
    let start = std::time::Instant::now();
    let a = ensure(options)?;
    println!(
        "setup: Linux {} with {} patch{}, outer QEMU and inner QEMU are ready in {} ({})",
        a.kernel.release,
        a.kernel.patch_builds.len(),
        if a.kernel.patch_builds.len() == 1 {
            ""
        } else {
            "es"
        },
        a.cache.display(),
        human(start.elapsed())
    );
    Ok(())
}

/// `rig kdir`: the directory for `make -C`, and with `environment` what else `make` needs,
/// as assignments that a shell and `make` both understand.
pub fn command_kdir(options: &Options, environment: bool) -> Result<()> {
    let kernel = ensure_kernel(options)?;
    if environment {
        for (name, value) in &kernel.environment {
            println!("{}={}", name.to_string_lossy(), value.to_string_lossy());
        }
        println!("{}", kernel.llvm_arg);
        println!("KDIR={}", kernel.build.display());
    } else {
        println!("{}", kernel.build.display());
    }
    Ok(())
}

/// `rig kbuild -- TARGETS`: Kbuild for the module in the checkout, with the kernel of the cache
/// and all that its `make` needs.
pub fn command_kbuild(options: &Options, arguments: &[String]) -> Result<()> {
    let root = Site::open(options)?.root;
    let kernel = ensure_kernel(options)?;
    let mut make = cmd::command("make");
    make.envs(kernel.environment.iter().map(|(name, value)| (name, value)))
        .arg("-C")
        .arg(&kernel.build)
        .arg(format!("M={}", root.display()))
        .arg(&kernel.llvm_arg)
        .args(arguments);
    let status = make
        .status()
        .context("cannot run make: scripts/bootstrap installs what is needed")?;
    if !status.success() {
        bail!("make failed ({status}) for Linux {}", kernel.release);
    }
    Ok(())
}
