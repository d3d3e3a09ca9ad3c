// SPDX-License-Identifier: GPL-2.0

//! The machines: what is booted, how, and in what image.

pub mod direct;
pub mod initramfs;
pub mod outer;
pub mod probe;
pub mod run;
pub mod tsc;

use clap::ValueEnum;
use std::fmt;

/// A guest with its own view of KVM's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
// Other hypervisors' flavours will stand beside these.
#[expect(clippy::enum_variant_names)]
pub enum Flavour {
    /// The built-in kvm-clock has registered its pages: they are adopted.
    KvmAdopt,
    /// No built-in kvm-clock (`no-kvmclock`): the driver registers pages of its own.
    KvmOwn,
    /// KVM shows no signature: the driver must refuse to load.
    KvmAbsent,
    /// Pages of the driver's own, and then another kernel, by kexec.
    KvmKexec,
    /// Pages of the driver's own, and then a crash kernel.
    KvmCrash,
}

impl Flavour {
    pub const ALL: [Flavour; 5] = [
        Flavour::KvmAdopt,
        Flavour::KvmOwn,
        Flavour::KvmAbsent,
        Flavour::KvmKexec,
        Flavour::KvmCrash,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Flavour::KvmAdopt => "kvm-adopt",
            Flavour::KvmOwn => "kvm-own",
            Flavour::KvmAbsent => "kvm-absent",
            Flavour::KvmKexec => "kvm-kexec",
            Flavour::KvmCrash => "kvm-crash",
        }
    }

    pub fn from_name(name: &str) -> Option<Flavour> {
        Flavour::ALL.into_iter().find(|f| f.name() == name)
    }

    /// `-cpu` of the QEMU that runs L2.
    fn cpu(self) -> &'static str {
        match self {
            Flavour::KvmAdopt | Flavour::KvmOwn | Flavour::KvmKexec | Flavour::KvmCrash => {
                "host,migratable=off"
            }
            Flavour::KvmAbsent => "host,migratable=off,kvm=off",
        }
    }

    /// What L2's kernel command line gets.
    fn kernel_args(self) -> &'static [&'static str] {
        match self {
            Flavour::KvmOwn | Flavour::KvmKexec => &["no-kvmclock"],
            Flavour::KvmCrash => &["no-kvmclock", "crashkernel=96M"],
            Flavour::KvmAdopt | Flavour::KvmAbsent => &[],
        }
    }
}

/// The panic that leads into the crash kernel, in the flavour that is about it.
pub fn is_wanted_crash(flavour: Option<Flavour>, text: &str) -> bool {
    flavour == Some(Flavour::KvmCrash) && text.contains("sysrq triggered crash")
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What L2's init does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Task {
    Check,
    Demo,
    Bench,
    Shell,
    /// Nothing but to say that it is there.
    Probe,
}

impl Task {
    pub const ALL: [Task; 5] = [
        Task::Check,
        Task::Demo,
        Task::Bench,
        Task::Shell,
        Task::Probe,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Task::Check => "check",
            Task::Demo => "demo",
            Task::Bench => "bench",
            Task::Shell => "shell",
            Task::Probe => "probe",
        }
    }

    fn vcpus(self) -> u32 {
        // Instructions are counted on one CPU: with two, their shares of a count would depend on the host.
        if self == Task::Bench { 1 } else { 2 }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Options of every QEMU: no device, no file and no window that was not asked for.
pub const BARE: [&str; 5] = [
    "-nodefaults",
    "-no-user-config",
    "-display",
    "none",
    "-no-reboot",
];

/// L2's kernel command line.
pub fn guest_cmdline(task: Task, flavour: Flavour) -> String {
    let mut words = vec![
        "console=ttyS0".to_owned(),
        // A panic resets, and with -no-reboot QEMU exits.
        "panic=-1".to_owned(),
        "oops=panic".to_owned(),
        // A warning is level 4, and printing all of the boot over two emulated UARTs costs seconds.
        "loglevel=5".to_owned(),
        // Only the driver's own suites, and those when their module is loaded.
        "kunit.filter_glob=paraclock*".to_owned(),
        format!("rig.task={task}"),
        format!("rig.flavour={flavour}"),
    ];
    words.extend(flavour.kernel_args().iter().map(|s| (*s).to_owned()));
    words.join(" ")
}

/// Arguments of the QEMU that runs L2, in L1 or on this machine.
pub fn guest_args(
    task: Task,
    flavour: Flavour,
    kernel: &str,
    initrd: &str,
    firmware: &str,
) -> Vec<String> {
    let mut args: Vec<String> = BARE.iter().map(|s| (*s).to_owned()).collect();
    for word in [
        "-L",
        firmware,
        "-accel",
        "kvm",
        "-m",
        "256",
        "-smp",
        &task.vcpus().to_string(),
        "-cpu",
        flavour.cpu(),
        "-kernel",
        kernel,
        "-initrd",
        initrd,
        "-append",
        &guest_cmdline(task, flavour),
    ] {
        args.push(word.to_owned());
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for f in Flavour::ALL {
            assert_eq!(Flavour::from_name(f.name()), Some(f));
        }
        assert_eq!(Flavour::from_name("kvm"), None);
    }

    #[test]
    fn every_guest_names_its_task() {
        for t in Task::ALL {
            let line = guest_cmdline(t, Flavour::KvmOwn);
            assert!(line.contains(&format!("rig.task={}", t.name())));
            assert!(line.contains("no-kvmclock"));
            assert!(line.len() < 2000, "the kernel cuts a longer one");
        }
    }
}
