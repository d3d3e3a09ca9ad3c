// SPDX-License-Identifier: GPL-2.0

//! How much time has passed while nobody could tell the time.
//!
//! A clock that changes what it counts goes on from where it stood by what has passed on the
//! host's own clock, the reference: from the reference time that the clock stood at, to the reference
//! time at the first count of the new kind. Both are computed to 2^-32 ns.
//!
//! So that errors do not add up, the clock remembers its [`Anchor`]: the line by which its time
//! follows from the TSC. Whatever was wrong with it, by a rounding, by a reference that was not
//! to be read any better, or because time does not go back, is made good by the next change,
//! which begins at that line and ends at the reference.

use super::{
    frequency::Frequency,
    page::Params, //
};

/// A reference time, in 2^-32 ns; differences alone mean something.
///
/// What a host's 64 bits can say is within 2^63 * 100 ns, so sums and differences do not overflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(i128);

/// A difference of two reference times, in 2^-32 ns.
pub type Span = i128;

/// A nanosecond.
pub const NS: Span = 1 << 32;

impl Instant {
    /// From 2^-32 ns.
    #[inline]
    pub const fn new(fine: i128) -> Self {
        Self(fine)
    }

    /// The instant that is later by `span`, or earlier where that is negative.
    #[inline]
    pub const fn plus(self, span: Span) -> Self {
        Self(self.0 + span)
    }

    /// What has passed since `earlier`; negative where that is the later one.
    #[inline]
    pub const fn since(self, earlier: Self) -> Span {
        self.0 - earlier.0
    }
}

/// A time that has passed, as the timekeeping core takes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Elapsed {
    /// Whole ns.
    pub ns: u64,
    /// 2^-32 ns on top of that.
    pub frac: u32,
}

impl Elapsed {
    fn of(span: Span) -> Self {
        Self {
            ns: (span >> 32) as u64,
            frac: span as u32,
        }
    }
}

/// The longest time that may pass while the clock changes: an hour.
///
/// A guest that is moved stands still for a moment, or for minutes where the network is slow. Its
/// reference goes on meanwhile. What is beyond that is a reference that was set.
pub const LONGEST: Span = 3600 * 1_000_000_000 * NS;

/// The longest time by which the clock is held back for a reference that went back: 10 ms, as
/// [`super::reader::HANDOVER_US`].
///
/// What is owed beyond that is a reference that was set, and is not owed any more.
pub const LONGEST_DEBT: Span = 10_000_000 * NS;

/// What has passed, and what is to be thought of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// How far time goes on: never back.
    pub elapsed: Elapsed,
    /// By how much the clock then is ahead of the reference, to be made good by the next change.
    pub ahead: Span,
    /// Whether the reference can be believed.
    pub verdict: Verdict,
}

/// What is to be thought of a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It went on.
    Went,
    /// It went back by a little, as by a rounding: the clock stands until it has come up.
    Held,
    /// It went back by more than [`LONGEST_DEBT`]: the clock goes on from where it stood.
    WentBack,
    /// It went on by more than [`LONGEST`]: the clock goes on from where it stood.
    Jumped,
}

/// How far the clock goes on that stood at `old` when the reference says `new`.
pub fn passed(old: Instant, new: Instant) -> Passed {
    let span = new.since(old);
    let (elapsed, ahead, verdict) = if span > LONGEST {
        (0, 0, Verdict::Jumped)
    } else if span >= 0 {
        (span, 0, Verdict::Went)
    } else if span >= -LONGEST_DEBT {
        (0, -span, Verdict::Held)
    } else {
        (0, 0, Verdict::WentBack)
    };
    Passed {
        elapsed: Elapsed::of(elapsed),
        ahead,
        verdict,
    }
}

/// The reference by its counter alone: one point, and the TSC's frequency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    tsc: u64,
    at: Instant,
    /// See [`rate`].
    rate: u64,
}

impl Point {
    /// The reference time at a TSC that is not far away.
    #[inline]
    fn instant(&self, tsc: u64) -> Instant {
        let cycles = tsc.wrapping_sub(self.tsc) as i64;
        let span = (u128::from(cycles.unsigned_abs()) * u128::from(self.rate)) >> RATE_BITS;
        self.at.plus(if cycles < 0 {
            -(span as i128)
        } else {
            span as i128
        })
    }
}

/// A counter in steps, read several times between two readings of the TSC each: where its time lies
/// exactly.
///
/// A reading says that somewhere between the two TSCs the time was at least what it says, and less
/// than a step more. At a known rate every reading says that of one and the same moment, and what
/// they have in common is narrower than any of them.
#[derive(Clone, Copy, Debug)]
pub struct Fit {
    step: Span,
    rate: u64,
    /// The TSC of the first reading, to which the others are brought.
    tsc: Option<u64>,
    earliest: i128,
    latest: i128,
}

impl Fit {
    /// Begins, for a counter of this step and a TSC of this frequency.
    pub const fn new(step: Span, frequency: Frequency) -> Self {
        Self {
            step,
            rate: rate(frequency),
            tsc: None,
            earliest: i128::MIN,
            latest: i128::MAX,
        }
    }

    /// Adds a reading that was made between two readings of the TSC.
    pub fn add(&mut self, before: u64, at: Instant, after: u64) {
        let tsc = *self.tsc.get_or_insert(before);
        // What time it is at `tsc`, if the reading was made at this one.
        let back = |of: u64| {
            Point {
                tsc: of,
                at,
                rate: self.rate,
            }
            .instant(tsc)
            .0
        };
        // At the earliest if it was made last, and the counter had just gone on.
        self.earliest = self.earliest.max(back(after));
        self.latest = self.latest.min(back(before) + self.step);
    }

    /// The middle of what is left; `None` where there was no reading.
    pub fn point(&self) -> Option<Point> {
        let tsc = self.tsc?;
        // Of readings that contradict each other, of a clock that was set in between, it is the
        // middle as well.
        let middle = self.earliest + ((self.latest - self.earliest) >> 1);
        Some(Point {
            tsc,
            at: Instant(middle),
            rate: self.rate,
        })
    }
}

/// The bits below 2^-32 ns of a [`rate`]: at 1 MHz it has 58 in all, at 100 GHz 42.
const RATE_BITS: u32 = 16;

/// What a cycle takes at a frequency: 2^-32 ns, with [`RATE_BITS`] more bits. Rounded down.
pub const fn rate(frequency: Frequency) -> u64 {
    let hz = match frequency.hz() {
        // Not reached: that is none.
        0 => 1,
        hz => hz,
    };
    let mut rest = 1_000_000_000_u64;
    let mut rate = 0_u64;
    let mut bits = 0;
    // What is left of a division by less than 2^37 has room for 24 bits more.
    while bits < 32 + RATE_BITS {
        rate = (rate << 24).wrapping_add((rest << 24) / hz);
        rest = (rest << 24) % hz;
        bits += 24;
    }
    rate
}

/// By what the reference follows from the TSC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<P> {
    /// The host's page.
    Page(P),
    /// The host's counter, where there was no page.
    Point(Point),
}

/// By what the clock's time follows from the TSC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor<P> {
    /// The reference.
    pub line: Line<P>,
    /// By how much the clock is ahead of it.
    pub ahead: Span,
}

impl<P: Params> Anchor<P> {
    /// The reference time that the clock stands at when the TSC reads `tsc`.
    pub fn instant(&self, tsc: u64) -> Instant {
        match &self.line {
            Line::Page(params) => params.instant(tsc),
            Line::Point(point) => point.instant(tsc),
        }
        .plus(self.ahead)
    }

    /// The same time, by a page that has taken the place of the line, at the TSC of now.
    ///
    /// What the two are apart is not forgotten: it is what the clock is ahead.
    pub fn moved(&self, page: P, tsc: u64) -> Self {
        Self {
            line: Line::Page(page),
            ahead: self.instant(tsc).since(page.instant(tsc)),
        }
    }
}
