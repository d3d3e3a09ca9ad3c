// SPDX-License-Identifier: GPL-2.0

//! The memory through which Hyper-V feeds a partition's clock.
//!
//! There is one reference TSC page, which an MSR names to the hypervisor. Where the built-in
//! driver has done that already, [`builtin`] finds it. Where it has not, [`OwnPage`] claims the
//! kernel's page and registers it.
//!
//! C header: `include/clocksource/hyperv_timer.h`

use super::{
    msr::AddressMsr,
    page::{
        self,
        read_once, //
    }, //
};
use crate::{
    bindings,
    logic::{
        page::{
            Page,
            Version, //
        },
        reference_tsc::{
            judge,
            Params,
            ReferenceTscPage,
            FRACTION_BITS, //
        }, //
    },
};
use core::{
    cell::UnsafeCell,
    ptr::NonNull, //
};
use kernel::{
    error::from_err_ptr,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};

/// The reference TSC page, which the hypervisor may rewrite at any moment
/// (`struct ms_hyperv_tsc_page`).
#[repr(C, align(64))]
pub(crate) struct TscPage(UnsafeCell<ReferenceTscPage>);

// SAFETY: Rust code only reads the page, by volatile loads of its fields. These may race with the
// stores of the hypervisor, and of `hv_release_tsc_page()`.
unsafe impl Sync for TscPage {}

const _: () = {
    use core::mem::offset_of;
    type C = bindings::ms_hyperv_tsc_page;

    assert!(size_of::<ReferenceTscPage>() == size_of::<C>());
    assert!(offset_of!(ReferenceTscPage, sequence) == offset_of!(C, tsc_sequence));
    assert!(offset_of!(ReferenceTscPage, scale) == offset_of!(C, tsc_scale));
    assert!(offset_of!(ReferenceTscPage, offset) == offset_of!(C, tsc_offset));
    // The vDSO's cycles are the module's.
    assert!(FRACTION_BITS == bindings::HV_TSC_PAGE_FRACTION_BITS);
};

/// A page that no hypervisor ever writes: it is invalid, by its sequence.
pub(crate) static NO_PAGE: TscPage = TscPage(UnsafeCell::new(ReferenceTscPage::INVALID));

impl TscPage {
    /// The page's guest-physical address.
    ///
    /// Context: any; walks the page table.
    pub(crate) fn gpa(&self) -> u64 {
        page::gpa(self)
    }
}

impl Page for TscPage {
    type Params = Params;

    #[inline(always)]
    fn version(&self) -> u32 {
        read_once!(self, sequence)
    }

    #[inline(always)]
    fn judge(version: u32) -> Version {
        judge(version)
    }

    #[inline(always)]
    fn params(&self) -> Params {
        Params {
            scale: read_once!(self, scale),
            offset: read_once!(self, offset),
        }
    }

    #[inline(always)]
    fn rmb(&self) {
        page::rmb();
    }
}

/// The kernel's page, once somebody has used it; also when nobody does any more.
pub(crate) fn builtin() -> Option<&'static TscPage> {
    // SAFETY: Both functions return an address; they have no preconditions.
    let (pfn, page) = unsafe {
        (
            bindings::paraclock_hv_get_tsc_pfn(),
            bindings::paraclock_hv_get_tsc_page(),
        )
    };
    let page = NonNull::new(page).filter(|_| pfn != 0)?;
    // SAFETY: The page is part of the kernel's image, or was mapped while it booted, and is never
    // unmapped. It is aligned to a page, valid for any reader whatever its content, and the layouts
    // are the same.
    Some(unsafe { page.cast::<TscPage>().as_ref() })
}

/// Whether there is a page to be had, or one that somebody uses.
///
/// Not in a kernel that is built without `CONFIG_HYPERV_TIMER`, and not in an encrypted guest
/// whose built-in driver does without.
pub(crate) fn is_available() -> bool {
    cfg!(CONFIG_HYPERV_TIMER) && (vdso_can_read() || builtin().is_some())
}

/// Whether the vDSO can read the page.
///
/// Not in an encrypted guest: the vDSO maps the page encrypted, which the hypervisor's words are not.
pub(crate) fn vdso_can_read() -> bool {
    // SAFETY: The function reads what the kernel knows of the machine; it has no preconditions.
    !unsafe { bindings::paraclock_memory_is_encrypted() }
}

/// Lets user space map the vDSO's reference TSC page, from now on and for ever.
///
/// Context: any, serialised by the callers: the timekeeping core's `enable()`.
pub(crate) fn enable_vdso() {
    // SAFETY: The function sets a flag among others, by a plain read and write. Serialised, as its
    // callers are, none of them is lost; and what was lost would be the vDSO, not memory.
    unsafe { bindings::paraclock_hv_enable_tsc_vdso() };
}

/// The kernel's page, claimed until the value is dropped.
///
/// The page itself is never freed.
struct Claim(&'static TscPage);

impl Claim {
    /// Claims the page.
    ///
    /// # Errors
    ///
    /// `EBUSY` where somebody else has it, `EOPNOTSUPP` where the kernel has none, or the guest's
    /// memory is encrypted.
    fn new() -> Result<Self> {
        // SAFETY: Sleeping is allowed here; drop releases what is claimed.
        let page = from_err_ptr(unsafe { bindings::paraclock_hv_claim_tsc_page() })?;
        let page = NonNull::new(page).ok_or(EOPNOTSUPP)?;
        // SAFETY: As in builtin().
        Ok(Self(unsafe { page.cast::<TscPage>().as_ref() }))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // SAFETY: It was claimed by new(). That the hypervisor does not write it any more is the
        // business of OwnPage, which otherwise forgets the value.
        unsafe { bindings::paraclock_hv_release_tsc_page() };
    }
}

/// The kernel's page in the driver's hands, and whether the hypervisor knows of it.
///
/// # Invariants
///
/// Where `registered` is 0 the hypervisor does not write to the page.
pub(crate) struct OwnPage {
    msr: AddressMsr,
    // An option, to be forgotten where the hypervisor may still write.
    claim: Option<Claim>,
    page: &'static TscPage,
    registered: Atomic<u32>,
}

impl OwnPage {
    /// Claims the page; does not register it.
    ///
    /// Context: may sleep.
    ///
    /// # Errors
    ///
    /// `EBUSY` where somebody else has it, `EOPNOTSUPP` where the kernel has none, or the guest's
    /// memory is encrypted.
    pub(crate) fn new(msr: AddressMsr) -> Result<Self> {
        let claim = Claim::new()?;
        Ok(Self {
            msr,
            page: claim.0,
            claim: Some(claim),
            registered: Atomic::new(0),
        })
    }

    /// The page, which stays for ever, though not registered for ever.
    pub(crate) fn page(&self) -> &'static TscPage {
        self.page
    }

    /// Registers the page, unless it is registered already. The hypervisor fills it in before
    /// the call returns.
    ///
    /// Context: any; not while [`OwnPage::unregister`] runs.
    ///
    /// # Errors
    ///
    /// `EIO` where the MSR cannot be written.
    pub(crate) fn register(&self) -> Result {
        if self.registered.load(Relaxed) != 0 {
            return Ok(());
        }
        // INVARIANT: Set before the hypervisor hears of the page: the write of the MSR is not moved
        // before the store, since the compiler does not move it and the instruction serialises.
        self.registered.store(1, Relaxed);
        // SAFETY: The page is of the size that the MSR stands for, Rust code only reads it, by
        // volatile loads, and it is never freed.
        let enabled = unsafe { self.msr.enable(self.page.gpa()) };
        if enabled.is_err() {
            // INVARIANT: The write faulted, so the hypervisor did not hear of it.
            self.registered.store(0, Relaxed);
        }
        enabled
    }

    /// Takes the page back from the hypervisor, if it was registered.
    ///
    /// On whichever CPU: the MSR is the partition's. On several at once, as in a crash, each of
    /// them writes the MSR, so that nobody relies on one that has been stopped halfway.
    ///
    /// Context: any, NMIs included.
    pub(crate) fn unregister(&self) {
        if self.registered.load(Relaxed) != 0 && self.msr.disable().is_ok() {
            // INVARIANT: The hypervisor has been told.
            self.registered.store(0, Relaxed);
        }
    }
}

impl Drop for OwnPage {
    fn drop(&mut self) {
        self.unregister();
        if self.registered.load(Relaxed) != 0 {
            // By the type invariant the hypervisor may write to the page.
            pr_crit!("the hypervisor cannot be told to leave its page alone, keeping it claimed\n");
            core::mem::forget(self.claim.take());
        }
    }
}
