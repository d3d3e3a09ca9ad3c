// SPDX-License-Identifier: GPL-2.0

//! Readers in the kernel, run from user space: `/sys/kernel/debug/paraclock_hammer`.
//!
//! - `run`: write a number of seconds; all CPUs read the kernel's clocks in interrupt context, at
//!   once, and the writer's CPU in task context in between; every CPU gets NMIs meanwhile, whose
//!   handler reads the clocks that an NMI may read. Returns when the time is over.
//! - `result`: `reads N backward N worst_ns N` of the last run, of all clocks that never step back;
//!   then a line for each clock, `clock NAME reads N backward N worst_ns N`. Those whose name starts
//!   with `nmi_` were read by the NMIs; `nmi_mono`, `nmi_boot` and `nmi_real` are no part of the
//!   first line, since the kernel lets a reader in the middle of an update of their slope see
//!   them go back by some ns (see `ktime_get_mono_fast_ns()`).
//! - `agree_kvm`, `agree_hyperv`: brackets the current clocksource between two readings of that C
//!   clock's arithmetic, `pairs N worst_ns N hw_outside N generic N`; `worst_ns` is by how much a
//!   reading lay outside its bracket, `hw_outside` how many snapshots did not come with a TSC
//!   reading inside of one, `generic` how many came without any hardware counter's.
//! - `refcount`: brackets Hyper-V's reference counter between two readings of the current
//!   clocksource, `pairs N worst_ns N narrowest_ns N low_ns N high_ns N`; `worst_ns` is by how much
//!   the counter lay outside its bracket, `narrowest_ns` the width of the narrowest one, and a
//!   distance between the two, if it is constant, is between `low_ns` and `high_ns`.

#[allow(dead_code)]
#[path = "../../src/bindings/mod.rs"]
mod bindings;
#[allow(dead_code)]
#[path = "../../src/abstractions/cpu.rs"]
mod cpu;
mod kernel_time;
#[allow(dead_code, unreachable_pub)]
#[path = "../../src/logic/mod.rs"]
mod logic;
mod nmi;
#[allow(dead_code)]
#[path = "../../src/abstractions/tsc.rs"]
mod tsc;
#[allow(dead_code)]
#[path = "../../src/abstractions/word.rs"]
mod word;

use kernel::{
    debugfs,
    fmt,
    module::InPlaceModule,
    prelude::*,
    sync::Arc,
    time::{
        Delta,
        Instant,
        Monotonic, //
    },
    uaccess::UserSliceReader, //
};
use logic::{
    clamp::Clamp,
    word::Word, //
};
use word::AtomicWord;

module! {
    type: Hammer,
    name: "paraclock_hammer",
    authors: ["The paraclock developers"],
    description: "Readers of the kernel's clocks, for the tests of paraclock",
    license: "GPL",
}

/// How many readings a CPU makes in one interrupt.
const BURST: u32 = 200;
/// How many it makes in one NMI, with which nothing else can interfere.
const NMI_BURST: u32 = 50;
/// How many brackets the agreement is judged by.
const PAIRS: u32 = 100_000;
/// How many readings of the counter one round has; each is an exit to the host.
const COUNTS: u32 = 2_000;
/// The longest run, in seconds.
const LONGEST: i64 = 600;

/// Where a clock is read.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// In tasks and in interrupts.
    Usual,
    /// In NMIs, where it may not step back either.
    Nmi,
    /// In NMIs, and the kernel lets it step back by a little.
    NmiSloped,
}

/// A clock, the latest time that it gave to any CPU, and what its readers have seen.
struct Watched {
    name: &'static str,
    place: Place,
    read: fn() -> u64,
    latest: Clamp<AtomicWord>,
    reads: AtomicWord,
    backward: AtomicWord,
    worst: Clamp<AtomicWord>,
}

impl Watched {
    fn new(name: &'static str, place: Place, read: fn() -> u64) -> Self {
        Self {
            name,
            place,
            read,
            latest: Clamp::new(AtomicWord::default()),
            reads: AtomicWord::default(),
            backward: AtomicWord::default(),
            worst: Clamp::new(AtomicWord::default()),
        }
    }

    fn reset(&self) {
        self.latest.reset();
        self.reads.store(0);
        self.backward.store(0);
        self.worst.reset();
    }

    /// Reads the clock after having looked at the latest reading of all CPUs: it must not be
    /// earlier. Context: any, if the clock's own reader may be called there.
    fn look(&self) {
        let before = self.latest.last();
        let now = (self.read)();
        // A clock that has nothing to give.
        if now == 0 {
            return;
        }
        self.latest.raise(now);
        if now < before {
            self.backward.increment();
            self.worst.raise(before - now);
        }
        self.reads.increment();
    }
}

struct Readers {
    clocks: [Watched; 9],
}

impl Readers {
    fn new() -> Self {
        Self {
            clocks: [
                Watched::new("mono", Place::Usual, kernel_time::monotonic),
                Watched::new("raw", Place::Usual, kernel_time::raw),
                Watched::new("boot", Place::Usual, kernel_time::boottime),
                Watched::new("snapshot", Place::Usual, kernel_time::snapshot_ns),
                Watched::new("aux", Place::Usual, kernel_time::auxiliary),
                Watched::new("nmi_raw", Place::Nmi, kernel_time::raw_fast),
                Watched::new("nmi_mono", Place::NmiSloped, kernel_time::mono_fast),
                Watched::new("nmi_boot", Place::NmiSloped, kernel_time::boot_fast),
                Watched::new("nmi_real", Place::NmiSloped, kernel_time::real_fast),
            ],
        }
    }

    fn reset(&self) {
        for clock in &self.clocks {
            clock.reset();
        }
    }

    fn burst(&self) {
        for _ in 0..BURST {
            for clock in &self.clocks {
                if clock.place == Place::Usual {
                    clock.look();
                }
            }
        }
    }

    fn burst_in_nmi(&self) {
        for _ in 0..NMI_BURST {
            for clock in &self.clocks {
                if clock.place != Place::Usual {
                    clock.look();
                }
            }
        }
    }
}

fn run(readers: &Arc<Readers>, input: &mut UserSliceReader) -> Result {
    let mut text = [0; 16];
    let length = input.len().min(text.len());
    let text = &mut text[..length];
    input.read_slice(text)?;
    let seconds: i64 = core::str::from_utf8(text)
        .map_err(|_| EINVAL)?
        .trim()
        .parse()
        .map_err(|_| EINVAL)?;
    if !(1..=LONGEST).contains(&seconds) {
        return Err(EINVAL);
    }

    readers.reset();
    let in_nmi = readers.clone();
    let nmi = nmi::Nmi::new(move || in_nmi.burst_in_nmi())?;
    let start = Instant::<Monotonic>::now();
    while start.elapsed() < Delta::from_secs(seconds) {
        nmi.send();
        cpu::on_each(|| readers.burst());
        readers.burst();
        kernel::time::delay::fsleep(Delta::from_micros(100));
    }
    Ok(())
}

fn result(readers: &Arc<Readers>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (mut reads, mut backward, mut worst) = (0, 0, 0);
    for clock in &readers.clocks {
        if clock.place != Place::NmiSloped {
            reads += clock.reads.load();
            backward += clock.backward.load();
            worst = worst.max(clock.worst.last());
        }
    }
    writeln!(f, "reads {reads} backward {backward} worst_ns {worst}")?;
    for clock in &readers.clocks {
        writeln!(
            f,
            "clock {} reads {} backward {} worst_ns {}",
            clock.name,
            clock.reads.load(),
            clock.backward.load(),
            clock.worst.last()
        )?;
    }
    Ok(())
}

/// What came of brackets around readings of the current clocksource.
#[derive(Default)]
struct Agreement {
    pairs: u64,
    /// In the clocksource's cycles.
    worst: u64,
    hw_outside: u64,
    generic: u64,
}

impl Agreement {
    /// Brackets each reading between two of `control`, in the same cycles.
    fn measure(control: impl Fn(&cpu::Pinned) -> Option<u64>) -> Self {
        let mut seen = Self::default();
        for _ in 0..PAIRS {
            let here = cpu::Pinned::new();
            let before = control(&here);
            let tsc_before = tsc::rdtsc_ordered();
            let snapshot = kernel_time::snapshot();
            let tsc_after = tsc::rdtsc_ordered();
            let after = control(&here);
            drop(here);
            let (Some(before), Some(snapshot), Some(after)) = (before, snapshot, after) else {
                continue;
            };
            seen.pairs += 1;
            if !snapshot.is_of_tsc() || !(tsc_before..=tsc_after).contains(&snapshot.hw_cycles) {
                seen.hw_outside += 1;
            }
            if snapshot.is_generic() {
                seen.generic += 1;
            }
            seen.worst = seen
                .worst
                .max(before.saturating_sub(snapshot.cycles))
                .max(snapshot.cycles.saturating_sub(after));
        }
        seen
    }

    fn show(&self, worst_ns: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "pairs {} worst_ns {} hw_outside {} generic {}",
            self.pairs, worst_ns, self.hw_outside, self.generic
        )
    }
}

fn agree_kvm(_: &(), f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let seen = Agreement::measure(|here| match kernel_time::pvclock(here) {
        0 => None,
        ns => Some(ns),
    });
    seen.show(seen.worst, f)
}

fn agree_hyperv(_: &(), f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let page = kernel_time::HvPage::find();
    let seen = Agreement::measure(|_| page.as_ref()?.read());
    // Rounded up: what is outside by less than a nanosecond is outside.
    seen.show((seen.worst * 25).div_ceil(64), f)
}

fn refcount(_: &(), f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut pairs = 0u64;
    let mut narrowest = i64::MAX;
    // The distance of the counter from the clock, in cycles, is at least and at most this.
    let (mut low, mut high) = (i64::MIN, i64::MAX);
    let mut worst = 0;
    for _ in 0..COUNTS {
        let here = cpu::Pinned::new();
        let before = kernel_time::snapshot();
        let count = kernel_time::hv_count();
        let after = kernel_time::snapshot();
        drop(here);
        let (Some(before), Ok(count), Some(after)) = (before, count, after) else {
            continue;
        };
        pairs += 1;
        // The counter has cut off what is below its unit.
        let first = count.wrapping_mul(kernel_time::HV_CYCLES);
        let last = first.wrapping_add(kernel_time::HV_CYCLES - 1);
        let least = first.wrapping_sub(after.cycles) as i64;
        let most = last.wrapping_sub(before.cycles) as i64;
        worst = worst.max(least).max(-most);
        low = low.max(least);
        high = high.min(most);
        narrowest = narrowest.min(after.cycles.wrapping_sub(before.cycles) as i64);
    }
    writeln!(
        f,
        "pairs {} worst_ns {} narrowest_ns {} low_ns {} high_ns {}",
        pairs,
        kernel_time::hv_ns(worst),
        kernel_time::hv_ns(narrowest),
        kernel_time::hv_ns(low),
        kernel_time::hv_ns(high)
    )
}

#[pin_data]
struct Hammer {
    #[pin]
    _run: debugfs::File<Arc<Readers>>,
    #[pin]
    _result: debugfs::File<Arc<Readers>>,
    #[pin]
    _agree_kvm: debugfs::File<()>,
    #[pin]
    _agree_hyperv: debugfs::File<()>,
    #[pin]
    _refcount: debugfs::File<()>,
    debugfs: debugfs::Dir,
}

impl InPlaceModule for Hammer {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        pin_init::pin_init_scope(|| {
            let readers = Arc::new(Readers::new(), GFP_KERNEL)?;
            let of_result = readers.clone();
            Ok(try_pin_init!(Self {
                debugfs: debugfs::Dir::new(c"paraclock_hammer"),
                _run <- debugfs.write_callback_file(c"run", readers, &run),
                _result <- debugfs.read_callback_file(c"result", of_result, &result),
                _agree_kvm <- debugfs.read_callback_file(c"agree_kvm", (), &agree_kvm),
                _agree_hyperv <- debugfs.read_callback_file(c"agree_hyperv", (), &agree_hyperv),
                _refcount <- debugfs.read_callback_file(c"refcount", (), &refcount),
            }? Error))
        })
    }
}
