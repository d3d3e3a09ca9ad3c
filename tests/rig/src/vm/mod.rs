// SPDX-License-Identifier: GPL-2.0

//! The machines: what is booted, how, and in what image.

pub mod direct;
pub mod icount;
pub mod initramfs;
pub mod outer;
pub mod probe;
pub mod run;
pub mod testhost;
pub mod tsc;

use clap::ValueEnum;
use std::fmt;
use testhost::Shape;

/// The hypervisor's interfaces that a guest is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum Host {
    /// KVM's own.
    Kvm,
    /// Hyper-V's, as KVM emulates them, and nothing of KVM's.
    Hyperv,
    /// Both; Linux calls itself a guest of KVM then.
    Both,
    #[value(skip)]
    Neither,
}

/// What Hyper-V's interface consists of. A clock needs `hv-time` alone; the rest is what a guest of
/// Hyper-V expects beside it.
macro_rules! hyperv_flags {
    () => {
        "hv-relaxed,hv-time,hv-vpindex,hv-synic,hv-stimer,hv-reenlightenment,hv-frequencies"
    };
}

/// Of that, what the clock of the guest's guest consists of, and the frequency of its TSC. No reenlightenment: KVM
/// takes the guest's word that it wants to be told, leaves its page alone from then on, and tells it nothing.
pub const HYPERV_CLOCK: &str = ",kvm=off,hv-relaxed,hv-time,hv-vpindex,hv-frequencies";

impl Host {
    /// `-cpu` of the QEMU that runs L2.
    fn cpu(self) -> &'static str {
        match self {
            Host::Kvm => "host,migratable=off",
            Host::Hyperv => concat!("host,migratable=off,kvm=off,", hyperv_flags!()),
            Host::Both => concat!("host,migratable=off,", hyperv_flags!()),
            Host::Neither => "host,migratable=off,kvm=off",
        }
    }

    /// Where the driver is loaded as anyone would load it, without a parameter: what is shown to people.
    pub fn flavour(self) -> Flavour {
        match self {
            Host::Kvm => Flavour::KvmAdopt,
            Host::Hyperv => Flavour::Hyperv,
            Host::Both => Flavour::BothKvm,
            Host::Neither => Flavour::KvmAbsent,
        }
    }
}

/// A way into another kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Second {
    Kexec,
    Crash,
}

impl Second {
    fn name(self) -> &'static str {
        match self {
            Second::Kexec => "kexec",
            Second::Crash => "crash",
        }
    }
}

/// What the driver has to be found at, in the words of its status file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expect {
    pub backend: &'static str,
    pub mode: &'static str,
    pub vdso: &'static str,
    /// Whose page it reads; `none` also where it must not load.
    pub owner: &'static str,
}

/// All but the first are offline until it is their turn: see [`crate::bench::guest_words`].
const BENCH_VCPUS: u32 = 8;

/// A guest, how the driver is loaded in it, and what has to come of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum Flavour {
    /// The built-in kvm-clock has registered its pages: they are adopted.
    KvmAdopt,
    /// No built-in kvm-clock (`no-kvmclock`): the driver registers pages of its own.
    KvmOwn,
    /// No hypervisor shows a signature: the driver must refuse to load.
    KvmAbsent,
    /// Pages of the driver's own, and then another kernel, by kexec.
    KvmKexec,
    /// Pages of the driver's own, and then a crash kernel.
    KvmCrash,
    /// Hyper-V alone: the page of the built-in driver is adopted, and the TSC read, since the host
    /// offers reenlightenment.
    Hyperv,
    /// The same, and the page is asked for.
    HypervPage,
    /// The same, and the counter is asked for.
    HypervMsr,
    /// KVM and Hyper-V, and the driver chooses KVM.
    BothKvm,
    /// The same, and Hyper-V is asked for: no built-in driver has registered a page.
    BothHyperv,
    /// A page of the driver's own, and then another kernel, by kexec.
    BothKexec,
    /// A page of the driver's own, and then a crash kernel.
    BothCrash,
    /// The test host as Hyper-V, with the kernel's own driver at work.
    HostHyperv,
    /// The test host as KVM, likewise.
    HostKvm,
    /// Both, and the kernel uses neither: its clock is one that no fault can touch.
    HostBoth,
    /// The test host's bare TSC, which the kernel takes for invariant: the clock that goes wrong.
    HostTsc,
    /// The same machine without the device.
    HostPlain,
    /// The test host as Hyper-V, and the driver at work.
    UpdateHyperv,
    /// The test host as KVM, with the promise of an invariant TSC, and the driver at work, with pages of its own:
    /// the built-in driver's readers do not survive what is done to pages here.
    UpdateKvm,
    /// The same, and the guest's ticks come from the TSC-deadline timer.
    UpdateDeadline,
    /// The test host as a Hyper-V that promises an invariant TSC and does not keep to it: the kernel takes `tsc`.
    UpdateControl,
    /// The test host as Hyper-V, where instructions are counted.
    BenchHyperv,
    /// The same as KVM.
    BenchKvm,
    /// The same with pages of the driver's own, for so many possible CPUs.
    #[value(name = "bench-own-1")]
    BenchOwn1,
    #[value(name = "bench-own-4")]
    BenchOwn4,
    #[value(name = "bench-own-16")]
    BenchOwn16,
    /// Two sockets, Hyper-V with reenlightenment alone: the kernel does nothing about TSCs, the driver all.
    HotplugHyperv,
    /// Two sockets, KVM, an invariant TSC: the kernel does what the driver does, and the host vouches.
    HotplugKvm,
    /// Two sockets, Hyper-V as above, CPUs without TSC_ADJUST.
    HotplugPlain,
    /// A real KVM that shows Hyper-V, two sockets of one vCPU.
    HotplugNested,
    /// As `UpdateHyperv`, as the host of a guest of its own.
    NestedHyperv,
    /// As `UpdateControl`, likewise.
    NestedControl,
}

/// All that is to be known of a flavour; whoever acts on it reads it here.
struct Spec {
    name: &'static str,
    /// What the guest is shown, by a real KVM or by the test host.
    host: Host,
    test_host: Option<Shape>,
    /// The test host's processor has the TSC-deadline timer, which a real KVM's always has.
    deadline: bool,
    /// The topology, as `-smp` takes it, where the number of vCPUs is not all.
    smp: Option<&'static str>,
    /// Whether the test host's CPUs have TSC_ADJUST.
    tsc_adjust: bool,
    /// What L2's kernel command line gets.
    kernel_args: &'static [&'static str],
    /// The parameters that the driver is loaded with.
    module_args: &'static [&'static str],
    second: Option<Second>,
    expect: Expect,
}

const PVCLOCK_ADOPTED: Expect = Expect {
    backend: "kvm",
    mode: "page",
    vdso: "pvclock",
    owner: "adopted",
};
const PVCLOCK_OWN: Expect = Expect {
    owner: "own",
    ..PVCLOCK_ADOPTED
};
const HVCLOCK_ADOPTED: Expect = Expect {
    backend: "hyperv",
    mode: "page",
    vdso: "hvclock",
    owner: "adopted",
};
const HVCLOCK_OWN: Expect = Expect {
    owner: "own",
    ..HVCLOCK_ADOPTED
};
const TSC_BESIDE_PVCLOCK: Expect = Expect {
    mode: "tsc",
    vdso: "tsc",
    ..PVCLOCK_OWN
};
const TSC_BESIDE_HVCLOCK: Expect = Expect {
    mode: "tsc",
    vdso: "tsc",
    ..HVCLOCK_ADOPTED
};
const COUNTER: Expect = Expect {
    backend: "hyperv",
    mode: "msr",
    vdso: "none",
    owner: "none",
};
const REFUSED: Expect = Expect {
    backend: "none",
    mode: "none",
    vdso: "none",
    owner: "none",
};

const KVM_ADOPT: Spec = Spec {
    name: "kvm-adopt",
    host: Host::Kvm,
    test_host: None,
    deadline: false,
    smp: None,
    tsc_adjust: true,
    kernel_args: &[],
    module_args: &[],
    second: None,
    expect: PVCLOCK_ADOPTED,
};
const KVM_OWN: Spec = Spec {
    name: "kvm-own",
    kernel_args: &["no-kvmclock"],
    expect: PVCLOCK_OWN,
    ..KVM_ADOPT
};
const KVM_ABSENT: Spec = Spec {
    name: "kvm-absent",
    host: Host::Neither,
    expect: REFUSED,
    ..KVM_ADOPT
};
const KVM_KEXEC: Spec = Spec {
    name: "kvm-kexec",
    second: Some(Second::Kexec),
    ..KVM_OWN
};
const KVM_CRASH: Spec = Spec {
    name: "kvm-crash",
    kernel_args: &["no-kvmclock", "crashkernel=96M"],
    second: Some(Second::Crash),
    ..KVM_OWN
};
const HYPERV: Spec = Spec {
    name: "hyperv",
    host: Host::Hyperv,
    expect: TSC_BESIDE_HVCLOCK,
    ..KVM_ADOPT
};
const HYPERV_PAGE: Spec = Spec {
    name: "hyperv-page",
    module_args: &["mode=page"],
    expect: HVCLOCK_ADOPTED,
    ..HYPERV
};
const HYPERV_MSR: Spec = Spec {
    name: "hyperv-msr",
    module_args: &["mode=msr"],
    expect: COUNTER,
    ..HYPERV
};
const BOTH_KVM: Spec = Spec {
    name: "both-kvm",
    host: Host::Both,
    ..KVM_ADOPT
};
const BOTH_HYPERV: Spec = Spec {
    name: "both-hyperv",
    module_args: &["backend=hyperv"],
    expect: HVCLOCK_OWN,
    ..BOTH_KVM
};
const BOTH_KEXEC: Spec = Spec {
    name: "both-kexec",
    second: Some(Second::Kexec),
    ..BOTH_HYPERV
};
const BOTH_CRASH: Spec = Spec {
    name: "both-crash",
    kernel_args: &["crashkernel=96M"],
    second: Some(Second::Crash),
    ..BOTH_HYPERV
};
const HYPERV_SHAPE: Shape = Shape {
    vcpus: 4,
    device: true,
    hyperv: true,
    kvm: false,
    invtsc: false,
};
const HOST_HYPERV: Spec = Spec {
    name: "host-hyperv",
    test_host: Some(HYPERV_SHAPE),
    ..HYPERV
};
const KVM_SHAPE: Shape = Shape {
    hyperv: false,
    kvm: true,
    ..HYPERV_SHAPE
};
const HOST_KVM: Spec = Spec {
    name: "host-kvm",
    test_host: Some(KVM_SHAPE),
    ..KVM_ADOPT
};
const HOST_BOTH: Spec = Spec {
    name: "host-both",
    host: Host::Both,
    test_host: Some(Shape {
        vcpus: 2,
        device: true,
        hyperv: true,
        kvm: true,
        invtsc: false,
    }),
    // KVM's clock is switched off, and Linux does not look for Hyper-V's where it sees KVM.
    kernel_args: &["no-kvmclock", "clocksource=hpet", "tsc=unstable"],
    ..KVM_OWN
};
const HOST_TSC: Spec = Spec {
    name: "host-tsc",
    test_host: Some(Shape {
        vcpus: 2,
        device: true,
        hyperv: false,
        kvm: false,
        invtsc: true,
    }),
    // Or the watchdog finds out.
    kernel_args: &["tsc=reliable"],
    ..KVM_ABSENT
};
const HOST_PLAIN: Spec = Spec {
    name: "host-plain",
    test_host: Some(Shape {
        vcpus: 2,
        device: false,
        hyperv: false,
        kvm: false,
        invtsc: false,
    }),
    ..HOST_TSC
};
const UPDATE_HYPERV: Spec = Spec {
    name: "update-hyperv",
    expect: TSC_BESIDE_HVCLOCK,
    ..HOST_HYPERV
};
const UPDATE_KVM: Spec = Spec {
    name: "update-kvm",
    test_host: Some(Shape {
        vcpus: 4,
        device: true,
        hyperv: false,
        kvm: true,
        invtsc: true,
    }),
    kernel_args: &["no-kvmclock"],
    expect: TSC_BESIDE_PVCLOCK,
    ..HOST_KVM
};
const UPDATE_DEADLINE: Spec = Spec {
    name: "update-deadline",
    deadline: true,
    ..UPDATE_HYPERV
};
const UPDATE_CONTROL: Spec = Spec {
    name: "update-control",
    test_host: Some(Shape {
        vcpus: 4,
        device: true,
        hyperv: true,
        kvm: false,
        invtsc: true,
    }),
    // Or the watchdog finds out.
    kernel_args: &["tsc=reliable"],
    ..UPDATE_HYPERV
};
/// The other two are there to be plugged in.
const SOCKETS: Option<&str> = Some("4,sockets=3,cores=2,maxcpus=6");
const HOTPLUG_HYPERV: Spec = Spec {
    name: "hotplug-hyperv",
    smp: SOCKETS,
    ..UPDATE_HYPERV
};
const HOTPLUG_KVM: Spec = Spec {
    name: "hotplug-kvm",
    test_host: Some(Shape {
        vcpus: 4,
        device: true,
        hyperv: false,
        kvm: true,
        invtsc: true,
    }),
    smp: SOCKETS,
    expect: Expect {
        owner: "adopted",
        ..TSC_BESIDE_PVCLOCK
    },
    ..KVM_ADOPT
};
const HOTPLUG_PLAIN: Spec = Spec {
    name: "hotplug-plain",
    tsc_adjust: false,
    ..HOTPLUG_HYPERV
};
const HOTPLUG_NESTED: Spec = Spec {
    name: "hotplug-nested",
    smp: Some("2,sockets=2,cores=1"),
    ..HYPERV
};

const BENCH_HYPERV: Spec = Spec {
    name: "bench-hyperv",
    test_host: Some(Shape {
        vcpus: BENCH_VCPUS,
        ..HYPERV_SHAPE
    }),
    ..UPDATE_HYPERV
};
const BENCH_KVM: Spec = Spec {
    name: "bench-kvm",
    test_host: Some(Shape {
        vcpus: BENCH_VCPUS,
        ..KVM_SHAPE
    }),
    ..HOST_KVM
};

const BENCH_OWN_1: Spec = Spec {
    name: "bench-own-1",
    test_host: Some(Shape {
        vcpus: 1,
        ..KVM_SHAPE
    }),
    kernel_args: &["no-kvmclock"],
    expect: PVCLOCK_OWN,
    ..BENCH_KVM
};
const BENCH_OWN_4: Spec = Spec {
    name: "bench-own-4",
    test_host: Some(KVM_SHAPE),
    ..BENCH_OWN_1
};
const BENCH_OWN_16: Spec = Spec {
    name: "bench-own-16",
    test_host: Some(Shape {
        vcpus: 16,
        ..KVM_SHAPE
    }),
    ..BENCH_OWN_1
};
const NESTED_HYPERV: Spec = Spec {
    name: "nested-hyperv",
    test_host: Some(Shape {
        vcpus: 2,
        device: true,
        hyperv: true,
        kvm: false,
        invtsc: false,
    }),
    // KVM's remarks on MSRs that it does not know are of no use here.
    kernel_args: &["kvm.report_ignored_msrs=0"],
    ..UPDATE_HYPERV
};
const NESTED_CONTROL: Spec = Spec {
    name: "nested-control",
    test_host: Some(Shape {
        vcpus: 2,
        device: true,
        hyperv: true,
        kvm: false,
        invtsc: true,
    }),
    // Or the watchdog finds out.
    kernel_args: &["kvm.report_ignored_msrs=0", "tsc=reliable"],
    ..NESTED_HYPERV
};

impl Flavour {
    /// The flavours of the suite `kvm`.
    pub const KVM: &[Flavour] = &[
        Flavour::KvmAdopt,
        Flavour::KvmOwn,
        Flavour::KvmAbsent,
        Flavour::KvmKexec,
        Flavour::KvmCrash,
    ];
    /// The flavours of the suite `hyperv`.
    pub const HYPERV: &[Flavour] = &[
        Flavour::Hyperv,
        Flavour::HypervPage,
        Flavour::HypervMsr,
        Flavour::BothKvm,
        Flavour::BothHyperv,
        Flavour::BothKexec,
        Flavour::BothCrash,
    ];
    /// The flavours of the suite `host`.
    pub const TEST_HOST: &[Flavour] = &[
        Flavour::HostHyperv,
        Flavour::HostKvm,
        Flavour::HostBoth,
        Flavour::HostTsc,
        Flavour::HostPlain,
    ];
    /// The flavours of the suite `update`.
    pub const UPDATE: &[Flavour] = &[
        Flavour::UpdateHyperv,
        Flavour::UpdateKvm,
        Flavour::UpdateDeadline,
        Flavour::UpdateControl,
    ];
    /// What the benchmark has beside the guests of a real KVM: updates.
    #[cfg(test)]
    pub const BENCH: &[Flavour] = &[Flavour::BenchHyperv, Flavour::BenchKvm];
    /// And the memory that is taken.
    pub const BENCH_MEMORY: &[Flavour] =
        &[Flavour::BenchOwn1, Flavour::BenchOwn4, Flavour::BenchOwn16];
    /// The flavours of the suite `hotplug`.
    pub const HOTPLUG: &[Flavour] = &[
        Flavour::HotplugHyperv,
        Flavour::HotplugKvm,
        Flavour::HotplugPlain,
        Flavour::HotplugNested,
    ];
    /// The flavours of the suite `nested`.
    pub const NESTED: &[Flavour] = &[Flavour::NestedHyperv, Flavour::NestedControl];

    fn spec(self) -> &'static Spec {
        match self {
            Flavour::KvmAdopt => &KVM_ADOPT,
            Flavour::KvmOwn => &KVM_OWN,
            Flavour::KvmAbsent => &KVM_ABSENT,
            Flavour::KvmKexec => &KVM_KEXEC,
            Flavour::KvmCrash => &KVM_CRASH,
            Flavour::Hyperv => &HYPERV,
            Flavour::HypervPage => &HYPERV_PAGE,
            Flavour::HypervMsr => &HYPERV_MSR,
            Flavour::BothKvm => &BOTH_KVM,
            Flavour::BothHyperv => &BOTH_HYPERV,
            Flavour::BothKexec => &BOTH_KEXEC,
            Flavour::BothCrash => &BOTH_CRASH,
            Flavour::HostHyperv => &HOST_HYPERV,
            Flavour::HostKvm => &HOST_KVM,
            Flavour::HostBoth => &HOST_BOTH,
            Flavour::HostTsc => &HOST_TSC,
            Flavour::HostPlain => &HOST_PLAIN,
            Flavour::UpdateHyperv => &UPDATE_HYPERV,
            Flavour::UpdateKvm => &UPDATE_KVM,
            Flavour::UpdateDeadline => &UPDATE_DEADLINE,
            Flavour::UpdateControl => &UPDATE_CONTROL,
            Flavour::BenchHyperv => &BENCH_HYPERV,
            Flavour::BenchKvm => &BENCH_KVM,
            Flavour::BenchOwn1 => &BENCH_OWN_1,
            Flavour::BenchOwn4 => &BENCH_OWN_4,
            Flavour::BenchOwn16 => &BENCH_OWN_16,
            Flavour::HotplugHyperv => &HOTPLUG_HYPERV,
            Flavour::HotplugKvm => &HOTPLUG_KVM,
            Flavour::HotplugPlain => &HOTPLUG_PLAIN,
            Flavour::HotplugNested => &HOTPLUG_NESTED,
            Flavour::NestedHyperv => &NESTED_HYPERV,
            Flavour::NestedControl => &NESTED_CONTROL,
        }
    }

    pub fn all() -> &'static [Flavour] {
        Flavour::value_variants()
    }

    pub fn name(self) -> &'static str {
        self.spec().name
    }

    pub fn from_name(name: &str) -> Option<Flavour> {
        Flavour::all().iter().copied().find(|f| f.name() == name)
    }

    pub fn expect(self) -> Expect {
        self.spec().expect
    }

    /// The machine, if that is the test host and not a real KVM.
    pub fn test_host(self) -> Option<Shape> {
        self.spec().test_host
    }

    /// `-cpu` of the test host: an AMD machine, that KVM can use.
    fn test_host_cpu(self) -> &'static str {
        if self.spec().deadline {
            "EPYC,+svm,+npt,+tsc-deadline"
        } else {
            "EPYC,+svm,+npt"
        }
    }

    /// `-smp`, where the task does not decide.
    fn smp(self) -> Option<&'static str> {
        self.spec().smp
    }

    /// What the flavour's guest is told by its command line, and makes its tests' environment of.
    fn words(self) -> Vec<String> {
        let spec = self.spec();
        let Expect {
            backend,
            mode,
            vdso,
            owner,
        } = spec.expect;
        let mut words = vec![
            format!("rig.flavour={self}"),
            // The kernel's command line is cut at blanks.
            format!("rig.args={}", spec.module_args.join(",")),
            format!("rig.backend={backend}"),
            format!("rig.mode={mode}"),
            format!("rig.vdso={vdso}"),
            format!("rig.owner={owner}"),
        ];
        if let Some(second) = spec.second {
            words.push(format!("rig.second={}", second.name()));
        }
        if spec.test_host.is_some() {
            words.push("rig.testhost=1".to_owned());
        }
        if spec.deadline {
            words.push("rig.clockevent=lapic-deadline".to_owned());
        }
        words.extend(spec.kernel_args.iter().map(|s| (*s).to_owned()));
        words
    }
}

/// The panic that leads into the crash kernel, in the flavours that are about it.
pub fn is_wanted_crash(flavour: Option<Flavour>, text: &str) -> bool {
    flavour.is_some_and(|f| f.spec().second == Some(Second::Crash))
        && text.contains("sysrq triggered crash")
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
    /// The tests of the test host, of which some are for a real KVM as well.
    TestHost,
    /// The tests of updates in place.
    Update,
    /// The tests of CPUs that come and go.
    Hotplug,
    /// The tests of a guest that is a host.
    Nested,
    /// Its guest.
    NestedGuest,
    /// A few migrations, for people to look at.
    Migrate,
    /// Readers on all CPUs.
    Hammer,
    Demo,
    Bench,
    Shell,
    /// Nothing but to say that it is there.
    Probe,
}

impl Task {
    pub const ALL: [Task; 12] = [
        Task::Check,
        Task::TestHost,
        Task::Update,
        Task::Hotplug,
        Task::Nested,
        Task::NestedGuest,
        Task::Migrate,
        Task::Hammer,
        Task::Demo,
        Task::Bench,
        Task::Shell,
        Task::Probe,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Task::Check => "check",
            Task::TestHost => "testhost",
            Task::Update => "update",
            Task::Hotplug => "hotplug",
            Task::Nested => "nested",
            Task::NestedGuest => "nested-guest",
            Task::Migrate => "migrate",
            Task::Hammer => "hammer",
            Task::Demo => "demo",
            Task::Bench => "bench",
            Task::Shell => "shell",
            Task::Probe => "probe",
        }
    }

    /// Not of a guest that a real KVM runs.
    pub fn is_nested(self) -> bool {
        matches!(self, Task::Nested | Task::NestedGuest)
    }

    fn vcpus(self) -> u32 {
        if self == Task::Bench { BENCH_VCPUS } else { 2 }
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
    ];
    if task == Task::Bench {
        words.extend(crate::bench::guest_words());
    }
    if task == Task::Update {
        words.extend(crate::suite::update_words());
    }
    if task == Task::Hotplug {
        words.extend(crate::suite::hotplug_words());
    }
    if task == Task::Nested {
        words.extend(crate::suite::nested_words());
    }
    if task == Task::TestHost {
        words.extend(crate::suite::host_words());
    }
    words.extend(flavour.words());
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
        // The kernel lies anywhere in it (KASLR), and what is left beside it has to have room for a crash
        // kernel's 96 MiB in one piece.
        match flavour.spec().second {
            Some(Second::Crash) => "384",
            _ => "256",
        },
        "-smp",
        &flavour
            .smp()
            .map_or_else(|| task.vcpus().to_string(), str::to_owned),
        "-cpu",
        flavour.spec().host.cpu(),
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
    use std::collections::BTreeSet;

    #[test]
    fn names_are_read_back() {
        for &f in Flavour::all() {
            assert_eq!(Flavour::from_name(f.name()), Some(f));
            let shown = f.to_possible_value().expect("none is hidden");
            assert_eq!(shown.get_name(), f.name(), "what --flavour takes");
        }
        assert_eq!(Flavour::from_name("kvm"), None);
    }

    /// A flavour that stands in no suite is never run.
    #[test]
    fn every_flavour_is_in_one_suite() {
        let suites: Vec<Flavour> = [
            Flavour::KVM,
            Flavour::HYPERV,
            Flavour::TEST_HOST,
            Flavour::UPDATE,
            Flavour::BENCH,
            Flavour::BENCH_MEMORY,
            Flavour::HOTPLUG,
            Flavour::NESTED,
        ]
        .concat();
        let names: BTreeSet<&str> = suites.iter().map(|f| f.name()).collect();
        assert_eq!(suites.len(), names.len());
        assert_eq!(suites.len(), Flavour::all().len());
    }

    #[test]
    fn every_guest_names_its_task() {
        for &t in &Task::ALL {
            let line = guest_cmdline(t, Flavour::KvmOwn);
            assert!(line.contains(&format!("rig.task={}", t.name())));
            assert!(line.contains("no-kvmclock"));
        }
    }

    /// The words of the guest's init, each without a blank and the whole short enough.
    #[test]
    fn every_guest_is_told_what_to_expect() {
        for &f in Flavour::all() {
            let line = guest_cmdline(Task::Check, f);
            assert!(line.len() < 2000, "the kernel cuts a longer one");
            let value = |key: &str| {
                let key = format!("rig.{key}=");
                let mut found = line.split(' ').filter_map(|w| w.strip_prefix(&key));
                (found.next(), found.next())
            };
            let e = f.expect();
            for (key, want) in [
                ("flavour", f.name()),
                ("backend", e.backend),
                ("mode", e.mode),
                ("vdso", e.vdso),
                ("owner", e.owner),
            ] {
                assert_eq!(value(key), (Some(want), None), "{f}: {key}");
            }
            assert!(value("args").0.is_some());
        }
        let line = guest_cmdline(Task::Check, Flavour::BothCrash);
        for word in [
            "rig.args=backend=hyperv",
            "rig.second=crash",
            "crashkernel=96M",
        ] {
            assert!(line.split(' ').any(|w| w == word), "{word} in {line}");
        }
    }

    /// What is expected fits what the guest is shown and what the driver is asked for.
    #[test]
    fn expectations_fit_their_hosts() {
        for &f in Flavour::all() {
            let spec = f.spec();
            let cpu = spec.host.cpu();
            let hidden = cpu.contains("kvm=off");
            let hyperv = cpu.contains("hv-time");
            match spec.expect.backend {
                "kvm" => assert!(!hidden, "{f}"),
                "hyperv" => assert!(hyperv, "{f}"),
                _ => assert!(hidden && !hyperv, "{f}"),
            }
            let vdso = match (spec.expect.backend, spec.expect.mode) {
                ("kvm", "page") => "pvclock",
                ("hyperv", "page") => "hvclock",
                (_, "tsc") => "tsc",
                _ => "none",
            };
            assert_eq!(spec.expect.vdso, vdso, "{f}");
            assert_eq!(
                spec.expect.mode == "msr",
                spec.module_args.contains(&"mode=msr")
            );
            // A second kernel finds what the first one has left only of a page of the driver's own.
            assert!(spec.second.is_none() || spec.expect.owner == "own", "{f}");
        }
    }

    /// What the test host shows is what the flavour says that it shows.
    #[test]
    fn the_test_host_shows_what_is_expected() {
        for &f in Flavour::all() {
            let suites = [
                Flavour::TEST_HOST,
                Flavour::UPDATE,
                Flavour::HOTPLUG,
                Flavour::BENCH,
                Flavour::BENCH_MEMORY,
                Flavour::NESTED,
            ];
            let of_test_host = suites.iter().any(|s| s.contains(&f));
            assert_eq!(
                f.test_host().is_some(),
                of_test_host && f != Flavour::HotplugNested,
                "{f}"
            );
            let Some(shape) = f.test_host() else { continue };
            let (hyperv, kvm) = match f.spec().host {
                Host::Kvm => (false, true),
                Host::Hyperv => (true, false),
                Host::Both => (true, true),
                Host::Neither => (false, false),
            };
            assert_eq!((shape.hyperv, shape.kvm), (hyperv, kvm), "{f}");
            assert!(guest_cmdline(Task::TestHost, f).contains("rig.testhost=1"));
        }
    }

    #[test]
    fn a_hosts_own_flavour_needs_no_parameter() {
        for &host in Host::value_variants() {
            let spec = host.flavour().spec();
            assert_eq!(spec.host, host);
            assert!(spec.module_args.is_empty() && spec.second.is_none());
        }
    }
}
