// SPDX-License-Identifier: GPL-2.0

//! Hyper-V's clock: whether it is there, and whose page it is fed through.

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
        cpu::Pinned,
        cpuid,
        msr,
        msr::AddressMsr,
        reference_tsc,
        reference_tsc::{
            OwnPage,
            TscPage, //
        },
        tsc::rdtsc_ordered, //
    },
    logic::{
        cpuid::{
            has_invariant_tsc,
            Hyperv, //
        },
        elapsed::{
            Span,
            NS, //
        },
        frequency::{
            Frequency,
            Refused, //
        },
        mode::{
            Guarantee,
            NoGuarantee, //
        },
        options,
        page::{
            examine,
            sample,
            Invalid,
            NoSample,
            Page, //
        },
        reader::{
            is_plausible,
            Reading, //
        },
        reference_tsc::{
            counted,
            Params,
            COUNT_HZ, //
        }, //
    }, //
};
use kernel::{
    fmt,
    prelude::*, //
};

/// Hyper-V's clock as the host offers it.
pub(crate) struct Host {
    interface: Hyperv,
}

/// Why Hyper-V's clock is not there.
pub(crate) enum Absent {
    /// Hyper-V is not, nor a host that offers its interface.
    NoInterface,
    /// It is, and does not grant the counter, without which a page is of no use either.
    NotGranted(Hyperv),
}

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Absent::NoInterface => {
                f.write_str("the host has no interface \"Hv#1\" of Hyper-V in its CPUID leaves")
            }
            Absent::NotGranted(interface) => write!(
                f,
                "Hyper-V at leaf {:#x} does not grant AccessPartitionReferenceCounter \
                 (privileges {:#x}); QEMU's option is hv-time",
                interface.base, interface.privileges
            ),
        }
    }
}

impl Host {
    /// Finds Hyper-V's clock. Only on a machine that is a guest.
    pub(super) fn find() -> Result<Self, Absent> {
        let interface = Hyperv::find(cpuid::cpuid).ok_or(Absent::NoInterface)?;
        let host = Self { interface };
        if host.has_counter() {
            Ok(host)
        } else {
            Err(Absent::NotGranted(interface))
        }
    }

    /// Whether there is a reference TSC page to be had, with the counter to go on by where it is
    /// withdrawn: the TSC may be another one by then, and the page's last words of no use.
    pub(crate) fn has_page(&self) -> bool {
        self.grants_page() && self.has_counter() && reference_tsc::is_available()
    }

    /// Whether the partition may have a reference TSC page.
    fn grants_page(&self) -> bool {
        self.interface.has(Hyperv::REFERENCE_TSC)
    }

    /// Whether the partition may read the reference counter.
    pub(crate) fn has_counter(&self) -> bool {
        self.interface.has(Hyperv::REFERENCE_COUNTER)
    }

    /// Why a mode that was asked for is not to be had: `tsc` or `page`, since there is the counter.
    pub(crate) fn missing(&self, mode: options::ModeOption) -> &'static str {
        if mode == options::ModeOption::Tsc && !self.has_tsc() {
            "the host grants neither AccessReenlightenmentControls nor AccessTscInvariantControls"
        } else if !self.grants_page() {
            "the host does not grant AccessPartitionReferenceTsc; use mode=msr"
        } else {
            "the kernel has no page for it: the guest's memory is encrypted, or it is built \
             without CONFIG_HYPERV_TIMER; use mode=msr"
        }
    }

    /// Whether the host grants that the TSC keeps its frequency.
    pub(crate) fn has_tsc_invariant(&self) -> bool {
        self.interface.has(Hyperv::TSC_INVARIANT)
    }

    /// Whether the TSC alone may be read.
    pub(crate) fn has_tsc(&self) -> bool {
        self.interface.has(Hyperv::REENLIGHTENMENT) || is_invariant(&self.interface)
    }

    /// Adopts the built-in driver's page where that has one; else claims the kernel's page and
    /// registers it.
    ///
    /// # Errors
    ///
    /// `EIO`, with a log line, where the MSR names memory that this kernel did not register, or
    /// cannot be accessed; those of [`OwnPage::new`].
    pub(crate) fn adopt_or_claim(&self) -> Result<Clock> {
        let msr = AddressMsr::hyperv_reference_tsc();
        let value = msr::read(msr.number()).inspect_err(|_| {
            pr_err!("MSR {:#x} cannot be read\n", msr.number());
        })?;
        // Who is at work is to be seen from the claim: it is refused while somebody has the page.
        let claimed = OwnPage::new(msr);
        let builtin = reference_tsc::builtin();
        let named = named(msr, value, builtin.map(TscPage::gpa), fmt!(""))?;
        let page = match (claimed, named, builtin) {
            (Err(_), Named::Builtins, Some(page)) => Feed::Adopted(page),
            (Err(error), ..) => {
                let reason = if error == EBUSY {
                    "the vDSO has that of another driver, which the host does not feed"
                } else {
                    "the guest's memory is encrypted"
                };
                pr_err!("no page for the host to write: {}; use mode=msr\n", reason);
                return Err(error);
            }
            (Ok(page), ..) => {
                page.register().inspect_err(|_| {
                    pr_err!("the host refuses the page\n");
                })?;
                Feed::Own(page)
            }
        };
        Ok(Clock {
            interface: self.interface,
            page: Some(page),
        })
    }

    /// Does without a page.
    pub(crate) fn counter_alone(&self) -> Clock {
        Clock {
            interface: self.interface,
            page: None,
        }
    }
}

/// Whether the TSC keeps its frequency, and the guest has been told so: Linux asks for that by
/// `HV_X64_MSR_TSC_INVARIANT_CONTROL`, and CPUID shows it from then on.
fn is_invariant(interface: &Hyperv) -> bool {
    interface.has(Hyperv::TSC_INVARIANT) && has_invariant_tsc(cpuid::cpuid)
}

/// The page through which Hyper-V feeds the clock.
enum Feed {
    /// The built-in driver's, which withdraws it.
    Adopted(&'static TscPage),
    /// Ours, and so is the duty to register and to withdraw it.
    Own(OwnPage),
}

/// Hyper-V's clock.
pub(crate) struct Clock {
    interface: Hyperv,
    page: Option<Feed>,
}

impl Clock {
    fn unregister(&self) {
        if let Some(Feed::Own(page)) = &self.page {
            page.unregister();
        }
    }
}

impl Backend for Clock {
    type Page = TscPage;

    const NAME: options::Backend = options::Backend::Hyperv;
    const ID: Id = Id::Generic;
    const COUNT_HZ: u32 = COUNT_HZ;
    // The page says at once when it is not to be used, and each look at a new one takes an exit.
    const TRIES: u32 = 16;

    fn page0(&self) -> &'static TscPage {
        match &self.page {
            Some(Feed::Adopted(page)) => page,
            Some(Feed::Own(page)) => page.page(),
            None => &reference_tsc::NO_PAGE,
        }
    }

    /// The reference counter: of the partition, so on whichever CPU it is read.
    ///
    /// It was granted; where it faults nevertheless there is no reading.
    #[inline(always)]
    fn second(&self) -> Option<Reading> {
        Some(Reading {
            count: counted(msr::read_time_ref_count()?),
            tsc: None,
        })
    }

    fn second_is_reference(&self) -> bool {
        true
    }

    /// A page that is not withdrawn is one for all CPUs.
    fn trusts_host(&self) -> bool {
        true
    }

    fn owner(&self) -> &'static str {
        match &self.page {
            Some(Feed::Adopted(_)) => "adopted",
            Some(Feed::Own(_)) => "own",
            None => "none",
        }
    }

    fn mode(&self) -> options::Mode {
        match &self.page {
            Some(_) => options::Mode::Page,
            None => options::Mode::Msr,
        }
    }

    /// Reenlightenment first: where there is both, the TSC may change after all.
    fn guarantee(&self, is_armed: bool) -> Result<Guarantee, NoGuarantee> {
        if is_armed {
            Ok(Guarantee::Reenlightenment)
        } else if is_invariant(&self.interface) {
            Ok(Guarantee::Invariant)
        } else if self.offers_reenlightenment() {
            Err(NoGuarantee::NotArmed)
        } else {
            Err(NoGuarantee::NotOffered)
        }
    }

    fn offers_reenlightenment(&self) -> bool {
        self.interface.has(Hyperv::REENLIGHTENMENT)
    }

    fn frequency(&self) -> Option<Result<Frequency, Refused>> {
        self.interface.has_frequency_msrs().then(|| {
            msr::read(msr::hyperv::TSC_FREQUENCY)
                .map_err(|_| Refused::Unknown)
                .and_then(Frequency::new)
        })
    }

    /// By the MSR, where it is granted and has a frequency to say.
    fn tsc_is_another(&self, params: &Params) -> bool {
        matches!(self.frequency(), Some(Ok(now)) if !now.is_of_reference_tsc(params.scale))
    }

    /// The counter, in 100 ns.
    fn us(&self) -> Option<u64> {
        Some(msr::read_time_ref_count()? / 10)
    }

    /// The counter's, 100 ns.
    const STEP: Span = 100 * NS;

    fn suspend(&self, _here: &Pinned) {
        self.unregister();
    }

    /// The built-in driver registers its own page again when its own clocksource is resumed, which
    /// may be after ours, and before anybody reads the time.
    fn resume(&self, _here: &Pinned) {
        if let Some(Feed::Own(page)) = &self.page {
            if page.register().is_err() {
                pr_err!("the host refuses the page\n");
            }
        }
    }

    fn shutdown(&self) {
        self.unregister();
    }

    fn crash(&self, _here: &Pinned) {
        self.unregister();
    }

    /// A page that is no good for now is no reason against the clock: there is the counter.
    fn check(&self) -> Result<VdsoClockMode> {
        if self.second().is_none() {
            pr_err!(
                "the reference counter, MSR {:#x}, cannot be read though it is granted; \
                 this is the host's fault\n",
                msr::hyperv::TIME_REF_COUNT
            );
            return Err(EIO);
        }
        if self.page.is_none() {
            return Ok(VdsoClockMode::None);
        }
        let page = self.page0();
        let mut plausible = None;
        let mut examined = Err(Invalid::Unsettled);
        for _ in 0..Self::TRIES {
            examined = examine(page, Self::TRIES, rdtsc_ordered);
            plausible = match &examined {
                Ok(sample) => is_plausible(sample, || self.second(), rdtsc_ordered),
                Err(_) => break,
            };
            if plausible.is_some() {
                break;
            }
        }
        let (mode, wrong) = match (examined, plausible) {
            (Ok(_), Some(true)) => return Ok(vdso_clock_mode()),
            (Ok(_), _) => (
                VdsoClockMode::None,
                "it does not agree with the reference counter",
            ),
            // The vDSO makes the system call for as long as that lasts.
            (Err(Invalid::Withdrawn), _) => (vdso_clock_mode(), Invalid::Withdrawn.reason()),
            (Err(invalid), _) => (VdsoClockMode::None, invalid.reason()),
        };
        pr_warn!(
            "the reference TSC page at {:#x} is not a clock's: {}; reading the reference counter\n",
            page.gpa(),
            wrong
        );
        Ok(mode)
    }

    fn enable_vdso(&self) {
        if self.page.is_some() && reference_tsc::vdso_can_read() {
            reference_tsc::enable_vdso();
        }
    }

    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "privileges:")?;
        for (privilege, name) in Hyperv::PRIVILEGES {
            if self.interface.has(privilege) {
                write!(f, " {name}")?;
            }
        }
        writeln!(f)?;
        if self.page.is_none() {
            return Ok(());
        }
        let page = self.page0();
        write!(f, "page: owner={}", self.owner())?;
        match sample(page, || 0) {
            Ok(sample) => writeln!(
                f,
                " sequence={} scale={:#x} offset={} gpa={:#x}",
                sample.version,
                sample.params.scale,
                sample.params.offset as i64,
                page.gpa()
            ),
            Err(none) => writeln!(
                f,
                " sequence={} {} gpa={:#x}",
                page.version(),
                match none {
                    NoSample::Withdrawn(_) => "invalid",
                    NoSample::Unsettled => "unsettled",
                },
                page.gpa()
            ),
        }
    }
}

/// How user space reads the page.
fn vdso_clock_mode() -> VdsoClockMode {
    #[cfg(CONFIG_HYPERV_TIMER)]
    if reference_tsc::vdso_can_read() {
        return VdsoClockMode::Hvclock;
    }
    VdsoClockMode::None
}
