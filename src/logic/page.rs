// SPDX-License-Identifier: GPL-2.0

//! A page that a host rewrites, and how a reading of it is known to be whole.
//!
//! What the hosts' pages have in common: a version that the host changes with every update, and
//! parameters that turn the TSC into a count of the clock. The pages themselves are
//! [`super::pvclock`] and [`super::reference_tsc`].

use super::{
    elapsed::Instant,
    frequency::{
        Frequency,
        Refused, //
    }, //
};

/// Why a page's content cannot be a clock's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// The version never settled.
    Unsettled,
    /// The host never wrote the page.
    NeverWritten,
    /// The host says that the page cannot be used now.
    Withdrawn,
    /// The multiplier or scale is 0: time would stand still.
    ZeroMultiplier,
    /// The shift's amount is out of range.
    Shift,
    /// The TSC frequency that the parameters stand for is out of range.
    Frequency,
    /// The time that comes out lies before the beginning of time.
    Negative,
}

impl Invalid {
    /// Says the reason in words, for a log line.
    pub const fn reason(self) -> &'static str {
        match self {
            Invalid::Unsettled => "its version never settles",
            Invalid::NeverWritten => "the host never wrote it",
            Invalid::Withdrawn => "the host says that it is invalid",
            Invalid::ZeroMultiplier => "its multiplier is 0",
            Invalid::Shift => "its shift is out of range",
            Invalid::Frequency => "it implies a TSC frequency out of range",
            Invalid::Negative => "it gives a time before the partition's beginning",
        }
    }
}

/// What a page says beside its version: how the TSC becomes a count.
///
/// A *count* is the clock's own unit, the cycle of its clocksource. It has 64 bits, and wraps
/// after centuries.
pub trait Params: Copy + Send + Unpin + 'static {
    /// How many counts there are in a microsecond.
    const PER_US: u64;

    /// The count at which the TSC reads `tsc`; whatever the parameters are, it is some number.
    fn at(&self, tsc: u64) -> u64;

    /// As [`Params::at`], but of a TSC from before the parameters' own time it is the count there.
    fn since(&self, tsc: u64) -> u64;

    /// Whether `tsc` lies before the parameters' own time, where they have one.
    fn is_before(&self, tsc: u64) -> bool;

    /// Checks that the parameters can be a clock's. Does not divide: the readers call it.
    ///
    /// # Errors
    ///
    /// The first of the reasons against it, in the order of [`Invalid`].
    fn validate(&self) -> Result<(), Invalid>;

    /// As [`Params::validate`], and that they give a time at the TSC `tsc`.
    ///
    /// # Errors
    ///
    /// As there.
    fn validate_at(&self, tsc: u64) -> Result<(), Invalid>;

    /// Whether `other` is of the TSC of which these parameters are, as far as they tell: of one that
    /// the host takes to run at the same rate. Where it is not, each says nothing of the times that
    /// the other one gives, whatever the TSC's value was when the rate changed.
    fn same_tsc(&self, other: &Self) -> bool;

    /// Whether the host vouches for the TSCs of all vCPUs.
    fn is_stable(&self) -> bool;

    /// Whether the host says that it had stopped the vCPU.
    fn guest_stopped(&self) -> bool;

    /// The reference time at which the TSC reads `tsc`, as fine as the parameters are.
    fn instant(&self, tsc: u64) -> Instant;

    /// The reference time at a count.
    fn instant_of(count: u64) -> Instant;

    /// The TSC's frequency that the parameters stand for. Divides: not for readers.
    ///
    /// # Errors
    ///
    /// [`Refused`].
    fn frequency(&self) -> Result<Frequency, Refused>;

    /// As [`Params::frequency`], where it is known but for the last digits. Quick.
    ///
    /// # Errors
    ///
    /// [`Refused::Contradiction`] where the parameters stand for another one.
    fn refine(&self, frequency: Frequency) -> Result<Frequency, Refused>;

    /// The parameters as three words.
    fn to_words(&self) -> [u64; 3];

    /// The parameters of which [`Params::to_words`] made these words.
    fn from_words(words: [u64; 3]) -> Self;
}

/// What the version of a page says of the parameters beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// They are whole, as long as the version stays.
    Settled,
    /// The host is writing them, which takes but a moment.
    BeingWritten,
    /// They cannot be used, for as long as the host pleases.
    Withdrawn,
}

/// A page that a host may rewrite at any moment.
///
/// The loads are single copies of their fields, as `READ_ONCE()` makes them; what they return is
/// only of use inside a bracket of [`sample`].
pub trait Page {
    /// What the page says beside its version.
    type Params: Params;

    /// Reads the version.
    fn version(&self) -> u32;

    /// What a version says of the parameters.
    fn judge(version: u32) -> Version;

    /// Reads all that is not the version.
    fn params(&self) -> Self::Params;

    /// Orders the loads before it with those after it, against a writer on another CPU, be it one
    /// of the guest's or not (`virt_rmb()`).
    fn rmb(&self);
}

/// A consistent reading of a page together with the TSC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample<P> {
    /// The version under which it was read, a settled one.
    pub version: u32,
    /// What the page said.
    pub params: P,
    /// The TSC inside the bracket, in cycles.
    pub tsc: u64,
}

impl<P: Params> Sample<P> {
    /// The count of the sample.
    #[inline(always)]
    pub fn count(&self) -> u64 {
        self.params.at(self.tsc)
    }
}

/// What a look at a page found instead of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSample {
    /// The host was writing, or wrote meanwhile: try again, a bounded number of times.
    Unsettled,
    /// The host has withdrawn the page, by this version.
    Withdrawn(u32),
}

/// Reads a page and the TSC once, in one bracket of the version protocol.
///
/// # Errors
///
/// [`NoSample`].
///
/// # Ordering
///
/// The host makes the version one that is not settled, orders that store before those of the
/// fields (`smp_wmb()`), and orders these before the store that settles the version again, to
/// another value. The two [`Page::rmb`] here pair with these two barriers: if any field read is of a
/// later update than the first load of the version, the second load sees that update's unsettled
/// version or a later one, and the sample is dropped. `tsc` has to read the TSC no earlier than
/// the loads that precede it (`rdtsc_ordered()`), so that the parameters are not older than the TSC.
///
/// That the second load of the version is not satisfied before the TSC is read is not ordered by
/// an instruction, here or in the C drivers. For the kvmclock page of the CPU itself nothing can
/// come between: the host rewrites it only with the vCPU outside guest mode, and entering the
/// guest serialises. A page that all vCPUs read, that of vCPU 0 or the reference TSC page, can be
/// rewritten while a reader on another vCPU is between the two; it may then combine the old
/// parameters with a TSC from after the change, by as much as the CPU executes out of order, some
/// tens of ns. The vDSO's readers are in the same position. While the TSC itself stays, the old and
/// the new parameters give the same time there, but for what the host corrected; and a host that
/// changes the TSC of a running vCPU takes it out of the guest for that.
#[inline(always)]
pub fn sample<P: Page>(page: &P, tsc: impl FnOnce() -> u64) -> Result<Sample<P::Params>, NoSample> {
    let version = page.version();
    match P::judge(version) {
        Version::Settled => {}
        Version::BeingWritten => return Err(NoSample::Unsettled),
        Version::Withdrawn => return Err(NoSample::Withdrawn(version)),
    }
    sample_under(page, tsc, version).ok_or(NoSample::Unsettled)
}

/// As [`sample`], but only while the page has the version `expected`, a settled one.
///
/// An `expected` above [`u32::MAX`] matches no page.
#[inline(always)]
pub fn sample_expected<P: Page>(
    page: &P,
    tsc: impl FnOnce() -> u64,
    expected: u64,
) -> Option<Sample<P::Params>> {
    let version = page.version();
    if u64::from(version) != expected {
        return None;
    }
    sample_under(page, tsc, version)
}

/// The rest of the bracket, once the version is loaded.
#[inline(always)]
fn sample_under<P: Page>(
    page: &P,
    tsc: impl FnOnce() -> u64,
    version: u32,
) -> Option<Sample<P::Params>> {
    page.rmb();
    let params = page.params();
    let tsc = tsc();
    page.rmb();
    (page.version() == version).then_some(Sample {
        version,
        params,
        tsc,
    })
}

/// Looks at a page up to `tries` times, until it gives a sample that can be a clock's.
///
/// # Errors
///
/// What is wrong with the page.
pub fn examine<P: Page>(
    page: &P,
    tries: u32,
    tsc: impl Fn() -> u64,
) -> Result<Sample<P::Params>, Invalid> {
    let mut found = Err(NoSample::Unsettled);
    for _ in 0..tries {
        found = sample(page, &tsc);
        if found.is_ok() {
            break;
        }
    }
    let sample = found.map_err(|none| match none {
        NoSample::Unsettled => Invalid::Unsettled,
        NoSample::Withdrawn(_) => Invalid::Withdrawn,
    })?;
    if sample.version == 0 {
        return Err(Invalid::NeverWritten);
    }
    sample.params.validate_at(sample.tsc)?;
    Ok(sample)
}
