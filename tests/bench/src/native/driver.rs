// SPDX-License-Identifier: GPL-2.0

//! The driver's way of reading a page, in this process: the files of `src/logic/`, and of what stands
//! around them in the kernel the like.

use crate::logic::page::{Page, Version};
use crate::logic::pvclock::{self, VcpuTimeInfo};
use crate::logic::reader::{Env, Event, Reader, Reading};
use crate::logic::reference_tsc::{self, ReferenceTscPage};
use crate::logic::word::Word;
use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering, fence};
use std::ffi::c_void;

/// A word of the kernel's atomics, in those of this process.
#[derive(Default)]
pub struct SharedWord(AtomicU64);

impl Word for SharedWord {
    #[inline(always)]
    fn load(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn load_acquire(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    fn store(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    fn store_release(&self, value: u64) {
        self.0.store(value, Ordering::Release);
    }

    fn compare_exchange(&self, old: u64, new: u64) -> Result<(), u64> {
        self.0
            .compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
            .map(drop)
    }

    fn rmb(&self) {
        fence(Ordering::Acquire);
    }

    fn wmb(&self) {
        fence(Ordering::Release);
    }
}

/// `READ_ONCE()` of a field.
macro_rules! read_once {
    ($page:expr, $field:ident) => {
        // SAFETY: The page lives as long as the process does, and is aligned.
        unsafe { (&raw const (*$page.0.get()).$field).read_volatile() }
    };
}

/// `virt_rmb()`, as in the driver.
#[inline(always)]
fn rmb() {
    // SAFETY: There is no instruction in it.
    unsafe { asm!("", options(nostack, preserves_flags)) };
}

/// `rdtsc_ordered()`, with the alternative that the kernel prefers; otherwise as in `src/abstractions/tsc.rs`.
#[inline(always)]
fn rdtsc_ordered() -> u64 {
    let tsc: u64;
    // SAFETY: Whether the CPU has the instruction was asked when the kernel's images were patched.
    unsafe {
        asm!(
            "rdtscp",
            "shl rdx, 32",
            "or rax, rdx",
            out("rax") tsc,
            out("rdx") _,
            out("rcx") _,
            options(nostack)
        )
    };
    tsc
}

/// As the driver's `Slot`.
#[repr(transparent)]
pub struct KvmPage(UnsafeCell<VcpuTimeInfo>);

impl Page for KvmPage {
    type Params = pvclock::Params;

    #[inline(always)]
    fn version(&self) -> u32 {
        read_once!(self, version)
    }

    #[inline(always)]
    fn judge(version: u32) -> Version {
        pvclock::judge(version)
    }

    #[inline(always)]
    fn params(&self) -> pvclock::Params {
        pvclock::Params {
            tsc_timestamp: read_once!(self, tsc_timestamp),
            system_time: read_once!(self, system_time),
            mul: read_once!(self, tsc_to_system_mul),
            shift: read_once!(self, tsc_shift),
            flags: read_once!(self, flags),
        }
    }

    #[inline(always)]
    fn rmb(&self) {
        rmb();
    }
}

/// As the driver's page of that name.
#[repr(transparent)]
pub struct HypervPage(UnsafeCell<ReferenceTscPage>);

impl Page for HypervPage {
    type Params = reference_tsc::Params;

    #[inline(always)]
    fn version(&self) -> u32 {
        read_once!(self, sequence)
    }

    #[inline(always)]
    fn judge(version: u32) -> Version {
        reference_tsc::judge(version)
    }

    #[inline(always)]
    fn params(&self) -> reference_tsc::Params {
        reference_tsc::Params {
            scale: read_once!(self, scale),
            offset: read_once!(self, offset),
        }
    }

    #[inline(always)]
    fn rmb(&self) {
        rmb();
    }
}

/// `Clock` of `src/clock.rs`, as far as a reading takes it.
pub struct Clock<P: Page + 'static> {
    page0: &'static P,
    reader: Reader<SharedWord, P::Params>,
}

impl<P: Page + 'static> Env for Clock<P> {
    type Word = SharedWord;
    type Page = P;

    #[inline(always)]
    fn tsc(&self) -> u64 {
        rdtsc_ordered()
    }

    #[inline(always)]
    fn page0(&self) -> &P {
        self.page0
    }

    fn second(&self) -> Option<Reading> {
        None
    }

    fn second_is_reference(&self) -> bool {
        false
    }

    fn relax(&self) {}

    fn count(&self, _: Event) {}
}

impl<P: Page + 'static> Clock<P> {
    #[cold]
    #[inline(never)]
    fn read_slow_count(&self) -> u64 {
        self.reader.read_slow(self).count
    }

    /// `ByPage::read()`
    #[inline(always)]
    fn read(&self) -> u64 {
        match self.reader.read_fast(self) {
            Some(sample) => sample.count(),
            None => self.read_slow_count(),
        }
    }
}

/// # Safety
///
/// At `page` a page of that kind has to stay for ever.
unsafe fn clock<P: Page + 'static>(page: *const c_void) -> Clock<P> {
    Clock {
        // SAFETY: By the function's requirement.
        page0: unsafe { &*page.cast() },
        reader: Reader::new(true, SharedWord::default),
    }
}

/// The clock of a kvmclock page.
///
/// # Safety
///
/// It has to stay where it is for ever.
pub unsafe fn kvm(page: *const c_void) -> Clock<KvmPage> {
    // SAFETY: By the function's requirement.
    unsafe { clock(page) }
}

/// The clock of a reference TSC page.
///
/// # Safety
///
/// It has to stay where it is for ever.
pub unsafe fn hyperv(page: *const c_void) -> Clock<HypervPage> {
    // SAFETY: By the function's requirement.
    unsafe { clock(page) }
}

/// `Registration::read_tsc()`: mode `tsc`.
///
/// # Safety
///
/// None.
pub unsafe extern "C" fn read_tsc(_clock: *const c_void) -> u64 {
    rdtsc_ordered()
}

/// # Safety
///
/// `clock` has to be one of [`kvm`].
pub unsafe extern "C" fn read_kvm(clock: *const c_void) -> u64 {
    // SAFETY: By the function's requirement.
    unsafe { &*clock.cast::<Clock<KvmPage>>() }.read()
}

/// # Safety
///
/// `clock` has to be one of [`hyperv`].
pub unsafe extern "C" fn read_hyperv(clock: *const c_void) -> u64 {
    // SAFETY: By the function's requirement.
    unsafe { &*clock.cast::<Clock<HypervPage>>() }.read()
}
