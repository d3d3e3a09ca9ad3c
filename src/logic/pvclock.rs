// SPDX-License-Identifier: GPL-2.0

//! The kvmclock page: its layout, its arithmetic and its version protocol.
//!
//! Source: `Documentation/virt/kvm/x86/msr.rst` (`MSR_KVM_SYSTEM_TIME_NEW`) and
//! `arch/x86/include/asm/pvclock-abi.h`; the host's side is `kvm_setup_guest_pvclock()` in
//! `arch/x86/kvm/x86.c`.

/// The TSCs of all vCPUs are in step, and every page gives the same time
/// (`PVCLOCK_TSC_STABLE_BIT`).
///
/// Only to be trusted where the host advertises `KVM_FEATURE_CLOCKSOURCE_STABLE_BIT`.
pub const TSC_STABLE_BIT: u8 = 1 << 0;

/// The host had stopped the vCPU (`PVCLOCK_GUEST_STOPPED`).
pub const GUEST_STOPPED: u8 = 1 << 1;

/// One vCPU's time information as the host writes it (`struct pvclock_vcpu_time_info`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VcpuTimeInfo {
    /// Odd while the host writes the fields below; raised by two with every update.
    pub version: u32,
    pad0: u32,
    /// The TSC at which `system_time` was right, in cycles.
    pub tsc_timestamp: u64,
    /// Time at `tsc_timestamp`, in ns.
    pub system_time: u64,
    /// Multiplier of the shifted cycles, ns in units of 2^-32.
    pub tsc_to_system_mul: u32,
    /// Binary shift of the cycles before the multiplication, to the left where positive.
    pub tsc_shift: i8,
    /// [`TSC_STABLE_BIT`] and [`GUEST_STOPPED`].
    pub flags: u8,
    pad: [u8; 2],
}

impl VcpuTimeInfo {
    /// Makes a page's content from its version and its parameters, for a host in a test.
    pub const fn new(version: u32, params: Params) -> Self {
        Self {
            version,
            pad0: 0,
            tsc_timestamp: params.tsc_timestamp,
            system_time: params.system_time,
            tsc_to_system_mul: params.mul,
            tsc_shift: params.shift,
            flags: params.flags,
            pad: [0; 2],
        }
    }
}

/// What a page says beside its version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Params {
    /// The TSC at which `system_time` was right, in cycles.
    pub tsc_timestamp: u64,
    /// Time at `tsc_timestamp`, in ns.
    pub system_time: u64,
    /// Multiplier of the shifted cycles, ns in units of 2^-32.
    pub mul: u32,
    /// Binary shift of the cycles before the multiplication, to the left where positive.
    pub shift: i8,
    /// [`TSC_STABLE_BIT`] and [`GUEST_STOPPED`].
    pub flags: u8,
}

/// Why a page's content cannot be a clock's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// The version never settled to an even number.
    Unsettled,
    /// The host never wrote the page: its version is 0.
    NeverWritten,
    /// The multiplier is 0: time would stand still.
    ZeroMultiplier,
    /// The shift's amount is over [`Params::MAX_SHIFT`].
    Shift,
    /// The TSC frequency that scale and shift stand for is outside [`Params::TSC_HZ`].
    Frequency,
}

impl Invalid {
    /// Says the reason in words, for a log line.
    pub const fn reason(self) -> &'static str {
        match self {
            Invalid::Unsettled => "its version never settles",
            Invalid::NeverWritten => "the host never wrote it",
            Invalid::ZeroMultiplier => "its multiplier is 0",
            Invalid::Shift => "its shift is out of range",
            Invalid::Frequency => "it implies a TSC frequency out of range",
        }
    }
}

/// A TSC of this many Hz is scaled by 1 / 2^32 ns a cycle.
const SCALED_HZ: u64 = 1_000_000_000 << 32;
/// The scale, in 2^-32 ns a cycle, of the fastest TSC that is believed.
const FASTEST: u64 = SCALED_HZ.div_ceil(*Params::TSC_HZ.end());
/// The same to [`Params::MAX_SHIFT`] more bits, for a scale that is shifted to the right.
const FASTEST_SHIFTED: u64 =
    ((SCALED_HZ as u128) << Params::MAX_SHIFT).div_ceil(*Params::TSC_HZ.end() as u128) as u64;
/// The scale, in 2^-32 ns a cycle, of the slowest TSC that is believed.
const SLOWEST: u64 = SCALED_HZ / *Params::TSC_HZ.start();

impl Params {
    /// The largest amount of a shift, either way.
    ///
    /// `kvm_get_time_scale()` normalises the multiplier to 2^31 and above, so the shift of a TSC
    /// between 1 MHz and 100 GHz lies between -7 and 10; 31 is where the host's own arithmetic
    /// ends.
    pub const MAX_SHIFT: i8 = 31;

    /// The TSC frequencies that are believed, in Hz.
    pub const TSC_HZ: core::ops::RangeInclusive<u64> = 1_000_000..=100_000_000_000;

    /// Scales a count of cycles to ns: `(delta << shift) * mul / 2^32`, exact to the last bit
    /// as the host computes it.
    ///
    /// As in `pvclock_scale_delta()`, bits shifted out at the top are lost and the product is
    /// taken from 96 bits; both are wrapping by intent, since `delta` itself is.
    #[inline(always)]
    pub const fn scale(&self, delta: u64) -> u64 {
        // Amounts are at most MAX_SHIFT in accepted pages; elsewhere the amount is taken modulo
        // 64, which is some number, and no undefined behaviour.
        let shifted = if self.shift < 0 {
            delta.wrapping_shr(self.shift.unsigned_abs() as u32)
        } else {
            delta.wrapping_shl(self.shift as u32)
        };
        ((shifted as u128 * self.mul as u128) >> 32) as u64
    }

    /// The time in ns at which the TSC reads `tsc`.
    #[inline(always)]
    pub const fn ns_at(&self, tsc: u64) -> u64 {
        self.system_time
            .wrapping_add(self.scale(tsc.wrapping_sub(self.tsc_timestamp)))
    }

    /// As [`Params::ns_at`], but of a TSC from before `tsc_timestamp` it is the time there.
    ///
    /// The difference of the two, taken for a positive one, would be centuries. It comes about
    /// where a CPU reads another one's page and its TSC is a little behind, and where the TSC was
    /// set back since.
    #[inline]
    pub const fn ns_since(&self, tsc: u64) -> u64 {
        if self.is_before(tsc) {
            self.system_time
        } else {
            self.ns_at(tsc)
        }
    }

    /// Whether `tsc` lies before `tsc_timestamp`.
    #[inline]
    pub const fn is_before(&self, tsc: u64) -> bool {
        (tsc.wrapping_sub(self.tsc_timestamp) as i64) < 0
    }

    /// The TSC's frequency that scale and shift stand for, in Hz, rounded down.
    ///
    /// `None` where the multiplier is 0, or the shift's amount over [`Params::MAX_SHIFT`]. Divides,
    /// and is for people: the readers ask [`Params::validate`].
    pub const fn tsc_hz(&self) -> Option<u64> {
        if self.mul == 0 || self.shift.unsigned_abs() > Self::MAX_SHIFT as u8 {
            return None;
        }
        let mul = self.mul as u64;
        let amount = self.shift.unsigned_abs() as u32;
        if self.shift > 0 {
            return Some((SCALED_HZ / mul) >> amount);
        }
        // Below 2^62 / 1, shifted by at most 31: the whole part may pass 64 bits, the rest of
        // the division, below 2^32, does not.
        let whole = SCALED_HZ / mul;
        if amount > whole.leading_zeros() {
            return Some(u64::MAX);
        }
        Some((whole << amount) | (((SCALED_HZ % mul) << amount) / mul))
    }

    /// Checks that the parameters can be a clock's.
    ///
    /// Does not divide: the readers call it.
    ///
    /// # Errors
    ///
    /// The first of the reasons against it, in the order of [`Invalid`].
    pub const fn validate(&self) -> Result<(), Invalid> {
        if self.mul == 0 {
            return Err(Invalid::ZeroMultiplier);
        }
        let amount = self.shift.unsigned_abs();
        if amount > Self::MAX_SHIFT as u8 {
            return Err(Invalid::Shift);
        }
        let mul = self.mul as u64;
        let in_range = if self.shift < 0 {
            // At most 2^32 << 30; and the slowest TSC needs a multiplier beyond 32 bits.
            mul << (Self::MAX_SHIFT as u8 - amount) >= FASTEST_SHIFTED
        } else {
            // At most 2^32 << 31.
            let scale = mul << amount;
            scale >= FASTEST && scale <= SLOWEST
        };
        if in_range {
            Ok(())
        } else {
            Err(Invalid::Frequency)
        }
    }

    /// Whether the host vouches for the TSCs of all vCPUs.
    #[inline]
    pub const fn is_stable(&self) -> bool {
        self.flags & TSC_STABLE_BIT != 0
    }

    /// Whether the host says that it had stopped the vCPU.
    #[inline]
    pub const fn guest_stopped(&self) -> bool {
        self.flags & GUEST_STOPPED != 0
    }
}

/// A page that a host may rewrite at any moment.
///
/// The loads are single copies of their fields, as `READ_ONCE()` makes them; what they return is
/// only of use inside a bracket of [`sample`].
pub trait Page {
    /// Reads the version.
    fn version(&self) -> u32;

    /// Reads all that is not the version.
    fn params(&self) -> Params;

    /// Orders the loads before it with those after it, against a writer on another CPU, be it one
    /// of the guest's or not (`virt_rmb()`).
    fn rmb(&self);
}

/// A consistent reading of a page together with the TSC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The version under which it was read; even.
    pub version: u32,
    /// What the page said.
    pub params: Params,
    /// The TSC inside the bracket, in cycles.
    pub tsc: u64,
}

impl Sample {
    /// The time of the sample in ns.
    #[inline(always)]
    pub const fn ns(&self) -> u64 {
        self.params.ns_at(self.tsc)
    }
}

/// Reads a page and the TSC once, in one bracket of the version protocol.
///
/// `None` where the host was writing, or wrote meanwhile: try again, a bounded number of times.
///
/// # Ordering
///
/// The host makes the version odd, orders that store before those of the fields (`smp_wmb()`),
/// and orders these before the store that makes the version even again. The two
/// [`Page::rmb`] here pair with these two barriers: if any field read is of a later update than
/// the first load of the version, the second load sees that update's odd version or a later one,
/// and the sample is dropped. `tsc` has to read the TSC no earlier than the loads
/// that precede it (`rdtsc_ordered()`), so that the parameters are not older than the TSC.
///
/// That the second load of the version is not satisfied before the TSC is read is not ordered by
/// an instruction, here or in the C driver. For the page of the CPU itself nothing can come
/// between: the host rewrites it only with the vCPU outside guest mode, and entering the guest
/// serialises. Page 0 can be rewritten while a reader on another vCPU is between the two; it may
/// then combine the old parameters with a TSC from after the change, by as much as the CPU executes
/// out of order, some tens of ns. The vDSO's readers are in the same position. With the stable bit
/// set the old and the new parameters give the same time there, but for what the host corrected.
#[inline(always)]
pub fn sample<P: Page>(page: &P, tsc: impl FnOnce() -> u64) -> Option<Sample> {
    let version = page.version();
    page.rmb();
    let params = page.params();
    let tsc = tsc();
    page.rmb();
    if version & 1 == 0 && page.version() == version {
        Some(Sample {
            version,
            params,
            tsc,
        })
    } else {
        None
    }
}

/// As [`sample`], but only while the page has the version `expected`, which is even.
///
/// An `expected` above [`u32::MAX`] matches no page.
#[inline(always)]
pub fn sample_expected<P: Page>(
    page: &P,
    tsc: impl FnOnce() -> u64,
    expected: u64,
) -> Option<Sample> {
    let version = page.version();
    if u64::from(version) != expected {
        return None;
    }
    page.rmb();
    let params = page.params();
    let tsc = tsc();
    page.rmb();
    if page.version() == version {
        Some(Sample {
            version,
            params,
            tsc,
        })
    } else {
        None
    }
}
