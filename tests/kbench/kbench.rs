// SPDX-License-Identifier: GPL-2.0

//! What readings of the clock cost in the kernel, in TSC ticks: the least of many runs, divided by
//! the calls of one. Under an emulator whose TSC counts instructions, that is instructions.
//!
//! Read `/sys/kernel/debug/paraclock_bench/result`: a line `NAME TICKS` each, where `read:CLOCK` is
//! the registered clocksource's own `read()`, whether it is current or not.

#[allow(dead_code)]
#[path = "../../src/bindings/mod.rs"]
mod bindings;
#[allow(dead_code)]
#[path = "../../src/abstractions/tsc.rs"]
mod tsc;

use core::hint::black_box;
use kernel::{
    debugfs,
    fmt,
    module::InPlaceModule,
    prelude::*, //
};
use tsc::rdtsc_ordered;

// Of `kbench_helpers.c`.
extern "C" {
    fn paraclock_bench_clocksources(found: *mut *mut c_void, max: usize) -> usize;
}

module! {
    type: Bench,
    name: "paraclock_bench",
    authors: ["The paraclock developers"],
    description: "What readings of the clock cost, for the benchmark of paraclock",
    license: "GPL",
}

const RUNS: u32 = 50;
const CALLS: u64 = 100;
/// More than any guest has.
const CLOCKSOURCES: usize = 16;

/// The least cost of a call. An interrupt in a run makes it one that is not the least.
#[inline(always)]
fn least(mut call: impl FnMut()) -> u64 {
    let mut least = u64::MAX;
    for _ in 0..RUNS {
        let start = rdtsc_ordered();
        for _ in 0..CALLS {
            call();
        }
        least = least.min(rdtsc_ordered() - start);
    }
    least / CALLS
}

fn result(_: &(), f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let ticks = least(|| {
        black_box(rdtsc_ordered());
    });
    writeln!(f, "rdtsc_ordered {ticks}")?;
    let ticks = least(|| {
        // SAFETY: Timekeeping is not suspended where a process runs.
        black_box(unsafe { kernel::bindings::ktime_get() });
    });
    writeln!(f, "ktime_get {ticks}")?;
    let ticks = least(|| {
        // SAFETY: May be called anywhere.
        black_box(unsafe { kernel::bindings::ktime_get_mono_fast_ns() });
    });
    writeln!(f, "ktime_get_mono_fast_ns {ticks}")?;

    let mut found = [core::ptr::null_mut::<c_void>(); CLOCKSOURCES];
    // SAFETY: `found` has room for as many.
    let n = unsafe { paraclock_bench_clocksources(found.as_mut_ptr(), found.len()) };
    for found in found.iter().take(n) {
        let clocksource: *mut bindings::clocksource = found.cast();
        // SAFETY: It is registered, and stays so: nobody loads or unloads a module meanwhile.
        let (name, read) = unsafe {
            (
                CStr::from_char_ptr((*clocksource).name),
                (*clocksource).read,
            )
        };
        let (Ok(name), Some(read)) = (name.to_str(), read) else {
            continue;
        };
        let ticks = least(|| {
            // SAFETY: As the core calls it.
            black_box(unsafe { read(clocksource) });
        });
        writeln!(f, "read:{name} {ticks}")?;
    }
    Ok(())
}

#[pin_data]
struct Bench {
    #[pin]
    _result: debugfs::File<()>,
    _debugfs: debugfs::Dir,
}

impl InPlaceModule for Bench {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        let dir = debugfs::Dir::new(c"paraclock_bench");
        pin_init::pin_init_scope(|| {
            Ok(try_pin_init!(Self {
                _result <- dir.read_callback_file(c"result", (), &result),
                _debugfs: dir.clone(),
            }? Error))
        })
    }
}
