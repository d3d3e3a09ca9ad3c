// SPDX-License-Identifier: GPL-2.0

//! Whether this machine's /dev/kvm runs a kernel: found out by running one.
//!
//! A /dev/kvm may be there and be of no use: a paravirtual KVM, for one, emulates ring 0 an instruction at a
//! time. So the kernel under test is booted on it, for at most 20 seconds, and the verdict is kept for as long
//! as this machine is up and QEMU and kernel are the same.

use super::initramfs::{self, InnerQemu, Payload};
use super::run::{Quiet, watch};
use super::{Flavour, Task, direct};
use crate::console::{Line, Source};
use crate::session::{Limits, Session};
use crate::setup::Artifacts;
use crate::verdict::Verdict;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

const BOUND: Duration = Duration::from_secs(20);

/// Which machine runs L2, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    pub direct: bool,
    pub why: String,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    key: String,
    choice: Choice,
}

/// What the user may insist on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Machine {
    /// /dev/kvm if it runs a kernel, else the nested rig.
    #[default]
    Auto,
    /// /dev/kvm.
    Direct,
    /// The nested rig.
    Nested,
}

pub fn choose(artifacts: &Artifacts, guest: &Path, build: &Path, wish: Machine) -> Result<Choice> {
    match wish {
        Machine::Auto => {}
        Machine::Direct => {
            return Ok(Choice {
                direct: true,
                why: "as asked for by --machine".to_owned(),
            });
        }
        Machine::Nested => {
            return Ok(Choice {
                direct: false,
                why: "as asked for by --machine".to_owned(),
            });
        }
    }
    if let Err(e) = fs::File::options().read(true).write(true).open("/dev/kvm") {
        return Ok(Choice {
            direct: false,
            why: format!("/dev/kvm cannot be opened: {e}"),
        });
    }
    let kept_at = build.join("kvm-probe.json");
    let key = key(artifacts)?;
    let kept: Option<Kept> = fs::read(&kept_at)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok());
    if let Some(kept) = kept.filter(|k| k.key == key) {
        return Ok(kept.choice);
    }
    let choice = probe(artifacts, guest, build)?;
    let text = serde_json::to_vec(&Kept {
        key,
        choice: choice.clone(),
    })
    .context("cannot encode a verdict")?;
    fs::write(&kept_at, text).with_context(|| format!("cannot write {}", kept_at.display()))?;
    Ok(choice)
}

fn key(artifacts: &Artifacts) -> Result<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .context("cannot read this boot's id")?;
    let mut hash = Sha256::new();
    hash.update(boot);
    for path in [&artifacts.kernel.bzimage, &artifacts.inner_tree] {
        let meta = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
        let changed = meta.modified().context("a file without a time")?;
        hash.update(format!("{} {changed:?}", path.display()));
    }
    Ok(hash
        .finalize()
        .iter()
        .take(8)
        .map(|b| format!("{b:02x}"))
        .collect())
}

fn probe(artifacts: &Artifacts, guest: &Path, build: &Path) -> Result<Choice> {
    let qemu = initramfs::inner_qemu(artifacts)?;
    let image = initramfs::l2(&build.join("images"), guest, &Payload::default())?;
    let log = build.join("logs/kvm-probe");
    let (verdict, took) = boot(artifacts, &qemu, &image, &log)?;
    let see = |what: &str| Choice {
        direct: false,
        why: format!("/dev/kvm is here, but {what} (logs: {})", log.display()),
    };
    Ok(match verdict {
        Ok(Verdict::Finished { status: 0 }) => Choice {
            direct: true,
            why: format!(
                "/dev/kvm ran the kernel from power-on to power-off in {:.1} s",
                took.as_secs_f64()
            ),
        },
        Ok(Verdict::QemuError(text)) => see(&text),
        Ok(Verdict::KernelFault(faults)) => see(&format!(
            "the kernel did not survive on it: {}",
            faults.first().map_or("", |f| f.headline())
        )),
        Ok(_) => see(&format!(
            "the kernel did not come up on it within {} s",
            BOUND.as_secs()
        )),
        Err(e) => see(&format!("QEMU does not start on it: {e:#}")),
    })
}

type Tried = (Result<Verdict>, Duration);

fn boot(artifacts: &Artifacts, qemu: &InnerQemu, image: &Path, log: &Path) -> Result<Tried> {
    let flavour = Flavour::KvmAdopt;
    let launch = direct::launch(artifacts, qemu, image, Task::Probe, flavour)?;
    let limits = Limits {
        silence: BOUND,
        run: BOUND,
        ..Limits::default()
    };
    let mut session = Session::new(&[flavour], limits);
    session.line(
        Source::L1,
        Line::user(Duration::ZERO, format!("@rig l1 run {flavour}")),
    );
    if log.exists() {
        fs::remove_dir_all(log).with_context(|| format!("cannot remove {}", log.display()))?;
    }
    let clock = Instant::now();
    Ok(match watch(&launch, log, &mut session, clock, &mut Quiet) {
        Ok(stop) => {
            let mut ended = session.finish(&stop);
            let verdict = ended.outcomes.pop().map_or(Verdict::NotRun, |o| o.verdict);
            (Ok(verdict), clock.elapsed())
        }
        Err(e) => (Err(e), clock.elapsed()),
    })
}
