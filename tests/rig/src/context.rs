// SPDX-License-Identifier: GPL-2.0

//! What the commands share: where things are, and what has been set up already.

use crate::exec;
use crate::progress::Step;
use crate::setup::{self, Artifacts};
use crate::vm::Flavour;
use crate::vm::initramfs::{self, Payload};
use crate::vm::probe::{self, Choice, Machine};
use anyhow::{Context as _, Result, bail};
use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};

pub struct Context {
    pub root: PathBuf,
    pub options: setup::Options,
    /// Whether to run L2 directly or in the nested rig.
    pub machine: Machine,
    /// Print what the guests print.
    pub verbose: bool,
    /// The flavours of the guest that the tests are run in; all of a suite's if there is none.
    pub flavours: Vec<Flavour>,
    artifacts: OnceCell<Artifacts>,
    payload: OnceCell<Payload>,
    choice: OnceCell<Choice>,
}

/// The value, computed by `make` the first time.
fn once<T>(cell: &OnceCell<T>, make: impl FnOnce() -> Result<T>) -> Result<&T> {
    if let Some(value) = cell.get() {
        return Ok(value);
    }
    let value = make()?;
    Ok(cell.get_or_init(|| value))
}

impl Context {
    pub fn new(options: setup::Options, machine: Machine, verbose: bool) -> Result<Self> {
        let root = match &options.root {
            Some(root) => root
                .canonicalize()
                .with_context(|| format!("no such directory: {}", root.display()))?,
            None => setup::checkout_root()?,
        };
        Ok(Context {
            root,
            options,
            machine,
            verbose,
            flavours: Vec::new(),
            artifacts: OnceCell::new(),
            payload: OnceCell::new(),
            choice: OnceCell::new(),
        })
    }

    pub fn build(&self) -> PathBuf {
        self.root.join("build")
    }

    pub fn logs(&self, suite: &str) -> PathBuf {
        self.build().join("logs").join(suite)
    }

    /// A suite's directory of logs, without those of an earlier run.
    pub fn fresh_logs(&self, suite: &str) -> Result<PathBuf> {
        let dir = self.logs(suite);
        if dir.exists() {
            fs::remove_dir_all(&dir)
                .with_context(|| format!("cannot remove the old logs {}", dir.display()))?;
        }
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(dir)
    }

    /// The init scripts of the guests.
    pub fn guest(&self) -> PathBuf {
        self.root.join("tests/rig/guest")
    }

    pub fn artifacts(&self) -> Result<&Artifacts> {
        once(&self.artifacts, || setup::ensure(&self.options))
    }

    /// Which machine runs L2.
    pub fn choice(&self) -> Result<&Choice> {
        once(&self.choice, || {
            let mut step = Step::start("choosing a machine for the guest");
            let choice = probe::choose(
                self.artifacts()?,
                &self.guest(),
                &self.build(),
                self.machine,
            )?;
            let kind = if choice.direct {
                "directly on /dev/kvm"
            } else {
                "nested rig (KVM in an emulated machine)"
            };
            step.note(&choice.why);
            step.finish(kind);
            Ok(choice)
        })
    }

    /// The driver, its test modules and the selftests, built.
    pub fn payload(&self) -> Result<&Payload> {
        once(&self.payload, || {
            Ok(Payload {
                modules: self.modules(
                    if self.options.debug {
                        "module-debug"
                    } else {
                        "module"
                    },
                    &[],
                )?,
                kselftest: Some(self.kselftest()?),
                second_kernel: Some(self.artifacts()?.kernel.bzimage.clone()),
            })
        })
    }

    pub fn l2_image(&self, payload: &Payload) -> Result<PathBuf> {
        initramfs::l2(&self.build().join("images"), &self.guest(), payload)
    }

    pub fn nested_image(&self, payload: &Payload) -> Result<PathBuf> {
        let images = self.build().join("images");
        initramfs::nested(&images, &self.guest(), self.artifacts()?, payload)
    }

    /// Builds the modules in `build/<dir>`, as anyone would build a module outside the tree.
    pub fn modules(&self, dir: &str, more: &[&str]) -> Result<Vec<PathBuf>> {
        let kernel = &self.artifacts()?.kernel;
        let out = self.build().join(dir);
        fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
        let mut step = Step::start(format!(
            "building the modules in {}",
            shown(&out, &self.root)
        ));
        let mut make = exec::command("make");
        make.envs(kernel.environment.iter().map(|(k, v)| (k, v)))
            .arg("-C")
            .arg(&kernel.build)
            .arg(format!("M={}", self.root.display()))
            .arg(format!("MO={}", out.display()))
            .arg(&kernel.llvm_arg)
            .args(more)
            .arg("modules");
        let log = self.logs("build").join(format!("{dir}.log"));
        let done = exec::logged(&mut make, &log, &mut step)?;
        if !done.success {
            bail!(
                "the modules do not build ({}):\n    {}\n    log: {}",
                done.status,
                exec::telling_lines(&done.output).join("\n    "),
                log.display()
            );
        }
        let mut found: Vec<PathBuf> = walkdir::WalkDir::new(&out)
            .into_iter()
            .filter_map(|e| e.ok().map(walkdir::DirEntry::into_path))
            .filter(|p| p.extension().is_some_and(|e| e == "ko"))
            .collect();
        found.sort();
        if !found.iter().any(|p| p.ends_with("paraclock.ko")) {
            bail!(
                "the build left no paraclock.ko in {}; see {}",
                out.display(),
                log.display()
            );
        }
        step.finish(&format!("{} modules", found.len()));
        Ok(found)
    }

    fn kselftest(&self) -> Result<PathBuf> {
        let kernel = &self.artifacts()?.kernel;
        let out = self.build().join("kselftest");
        let install = self.build().join("kselftest-install");
        // What an earlier version installed must not be tested.
        if install.exists() {
            fs::remove_dir_all(&install)
                .with_context(|| format!("cannot remove {}", install.display()))?;
        }
        for dir in [&out, &install] {
            fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        let mut step = Step::start("building the selftests");
        let mut make = exec::command("make");
        make.arg("-C")
            .arg(self.root.join("tests/kselftest"))
            .arg(format!("KSRC={}", kernel.source.display()))
            .arg(format!("OUTPUT={}", out.display()))
            .arg(format!("KSFT_INSTALL_PATH={}", install.display()))
            .arg("install");
        let log = self.logs("build").join("kselftest.log");
        let done = exec::logged(&mut make, &log, &mut step)?;
        if !done.success {
            bail!(
                "the selftests do not build ({}):\n    {}\n    log: {}",
                done.status,
                exec::telling_lines(&done.output).join("\n    "),
                log.display()
            );
        }
        step.finish("");
        Ok(install)
    }
}

/// A path as a person in the checkout would write it.
pub fn shown(path: &Path, root: &Path) -> String {
    path.strip_prefix(root)
        .unwrap_or(path)
        .display()
        .to_string()
}
