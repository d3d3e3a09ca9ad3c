// SPDX-License-Identifier: GPL-2.0

//! The test host: the outer QEMU with the device `guest-time`, which changes the TSC under a running guest and
//! plays the hypervisor that has to tell of it. The guest boots on it without a level between.
//!
//! [`command`] has the device's commands as types, [`reply`] what it answers, and [`qmp`] brings the one to
//! the machine and the other back.

pub mod command;
pub mod qmp;
pub mod reply;

use super::run::Launch;
use super::{BARE, Flavour, Task, guest_cmdline, icount};
use crate::console::Source;
use crate::setup::Artifacts;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::path::Path;

/// The TSC's frequency at power-on, which the device has as its default, too.
pub const TSC_KHZ: u64 = 2_000_000;

/// What the device logs the switches to.
pub const TRACE: &str = "trace.txt";

/// A guest of the test host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub vcpus: u32,
    /// Without it, this is the emulated machine as it always was: what its cost is compared with.
    pub device: bool,
    /// Hyper-V's interface.
    pub hyperv: bool,
    /// KVM's interface.
    pub kvm: bool,
    /// The processor promises that its TSC never changes, which is a lie here.
    pub invtsc: bool,
}

impl Shape {
    /// The device, as `-device` takes it.
    fn device(self, tsc_khz: u64, trace: Option<&Path>) -> Value {
        let mut device = json!({
            "driver": "guest-time",
            "tsc-khz": tsc_khz,
            "hv": self.hyperv,
            "kvm": self.kvm,
            "invtsc": self.invtsc,
            // Hyper-V's own word for it.
            "hv-tsc-invariant": self.hyperv && self.invtsc,
        });
        if let Some(path) = trace {
            device["trace-file"] = json!(path);
        }
        device
    }
}

/// As L1 of the nested rig: it can be a KVM host, and is itself shown no hypervisor.
pub fn svm_host_device() -> Value {
    Shape {
        vcpus: 2,
        device: true,
        hyperv: false,
        kvm: false,
        invtsc: false,
    }
    .device(TSC_KHZ, None)
}

/// As L1 of the nested rig where instructions are counted: TCG offers no invariant TSC, and the device does. So a KVM
/// guest is offered one, too.
pub fn invariant_host_device() -> Value {
    Shape {
        vcpus: 1,
        device: true,
        hyperv: false,
        kvm: false,
        invtsc: true,
    }
    .device(icount::TSC_KHZ, None)
}

/// The command line that boots one flavour; the trace is written to the directory of its logs.
pub fn launch(
    artifacts: &Artifacts,
    image: &Path,
    task: Task,
    flavour: Flavour,
    shape: Shape,
    log_dir: &Path,
) -> Result<Launch> {
    let mut args: Vec<OsString> = BARE.iter().map(OsString::from).collect();
    for dir in &artifacts.firmware {
        args.push("-L".into());
        args.push(dir.into());
    }
    let vcpus = flavour
        .smp()
        .map_or_else(|| shape.vcpus.to_string(), str::to_owned);
    let counted = task == Task::Bench;
    let (accel, tsc_khz) = if counted {
        (icount::ACCEL, icount::TSC_KHZ)
    } else {
        ("tcg,thread=multi", TSC_KHZ)
    };
    for word in [
        "-M",
        "pc",
        "-m",
        // KASAN's shadow and its quarantine; a guest's memory and its QEMU.
        if artifacts.kernel.debug || task == Task::Nested {
            "1536"
        } else {
            "512"
        },
        "-cpu",
        flavour.test_host_cpu(),
        "-accel",
        accel,
        "-smp",
        &vcpus,
    ] {
        args.push(word.into());
    }
    if counted {
        args.extend(icount::OPTIONS.map(OsString::from));
    }
    if shape.device {
        let trace = std::path::absolute(log_dir.join(TRACE)).context("no current directory")?;
        args.push("-device".into());
        // As JSON, in which a comma in a path needs no care.
        let mut device = shape.device(tsc_khz, Some(&trace));
        device["tsc-adjust"] = json!(flavour.spec().tsc_adjust);
        args.push(device.to_string().into());
    }
    for (option, value) in [
        ("-kernel", artifacts.kernel.bzimage.as_os_str()),
        ("-initrd", image.as_os_str()),
        (
            "-append",
            OsString::from(guest_cmdline(task, flavour)).as_os_str(),
        ),
    ] {
        args.push(option.into());
        args.push(value.to_owned());
    }
    Ok(Launch {
        program: artifacts.qemu_outer.clone(),
        args,
        consoles: vec![Source::L2],
        // Nobody is to ask for anything while instructions are counted.
        qmp: shape.device && !counted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_is_told_what_to_show() {
        let shape = Shape {
            vcpus: 4,
            device: true,
            hyperv: true,
            kvm: false,
            invtsc: false,
        };
        let device = shape.device(TSC_KHZ, Some(Path::new("/a,b/trace.txt")));
        assert_eq!(device["driver"], "guest-time");
        assert_eq!(device["hv"], true);
        assert_eq!(device["kvm"], false);
        assert_eq!(device["trace-file"], "/a,b/trace.txt");
        assert_eq!(svm_host_device()["hv"], false);
        assert!(svm_host_device().get("trace-file").is_none());
    }
}
