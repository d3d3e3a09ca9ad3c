// SPDX-License-Identifier: GPL-2.0

//! The kvmclock page: its layout, its arithmetic and its version protocol.
//!
//! Source: `Documentation/virt/kvm/x86/msr.rst` (`MSR_KVM_SYSTEM_TIME_NEW`) and
//! `arch/x86/include/asm/pvclock-abi.h`; the host's side is `kvm_setup_guest_pvclock()` in
//! `arch/x86/kvm/x86.c`.

use super::{
    elapsed::{
        Instant,
        NS, //
    },
    frequency::{
        Frequency,
        Refused, //
    },
    page::{
        self,
        Invalid,
        Version, //
    }, //
};

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

    /// The TSC's frequency that scale and shift stand for, in Hz, rounded down.
    ///
    /// `None` where the multiplier is 0, or the shift's amount over [`Params::MAX_SHIFT`]. Divides,
    /// and is for people: the readers ask [`page::Params::validate`].
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
}

impl page::Params for Params {
    /// A count is a ns.
    const PER_US: u64 = 1000;

    #[inline(always)]
    fn at(&self, tsc: u64) -> u64 {
        self.system_time
            .wrapping_add(self.scale(tsc.wrapping_sub(self.tsc_timestamp)))
    }

    /// The difference of the two, taken for a positive one, would be centuries. It comes about
    /// where a CPU reads another one's page and its TSC is a little behind, and where the TSC was
    /// set back since.
    #[inline]
    fn since(&self, tsc: u64) -> u64 {
        if self.is_before(tsc) {
            self.system_time
        } else {
            self.at(tsc)
        }
    }

    #[inline]
    fn is_before(&self, tsc: u64) -> bool {
        (tsc.wrapping_sub(self.tsc_timestamp) as i64) < 0
    }

    fn validate(&self) -> Result<(), Invalid> {
        if self.mul == 0 {
            return Err(Invalid::ZeroMultiplier);
        }
        let amount = self.shift.unsigned_abs();
        if amount > Self::MAX_SHIFT as u8 {
            return Err(Invalid::Shift);
        }
        let mul = u64::from(self.mul);
        let in_range = if self.shift < 0 {
            // At most 2^32 << 30; and the slowest TSC needs a multiplier beyond 32 bits.
            mul << (Self::MAX_SHIFT as u8 - amount) >= FASTEST_SHIFTED
        } else {
            // At most 2^32 << 31.
            (FASTEST..=SLOWEST).contains(&(mul << amount))
        };
        if in_range {
            Ok(())
        } else {
            Err(Invalid::Frequency)
        }
    }

    /// At any: see [`page::Params::since`].
    fn validate_at(&self, _tsc: u64) -> Result<(), Invalid> {
        self.validate()
    }

    /// By multiplier and shift, to the last bit. KVM makes both of what it takes for the TSC's
    /// frequency, in kHz, and of the ratio by which the guest's is scaled (`kvm_guest_time_update()`),
    /// in the same way each time, so they stay as long as these do; timestamp and time are new with
    /// each update. Another host that has measured the same frequency as another kHz counts as
    /// another TSC.
    #[inline]
    fn same_tsc(&self, other: &Self) -> bool {
        self.mul == other.mul && self.shift == other.shift
    }

    #[inline]
    fn is_stable(&self) -> bool {
        self.flags & TSC_STABLE_BIT != 0
    }

    #[inline]
    fn guest_stopped(&self) -> bool {
        self.flags & GUEST_STOPPED != 0
    }

    /// Of a TSC that is before the parameters' own as well: with the sign that [`page::Params::at`]
    /// leaves to the wrapping.
    fn instant(&self, tsc: u64) -> Instant {
        let delta = tsc.wrapping_sub(self.tsc_timestamp) as i64;
        let cycles = u128::from(delta.unsigned_abs());
        let mul = u128::from(self.mul);
        let amount = u32::from(self.shift.unsigned_abs()) & 63;
        // At most 2^63 * 2^32, to which a shift to the left adds no bit that a time could have.
        let span = if self.shift < 0 {
            (cycles * mul) >> amount
        } else {
            (cycles * mul).wrapping_shl(amount) & (u128::MAX >> 6)
        } as i128;
        Self::instant_of(self.system_time).plus(if delta < 0 { -span } else { span })
    }

    fn instant_of(count: u64) -> Instant {
        Instant::new(i128::from(count as i64) * NS)
    }

    fn frequency(&self) -> Result<Frequency, Refused> {
        Frequency::of_pvclock(self.mul, self.shift)
    }

    fn refine(&self, frequency: Frequency) -> Result<Frequency, Refused> {
        Frequency::checked(self.frequency(), Some(Ok(frequency)))
    }

    fn to_words(&self) -> [u64; 3] {
        [
            self.tsc_timestamp,
            self.system_time,
            u64::from(self.mul) | u64::from(self.shift as u8) << 32 | u64::from(self.flags) << 40,
        ]
    }

    fn from_words([tsc_timestamp, system_time, scale]: [u64; 3]) -> Self {
        Self {
            tsc_timestamp,
            system_time,
            mul: scale as u32,
            shift: (scale >> 32) as u8 as i8,
            flags: (scale >> 40) as u8,
        }
    }
}

/// What a version says: odd while the host writes.
#[inline(always)]
pub const fn judge(version: u32) -> Version {
    if version & 1 == 0 {
        Version::Settled
    } else {
        Version::BeingWritten
    }
}
