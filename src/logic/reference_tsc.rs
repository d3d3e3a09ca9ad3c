// SPDX-License-Identifier: GPL-2.0

//! Hyper-V's reference TSC page: its layout, its arithmetic and its sequence.
//!
//! Source: the Hypervisor Top Level Functional Specification (TLFS), "Timers", "Partition
//! Reference Time Enlightenment"; the host's side in KVM is `kvm_hv_setup_tsc_page()` in
//! `arch/x86/kvm/hyperv.c`, and the kernel's own reader `hv_read_tsc_page_tsc()` in
//! `include/clocksource/hyperv_timer.h`.

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

/// How many bits of a fraction of 100 ns a count has (`HV_TSC_PAGE_FRACTION_BITS`).
pub const FRACTION_BITS: u32 = 8;

/// The frequency of the counts, in Hz.
pub const COUNT_HZ: u32 = 10_000_000 << FRACTION_BITS;

/// The page as the host writes it (`struct ms_hyperv_tsc_page`), as far as it is defined.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReferenceTscPage {
    /// `TscSequence`: see [`judge`].
    pub sequence: u32,
    reserved: u32,
    /// `TscScale`: 100 ns a cycle, in units of 2^-64.
    pub scale: u64,
    /// `TscOffset`: reference time at TSC 0, in 100 ns; signed, in two's complement.
    pub offset: u64,
}

impl ReferenceTscPage {
    /// What a page says before the host has written it.
    pub const INVALID: Self = Self::new(
        0,
        Params {
            scale: 0,
            offset: 0,
        },
    );

    /// Makes a page's content from its sequence and its parameters, for a host in a test.
    pub const fn new(sequence: u32, params: Params) -> Self {
        Self {
            sequence,
            reserved: 0,
            scale: params.scale,
            offset: params.offset,
        }
    }
}

/// What the page says beside its sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Params {
    /// `TscScale`: 100 ns a cycle, in units of 2^-64.
    pub scale: u64,
    /// `TscOffset`: reference time at TSC 0, in 100 ns; signed, in two's complement.
    pub offset: u64,
}

impl Params {
    /// The TSC frequencies that are believed, in Hz. At 10 MHz the scale passes its 64 bits.
    pub const TSC_HZ: core::ops::RangeInclusive<u64> = 10_000_001..=100_000_000_000;

    /// The scale of the fastest TSC that is believed.
    const FASTEST: u64 = (10_000_000_u128 << 64).div_ceil(*Self::TSC_HZ.end() as u128) as u64;
}

impl page::Params for Params {
    const PER_US: u64 = 10 << FRACTION_BITS;

    /// `(tsc * scale) / 2^64 + offset`, with [`FRACTION_BITS`] bits of the product's fraction.
    ///
    /// Modulo 2^64 by intent: the product may be far beyond reference time, and a negative offset
    /// brings it back. Reference time itself fits for 228 years.
    #[inline(always)]
    fn at(&self, tsc: u64) -> u64 {
        let product = u128::from(tsc) * u128::from(self.scale);
        ((product >> (64 - FRACTION_BITS)) as u64).wrapping_add(self.offset << FRACTION_BITS)
    }

    /// There is no TSC that the page begins with.
    #[inline]
    fn since(&self, tsc: u64) -> u64 {
        self.at(tsc)
    }

    #[inline]
    fn is_before(&self, _tsc: u64) -> bool {
        false
    }

    fn validate(&self) -> Result<(), Invalid> {
        if self.scale == 0 {
            Err(Invalid::ZeroMultiplier)
        } else if self.scale < Self::FASTEST {
            Err(Invalid::Frequency)
        } else {
            Ok(())
        }
    }

    /// Reference time begins with the partition: there is nothing before it.
    fn validate_at(&self, tsc: u64) -> Result<(), Invalid> {
        self.validate()?;
        if (self.at(tsc) as i64) < 0 {
            return Err(Invalid::Negative);
        }
        Ok(())
    }

    /// By the scale, to the last bit: a host makes it of what it takes for the TSC's frequency, and
    /// of nothing else.
    #[inline]
    fn same_tsc(&self, other: &Self) -> bool {
        self.scale == other.scale
    }

    /// A valid page is one for the whole partition.
    #[inline]
    fn is_stable(&self) -> bool {
        true
    }

    #[inline]
    fn guest_stopped(&self) -> bool {
        false
    }

    fn instant(&self, tsc: u64) -> Instant {
        let product = u128::from(tsc) * u128::from(self.scale);
        // Modulo 2^64 by intent, as in at().
        let whole = ((product >> 64) as u64).wrapping_add(self.offset) as i64;
        let part = (i128::from(product as u64) * 100) >> 32;
        Instant::new(i128::from(whole) * (100 * NS) + part)
    }

    /// A count is 25/64 ns.
    fn instant_of(count: u64) -> Instant {
        Instant::new(i128::from(count as i64) * ((100 * NS) >> FRACTION_BITS))
    }

    fn frequency(&self) -> Result<Frequency, Refused> {
        Frequency::of_reference_tsc(self.scale)
    }

    fn refine(&self, frequency: Frequency) -> Result<Frequency, Refused> {
        frequency.refine(self.scale)
    }

    fn to_words(&self) -> [u64; 3] {
        [self.scale, self.offset, 0]
    }

    fn from_words([scale, offset, _]: [u64; 3]) -> Self {
        Self { scale, offset }
    }
}

/// What a sequence says: 0 that the page must not be used, and 0xFFFFFFFF as well.
///
/// The latter is what the TLFS up to version 4.0b names. A host has no way to say that it is
/// writing but to withdraw the page: the counter is there meanwhile.
#[inline(always)]
pub const fn judge(sequence: u32) -> Version {
    if sequence == 0 || sequence == u32::MAX {
        Version::Withdrawn
    } else {
        Version::Settled
    }
}

/// What the reference counter (`HV_X64_MSR_TIME_REF_COUNT`, in 100 ns) says, in counts.
///
/// Rounded down, as the counter itself is: a page that is read after it does not say less but for
/// the rounding of its own offset, below 100 ns, and the way back from the host takes longer.
#[inline(always)]
pub const fn counted(reference_count: u64) -> u64 {
    reference_count << FRACTION_BITS
}
