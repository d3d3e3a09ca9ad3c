// SPDX-License-Identifier: GPL-2.0

//! The hosts' clocks: whether they are there, and through which pages they are fed.
//!
//! [`Hosts::find`] asks the host for all of them; one that was chosen becomes a [`Backend`], which is all
//! that [`crate::clock`] knows of it.

pub(crate) mod hyperv;
pub(crate) mod kvm;

use crate::{
    abstractions::{
        clocksource::{
            Id,
            VdsoClockMode, //
        },
        cpu::Pinned,
        cpuid,
        msr::{
            self,
            AddressMsr, //
        },
        page, //
    },
    logic::{
        self,
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
        reader::Reading, //
    }, //
};
use kernel::{
    fmt,
    prelude::*, //
};

/// A host's clock, as a source of readings.
///
/// The pages of another driver are *adopted*: registering and withdrawing them is that
/// driver's duty. The rest of this concerns pages of our own.
pub(crate) trait Backend: Send + Sync + Sized + 'static {
    /// What a page looks like.
    type Page: logic::page::Page + Sync + 'static;

    /// The name.
    const NAME: options::Backend;
    /// What the readings are, for those who exchange them.
    const ID: Id;
    /// The frequency of the counts, in Hz.
    const COUNT_HZ: u32;
    /// See [`logic::reader::Env::TRIES`].
    const TRIES: u32;

    /// The page that every CPU may read, and that the vDSO reads.
    fn page0(&self) -> &'static Self::Page;

    /// See [`logic::reader::Env::second`].
    fn second(&self) -> Option<Reading>;

    /// See [`logic::reader::Env::second_is_reference`].
    fn second_is_reference(&self) -> bool;

    /// Whether what the host says of the TSCs of all CPUs can be trusted.
    fn trusts_host(&self) -> bool;

    /// Whose pages they are, for messages and the status file.
    fn owner(&self) -> &'static str;

    /// What the clock reads where that is not the TSC alone: a mode of its own where there is no
    /// page at all.
    fn mode(&self) -> options::Mode;

    /// What the host guarantees of the TSC, where reenlightenment is armed, or is not.
    ///
    /// # Errors
    ///
    /// What keeps mode `tsc` from coming about.
    fn guarantee(&self, is_armed: bool) -> Result<Guarantee, NoGuarantee>;

    /// Whether the host offers reenlightenment.
    fn offers_reenlightenment(&self) -> bool {
        false
    }

    /// What the host says of the TSC's frequency beside its page; `None` where it does not. A
    /// change that is pending is in it already.
    fn frequency(&self) -> Option<Result<Frequency, Refused>> {
        None
    }

    /// See [`logic::reader::Env::tsc_is_another`].
    fn tsc_is_another(&self, _params: &<Self::Page as logic::page::Page>::Params) -> bool {
        false
    }

    /// A clock in us that does not stand on this CPU's TSC, where there is one to be read on any CPU,
    /// also before it is online.
    fn us(&self) -> Option<u64> {
        None
    }

    /// The step of [`Backend::second`], where that is a reference: see
    /// [`logic::elapsed::Fit`].
    const STEP: Span = NS;

    /// A CPU comes up, the one on which the caller runs: registers its page.
    ///
    /// Context: interrupts disabled.
    fn starting(&self, _here: &Pinned) {}

    /// A CPU goes down, the one on which the caller runs: withdraws its page.
    ///
    /// Context: interrupts disabled.
    fn dying(&self, _here: &Pinned) {}

    /// The last CPU goes to sleep, with the memory: withdraws what is still registered.
    ///
    /// Context: interrupts disabled; timekeeping is suspended.
    fn suspend(&self, here: &Pinned);

    /// The first CPU is awake again. Also called where [`Backend::suspend`] was not.
    ///
    /// Context: interrupts disabled; timekeeping is suspended.
    fn resume(&self, here: &Pinned);

    /// This kernel hands over to another one: withdraws all pages.
    ///
    /// Context: may sleep; no CPU comes up meanwhile, or after it.
    fn shutdown(&self);

    /// This kernel has crashed, and the CPU on which the caller runs goes down.
    ///
    /// Context: interrupts disabled, or NMI. Takes no lock.
    fn crash(&self, here: &Pinned);

    /// Checks what the host feeds to the clock, and decides how user space reads it.
    ///
    /// # Errors
    ///
    /// `EIO`, with a log line.
    fn check(&self) -> Result<VdsoClockMode>;

    /// Lets user space map [`Backend::page0`].
    ///
    /// Context: [`crate::abstractions::clocksource::Operations::enable`].
    fn enable_vdso(&self);

    /// Writes the pages' part of the status file.
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}

/// What the host offers: of each backend the clock, or why there is none.
pub(crate) struct Hosts {
    pub(crate) kvm: Result<kvm::Host, kvm::Absent>,
    pub(crate) hyperv: Result<hyperv::Host, hyperv::Absent>,
}

impl Hosts {
    /// Asks the host; `None` where there is no host, this machine being no guest.
    pub(crate) fn find() -> Option<Self> {
        cpuid::has_hypervisor().then(|| Self {
            kvm: kvm::Host::find(),
            hyperv: hyperv::Host::find(),
        })
    }

    /// The same for [`options::resolve`].
    pub(crate) fn offer(&self) -> options::Offer {
        let (kvm, hyperv) = (self.kvm.as_ref(), self.hyperv.as_ref());
        options::Offer {
            kvm: kvm.is_ok(),
            kvm_stable: kvm.is_ok_and(|host| host.has_stable_bit),
            kvm_tsc: kvm.is_ok_and(|host| host.has_tsc()),
            hyperv_page: hyperv.is_ok_and(|host| host.has_page()),
            hyperv_counter: hyperv.is_ok_and(|host| host.has_counter()),
            hyperv_tsc: hyperv.is_ok_and(|host| host.has_tsc()),
        }
    }
}

/// The end of the memory that the firmware keeps to itself: the kernel never uses the first MiB
/// (`reserve_real_mode()` in `arch/x86/realmode/init.c`), so what the host writes there harms
/// nobody.
const FIRMWARE_END: u64 = 1 << 20;

/// Whose page an MSR names.
enum Named {
    /// None: the MSR is disabled, or names one that the firmware has left there.
    Nobodys,
    /// This kernel's.
    Builtins,
}

/// Finds out whose page an MSR with this value names; `place` ends the name of the MSR in messages.
///
/// # Errors
///
/// `EIO`, with a log line, where it is memory that this kernel did not register.
fn named(
    msr: AddressMsr,
    value: u64,
    builtin: Option<u64>,
    place: fmt::Arguments<'_>,
) -> Result<Named> {
    if value & msr::ENABLE == 0 {
        return Ok(Named::Nobodys);
    }
    let gpa = msr.address(value);
    if builtin == Some(gpa) {
        return Ok(Named::Builtins);
    }
    if gpa < FIRMWARE_END {
        // SeaBIOS reads kvmclock as well, and leaves its page on the boot CPU registered.
        pr_info!(
            "replacing the page at {:#x} that the firmware left in MSR {:#x}{}\n",
            gpa,
            msr.number(),
            place
        );
        return Ok(Named::Nobodys);
    }
    pr_err!(
        "MSR {:#x}{} names a page at {:#x} {}; left behind by an earlier kernel? \
         A reboot without kexec clears it\n",
        msr.number(),
        place,
        gpa,
        if page::is_ram(gpa) {
            "that this kernel did not register"
        } else {
            "that is not RAM"
        }
    );
    Err(EIO)
}
