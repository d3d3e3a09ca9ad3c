// SPDX-License-Identifier: GPL-2.0

//! KVM's clock: whether it is there, and whose pages it is fed through.

use crate::{
    abstractions::{
        cpu::{
            HotplugReadGuard,
            Pinned, //
        },
        cpuid,
        msr,
        msr::AddressMsr,
        pvclock,
        pvclock::{
            OwnSlots,
            Slot, //
        }, //
    },
    logic::{
        cpuid::Kvm,
        pvclock::{
            sample,
            Invalid,
            Page,
            Sample, //
        },
        reader::SETTLE_TRIES, //
    }, //
};
use kernel::{
    cpu::CpuId,
    prelude::*, //
};

/// The end of the memory that the firmware keeps to itself: the kernel never uses the first MiB
/// (`reserve_real_mode()` in `arch/x86/realmode/init.c`), so what the host writes there harms
/// nobody.
const FIRMWARE_END: u64 = 1 << 20;

/// KVM's clock as the host offers it.
pub(crate) struct Host {
    /// Whether the host's stable bit can be trusted.
    pub(crate) has_stable_bit: bool,
    msr: AddressMsr,
}

impl Host {
    /// Finds KVM's clock.
    ///
    /// # Errors
    ///
    /// `ENODEV`, with a log line that says what is missing.
    pub(crate) fn find() -> Result<Self> {
        if !cpuid::has_hypervisor() {
            pr_err!("no KVM clock: this machine is not a guest (CPUID has no hypervisor bit)\n");
            return Err(ENODEV);
        }
        let Some(kvm) = Kvm::find(cpuid::cpuid) else {
            pr_err!("no KVM clock: the host has no KVM signature in its CPUID leaves\n");
            return Err(ENODEV);
        };
        let Some(msr) = kvm.system_time_msr() else {
            pr_err!(
                "no KVM clock: KVM at leaf {:#x} does not offer it (features {:#x}); \
                 the host's CPU model needs +kvmclock\n",
                kvm.base,
                kvm.features
            );
            return Err(ENODEV);
        };
        Ok(Self {
            has_stable_bit: kvm.has_stable_bit(),
            msr: AddressMsr::kvm_system_time(msr),
        })
    }

    /// Finds out whether the built-in kvm-clock feeds the CPUs already.
    ///
    /// # Errors
    ///
    /// `EIO`, with a log line, where a CPU's MSR names memory that this kernel did not register,
    /// or where only some CPUs are fed.
    fn is_fed_by_builtin(&self) -> Result<bool> {
        let guard = HotplugReadGuard::new();
        let mut fed = None;
        for cpu in guard.online() {
            let adopted = self.is_fed(cpu)?;
            if *fed.get_or_insert(adopted) != adopted {
                pr_err!(
                    "kvm-clock feeds some CPUs, but CPU {}'s page is {}registered; \
                     a reboot sets that right\n",
                    cpu.as_u32(),
                    if adopted { "" } else { "not " }
                );
                return Err(EIO);
            }
        }
        Ok(fed.unwrap_or(false))
    }

    fn is_fed(&self, cpu: CpuId) -> Result<bool> {
        let number = self.msr.number();
        let value = msr::read_on(cpu, number).inspect_err(|_| {
            pr_err!("MSR {:#x} of CPU {} cannot be read\n", number, cpu.as_u32());
        })?;
        if value & msr::ENABLE == 0 {
            return Ok(false);
        }
        let gpa = value & !msr::ENABLE;
        if pvclock::builtin(cpu).is_some_and(|slot| slot.gpa() == gpa) {
            return Ok(true);
        }
        if gpa < FIRMWARE_END {
            // SeaBIOS reads the clock as well, and leaves its page on the boot CPU registered.
            pr_info!(
                "replacing the page at {:#x} that the firmware left registered on CPU {}\n",
                gpa,
                cpu.as_u32()
            );
            return Ok(false);
        }
        pr_err!(
            "MSR {:#x} of CPU {} names a page at {:#x} {}; left behind by an earlier kernel? \
             A reboot without kexec clears it\n",
            number,
            cpu.as_u32(),
            gpa,
            if pvclock::is_ram(gpa) {
                "that this kernel did not register"
            } else {
                "that is not RAM"
            }
        );
        Err(EIO)
    }

    /// Adopts the pages of the built-in kvm-clock where it feeds the CPUs; else allocates.
    ///
    /// Pages of our own are not registered yet.
    ///
    /// # Errors
    ///
    /// `EIO` as above; those of [`OwnSlots::new`].
    pub(crate) fn pages(&self) -> Result<Pages> {
        if !self.is_fed_by_builtin()? {
            let slots = OwnSlots::new(self.msr).inspect_err(|error| {
                let reason = if *error == EBUSY {
                    "the vDSO has those of another driver, which the host does not feed"
                } else {
                    "out of memory"
                };
                pr_err!("no pages for the host to write: {}\n", reason);
            })?;
            return Ok(Pages::Own(slots));
        }
        // All CPUs are fed, and the boot CPU is always online.
        let boot = CpuId::from_u32(0).ok_or(EIO)?;
        let page0 = pvclock::builtin(boot).ok_or(EIO)?;
        Ok(Pages::Adopted {
            page0,
            msr: self.msr,
        })
    }
}

/// The pages through which KVM feeds the clock, one per vCPU.
pub(crate) enum Pages {
    /// The built-in kvm-clock's, which registers them on each CPU, and withdraws them.
    Adopted {
        /// CPU 0's.
        page0: &'static Slot,
        /// What names them to the host.
        msr: AddressMsr,
    },
    /// Ours, and so is the duty to register and to withdraw them.
    Own(OwnSlots),
}

impl Pages {
    /// Whose pages they are, for messages and the status file.
    pub(crate) fn owner(&self) -> &'static str {
        match self {
            Pages::Adopted { .. } => "adopted",
            Pages::Own(_) => "own",
        }
    }

    /// CPU 0's page.
    pub(crate) fn page0(&self) -> &'static Slot {
        match self {
            Pages::Adopted { page0, .. } => page0,
            Pages::Own(slots) => slots.page0(),
        }
    }

    /// The page of the given CPU, where it is registered.
    pub(crate) fn page(&self, cpu: CpuId) -> Option<&Slot> {
        match self {
            Pages::Adopted { .. } => pvclock::builtin(cpu),
            Pages::Own(slots) => slots.registered(cpu.as_u32()),
        }
    }

    /// Registers the page of the CPU on which the caller runs, where that is our duty.
    pub(crate) fn register(&self, here: &Pinned) {
        if let Pages::Own(slots) = self {
            if slots.register(here).is_err() {
                pr_err!("the host refuses the page of CPU {}\n", here.cpu());
            }
        }
    }

    /// Registers the page of the CPU on which the caller runs after a suspend.
    ///
    /// The built-in driver does that for its own pages, but not after every kind of suspend
    /// (`pm_test` ends before the processor's state is restored).
    pub(crate) fn resume(&self, here: &Pinned) {
        let resumed = match self {
            Pages::Adopted { msr, .. } => pvclock::restore_builtin(*msr, here),
            Pages::Own(slots) => slots.register(here),
        };
        if resumed.is_err() {
            pr_err!("the host refuses the page of CPU {}\n", here.cpu());
        }
    }

    /// Withdraws the page of the CPU on which the caller runs, where that is our duty.
    ///
    /// Context: any, NMIs included.
    pub(crate) fn unregister(&self, here: &Pinned) {
        if let Pages::Own(slots) = self {
            slots.unregister(here);
        }
    }

    /// Checks that the host feeds every CPU with something that can be a clock, and returns a
    /// sample of CPU 0's page.
    ///
    /// # Errors
    ///
    /// `EIO`, with a log line that says which page, and what is wrong with it.
    pub(crate) fn check(&self, tsc: impl Fn() -> u64) -> Result<Sample> {
        let guard = HotplugReadGuard::new();
        let mut first = None;
        for cpu in guard.online() {
            let Some(page) = self.page(cpu) else {
                pr_err!("CPU {} has no page\n", cpu.as_u32());
                return Err(EIO);
            };
            let sample = check(page, &tsc).map_err(|invalid| {
                pr_err!(
                    "the page of CPU {} at {:#x} is not a clock's: {}; this is the host's fault\n",
                    cpu.as_u32(),
                    page.gpa(),
                    invalid.reason()
                );
                EIO
            })?;
            first.get_or_insert(sample);
        }
        first.ok_or(EIO)
    }
}

fn check<P: Page>(page: &P, tsc: impl Fn() -> u64) -> core::result::Result<Sample, Invalid> {
    let sample = (0..SETTLE_TRIES)
        .find_map(|_| sample(page, &tsc))
        .ok_or(Invalid::Unsettled)?;
    if sample.version == 0 {
        return Err(Invalid::NeverWritten);
    }
    sample.params.validate()?;
    Ok(sample)
}
