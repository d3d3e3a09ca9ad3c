// SPDX-License-Identifier: GPL-2.0

//! The TSC's frequency, as a host says it.
//!
//! It says it in up to two ways: by what its page makes of a cycle, and by a number, the frequency
//! MSR. The page's is as fine as the reference time itself, so it is the one that is taken; the
//! other one has to agree, since a host that contradicts itself is not to be followed.

/// Why a frequency is not to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is nothing from which to take it.
    Unknown,
    /// It is 0.
    Zero,
    /// It is not that of any TSC.
    OutOfRange,
    /// What the host says in one way is not what it says in the other.
    Contradiction,
}

impl Refused {
    /// Says the reason in words, for a log line and for the status file.
    pub const fn reason(self) -> &'static str {
        match self {
            Refused::Unknown => "the host does not say the TSC's frequency",
            Refused::Zero => "the host says that the TSC's frequency is 0",
            Refused::OutOfRange => "the host says a TSC frequency that is out of range",
            Refused::Contradiction => {
                "the host's page and its frequency MSR disagree by more than 100 ppm"
            }
        }
    }
}

/// A frequency that a TSC can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frequency {
    hz: u64,
}

/// By how much two statements of the same host may differ, in parts of the frequency: 100 ppm.
///
/// What is rounded to kHz is off by 1 ppm at the most. Those 100 are less than the smallest step
/// between the nominal frequencies of two machines, and less than NTP makes up for.
const TOLERANCE: u64 = 10_000;

/// A reference TSC page of scale 1 would be of a TSC of this many Hz: 10 MHz * 2^64.
const REFERENCE_TSC_HZ: u128 = 10_000_000 << 64;

/// By how much a frequency times a scale may differ from that.
const REFERENCE_TSC_TOLERANCE: u128 = REFERENCE_TSC_HZ / TOLERANCE as u128;

impl Frequency {
    /// The frequencies that are believed, in Hz: those of the pages as well.
    pub const HZ: core::ops::RangeInclusive<u64> = 1_000_000..=100_000_000_000;

    /// A frequency that the host says as a number.
    ///
    /// # Errors
    ///
    /// [`Refused::Zero`] and [`Refused::OutOfRange`].
    pub fn new(hz: u64) -> Result<Self, Refused> {
        if hz == 0 {
            Err(Refused::Zero)
        } else if Self::HZ.contains(&hz) {
            Ok(Self { hz })
        } else {
            Err(Refused::OutOfRange)
        }
    }

    /// That of a reference TSC page's scale, 100 ns a cycle in units of 2^-64.
    ///
    /// # Errors
    ///
    /// As [`Frequency::new`].
    pub fn of_reference_tsc(scale: u64) -> Result<Self, Refused> {
        // A scale of 0 would be of a TSC that is infinitely fast.
        Self::new(divide(REFERENCE_TSC_HZ, scale).unwrap_or(0))
    }

    /// As [`Frequency::of_reference_tsc`], where it is known already but for the last digits. In
    /// some ten instructions: the readers wait meanwhile.
    ///
    /// # Errors
    ///
    /// [`Refused::Contradiction`] if the scale is of another frequency than `self`.
    pub fn refine(self, scale: u64) -> Result<Self, Refused> {
        let product = self.times(scale);
        let off = REFERENCE_TSC_HZ.abs_diff(product);
        if off > REFERENCE_TSC_TOLERANCE {
            return Err(Refused::Contradiction);
        }
        // So the scale is above 2^50, and the difference below 2^75: both keep 18 bits and more.
        let correction = ((off >> 32) as u64).checked_div(scale >> 32).unwrap_or(0);
        Self::new(if product > REFERENCE_TSC_HZ {
            self.hz - correction
        } else {
            self.hz + correction
        })
    }

    /// Whether a reference TSC page's scale is of this frequency, to 100 ppm. Does not divide: the
    /// readers call it.
    pub fn is_of_reference_tsc(self, scale: u64) -> bool {
        REFERENCE_TSC_HZ.abs_diff(self.times(scale)) <= REFERENCE_TSC_TOLERANCE
    }

    /// What a second comes to by a scale, at most 2^37 * 2^64.
    fn times(self, scale: u64) -> u128 {
        u128::from(self.hz) * u128::from(scale)
    }

    /// That of a pvclock's multiplier and shift.
    ///
    /// # Errors
    ///
    /// As [`Frequency::new`].
    pub fn of_pvclock(mul: u32, shift: i8) -> Result<Self, Refused> {
        let ns = 1_000_000_000_u128 << 32;
        let amount = shift.unsigned_abs();
        if amount > super::pvclock::Params::MAX_SHIFT as u8 {
            return Err(Refused::OutOfRange);
        }
        let hz = if shift < 0 {
            divide(ns << amount, u64::from(mul))
        } else {
            divide(ns, u64::from(mul) << amount)
        };
        Self::new(hz.unwrap_or(0))
    }

    /// The frequency in Hz.
    pub const fn hz(self) -> u64 {
        self.hz
    }

    /// The frequency in kHz, rounded.
    pub const fn khz(self) -> u64 {
        (self.hz + 500) / 1000
    }

    /// Whether two statements of a host agree.
    pub fn agrees(self, other: Self) -> bool {
        self.hz.abs_diff(other.hz) <= self.hz.min(other.hz) / TOLERANCE
    }

    /// The first statement, if the second one agrees with it where there is one.
    ///
    /// # Errors
    ///
    /// What is wrong with either, or [`Refused::Contradiction`].
    pub fn checked(
        best: Result<Self, Refused>,
        other: Option<Result<Self, Refused>>,
    ) -> Result<Self, Refused> {
        let best = best?;
        match other {
            Some(other) if !best.agrees(other?) => Err(Refused::Contradiction),
            _ => Ok(best),
        }
    }

    /// The frequency as a factor and a number of 32 bits, as the timekeeping core takes it. The
    /// factor is a power of two, by which a second in ns can be divided, and the least one.
    pub const fn scale_and_freq(self) -> (u32, u32) {
        // At most 2^37 / 2^32.
        let mut scale = 0;
        while (self.hz + ((1 << scale) >> 1)) >> scale > u32::MAX as u64 {
            scale += 1;
        }
        (
            1 << scale,
            ((self.hz + ((1 << scale) >> 1)) >> scale) as u32,
        )
    }
}

/// Divides, rounded to the nearest; `None` where the divisor is 0 or the quotient has more than 64
/// bits.
///
/// One bit after the other: the kernel has no division of 128 bits, and this one is not for
/// readers.
fn divide(dividend: u128, divisor: u64) -> Option<u64> {
    if divisor == 0 || (dividend >> 64) as u64 >= divisor {
        return None;
    }
    let mut remainder = (dividend >> 64) as u64;
    let mut quotient = 0_u64;
    for bit in (0..64).rev() {
        let carry = remainder >> 63 != 0;
        remainder = remainder << 1 | (dividend >> bit) as u64 & 1;
        quotient <<= 1;
        if carry || remainder >= divisor {
            remainder = remainder.wrapping_sub(divisor);
            quotient |= 1;
        }
    }
    if remainder >= divisor - remainder {
        quotient.checked_add(1)
    } else {
        Some(quotient)
    }
}
