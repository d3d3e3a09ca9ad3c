// SPDX-License-Identifier: GPL-2.0

//! What the pages that a hypervisor writes have in common.

use crate::bindings;

/// Reads a field of a page as `READ_ONCE()` does.
///
/// The page is a tuple structure around an `UnsafeCell` of a `repr(C)` layout that has no padding
/// before the field but what aligns it.
macro_rules! read_once {
    ($page:expr, $field:ident) => {
        // SAFETY: The page is live, so the field is valid for a load; it is aligned by the layout
        // of the type. The load is volatile and of a machine word: racing with a store of the
        // hypervisor it returns a value that was there before or is after it.
        unsafe { (&raw const (*$page.0.get()).$field).read_volatile() }
    };
}
pub(super) use read_once;

/// Orders loads before it with those after it (`virt_rmb()`).
#[inline(always)]
pub(super) fn rmb() {
    // x86 does not reorder loads, so that the compiler does not either is enough.
    //
    // SAFETY: There is no instruction in it.
    unsafe { core::arch::asm!("", options(nostack, preserves_flags)) };
}

/// The guest-physical address of something that the kernel has mapped.
///
/// Context: any; walks the page table.
pub(super) fn gpa<T: ?Sized>(page: &T) -> u64 {
    // SAFETY: The address is mapped, as that of a live object.
    unsafe { bindings::paraclock_virt_to_phys(core::ptr::from_ref(page).cast_mut().cast()) }
}

/// Whether the page at a guest-physical address is RAM, as far as the firmware's map goes.
pub(crate) fn is_ram(gpa: u64) -> bool {
    // SAFETY: The function looks the address up in tables; any address will do.
    unsafe { bindings::paraclock_phys_is_ram(gpa) }
}
