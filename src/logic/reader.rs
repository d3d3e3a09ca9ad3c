// SPDX-License-Identifier: GPL-2.0

//! How the clock is read from the pages: one fast way and what stands behind it.
//!
//! # Which page is read
//!
//! While the host sets `PVCLOCK_TSC_STABLE_BIT`, *page 0*, the page of vCPU 0, on every CPU: it is
//! the one page that user space has, so the kernel and the vDSO compute from the same numbers and
//! cannot disagree about what came first, and no reader depends on the CPU that it runs on. While
//! the bit is clear, the page of the reader's own CPU, and what is computed goes through the
//! [`Clamp`].
//!
//! # Versions are accepted
//!
//! [`Reader::read_fast`] believes page 0 only under the version that was *accepted* last: then
//! the page's content has been examined already, so no flag and no field has to be looked at, and
//! comparing the version is all that the fast way costs beside the arithmetic. A version that
//! is not the accepted one, sends the reader to [`Reader::read_slow`], which examines the page,
//! takes a [`Snapshot`] of it and accepts the version, in order that the next reader is fast again.
//!
//! # Back from the clamp
//!
//! Where readers went through the clamp, a page that is good again takes over without a step
//! back: its time goes through the clamp for another [`GRACE_NS`] before its version is accepted.
//! That outlasts the readers that were still computing by the old world when the new one
//! came: such a reader read the TSC before the change, so what it is about to return is less than
//! what any fast reader is given, unless the two worlds are further apart than the grace.
//!
//! # A page that fails
//!
//! A version that does not settle within [`SETTLE_TRIES`], or a content that cannot be a clock's,
//! is a fault of the host. Time then goes on at the rate and from the time of the last good
//! parameters, through the clamp. The version at fault is remembered, so that only the first
//! readers wait for it.

use super::{
    clamp::Clamp,
    pvclock::{
        sample,
        sample_expected,
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

/// The largest difference between the old world and the new, in ns, up to which the clamp is
/// seeded from the old world where the stable bit falls away.
///
/// The bit falls where vCPUs' TSCs are found apart; what readers were given a moment ago is then
/// off by a skew, far below this. A larger difference is a clock that was set, by a migration say,
/// and holding time still for it would be the greater fault.
pub const HANDOVER_NS: u64 = 10_000_000;

/// How long a page that became good again goes through the clamp before it is believed, in ns.
pub const GRACE_NS: u64 = 1_000_000;

/// No version: matches no page, whose versions are below 2^32.
const NONE: u64 = 1 << 32;

/// What the reader needs from where it runs.
pub trait Env {
    /// The type of a shared word.
    type Word: Word;
    /// The type of a page.
    type Page: Page;

    /// Reads the TSC, no earlier than the loads that precede it (`rdtsc_ordered()`), in cycles.
    fn tsc(&self) -> u64;

    /// Page 0, which every CPU may read.
    fn page0(&self) -> &Self::Page;

    /// Calls `f` with the page of the CPU on which it runs, on which it stays meanwhile; with
    /// `None` where that CPU has none.
    fn with_own_page<R>(&self, f: impl FnOnce(Option<&Self::Page>) -> R) -> R;

    /// Waits a moment in a loop that waits for another CPU (`cpu_relax()`).
    fn relax(&self);

    /// Adds one to a statistic; need not be exact.
    fn count(&self, event: Event);
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
    /// A new version of page 0 was accepted.
    Accepted,
    /// The host says that it had stopped the guest.
    GuestStopped,
}

/// One reading of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Time in ns.
    pub ns: u64,
    /// The TSC that belongs to it, in cycles; `None` where the time did not come from a TSC and
    /// parameters, but from the clamp.
    pub tsc: Option<u64>,
}

/// The clock's state that all readers share.
///
/// Every method may be called in any context, NMIs included, on any CPU; none takes a lock,
/// allocates or divides, and each returns after a bounded number of steps.
pub struct Reader<W> {
    /// The accepted version of page 0, or [`NONE`].
    accepted: W,
    /// The version of page 0 that was given up on, or [`NONE`].
    stuck: W,
    /// Since when page 0 has been good again after readers went through the clamp, in ns of its
    /// own time; 0 while it is not.
    good_since: W,
    /// Whether the host maintains the stable bit at all.
    trust_stable: bool,
    clamp: Clamp<W>,
    snapshot: Snapshot<W>,
}

impl<W: Word> Reader<W> {
    /// Makes a reader from words that are zero, which has accepted nothing.
    pub fn new(trust_stable: bool, word: impl Fn() -> W) -> Self {
        let reader = Self {
            accepted: word(),
            stuck: word(),
            good_since: word(),
            trust_stable,
            clamp: Clamp::new(word()),
            snapshot: Snapshot::new(word(), word(), word(), word()),
        };
        reader.accepted.store(NONE);
        reader.stuck.store(NONE);
        reader
    }

    /// Forgets all that was seen.
    ///
    /// Only while no reader runs: before the clock is registered, and while timekeeping is
    /// suspended, since what the host's clock does meanwhile nobody knows.
    pub fn reset(&self) {
        self.accepted.store(NONE);
        self.stuck.store(NONE);
        self.good_since.store(0);
        self.clamp.reset();
        self.snapshot.reset();
    }

    /// Reads page 0 under the accepted version; `None` if that is not to be had at once.
    ///
    /// # Ordering
    ///
    /// `accepted` is loaded without ordering: whichever value is seen, the sample is taken under
    /// exactly that version, and its content was found valid by whoever accepted it. That the
    /// clamp had been passed is a fact about the time computed, which only grows, and needs no
    /// order either.
    #[inline(always)]
    pub fn read_fast<E: Env<Word = W>>(&self, env: &E) -> Option<Sample> {
        sample_expected(env.page0(), || env.tsc(), self.accepted.load())
    }

    /// Reads the clock whatever the page's state.
    pub fn read_slow<E: Env<Word = W>>(&self, env: &E) -> Reading {
        let Some(sample) = self.settle(env, env.page0()) else {
            return self.extrapolate(env);
        };
        if sample.params.validate().is_err() {
            self.give_up(env, u64::from(sample.version));
            return self.extrapolate(env);
        }
        if self.trusts(&sample.params) {
            self.read_stable(env, &sample)
        } else {
            self.read_unstable(env, &sample)
        }
    }

    /// Reads a page, waiting for an update to end.
    fn settle<E: Env<Word = W>>(&self, env: &E, page: &E::Page) -> Option<Sample> {
        for _ in 0..SETTLE_TRIES {
            if let Some(sample) = sample(page, || env.tsc()) {
                return Some(sample);
            }
            let version = u64::from(page.version());
            if version == self.stuck.load() {
                return None;
            }
            env.count(Event::Retry);
            env.relax();
        }
        self.give_up(env, u64::from(page.version()));
        None
    }

    fn give_up<E: Env<Word = W>>(&self, env: &E, version: u64) {
        // A version that settled meanwhile must not be passed over: a stuck version is looked at
        // only where the page could not be read, or was read and found invalid, so nothing is
        // lost by remembering one that is not stuck any more.
        self.stuck.store(version);
        env.count(Event::Stuck);
    }

    /// Page 0 is valid and stable, under a version that is not the accepted one.
    fn read_stable<E: Env<Word = W>>(&self, env: &E, sample: &Sample) -> Reading {
        let accepted = self.accepted.load_acquire();
        let ns = sample.ns();
        let reading = Reading {
            ns,
            tsc: Some(sample.tsc),
        };
        if accepted == NONE && self.clamp.last() != 0 {
            let clamped = self.clamp.raise(ns);
            if clamped.held {
                self.good_since.store(0);
                return self.held(env, clamped.ns);
            }
            let since = self.good_since.load();
            if since == 0 || ns < since {
                self.good_since.store(ns);
                return reading;
            }
            if ns - since < GRACE_NS {
                return reading;
            }
        }
        // An exchange, so that a reader that found the page failing meanwhile, and took the
        // accepted version away, is not overruled.
        if self.snapshot.publish(&sample.params)
            && self
                .accepted
                .compare_exchange(accepted, u64::from(sample.version))
                .is_ok()
        {
            env.count(Event::Accepted);
            if sample.params.guest_stopped() {
                env.count(Event::GuestStopped);
            }
        }
        reading
    }

    /// The clamp gave a later time than the reader's own.
    fn held<E: Env<Word = W>>(&self, env: &E, ns: u64) -> Reading {
        env.count(Event::Clamped);
        Reading { ns, tsc: None }
    }

    /// Passes a time through the clamp.
    fn clamped<E: Env<Word = W>>(&self, env: &E, ns: u64, tsc: u64) -> Reading {
        let clamped = self.clamp.raise(ns);
        if clamped.held {
            self.held(env, clamped.ns)
        } else {
            Reading { ns, tsc: Some(tsc) }
        }
    }

    /// Page 0 is valid, and the host does not vouch for the TSCs.
    fn read_unstable<E: Env<Word = W>>(&self, env: &E, page0: &Sample) -> Reading {
        self.leave_stable(page0);
        let own = env.with_own_page(|own| {
            // A CPU that has no page yet, or none any more, reads page 0.
            let own = self.settle(env, own?)?;
            own.params.validate().is_ok().then_some(own)
        });
        let sample = own.unwrap_or(*page0);
        self.clamped(env, sample.ns(), sample.tsc)
    }

    /// Hands over from the stable world, where nobody wrote the clamp, to the unstable one.
    ///
    /// Whatever a reader was given under the accepted version is at most what the old parameters
    /// give at the TSC of now, so the clamp starts there. It is the first reader's business alone:
    /// the old world's time at a later TSC would hold time still for no reason. So the first one
    /// that is done takes the accepted version away, *after* it raised the clamp; the exchange is
    /// fully ordered, and who finds nothing accepted finds the clamp raised.
    fn leave_stable(&self, page0: &Sample) {
        self.good_since.store(0);
        let accepted = self.accepted.load_acquire();
        if accepted == NONE {
            return;
        }
        if let Some(old) = self.snapshot.get() {
            let floor = old.ns_at(page0.tsc);
            if floor.abs_diff(page0.ns()) <= HANDOVER_NS {
                self.clamp.raise(floor);
            }
        }
        // Where it fails, another CPU has done the same.
        let _ = self.accepted.compare_exchange(accepted, NONE);
    }

    /// Page 0 cannot be read: goes on by what else there is.
    ///
    /// By the last good parameters, where page 0 was trusted until now: all CPUs then go on alike.
    /// Else by the page of the CPU, which without the stable bit is the one to read anyhow; by the
    /// last good parameters again where it has none, or page 0 is its own.
    fn extrapolate<E: Env<Word = W>>(&self, env: &E) -> Reading {
        self.good_since.store(0);
        let accepted = self.accepted.load_acquire();
        let old = || {
            // The TSC after the parameters, as in a page's bracket.
            let params = self.snapshot.get()?;
            Some((params, env.tsc()))
        };
        let own = || {
            env.with_own_page(|own| {
                let own = sample(own?, || env.tsc())?;
                let valid = own.params.validate().is_ok();
                valid.then_some((own.params, own.tsc))
            })
        };
        let source = if accepted == NONE {
            own().or_else(old)
        } else {
            old().or_else(own)
        };
        let reading = match source {
            Some((params, tsc)) => self.clamped(env, params.ns_at(tsc), tsc),
            // Time stands still rather than to be made up.
            None => self.held(env, self.clamp.last()),
        };
        // After the clamp, as in leave_stable().
        if accepted != NONE {
            let _ = self.accepted.compare_exchange(accepted, NONE);
        }
        reading
    }

    /// Whether a page of these parameters may be read on every CPU, and by user space.
    pub fn trusts(&self, params: &Params) -> bool {
        self.trust_stable && params.is_stable()
    }

    /// Whether page 0 is trusted at the moment, as far as the readers have seen.
    pub fn is_stable(&self) -> bool {
        self.accepted.load() != NONE
    }

    /// The last good parameters of page 0, if any were accepted.
    pub fn last_good(&self) -> Option<Params> {
        self.snapshot.get()
    }
}
