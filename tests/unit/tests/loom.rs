// SPDX-License-Identifier: GPL-2.0

//! The lock-free parts under a model checker: every interleaving of a few threads up to a number
//! of preemptions, and every value that a weak memory lets a load return.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test -p paraclock-unit --release --test loom
//! ```
//!
//! # Why C11's model may stand for the kernel's
//!
//! The driver runs on x86, whose memory is total-store-order: loads are in order with loads and
//! with later stores, stores with stores, and a locked instruction with everything. What the model
//! has instead is no more than: relaxed loads and stores for `READ_ONCE()` and `WRITE_ONCE()`,
//! `fence(Acquire)` for `smp_rmb()`, `fence(Release)` for `smp_wmb()`, acquire and release as they
//! are, and acquire-release without sequential consistency for the fully ordered `cmpxchg()`. Each
//! orders less than x86 does, so everything that can happen there happens in the model too, and
//! what holds in the model holds there.
//!
//! The TSC is a counter that every reader raises, so that of two readings one is always the
//! later, with acquire-release, so that no access moves across it. That is `rdtsc_ordered()` and,
//! for the accesses that follow, the entry into the guest that lies between the host's rewriting
//! of a page and the next instruction of a vCPU.
#![cfg(loom)]

mod word;

use loom::{
    model::Builder,
    sync::{
        Arc,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
            fence,
        },
    },
    thread,
};
use paraclock_unit::logic::{
    clamp::Clamp,
    page::{Page, Params as _, Version, sample, sample_expected},
    pvclock::{Params, TSC_STABLE_BIT, judge},
    reader::{Env, Event, GRACE_US, Reader, Reading, read_own},
    snapshot::Snapshot,
    word::Word as _,
};
use word::Word;

fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 10_000;
    builder.check(model);
}

/// How a host writes a page.
#[derive(Clone, Copy, PartialEq)]
enum Host {
    /// As KVM does: version odd, barrier, fields, barrier, version even.
    Right,
    /// Without the barriers.
    NoBarriers,
    /// With the version raised once, behind the fields, and never odd.
    NeverOdd,
}

/// A page whose fields are loaded and stored one by one.
struct WholePage {
    version: AtomicU32,
    tsc_timestamp: AtomicU64,
    system_time: AtomicU64,
    mul: AtomicU32,
}

impl WholePage {
    fn new() -> Self {
        Self {
            version: AtomicU32::new(2),
            tsc_timestamp: AtomicU64::new(2),
            system_time: AtomicU64::new(2),
            mul: AtomicU32::new(2),
        }
    }

    /// Writes the version into every field.
    fn write(&self, host: Host, version: u32) {
        let barrier = || {
            if host != Host::NoBarriers {
                fence(Release);
            }
        };
        if host != Host::NeverOdd {
            self.version.store(version - 1, Relaxed);
        }
        barrier();
        self.tsc_timestamp.store(u64::from(version), Relaxed);
        self.system_time.store(u64::from(version), Relaxed);
        self.mul.store(version, Relaxed);
        barrier();
        self.version.store(version, Relaxed);
    }
}

impl Page for WholePage {
    type Params = Params;

    fn judge(version: u32) -> Version {
        judge(version)
    }

    fn version(&self) -> u32 {
        self.version.load(Relaxed)
    }

    fn params(&self) -> Params {
        Params {
            tsc_timestamp: self.tsc_timestamp.load(Relaxed),
            system_time: self.system_time.load(Relaxed),
            mul: self.mul.load(Relaxed),
            shift: 0,
            flags: 0,
        }
    }

    fn rmb(&self) {
        fence(Acquire);
    }
}

fn assert_whole(params: &Params, version: u32) {
    let seen = (params.tsc_timestamp, params.system_time, params.mul);
    let version64 = u64::from(version);
    assert_eq!(seen, (version64, version64, version), "a mix");
}

/// A reader samples while a host writes the page twice.
fn sample_race(host: Host, expected: Option<u32>) {
    check(3, move || {
        let page = Arc::new(WholePage::new());
        let writer = {
            let page = Arc::clone(&page);
            thread::spawn(move || {
                page.write(host, 4);
                page.write(host, 6);
            })
        };
        let sampled = match expected {
            Some(version) => sample_expected(&*page, || 0, version.into()),
            None => sample(&*page, || 0).ok(),
        };
        if let Some(sample) = sampled {
            assert_whole(&sample.params, sample.version);
        }
        writer.join().expect("the writer does not panic");
    });
}

#[test]
fn a_sample_is_of_one_update() {
    sample_race(Host::Right, None);
}

#[test]
fn an_expected_sample_is_of_one_update() {
    for version in [2, 4, 6] {
        sample_race(Host::Right, Some(version));
    }
}

#[test]
#[should_panic(expected = "a mix")]
fn without_the_hosts_barriers_the_model_finds_a_mix() {
    sample_race(Host::NoBarriers, None);
}

#[test]
#[should_panic(expected = "a mix")]
fn without_an_odd_version_the_model_finds_a_mix() {
    sample_race(Host::NeverOdd, None);
}

/// The version in every field, as [`WholePage`] has it.
fn whole(version: u32) -> Params {
    Params {
        tsc_timestamp: version.into(),
        system_time: version.into(),
        mul: version,
        shift: 0,
        flags: 0,
    }
}

/// Two writers publish one after the other's version, and a reader looks for all of them.
#[test]
fn a_snapshot_is_of_one_page() {
    check(2, || {
        let shared = Arc::new((Snapshot::new(Word::zero), Word::zero()));
        let writers = [2, 4].map(|version: u32| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let (snapshot, state) = &*shared;
                let from = state.load_acquire();
                snapshot.publish(version, &whole(version), state, from, version.into())
            })
        });
        let (snapshot, state) = &*shared;
        let version = state.load_acquire() as u32;
        if let Some(seen) = snapshot.get(version) {
            assert_whole(&seen, version);
        }
        if let Some(last) = snapshot.last() {
            assert_whole(&last, last.mul);
        }
        let published = writers.map(|writer| writer.join().expect("no writer panics"));
        assert!(published.contains(&true));
    });
}

/// Slots are overwritten under a reader that is looking at them.
#[test]
fn a_slot_that_is_overwritten_is_not_mixed() {
    check(3, || {
        let shared = Arc::new((Snapshot::new(Word::zero), Word::zero()));
        let publish = |shared: &(Snapshot<Word, Params>, Word), version: u32| {
            let (snapshot, state) = shared;
            let from = state.load_acquire();
            assert!(snapshot.publish(version, &whole(version), state, from, version.into()));
        };
        publish(&shared, 2);
        publish(&shared, 4);
        let writer = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || publish(&shared, 6))
        };
        if let Some(seen) = shared.0.get(2) {
            assert_whole(&seen, 2);
        }
        if let Some(last) = shared.0.last() {
            assert_whole(&last, last.mul);
        }
        writer.join().expect("the writer does not panic");
    });
}

/// What is needed where the clock hands over in the middle of a publication: the version in force
/// can be read all the while, without waiting for anybody.
#[test]
fn the_version_in_force_can_always_be_read() {
    check(4, || {
        let shared = Arc::new((Snapshot::new(Word::zero), Word::zero()));
        let publish = |shared: &(Snapshot<Word, Params>, Word), version: u32| {
            let (snapshot, state) = shared;
            let from = state.load_acquire();
            assert!(snapshot.publish(version, &whole(version), state, from, version.into()));
        };
        publish(&shared, 2);
        publish(&shared, 4);
        let writer = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || publish(&shared, 6))
        };
        let (snapshot, state) = &*shared;
        let version = state.load_acquire() as u32;
        match snapshot.get(version) {
            Some(seen) => assert_whole(&seen, version),
            None => panic!("version {version} is in force and forgotten"),
        }
        assert!(snapshot.last().is_some());
        writer.join().expect("the writer does not panic");
    });
}

#[test]
fn the_clamp_gives_no_less_than_it_gave_before() {
    check(3, || {
        let clamp = Arc::new(Clamp::new(Word::zero()));
        let given = Arc::new(AtomicU64::new(0));
        let readers = [5, 3].map(|ns| {
            let (clamp, given) = (Arc::clone(&clamp), Arc::clone(&given));
            thread::spawn(move || {
                for ns in [ns, ns + 1] {
                    let before = given.load(Acquire);
                    let clamped = clamp.raise(ns);
                    assert!(
                        clamped.count >= before && clamped.count >= ns,
                        "time went back"
                    );
                    assert_eq!(clamped.held, clamped.count != ns);
                    given.store(clamped.count, Release);
                }
            })
        });
        let before = given.load(Acquire);
        assert!(clamp.raise(1).count >= before, "time went back");
        for reader in readers {
            reader.join().expect("no reader panics");
        }
        assert_eq!(clamp.last(), 6);
    });
}

/// A page in two words: that the fields are not mixed is shown above, and the fewer accesses, the
/// deeper the model can look.
struct SmallPage {
    version: AtomicU32,
    /// The offset, and the flags above it, one of them the model's own.
    content: AtomicU64,
    /// Whether no vCPU runs while the host writes: then nobody sees an odd version.
    keeps_out: bool,
}

/// Among the flags: of a TSC of 2 GHz.
const FAST: u8 = 1 << 7;

impl SmallPage {
    fn new(offset: u64, flags: u8, keeps_out: bool) -> Self {
        Self {
            version: AtomicU32::new(2),
            content: AtomicU64::new(offset | u64::from(flags) << 56),
            keeps_out,
        }
    }

    fn begin(&self) -> u32 {
        let version = self.version.load(Relaxed) | 1;
        self.version.store(version, Relaxed);
        fence(Release);
        version
    }

    fn write(&self, offset: u64, flags: u8) {
        let version = self.begin();
        self.end(version, offset, flags);
    }

    fn end(&self, version: u32, offset: u64, flags: u8) {
        self.content.store(offset | u64::from(flags) << 56, Relaxed);
        fence(Release);
        self.version.store(version + 1, Relaxed);
    }
}

impl Page for SmallPage {
    type Params = Params;

    fn judge(version: u32) -> Version {
        judge(version)
    }

    fn version(&self) -> u32 {
        loop {
            let version = self.version.load(Relaxed);
            if version & 1 == 0 || !self.keeps_out {
                return version;
            }
            thread::yield_now();
        }
    }

    /// A TSC of 1 or 2 GHz, and a time that is what it counts and an offset.
    fn params(&self) -> Params {
        let content = self.content.load(Relaxed);
        Params {
            tsc_timestamp: 0,
            system_time: content & ((1 << 56) - 1),
            mul: 1 << 31,
            shift: if (content >> 56) as u8 & FAST == 0 {
                1
            } else {
                0
            },
            flags: (content >> 56) as u8 & !FAST,
        }
    }

    fn rmb(&self) {
        fence(Acquire);
    }
}

struct Machine {
    reader: Reader<Word, Params>,
    tsc: AtomicU64,
    /// By how much the TSC goes on with every reading.
    step: u64,
    page0: SmallPage,
    /// The own page of the CPU that is not CPU 0.
    page1: SmallPage,
    /// The latest time given, as far as another CPU knows.
    given: AtomicU64,
}

/// What a CPU does.
#[derive(Clone, Copy, Debug)]
enum Do {
    Read,
    /// Reads as the vDSO does, where page 0 is whole and stable.
    ReadVdso,
    /// The host writes page 0 and page 1.
    Write(u64, u64, u8),
    /// The TSC runs at 2 GHz, from the value that it has, and the host writes both pages, alike.
    Retune(u8),
    /// The host writes both pages with what is in them, and other flags.
    Flags(u8),
    /// The host begins to write page 0, and stays away.
    Begin,
}

struct Cpu<'a, const TRIES: u32>(&'a Machine, usize);

impl<const TRIES: u32> Env for Cpu<'_, TRIES> {
    type Word = Word;
    type Page = SmallPage;
    const TRIES: u32 = TRIES;

    fn tsc(&self) -> u64 {
        self.0.tsc.fetch_add(self.0.step, AcqRel)
    }

    fn page0(&self) -> &SmallPage {
        &self.0.page0
    }

    fn second_is_reference(&self) -> bool {
        false
    }

    fn second(&self) -> Option<Reading> {
        read_own([&self.0.page0, &self.0.page1][self.1], || self.tsc())
    }

    fn relax(&self) {
        thread::yield_now();
    }

    fn count(&self, _: Event) {}
}

impl Machine {
    fn new(step: u64, offset: u64, flags: u8, keeps_out: bool) -> Self {
        Self {
            reader: Reader::new(true, Word::zero),
            tsc: AtomicU64::new(step),
            step,
            page0: SmallPage::new(offset, flags, keeps_out),
            page1: SmallPage::new(offset, flags, keeps_out),
            given: AtomicU64::new(0),
        }
    }

    fn act(&self, cpu: usize, steps: &[Do]) {
        for step in steps {
            match *step {
                Do::Read => self.read(cpu),
                Do::Write(offset0, offset1, flags) => {
                    self.page1.write(offset1, flags);
                    self.page0.write(offset0, flags);
                }
                Do::ReadVdso => self.read_vdso(),
                Do::Retune(flags) => {
                    let (version1, version0) = (self.page1.begin(), self.page0.begin());
                    let tsc = self.tsc.fetch_add(self.step, AcqRel);
                    let offset = self.page0.params().system_time + tsc - tsc / 2;
                    self.page1.end(version1, offset, flags | FAST);
                    self.page0.end(version0, offset, flags | FAST);
                }
                Do::Flags(flags) => {
                    let offset = self.page0.params().system_time;
                    self.page1.write(offset, flags | FAST);
                    self.page0.write(offset, flags | FAST);
                }
                Do::Begin => {
                    self.page0.begin();
                }
            }
        }
    }

    fn read(&self, cpu: usize) {
        if self.page0.keeps_out {
            // As often as the host writes, and once more: who gives up takes the page for stuck.
            self.read_by(&Cpu::<4>(self, cpu));
        } else {
            self.read_by(&Cpu::<2>(self, cpu));
        }
    }

    fn read_by<const TRIES: u32>(&self, env: &Cpu<'_, TRIES>) {
        let before = self.given.load(Acquire);
        let ns = match self.reader.read_fast(env) {
            Some(sample) => sample.count(),
            None => self.reader.read_slow(env).count,
        };
        assert!(ns >= before, "time went back: {before} before, {ns} after");
        self.given.fetch_max(ns, Release);
    }

    fn read_vdso(&self) {
        let before = self.given.load(Acquire);
        let env = Cpu::<4>(self, 0);
        let Ok(sample) = sample(env.page0(), || env.tsc()) else {
            return;
        };
        if sample.params.is_stable() {
            let ns = sample.count();
            assert!(
                ns >= before,
                "time went back: {before} before, {ns} in user space after"
            );
            self.given.fetch_max(ns, Release);
        }
    }
}

/// CPU 0 and CPU 1 at once, after one reading.
fn race(
    preemptions: usize,
    step: u64,
    before: (u64, u8),
    cpu0: &'static [Do],
    cpu1: &'static [Do],
) {
    let keeps_out = cpu1.iter().any(|step| matches!(step, Retune(_)));
    check(preemptions, move || {
        let machine = Arc::new(Machine::new(step, before.0, before.1, keeps_out));
        machine.read(0);
        let other = {
            let machine = Arc::clone(&machine);
            thread::spawn(move || machine.act(1, cpu1))
        };
        machine.act(0, cpu0);
        other.join().expect("the other CPU does not panic");
        machine.read(0);
    });
}

use Do::{Begin, Flags, Read, ReadVdso, Retune, Write};
const STABLE: u8 = TSC_STABLE_BIT;

#[test]
fn from_stable_to_stable() {
    race(
        3,
        1,
        (100, STABLE),
        &[Read, Read],
        &[Write(150, 150, STABLE), Read],
    );
}

#[test]
fn from_stable_to_stable_and_back_a_little() {
    race(
        3,
        1,
        (100, STABLE),
        &[Read],
        &[Write(50, 50, STABLE), Read, Read],
    );
}

#[test]
fn from_stable_to_unstable() {
    race(
        3,
        1,
        (100, STABLE),
        &[Read, Read],
        &[Write(90, 50, 0), Read],
    );
}

/// A reader of the first stable page stands still until another has accepted the second one.
#[test]
fn from_stable_to_stable_to_unstable() {
    race(
        3,
        1,
        (50, STABLE),
        &[Read],
        &[Write(100, 100, STABLE), Read, Write(60, 60, 0), Read],
    );
}

#[test]
fn from_unstable_to_stable() {
    race(
        3,
        GRACE_US * 1000,
        (100, 0),
        &[Read],
        &[Write(50, 50, STABLE), Read, Read, Read],
    );
}

#[test]
fn from_stable_to_stuck_to_stable() {
    race(
        3,
        1,
        (100, STABLE),
        &[Read, Read],
        &[Begin, Read, Write(50, 50, STABLE), Read],
    );
}

#[test]
fn from_stable_to_another_tsc() {
    race(
        5,
        1000,
        (100, STABLE),
        &[Read, ReadVdso],
        &[Retune(STABLE), Read, ReadVdso],
    );
}

#[test]
fn from_stable_to_another_tsc_that_is_unstable_and_back() {
    race(
        5,
        1000,
        (100, STABLE),
        &[Read],
        &[Retune(0), Read, Flags(STABLE), ReadVdso],
    );
}
