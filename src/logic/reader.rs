// SPDX-License-Identifier: GPL-2.0

//! How the clock is read: one fast way, from a page, and what stands behind it.
//!
//! # Which page is read
//!
//! There is one page that user space has, and that the vDSO reads: *page 0*. For KVM's clock it is
//! the page of vCPU 0, for Hyper-V's the reference TSC page, the only one there is. The kernel reads
//! the same page on every CPU, as long as the host vouches for it: so the kernel and the vDSO
//! compute from the same numbers and cannot disagree about what came first, and no reader depends on
//! the CPU that it runs on. Where the host does not, there is a [*second* source](Env::second): the
//! kvmclock page of the reader's own CPU, or Hyper-V's reference counter, and what they give goes
//! through the [`Clamp`].
//!
//! # Versions are accepted
//!
//! [`Reader::read_fast`] believes page 0 only under the version that was *accepted* last: then
//! the page's content has been examined already, so no flag and no field has to be looked at, and
//! comparing the version is all that the fast way costs beside the arithmetic. A version that
//! is not the accepted one, sends the reader to [`Reader::read_slow`], which examines the page,
//! takes a [`Snapshot`] of it and accepts the version, in order that the next reader is fast again.
//!
//! Where the second source is a reference of its own, as Hyper-V's counter is, to examine a page
//! is also to compare the two, and a page that is off by more than [`PLAUSIBLE_US`] is as good as
//! none.
//!
//! # From one world to the next
//!
//! A version is accepted, or it is *rejected*: the page is not stable, it was withdrawn, it cannot
//! be read, or it says less than the version before. The state is one word, changed by an exchange
//! from what it was before the page was looked at; a reader that stood still meanwhile fails and
//! looks again. While a version is rejected every count goes through the clamp, and is of a TSC that
//! was read before page 0 changed again. Who takes an accepted version away first raises the clamp
//! to what the version gives by then, from the [`Snapshot`] of it, since fast readers left no trace
//! there. That is worth something only [by the same TSC](Params::same_tsc): a version of what the host
//! takes for another one is not compared with the version before, and nothing is handed over to it.
//!
//! A page that is good again goes through the clamp for another [`GRACE_US`] before its version is
//! accepted. That outlasts the readers that stand still with a count of the world before: what
//! such a reader is about to return is of a TSC before the change, so less than what any fast
//! reader is given, unless the two worlds are further apart than the grace.
//!
//! # A page that fails
//!
//! A page that the host has withdrawn says so, and readers go to the second source at once.
//! A version that does not settle within [`SETTLE_TRIES`], or a content that cannot be a clock's,
//! is a fault of the host. KVM's clock then goes on at the rate and from the time of the last good
//! parameters, Hyper-V's by the counter, and both through the clamp. The version at fault is what
//! the state rejects, so only the first readers wait for it.

use super::{
    clamp::Clamp,
    page::{
        sample,
        sample_expected,
        NoSample,
        Page,
        Params,
        Sample, //
    },
    snapshot::Snapshot,
    word::Word, //
};

/// How often a reader looks at a page before it takes the version for stuck.
///
/// An update takes the host some tens of stores. The bound is some 10 to 100 us on hardware: an
/// update that takes longer, because the host was preempted in it, costs no more than to go on by
/// the last parameters for a moment.
pub const SETTLE_TRIES: u32 = 1000;

/// The largest difference between the old world and the new, in us, up to which the clamp is
/// seeded from the old world where page 0 is not trusted any more.
///
/// The stable bit falls where vCPUs' TSCs are found apart, and a host corrects its clock by what it
/// has drifted; what readers were given a moment ago is then off by far less. A larger difference
/// is a clock that was set, or a TSC that was, by a migration say, to which the old parameters do not
/// apply, and holding time still for it would be the greater fault. A TSC that changes its frequency
/// and not its value makes a smaller one, and is told by other means.
pub const HANDOVER_US: u64 = 10_000;

/// How long a page that became good again goes through the clamp before it is believed, in us.
///
/// Longer than what the clamp was seeded with may be ahead: a reader that stood still with it in
/// hand is through by then.
pub const GRACE_US: u64 = 11_000;

/// By how much a page may be off from a reference of its own, in us.
///
/// The two agree within 1 us. What is to be told from that is a page that is no clock of this
/// partition: what is below this the clamp makes up for.
pub const PLAUSIBLE_US: u64 = 100;

/// Up to which difference a page and a reference of its own agree, in us: what both are rounded by.
///
/// Where the reference says less than the accepted page by more, the host may have corrected its
/// clock, or the TSC is another one.
const AGREE_US: u64 = 1;

const _: () =
    assert!(AGREE_US < PLAUSIBLE_US && PLAUSIBLE_US < HANDOVER_US && HANDOVER_US < GRACE_US);

/// The unit in which the grace is measured, in counts: a power of two, which needs no division.
const GRACE_UNIT: u64 = 1 << 16;

/// How often a reader looks at its own page.
const OWN_TRIES: u32 = 4;

/// In the state: not accepted. Matches no page, whose versions are below 2^32.
const REJECTED: u64 = 1 << 32;

/// The state in which nothing was seen yet, and no reader went through the clamp.
const FRESH: u64 = REJECTED | 1 << 33;

/// The state in which `version` was seen last and is not accepted.
const fn rejected(version: u32) -> u64 {
    REJECTED | version as u64
}

/// What the reader needs from where it runs.
pub trait Env {
    /// The type of a shared word.
    type Word: Word;
    /// The type of a page.
    type Page: Page;

    /// How often a reader looks at a page before it takes the version for stuck, or goes through the
    /// clamp because others are at work; at least 1.
    const TRIES: u32 = SETTLE_TRIES;

    /// Whether the second source does not depend on any page: it then takes the place of a page
    /// that fails, and is what a page is compared with.
    fn second_is_reference(&self) -> bool;

    /// Reads the TSC, no earlier than the loads that precede it (`rdtsc_ordered()`), in cycles.
    fn tsc(&self) -> u64;

    /// Page 0, which every CPU may read.
    fn page0(&self) -> &Self::Page;

    /// What is read where page 0 cannot be trusted: by [`read_own`] the page of the CPU on which
    /// the reader runs, or the host's own counter. `None` where there is no such thing.
    fn second(&self) -> Option<Reading>;

    /// Whether the host says, beside its pages, that the TSC has another frequency now than that of
    /// which `params` are. False where the host does not say, as where the second source is no
    /// reference.
    fn tsc_is_another(&self, _params: &ParamsOf<Self>) -> bool {
        false
    }

    /// Waits a moment in a loop that waits for another CPU (`cpu_relax()`).
    fn relax(&self);

    /// Adds one to a statistic; need not be exact.
    fn count(&self, event: Event);
}

/// What page 0 says beside its version.
pub type ParamsOf<E> = <<E as Env>::Page as Page>::Params;

/// Reads the page of the CPU on which the caller runs, and stays meanwhile.
///
/// The host writes it while the CPU is outside guest mode: what else is seen is a fault, and
/// nothing to wait for.
pub fn read_own<P: Page>(page: &P, tsc: impl Fn() -> u64) -> Option<Reading> {
    let own = (0..OWN_TRIES).find_map(|_| sample(page, &tsc).ok())?;
    own.params.validate_at(own.tsc).ok()?;
    Some(Reading {
        count: own.params.since(own.tsc),
        tsc: Some(own.tsc),
    })
}

/// Whether a page agrees with a reference; `None` if that was not to be told, because too much time
/// passed between the readings.
///
/// The reference is read between two readings of the TSC, so it has to lie between what the
/// page says of the two.
pub fn is_plausible<P: Params>(
    sample: &Sample<P>,
    reference: impl FnOnce() -> Option<Reading>,
    tsc: impl FnOnce() -> u64,
) -> Option<bool> {
    let Some(reference) = reference() else {
        // There is nothing against it.
        return Some(true);
    };
    let slack = (PLAUSIBLE_US * P::PER_US) as i64;
    // Differences of counts, which wrap.
    let before = reference.count.wrapping_sub(sample.count()) as i64;
    let after = reference.count.wrapping_sub(sample.params.at(tsc())) as i64;
    if before < -slack || after > slack {
        Some(false)
    } else {
        // The host had taken the CPU away, and the page may be off by as much.
        (before.wrapping_sub(after) <= slack).then_some(true)
    }
}

/// What is worth counting, all of it off the fast way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A page had to be read again, because the host was writing it.
    Retry,
    /// The clamp gave a later time than the page.
    Clamped,
    /// A page was given up on, because its version does not settle or its content is invalid.
    Stuck,
    /// The host had withdrawn the page.
    Withdrawn,
    /// A new version of page 0 was accepted.
    Accepted,
    /// The host says that it had stopped the guest.
    GuestStopped,
}

/// One reading of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The clock's count: see [`Params`].
    pub count: u64,
    /// The TSC that belongs to it, in cycles; `None` where the count did not come from a TSC and
    /// parameters, but from the clamp or from the host's counter.
    pub tsc: Option<u64>,
}

/// What the readers think of page 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nobody has read it yet.
    Fresh,
    /// It is trusted.
    Accepted,
    /// It is not, and readers go through the clamp.
    Rejected,
}

/// The clock's state that all readers share.
///
/// Every method may be called in any context, NMIs included, on any CPU; none takes a lock,
/// allocates or divides, and each returns after a bounded number of steps.
pub struct Reader<W, P> {
    /// The accepted version of page 0; or, with [`REJECTED`], the last version of it that was
    /// seen and not accepted, under which readers go through the clamp.
    state: W,
    /// Since when page 0 has been good again after readers went through the clamp: its version
    /// above, the time in [`GRACE_UNIT`] below.
    good_since: W,
    /// 1 if what the host says of the TSC's frequency agreed with the version that was accepted last,
    /// else 0: see [`Reader::agrees`].
    agreed: W,
    /// Whether the host maintains the stable bit at all.
    trust_stable: bool,
    clamp: Clamp<W>,
    snapshot: Snapshot<W, P>,
}

impl<W: Word, P: Params> Reader<W, P> {
    /// Makes a reader from words that are zero, which has accepted nothing.
    pub fn new(trust_stable: bool, word: impl Fn() -> W) -> Self {
        let reader = Self {
            state: word(),
            good_since: word(),
            agreed: word(),
            trust_stable,
            clamp: Clamp::new(word()),
            snapshot: Snapshot::new(word),
        };
        reader.state.store(FRESH);
        reader
    }

    /// Forgets all that was seen.
    ///
    /// Only while no reader runs: before the clock is registered, and while timekeeping is
    /// suspended, since what the host's clock does meanwhile nobody knows.
    pub fn reset(&self) {
        self.state.store(FRESH);
        self.good_since.store(0);
        self.agreed.store(0);
        self.clamp.reset();
        self.snapshot.reset();
    }

    /// As [`Reader::reset`], but for what is known of page 0 by other means: what it said last under
    /// `version`. Readers go on by that where there is no better, and with `is_accepted` take the
    /// page for good while it has that version.
    ///
    /// Such a page's TSC was read as the clock until now, which the host's word of its frequency has
    /// to agree with: so nobody is asked here.
    pub fn begin_with(&self, version: u32, params: &P, is_accepted: bool) {
        self.reset();
        let state = if is_accepted {
            u64::from(version)
        } else {
            rejected(version)
        };
        self.agreed.store(u64::from(is_accepted));
        // Not where a reader of another time is still at work there: then nothing is known.
        self.snapshot
            .publish(version, params, &self.state, FRESH, state);
    }

    /// Reads page 0 under the accepted version; `None` if that is not to be had at once.
    ///
    /// # Ordering
    ///
    /// `state` is loaded without ordering: whichever value is seen, the sample is taken under
    /// exactly that version, and its content was found valid by whoever accepted it. That the
    /// clamp had been passed is a fact about the time computed, which only grows, and needs no
    /// order either.
    #[inline(always)]
    pub fn read_fast<E: Env<Word = W>>(&self, env: &E) -> Option<Sample<ParamsOf<E>>> {
        sample_expected(env.page0(), || env.tsc(), self.state.load())
    }

    /// Reads the second source alone, through the clamp; `None` if that is not to be had at once.
    #[inline(always)]
    pub fn read_second_fast<E: Env<Word = W>>(&self, env: &E) -> Option<Reading> {
        env.second()
            .filter(|reading| self.clamp.try_raise(reading.count))
    }

    /// Reads the second source alone, through the clamp: for a clock that has no page.
    pub fn read_second<E: Env<Word = W>>(&self, env: &E) -> Reading {
        match env.second() {
            Some(reading) => self.clamped(env, reading),
            // Time stands still rather than to be made up.
            None => self.held(env, self.clamp.last()),
        }
    }

    /// Reads the clock whatever the page's state.
    ///
    /// # Ordering
    ///
    /// The state is loaded before the page, and changed only from the value loaded, by a fully
    /// ordered exchange. So whoever changes it has seen a version of the page that is no older
    /// than that of anybody who changed it before, and a reader that stood still with an old
    /// sample overrules nobody. A count is returned only under the state it was computed for: with
    /// the page's version accepted, or with the version rejected and the count in the clamp.
    pub fn read_slow<E>(&self, env: &E) -> Reading
    where
        E: Env<Word = W>,
        E::Page: Page<Params = P>,
    {
        for _ in 1..E::TRIES {
            if let Some(reading) = self.attempt(env, false) {
                return reading;
            }
            env.count(Event::Retry);
            env.relax();
        }
        match self.attempt(env, true) {
            Some(reading) => reading,
            // Not reached: the last attempt does not give up.
            None => self.held(env, self.clamp.last()),
        }
    }

    /// Reads the clock once; `None` where the host or another reader was at work. The last attempt
    /// always succeeds.
    fn attempt<E>(&self, env: &E, last: bool) -> Option<Reading>
    where
        E: Env<Word = W>,
        E::Page: Page<Params = P>,
    {
        let state = self.state.load_acquire();
        let sample = match sample(env.page0(), || env.tsc()) {
            Ok(sample) => sample,
            Err(NoSample::Withdrawn(version)) => {
                return self.without_page(env, state, version, Event::Withdrawn, last);
            }
            Err(NoSample::Unsettled) => {
                let version = env.page0().version();
                return if last || state == rejected(version) {
                    self.without_page(env, state, version, Event::Stuck, last)
                } else {
                    None
                };
            }
        };
        let params = &sample.params;
        if params.validate_at(sample.tsc).is_err() {
            return self.without_page(env, state, sample.version, Event::Stuck, last);
        }
        if !self.trusts(params) || params.is_before(sample.tsc) {
            return self.read_unstable(env, state, &sample, last);
        }
        if state == u64::from(sample.version) {
            // Accepted since the fast way was tried.
            return Some(Reading {
                count: sample.count(),
                tsc: Some(sample.tsc),
            });
        }
        let plausible = if env.second_is_reference() {
            is_plausible(&sample, || env.second(), || env.tsc())
        } else {
            Some(true)
        };
        match plausible {
            Some(true) => self.read_stable(env, state, &sample, last),
            None if !last => None,
            _ => self.without_page(env, state, sample.version, Event::Stuck, last),
        }
    }

    /// Page 0 is valid and stable, under a version that is not accepted.
    ///
    /// Behind an accepted version it is accepted at once, unless it says less than that. This is told
    /// by what the old parameters give at the TSC of the sample, which is worth something only as
    /// long as that is [the TSC](Params::same_tsc) of which they are. Where the host has changed its
    /// frequency, what they give is off by what the two rates differ over the time since, whatever
    /// the TSC's value was then; the new version is then accepted as if there had been none. So is one
    /// of a host that has merely measured the same frequency anew.
    ///
    /// # Ordering
    ///
    /// Neither case needs the grace. That is for readers that stand still with a count which may be
    /// ahead of the page, and a count is ahead only if it came out of the clamp; while a version is
    /// accepted nobody takes one from there, but in the last attempt, and who took one before has
    /// been waited for. So, provided that the host rewrites page 0 before any vCPU runs by the new TSC,
    /// whoever stands still has a count of the old page by the old TSC, from before the host took all
    /// vCPUs out of the guest in order to change it; and the new page gives no less by the new TSC, by
    /// the host's word that its clock does not step back. Where a host breaks that there is nothing
    /// to tell it by. One that corrects its clock back and then changes the TSC, before a reader of the
    /// correction is through, has time go back by the correction: that reader's floor may be in the
    /// clamp by then, and the version is accepted beside it.
    ///
    /// The sample was taken with the new version before and behind it, so its TSC is of the new
    /// frequency; a reader with a sample of the old version finds that version accepted, or the
    /// state changed.
    fn read_stable<E>(&self, env: &E, state: u64, sample: &Sample<P>, last: bool) -> Option<Reading>
    where
        E: Env<Word = W>,
        E::Page: Page<Params = P>,
    {
        let reading = Reading {
            count: sample.count(),
            tsc: Some(sample.tsc),
        };
        let mut state = state;
        if state & REJECTED == 0 {
            let old = self.accepted(state, |old| old.same_tsc(&sample.params));
            if old.is_some_and(|old| old.since(sample.tsc) > reading.count) {
                // The host stepped back, by the little that its own clock was corrected, say.
                if !self.reject(env, state, sample) && !last {
                    return None;
                }
                return self.clamped_under(env, rejected(sample.version), reading, last);
            }
        } else if state != FRESH {
            if state != rejected(sample.version) {
                // A reader that is about to accept an earlier version is too late now.
                if !self.reject(env, state, sample) && !last {
                    return None;
                }
                state = rejected(sample.version);
            }
            let clamped = self.clamped_under(env, state, reading, last)?;
            if clamped != reading {
                // Also where another reader of the page has merely overtaken this one, which cannot be
                // told from one that went by the second source under the same version, ahead of
                // the page: that is nothing to be accepted beside.
                self.good_since.store(0);
                return Some(clamped);
            }
            if !self.grace_is_over(sample.version, reading.count) {
                return Some(reading);
            }
        }
        if env.second_is_reference() && !self.agrees(env, sample, last) {
            return None;
        }
        if self.publish(sample, state, u64::from(sample.version)) {
            env.count(Event::Accepted);
            if state != rejected(sample.version) {
                self.examine(env, sample);
            }
            return Some(reading);
        }
        // Another reader has changed the state; or it is about to, and has stood still for so long
        // that this one goes through the clamp instead.
        last.then(|| {
            let reading = self.clamped(env, reading);
            self.change(state, rejected(sample.version));
            reading
        })
    }

    /// Notes whether what the host says of the TSC's frequency agrees with a page that is about to be
    /// accepted. Only then does another word later on, once the page is away, mean another TSC: KVM
    /// says the frequency that was asked for, and does not scale a TSC that is within 250 ppm of it.
    /// False if the page was changed meanwhile.
    ///
    /// An exit from the guest, for each version that a reader is about to accept, and no other.
    ///
    /// # Ordering
    ///
    /// The version is loaded once more behind the question, so that the word is not that of a TSC from
    /// after the sample. The note needs no order of its own: the exchange that accepts the version
    /// follows and is fully ordered, so who loads that state with acquire semantics finds the note, or
    /// that of another reader. Where all pages agree, or none does, all notes are the same. Where the
    /// one does and the other does not, one that comes late, from a reader that stood still here, is
    /// believed of the wrong version until the next one is accepted: of what is left out then, or is
    /// not, [`HANDOVER_US`] is the bound. 0 in doubt, as on a host that says no frequency: the floor.
    fn agrees<E>(&self, env: &E, sample: &Sample<P>, last: bool) -> bool
    where
        E: Env<Word = W>,
        E::Page: Page<Params = P>,
    {
        let agrees = !env.tsc_is_another(&sample.params);
        if env.page0().version() != sample.version && !last {
            return false;
        }
        self.agreed.store(u64::from(agrees));
        true
    }

    /// Counts what the host says with a version that is new.
    fn examine<E: Env<Word = W>>(&self, env: &E, sample: &Sample<P>) {
        if sample.params.guest_stopped() {
            env.count(Event::GuestStopped);
        }
    }

    /// Whether page 0 has been good under `version` for [`GRACE_US`].
    fn grace_is_over(&self, version: u32, count: u64) -> bool {
        let now = (count / GRACE_UNIT) as u32;
        let since = self.good_since.load();
        if since >> 32 != u64::from(version) {
            self.good_since
                .store(u64::from(version) << 32 | u64::from(now));
            return false;
        }
        let grace = (GRACE_US * P::PER_US / GRACE_UNIT) as i32;
        // Negative where this reader is behind the one that began; and where that was so long ago
        // that the difference has no sign any more.
        let passed = now.wrapping_sub(since as u32) as i32;
        if passed < -grace {
            self.good_since.store(0);
        }
        passed > grace
    }

    /// Remembers a sample and changes the state, unless another reader does or did so.
    fn publish(&self, sample: &Sample<P>, from: u64, to: u64) -> bool {
        self.snapshot
            .publish(sample.version, &sample.params, &self.state, from, to)
    }

    /// Changes the state, unless another reader did so. Never to a version: see
    /// [`Snapshot::publish`].
    fn change(&self, from: u64, to: u64) -> bool {
        self.state.compare_exchange(from, to).is_ok()
    }

    /// The clamp gave a later time than the reader's own.
    fn held<E: Env<Word = W>>(&self, env: &E, count: u64) -> Reading {
        env.count(Event::Clamped);
        Reading { count, tsc: None }
    }

    /// Passes a reading through the clamp.
    fn clamped<E: Env<Word = W>>(&self, env: &E, reading: Reading) -> Reading {
        let clamped = self.clamp.raise(reading.count);
        if clamped.held {
            self.held(env, clamped.count)
        } else {
            reading
        }
    }

    /// Passes a reading through the clamp while the state is `state`, which accepts nothing; `None`
    /// if it is not.
    ///
    /// Behind the clamp: what comes out of it may be of a reader that was too late for the state
    /// that it had seen, and who is fast under an accepted version does not know of it. While
    /// nothing is accepted, whoever accepts a version finds the clamp raised by then.
    fn clamped_under<E: Env<Word = W>>(
        &self,
        env: &E,
        state: u64,
        reading: Reading,
        last: bool,
    ) -> Option<Reading> {
        let reading = self.clamped(env, reading);
        (self.state.load_acquire() == state || last).then_some(reading)
    }

    /// Page 0 is valid, and the host does not vouch for the TSCs.
    fn read_unstable<E>(
        &self,
        env: &E,
        state: u64,
        page0: &Sample<P>,
        last: bool,
    ) -> Option<Reading>
    where
        E: Env<Word = W>,
        E::Page: Page<Params = P>,
    {
        if state != rejected(page0.version) && !self.reject(env, state, page0) && !last {
            return None;
        }
        // A CPU that has no page yet, or none any more, reads page 0.
        let own = env.second();
        // The version of page 0 once more: the own TSC then was read before page 0 changed,
        // and the grace of what follows counts from there.
        let reading = match own {
            Some(own) if env.page0().version() == page0.version => own,
            Some(_) if !last => return None,
            _ => Reading {
                count: page0.params.since(page0.tsc),
                tsc: Some(page0.tsc),
            },
        };
        self.clamped_under(env, rejected(page0.version), reading, last)
    }

    /// The parameters of the version that `state` accepts, if they still say something: `applies`
    /// says whether they are of the TSC of now.
    fn accepted(&self, state: u64, applies: impl FnOnce(&P) -> bool) -> Option<P> {
        if state & REJECTED != 0 {
            return None;
        }
        // The slot is forgotten only where the state has changed: then the exchange fails.
        self.snapshot.get(state as u32).filter(applies)
    }

    /// Raises the clamp to what the accepted version gives, before that is taken away.
    ///
    /// In the stable world nobody wrote the clamp. Whatever a reader was given under the accepted
    /// version is at most what the old parameters give at the TSC of now, `tsc`, on this CPU, so the
    /// clamp starts there; a CPU whose TSC is ahead of this one's may have been given more by as
    /// much, and the host has just taken back its word that there is none. It is the first reader's
    /// business alone: the old world's time at a later TSC would hold time still for no reason. So
    /// the first one that is done takes the accepted version away, *after* it raised the clamp; the
    /// exchange is fully ordered, and who finds nothing accepted finds the clamp raised.
    ///
    /// `old` is what the accepted version says, as far as that is of the TSC of now, and `count` what
    /// the new world gives at about `tsc`. A TSC that has changed its frequency makes of the old
    /// parameters a time that was given to nobody, and that may be near by: then there is no floor,
    /// and none is needed where the clock was not corrected as well, since what was given is from
    /// before the change, and the new world's times from after it.
    fn hand_over(&self, old: Option<P>, tsc: u64, count: u64) {
        if let Some(old) = old.filter(|params| params.validate_at(tsc).is_ok()) {
            let floor = old.since(tsc);
            if floor.abs_diff(count) <= HANDOVER_US * P::PER_US {
                self.clamp.raise(floor);
            }
        }
    }

    /// Hands over to a page that is valid and not to be accepted at once; false if another reader
    /// has meanwhile changed the state.
    fn reject<E: Env<Word = W>>(&self, env: &E, state: u64, page0: &Sample<P>) -> bool {
        let old = self.accepted(state, |old| old.same_tsc(&page0.params));
        self.hand_over(old, page0.tsc, page0.params.since(page0.tsc));
        let to = rejected(page0.version);
        // Without a snapshot where another reader is at work on it.
        let changed = self.publish(page0, state, to) || self.change(state, to);
        if changed {
            self.good_since.store(0);
            self.examine(env, page0);
        }
        changed
    }

    /// Page 0 cannot be read under `version`, for the reason that `event` stands for: goes on by
    /// what else there is.
    ///
    /// By the reference, where there is one. Else by the last good parameters, where these were
    /// stable: all CPUs then go on alike. Else by the page of the CPU, which without the stable bit
    /// is the one to read anyhow; by the last good parameters again where it has none, or page 0
    /// is its own.
    fn without_page<E>(
        &self,
        env: &E,
        state: u64,
        version: u32,
        event: Event,
        last: bool,
    ) -> Option<Reading>
    where
        E: Env<Word = W>,
        E::Page: Page<Params = P>,
    {
        let good = if state & REJECTED == 0 {
            self.snapshot.get(state as u32)
        } else {
            self.snapshot.last()
        };
        // The TSC after the version, as in a page's bracket.
        let tsc = env.tsc();
        let old = good
            .filter(|params| params.validate_at(tsc).is_ok())
            .map(|params| Reading {
                count: params.since(tsc),
                tsc: Some(tsc),
            });
        let reading = match good {
            Some(params) if !env.second_is_reference() && self.trusts(&params) => old,
            _ => env.second().or(old),
        };
        // The TSC was read before page 0 changed, as in read_unstable().
        if env.page0().version() != version && !last {
            return None;
        }
        let reading = match reading {
            Some(reading) => {
                let old = self.accepted(state, |old| {
                    // Asked behind the readings: if the TSC changes only now, there is nothing to
                    // ask, since they agree, unless the clock was corrected before. Then the floor
                    // is lost, which was right. Asked before them, a change behind the question
                    // would make one that is wrong, of any clock.
                    let ahead = old.since(tsc).wrapping_sub(reading.count) as i64;
                    ahead <= (AGREE_US * P::PER_US) as i64
                        // Left out by hand_over().
                        || ahead > (HANDOVER_US * P::PER_US) as i64
                        || self.agreed.load() == 0
                        || !env.tsc_is_another(old)
                });
                self.hand_over(old, tsc, reading.count);
                self.clamped(env, reading)
            }
            // Time stands still rather than to be made up.
            None => self.held(env, self.clamp.last()),
        };
        // After the clamp, as in reject().
        let settled = if state == rejected(version) {
            // A page is withdrawn by one and the same version every time: it may have been accepted
            // meanwhile, and be withdrawn again. Then the clamp lacks what it gave.
            self.state.load_acquire() == state
        } else if self.change(state, rejected(version)) {
            self.good_since.store(0);
            env.count(event);
            true
        } else {
            false
        };
        (settled || last).then_some(reading)
    }

    /// Whether a page of these parameters may be read on every CPU, and by user space.
    pub fn trusts(&self, params: &P) -> bool {
        self.trust_stable && params.is_stable()
    }

    /// What the readers think of page 0, as far as they have looked.
    pub fn standing(&self) -> Standing {
        match self.state.load() {
            FRESH => Standing::Fresh,
            state if state & REJECTED == 0 => Standing::Accepted,
            _ => Standing::Rejected,
        }
    }

    /// The last good parameters of page 0, if there were any.
    pub fn last_good(&self) -> Option<P> {
        self.snapshot.last()
    }
}
