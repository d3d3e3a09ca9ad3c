// SPDX-License-Identifier: GPL-2.0

//! The machine with SVM that is emulated in software, and that boots L1.

use super::run::Launch;
use super::{BARE, Flavour, Task, icount, testhost};
use crate::console::Source;
use crate::setup::Artifacts;
use std::ffi::OsString;
use std::path::Path;

/// The command line that boots L1, which runs the task in each flavour; `more` goes on L1's own kernel command line.
pub fn launch(
    artifacts: &Artifacts,
    image: &Path,
    task: Task,
    flavours: &[Flavour],
    tsc_khz: u64,
    more: &[String],
) -> Launch {
    let counted = task == Task::Bench;
    let (accel, cpus, khz) = if counted {
        (icount::ACCEL, "1", icount::TSC_KHZ)
    } else {
        ("tcg,thread=multi", "2", tsc_khz)
    };
    let names: Vec<&str> = flavours.iter().map(|f| f.name()).collect();
    let mut cmdline = vec![
        "console=ttyS0".to_owned(),
        "panic=-1".to_owned(),
        "oops=panic".to_owned(),
        // KVM's remarks on MSRs that it does not know are at level 3 and of no use here.
        "loglevel=5".to_owned(),
        "kvm.report_ignored_msrs=0".to_owned(),
        "kunit.enable=0".to_owned(),
        "tsc=reliable".to_owned(),
        // The kernel counts the PIT's ticks for some 60 ms, and panics where QEMU was given no CPU meanwhile.
        "no_timer_check".to_owned(),
        format!("tsc_early_khz={khz}"),
        format!("rig.task={task}"),
        format!("rig.flavours={}", names.join(",")),
    ];
    cmdline.extend(more.iter().cloned());
    let cmdline = cmdline.join(" ");
    let mut args: Vec<OsString> = BARE.iter().map(OsString::from).collect();
    for dir in &artifacts.firmware {
        args.push("-L".into());
        args.push(dir.into());
    }
    for word in [
        "-M",
        "pc",
        "-m",
        "1G",
        "-cpu",
        "EPYC,+svm,+npt",
        "-accel",
        accel,
        "-smp",
        cpus,
    ] {
        args.push(word.into());
    }
    if counted {
        args.extend(icount::OPTIONS.map(OsString::from));
        args.push("-device".into());
        args.push(testhost::invariant_host_device().to_string().into());
    }
    for (option, value) in [
        ("-kernel", artifacts.kernel.bzimage.as_os_str()),
        ("-initrd", image.as_os_str()),
        ("-append", OsString::from(cmdline).as_os_str()),
    ] {
        args.push(option.into());
        args.push(value.to_owned());
    }
    Launch {
        program: artifacts.qemu_outer.clone(),
        args,
        consoles: vec![Source::L1, Source::L2],
        qmp: false,
    }
}
