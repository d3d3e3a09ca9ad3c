// SPDX-License-Identifier: GPL-2.0

//! KVM's clock: whether it is there, and whose pages it is fed through.

use super::{
    named,
    Backend,
    Named, //
};
use crate::{
    abstractions::{
        clocksource::{
            Id,
            VdsoClockMode, //
        },
        cpu::{
            on_each,
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
        },
        tsc::rdtsc_ordered, //
    },
    logic::{
        cpuid::{
            has_invariant_tsc,
            Kvm, //
        },
        mode::{
            Guarantee,
            NoGuarantee, //
        },
        options,
        page::{
            examine,
            sample,
            Page,
            Params, //
        },
        reader::{
            read_own,
            Reading,
            SETTLE_TRIES, //
        }, //
    }, //
};
use kernel::{
    cpu::CpuId,
    fmt,
    prelude::*,
    time::NSEC_PER_SEC, //
};

/// KVM's clock as the host offers it.
pub(crate) struct Host {
    /// Whether the host's stable bit can be trusted.
    pub(crate) has_stable_bit: bool,
    msr: AddressMsr,
}

/// Why KVM's clock is not there.
pub(crate) enum Absent {
    /// KVM is not.
    NoSignature,
    /// KVM is, and does not offer it.
    NoClock(Kvm),
}

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Absent::NoSignature => f.write_str("the host has no KVM signature in its CPUID leaves"),
            Absent::NoClock(kvm) => write!(
                f,
                "KVM at leaf {:#x} does not offer it (features {:#x}); \
                 the host's CPU model needs +kvmclock",
                kvm.base, kvm.features
            ),
        }
    }
}

impl Host {
    /// Finds KVM's clock. Only on a machine that is a guest.
    pub(super) fn find() -> Result<Self, Absent> {
        let kvm = Kvm::find(cpuid::cpuid).ok_or(Absent::NoSignature)?;
        let msr = kvm.system_time_msr().ok_or(Absent::NoClock(kvm))?;
        Ok(Self {
            has_stable_bit: kvm.has_stable_bit(),
            msr: AddressMsr::kvm_system_time(msr),
        })
    }

    /// Whether the TSC alone may be read.
    pub(crate) fn has_tsc(&self) -> bool {
        self.has_stable_bit && has_invariant_tsc(cpuid::cpuid)
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
        let builtin = pvclock::builtin(cpu).map(Slot::gpa);
        let place = fmt!(" of CPU {}", cpu.as_u32());
        Ok(matches!(
            named(self.msr, value, builtin, place)?,
            Named::Builtins
        ))
    }

    /// Adopts the pages of the built-in kvm-clock where it feeds the CPUs; else allocates.
    ///
    /// Pages of our own are registered by [`Backend::starting`].
    ///
    /// # Errors
    ///
    /// `EIO` as above; those of [`OwnSlots::new`].
    pub(crate) fn adopt_or_allocate(&self) -> Result<Clock> {
        let has_stable_bit = self.has_stable_bit;
        if !self.is_fed_by_builtin()? {
            let slots = OwnSlots::new(self.msr).inspect_err(|error| {
                let reason = if *error == EBUSY {
                    "the vDSO has those of another driver, which the host does not feed"
                } else {
                    "out of memory"
                };
                pr_err!("no pages for the host to write: {}\n", reason);
            })?;
            return Ok(Clock {
                has_stable_bit,
                pages: Pages::Own(slots),
            });
        }
        // All CPUs are fed, and the boot CPU is always online.
        let boot = CpuId::from_u32(0).ok_or(EIO)?;
        let page0 = pvclock::builtin(boot).ok_or(EIO)?;
        Ok(Clock {
            has_stable_bit,
            pages: Pages::Adopted {
                page0,
                msr: self.msr,
            },
        })
    }
}

/// The pages through which KVM feeds the clock, one per vCPU.
enum Pages {
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

/// KVM's clock.
pub(crate) struct Clock {
    has_stable_bit: bool,
    pages: Pages,
}

impl Clock {
    /// The page of the given CPU, where it is registered.
    fn page(&self, cpu: CpuId) -> Option<&Slot> {
        match &self.pages {
            Pages::Adopted { .. } => pvclock::builtin(cpu),
            Pages::Own(slots) => slots.registered(cpu.as_u32()),
        }
    }

    fn unregister(&self, here: &Pinned) {
        if let Pages::Own(slots) = &self.pages {
            slots.unregister(here);
        }
    }
}

/// What is said where the host does not take a page.
fn refused(here: &Pinned) {
    pr_err!("the host refuses the page of CPU {}\n", here.cpu());
}

impl Backend for Clock {
    type Page = Slot;

    const NAME: options::Backend = options::Backend::Kvm;
    // The readings are kvmclock's to the last ns, so what speaks of that clock, as ptp_kvm does,
    // speaks of this one as well.
    const ID: Id = Id::X86KvmClock;
    const COUNT_HZ: u32 = NSEC_PER_SEC as u32;
    const TRIES: u32 = SETTLE_TRIES;

    fn page0(&self) -> &'static Slot {
        match &self.pages {
            Pages::Adopted { page0, .. } => page0,
            Pages::Own(slots) => slots.page0(),
        }
    }

    fn second(&self) -> Option<Reading> {
        let here = Pinned::new();
        read_own(self.page(CpuId::from_u32(here.cpu())?)?, rdtsc_ordered)
    }

    fn second_is_reference(&self) -> bool {
        false
    }

    fn trusts_host(&self) -> bool {
        self.has_stable_bit
    }

    fn owner(&self) -> &'static str {
        match &self.pages {
            Pages::Adopted { .. } => "adopted",
            Pages::Own(_) => "own",
        }
    }

    fn mode(&self) -> options::Mode {
        options::Mode::Page
    }

    fn guarantee(&self, _is_armed: bool) -> Result<Guarantee, NoGuarantee> {
        if self.has_stable_bit && has_invariant_tsc(cpuid::cpuid) {
            Ok(Guarantee::Invariant)
        } else {
            Err(NoGuarantee::NotOffered)
        }
    }

    fn starting(&self, here: &Pinned) {
        if let Pages::Own(slots) = &self.pages {
            if slots.register(here).is_err() {
                refused(here);
            }
        }
    }

    fn dying(&self, here: &Pinned) {
        self.unregister(here);
    }

    fn suspend(&self, here: &Pinned) {
        self.unregister(here);
    }

    /// The built-in driver does that for its own pages, but not after every kind of suspend
    /// (`pm_test` ends before the processor's state is restored).
    fn resume(&self, here: &Pinned) {
        let resumed = match &self.pages {
            Pages::Adopted { msr, .. } => pvclock::restore_builtin(*msr, here),
            Pages::Own(slots) => slots.register(here),
        };
        if resumed.is_err() {
            refused(here);
        }
    }

    fn shutdown(&self) {
        on_each(|| self.unregister(&Pinned::new()));
    }

    fn crash(&self, here: &Pinned) {
        self.unregister(here);
    }

    /// Every CPU has to be fed with something that can be a clock.
    fn check(&self) -> Result<VdsoClockMode> {
        let guard = HotplugReadGuard::new();
        let mut stable = None;
        for cpu in guard.online() {
            let Some(page) = self.page(cpu) else {
                pr_err!("CPU {} has no page\n", cpu.as_u32());
                return Err(EIO);
            };
            let sample = examine(page, SETTLE_TRIES, rdtsc_ordered).map_err(|invalid| {
                pr_err!(
                    "the page of CPU {} at {:#x} is not a clock's: {}; this is the host's fault\n",
                    cpu.as_u32(),
                    page.gpa(),
                    invalid.reason()
                );
                EIO
            })?;
            // That of the first, CPU 0.
            stable.get_or_insert(sample.params.is_stable());
        }
        let stable = stable.ok_or(EIO)?;
        Ok(
            if self.has_stable_bit && stable && pvclock::vdso_allowed() {
                VdsoClockMode::Pvclock
            } else {
                VdsoClockMode::None
            },
        )
    }

    fn enable_vdso(&self) {
        pvclock::enable_vdso();
    }

    /// A line for each CPU that is online.
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let guard = HotplugReadGuard::new();
        for cpu in guard.online() {
            write!(f, "cpu{}: owner={}", cpu.as_u32(), self.owner())?;
            let Some(page) = self.page(cpu) else {
                writeln!(f, " none")?;
                continue;
            };
            match sample(page, || 0) {
                Ok(sample) => writeln!(
                    f,
                    " version={} mul={} shift={} flags={:#x} gpa={:#x}",
                    sample.version,
                    sample.params.mul,
                    sample.params.shift,
                    sample.params.flags,
                    page.gpa()
                )?,
                Err(_) => writeln!(
                    f,
                    " version={} unsettled gpa={:#x}",
                    page.version(),
                    page.gpa()
                )?,
            }
        }
        Ok(())
    }
}
