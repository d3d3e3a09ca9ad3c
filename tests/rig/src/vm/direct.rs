// SPDX-License-Identifier: GPL-2.0

//! L2 on this machine's own /dev/kvm, where that really runs a kernel.

use super::initramfs::InnerQemu;
use super::run::Launch;
use super::{Flavour, Task, guest_args};
use crate::console::Source;
use crate::setup::Artifacts;
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::path::Path;

/// The command line that boots one flavour of L2.
pub fn launch(
    artifacts: &Artifacts,
    qemu: &InnerQemu,
    image: &Path,
    task: Task,
    flavour: Flavour,
) -> Result<Launch> {
    let (program, rest) = qemu
        .command
        .split_first()
        .context("no program to run QEMU by")?;
    let mut args: Vec<OsString> = Vec::new();
    if !qemu.library_path.is_empty() {
        args.push("--library-path".into());
        args.push(qemu.library_path.clone().into());
    }
    args.extend(rest.iter().map(OsString::from));
    let firmware = qemu
        .firmware
        .first()
        .and_then(|f| f.parent())
        .context("no firmware")?;
    let words = guest_args(
        task,
        flavour,
        &artifacts.kernel.bzimage.to_string_lossy(),
        &image.to_string_lossy(),
        &firmware.to_string_lossy(),
    );
    args.extend(words.iter().map(OsString::from));
    for dir in &artifacts.firmware {
        args.push("-L".into());
        args.push(dir.into());
    }
    Ok(Launch {
        program: program.clone(),
        args,
        consoles: vec![Source::L2],
        qmp: false,
    })
}
