// SPDX-License-Identifier: GPL-2.0

//! Readers in the kernel, run from user space: `/sys/kernel/debug/paraclock_hammer`.
//!
//! - `run`: write a number of seconds; all CPUs read the kernel's clocks in interrupt context, at
//!   once, and the writer's CPU in task context in between; returns when the time is over.
//! - `result`: `reads N backward N worst_ns N` of the last run.
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
/// How many brackets the agreement is judged by.
const PAIRS: u32 = 100_000;
/// How many readings of the counter one round has; each is an exit to the host.
const COUNTS: u32 = 2_000;
/// The longest run, in seconds.
const LONGEST: i64 = 600;

/// A clock, and the latest time that it gave to any CPU.
type Watched = (fn() -> u64, Clamp<AtomicWord>);

/// The clocks that never step back, whoever reads them on whatever CPU.
struct Readers {
    clocks: [Watched; 3],
    reads: AtomicWord,
    backward: AtomicWord,
    worst: Clamp<AtomicWord>,
}

impl Readers {
    fn new() -> Self {
        let clock = |read: fn() -> u64| (read, Clamp::new(AtomicWord::default()));
        Self {
            clocks: [
                clock(kernel_time::monotonic),
                clock(kernel_time::raw),
                clock(kernel_time::boottime),
            ],
            reads: AtomicWord::default(),
            backward: AtomicWord::default(),
            worst: Clamp::new(AtomicWord::default()),
        }
    }

    fn reset(&self) {
        for (_, latest) in &self.clocks {
            latest.reset();
        }
        self.reads.store(0);
        self.backward.store(0);
        self.worst.reset();
    }

    /// Reads each clock after having looked at the latest reading of all CPUs: it must not be
    /// earlier.
    fn burst(&self) {
        for _ in 0..BURST {
            for (read, latest) in &self.clocks {
                let before = latest.last();
                let now = read();
                latest.raise(now);
                if now < before {
                    self.backward.increment();
                    self.worst.raise(before - now);
                }
                self.reads.increment();
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
    let start = Instant::<Monotonic>::now();
    while start.elapsed() < Delta::from_secs(seconds) {
        cpu::on_each(|| readers.burst());
        readers.burst();
        kernel::time::delay::fsleep(Delta::from_micros(100));
    }
    Ok(())
}

fn result(readers: &Arc<Readers>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(
        f,
        "reads {} backward {} worst_ns {}",
        readers.reads.load(),
        readers.backward.load(),
        readers.worst.last()
    )
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
