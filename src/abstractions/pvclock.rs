// SPDX-License-Identifier: GPL-2.0

//! The memory through which a hypervisor feeds a pvclock.
//!
//! Each vCPU has a [`Slot`], named to the hypervisor by an MSR. The built-in kvm-clock may have
//! done that already: [`builtin`] finds its slots. Where it has not, [`OwnSlots`] allocates and
//! registers.
//!
//! C headers: `arch/x86/include/asm/pvclock.h`, `arch/x86/include/asm/kvmclock.h`

use super::{
    cpu::{
        on_each,
        Pinned, //
    },
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
        pvclock::{
            judge,
            Params,
            VcpuTimeInfo, //
        }, //
    },
};
use core::{
    cell::UnsafeCell,
    ptr::NonNull, //
};
use kernel::{
    alloc::KVec,
    cpu::{
        nr_cpu_ids,
        CpuId, //
    },
    error::from_err_ptr,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};

/// One vCPU's time information, which the hypervisor may rewrite at any moment
/// (`struct pvclock_vsyscall_time_info`).
#[repr(C, align(64))]
pub(crate) struct Slot(UnsafeCell<VcpuTimeInfo>);

// SAFETY: Rust code only reads a slot, by volatile loads of its fields. These may race with the
// stores of the hypervisor, and of the kernel's C side: `kvm_check_and_clear_guest_paused()` clears
// a flag, `pvclock_release_vdso_page()` the page.
unsafe impl Sync for Slot {}

const _: () = {
    assert!(size_of::<Slot>() == size_of::<bindings::pvclock_vsyscall_time_info>());
    assert!(size_of::<VcpuTimeInfo>() == size_of::<bindings::pvclock_vcpu_time_info>());
};

impl Slot {
    /// The slot's guest-physical address.
    ///
    /// Context: any; walks the page table.
    pub(crate) fn gpa(&self) -> u64 {
        page::gpa(self)
    }
}

impl Page for Slot {
    type Params = Params;

    #[inline(always)]
    fn version(&self) -> u32 {
        read_once!(self, version)
    }

    #[inline(always)]
    fn judge(version: u32) -> Version {
        judge(version)
    }

    #[inline(always)]
    fn params(&self) -> Params {
        Params {
            tsc_timestamp: read_once!(self, tsc_timestamp),
            system_time: read_once!(self, system_time),
            mul: read_once!(self, tsc_to_system_mul),
            shift: read_once!(self, tsc_shift),
            flags: read_once!(self, flags),
        }
    }

    #[inline(always)]
    fn rmb(&self) {
        page::rmb();
    }
}

/// The slot that the built-in driver has for a CPU, if any.
///
/// For a CPU that has never been up, that may be CPU 0's.
pub(crate) fn builtin(cpu: CpuId) -> Option<&'static Slot> {
    // SAFETY: The CPU number is below nr_cpu_ids, and x86 numbers the possible CPUs without a gap
    // (`topology_init_possible_cpus()` in `arch/x86/kernel/cpu/topology.c`), so there is such a
    // per-CPU variable.
    let slot = NonNull::new(unsafe { bindings::paraclock_builtin_pvti(cpu.as_u32()) })?;
    // SAFETY: Where the built-in driver is at work, which the function has asked, it has pointed
    // the variable to memory that is never freed, and OwnSlots keeps out: the claim of its page
    // fails. The layouts are the same.
    Some(unsafe { slot.cast::<Slot>().as_ref() })
}

/// Registers the built-in driver's slot of the CPU on which the caller runs, where it has fallen
/// out: with a suspend that the built-in driver does not see the end of.
///
/// # Errors
///
/// `EIO` where the MSR cannot be written, `ENXIO` where the CPU has no such slot.
pub(crate) fn restore_builtin(msr: AddressMsr, here: &Pinned) -> Result {
    let slot = CpuId::from_u32(here.cpu()).and_then(builtin).ok_or(ENXIO)?;
    // SAFETY: The slot is of the size that the MSR stands for, Rust code only reads it, by volatile
    // loads, and the built-in driver never frees it.
    unsafe { msr.enable(slot.gpa()) }
}

/// Whether the administrator lets user space read pvclock pages (`no-kvmclock-vsyscall`).
pub(crate) fn vdso_allowed() -> bool {
    // SAFETY: The function reads a flag that is set while the kernel boots.
    unsafe { bindings::pvclock_vdso_allowed() }
}

/// Lets user space map the vDSO's pvclock page, from now on and for ever.
///
/// Context: any, serialised by the callers: the timekeeping core's `enable()`.
pub(crate) fn enable_vdso() {
    // SAFETY: The function sets a flag among others, by a plain read and write. Serialised, as its
    // callers are, none of them is lost; and what was lost would be the vDSO, not memory.
    unsafe { bindings::pvclock_enable_vdso() };
}

/// The kernel's page for the slots that user space may see, claimed until the value is dropped.
///
/// The page itself is never freed.
struct VdsoPage(NonNull<Slot>);

impl VdsoPage {
    /// How many slots there are on the page.
    const SLOTS: usize = kernel::page::PAGE_SIZE / size_of::<Slot>();

    /// Claims the page.
    ///
    /// # Errors
    ///
    /// `EBUSY` where somebody else has it, `ENOMEM`.
    fn claim() -> Result<Self> {
        // SAFETY: Sleeping is allowed here; drop releases what is claimed.
        let page = from_err_ptr(unsafe { bindings::pvclock_claim_vdso_page() })?;
        Ok(Self(NonNull::new(page.cast()).ok_or(ENOMEM)?))
    }
}

impl Drop for VdsoPage {
    fn drop(&mut self) {
        // SAFETY: It was claimed by claim(). That the hypervisor does not write it any more is the
        // business of OwnSlots, which otherwise forgets the value.
        unsafe { bindings::pvclock_release_vdso_page() };
    }
}

/// Zeroed memory that is shared with the hypervisor, decrypted in an encrypted guest.
struct SharedMemory {
    address: NonNull<c_void>,
    size: usize,
}

impl SharedMemory {
    fn new(size: usize) -> Result<Self> {
        // SAFETY: Any size will do.
        let address = NonNull::new(unsafe { bindings::paraclock_alloc_shared(size) });
        Ok(Self {
            address: address.ok_or(ENOMEM)?,
            size,
        })
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: It was allocated with this size by new().
        unsafe { bindings::paraclock_free_shared(self.address.as_ptr(), self.size) };
    }
}

/// A slot for every possible CPU, in memory of ours, and which of them the hypervisor knows.
///
/// The first ones stand on the page that user space can map, so the one of CPU 0 serves the vDSO.
///
/// # Invariants
///
/// Where `registered` is false for a CPU, the hypervisor does not write to the CPU's slot.
pub(crate) struct OwnSlots {
    msr: AddressMsr,
    // Options, to be forgotten where the hypervisor may still write.
    vdso: Option<VdsoPage>,
    others: Option<SharedMemory>,
    page0: &'static Slot,
    registered: KVec<Atomic<u32>>,
}

// SAFETY: The memory belongs to nobody in particular.
unsafe impl Send for OwnSlots {}
// SAFETY: Slots are Sync, and `registered` is atomic.
unsafe impl Sync for OwnSlots {}

impl OwnSlots {
    /// Allocates the slots; registers none of them.
    ///
    /// Context: may sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EBUSY` where the vDSO's page is somebody else's.
    pub(crate) fn new(msr: AddressMsr) -> Result<Self> {
        let cpus = nr_cpu_ids() as usize;
        let vdso = VdsoPage::claim()?;
        let others = match cpus.checked_sub(VdsoPage::SLOTS) {
            None | Some(0) => None,
            Some(others) => Some(SharedMemory::new(others * size_of::<Slot>())?),
        };
        let mut registered = KVec::with_capacity(cpus, GFP_KERNEL)?;
        for _ in 0..cpus {
            registered.push(Atomic::new(0), GFP_KERNEL)?;
        }
        // SAFETY: The page is never freed, whoever has claimed it, and its content is valid for
        // any reader of a slot, whatever it is.
        let page0 = unsafe { vdso.0.as_ref() };
        Ok(Self {
            msr,
            vdso: Some(vdso),
            others,
            page0,
            registered,
        })
    }

    /// The slot of CPU 0, which stays for ever, though not registered for ever.
    pub(crate) fn page0(&self) -> &'static Slot {
        self.page0
    }

    fn slot(&self, cpu: usize) -> Option<&Slot> {
        if cpu >= self.registered.len() {
            return None;
        }
        let (base, index) = match cpu.checked_sub(VdsoPage::SLOTS) {
            None => (self.vdso.as_ref()?.0, cpu),
            Some(index) => (self.others.as_ref()?.address.cast(), index),
        };
        // SAFETY: There are VdsoPage::SLOTS slots on the vDSO's page and as many as there are
        // further CPUs in `others`; `cpu` is one of them by the check above.
        Some(unsafe { base.add(index).as_ref() })
    }

    /// The slot of the given CPU, where it is registered.
    pub(crate) fn registered(&self, cpu: u32) -> Option<&Slot> {
        let cpu = cpu as usize;
        (self.registered.get(cpu)?.load(Relaxed) != 0)
            .then(|| self.slot(cpu))
            .flatten()
    }

    /// Registers the slot of the CPU on which the caller runs, unless it is registered already.
    ///
    /// The hypervisor fills it in before the call returns. From then on the kernel's watchdogs
    /// find `PVCLOCK_GUEST_STOPPED` in it.
    ///
    /// # Errors
    ///
    /// `EIO` where the MSR cannot be written.
    pub(crate) fn register(&self, here: &Pinned) -> Result {
        let cpu = here.cpu();
        let slot = self.slot(cpu as usize).ok_or(ENXIO)?;
        let registered = self.registered.get(cpu as usize).ok_or(ENXIO)?;
        if registered.load(Relaxed) != 0 {
            return Ok(());
        }
        // INVARIANT: Set before the hypervisor hears of the slot.
        registered.store(1, Relaxed);
        // SAFETY: The slot is of the size that the MSR stands for, Rust code only reads it, by
        // volatile loads, and drop does not free it while `registered` is set.
        let enabled = unsafe { self.msr.enable(slot.gpa()) };
        match enabled {
            // SAFETY: The CPU exists; the slot lives until unregister() has taken it away again.
            Ok(()) => unsafe {
                bindings::paraclock_set_pvti(cpu, core::ptr::from_ref(slot).cast_mut().cast())
            },
            // INVARIANT: The write faulted, so the hypervisor did not hear of it.
            Err(_) => registered.store(0, Relaxed),
        }
        enabled
    }

    /// Takes the slot of the CPU on which the caller runs back from the hypervisor, if it was
    /// registered.
    ///
    /// Context: any with preemption off, NMIs included.
    pub(crate) fn unregister(&self, here: &Pinned) {
        let cpu = here.cpu();
        let Some(registered) = self.registered.get(cpu as usize) else {
            return;
        };
        if registered.load(Relaxed) == 0 {
            return;
        }
        // SAFETY: The CPU exists; null is what stands there where no driver has a slot.
        unsafe { bindings::paraclock_set_pvti(cpu, core::ptr::null_mut()) };
        if self.msr.disable().is_ok() {
            // INVARIANT: The hypervisor has been told, on the CPU in question.
            registered.store(0, Relaxed);
        }
    }
}

impl Drop for OwnSlots {
    fn drop(&mut self) {
        on_each(|| self.unregister(&Pinned::new()));
        // The watchdogs read the slots with interrupts disabled.
        kernel::sync::rcu::synchronize_rcu();

        if self.registered.iter().any(|cpu| cpu.load(Relaxed) != 0) {
            // By the type invariant the hypervisor may write to a slot, of a CPU that is offline
            // or whose MSR faulted.
            pr_crit!("the hypervisor cannot be told to leave the pages alone, leaking them\n");
            core::mem::forget(self.vdso.take());
            core::mem::forget(self.others.take());
        }
    }
}
