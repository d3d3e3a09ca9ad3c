// SPDX-License-Identifier: GPL-2.0

//! A real hypervisor's page, where this machine is itself a KVM guest.
//!
//! The first page of `[vvar_vclock]` is vCPU 0's kvmclock page, readable by any process, once
//! kvm-clock was in use. Elsewhere a read of that mapping is a SIGBUS, so a child reads it first.
//! What cannot be tested is skipped: a line `SKIP real_page: reason` says so.
#![cfg(all(not(loom), target_os = "linux", target_arch = "x86_64"))]

use anyhow::{Context, Result, ensure};
use paraclock_unit::logic::{
    page::{self, Page, Params as _, Version, sample},
    pvclock::{Params, VcpuTimeInfo, judge},
};
use std::{
    arch::x86_64::{_mm_lfence, _rdtsc},
    io::Write,
    ptr,
    sync::atomic::{Ordering, fence},
    thread,
    time::Duration,
};

struct RealPage(*const VcpuTimeInfo);

macro_rules! field {
    ($page:expr, $field:ident) => {
        // SAFETY: The mapping lives as long as the process, and a child was able to read it.
        // The kernel may write it meanwhile, hence volatile.
        unsafe { ptr::read_volatile(&raw const (*$page.0).$field) }
    };
}

impl Page for RealPage {
    type Params = Params;

    fn judge(version: u32) -> Version {
        judge(version)
    }

    fn version(&self) -> u32 {
        field!(self, version)
    }

    fn params(&self) -> Params {
        Params {
            tsc_timestamp: field!(self, tsc_timestamp),
            system_time: field!(self, system_time),
            mul: field!(self, tsc_to_system_mul),
            shift: field!(self, tsc_shift),
            flags: field!(self, flags),
        }
    }

    fn rmb(&self) {
        fence(Ordering::Acquire);
    }
}

fn rdtsc_ordered() -> u64 {
    // SAFETY: Both instructions are part of x86-64.
    unsafe {
        _mm_lfence();
        _rdtsc()
    }
}

/// The first page of `[vvar_vclock]`, from a line of `/proc/self/maps`.
fn find_page() -> Result<Option<usize>> {
    let maps = std::fs::read_to_string("/proc/self/maps").context("reading /proc/self/maps")?;
    let Some(line) = maps.lines().find(|line| line.ends_with("[vvar_vclock]")) else {
        return Ok(None);
    };
    let start = line.split('-').next().unwrap_or_default();
    let start = usize::from_str_radix(start, 16).with_context(|| format!("parsing {line:?}"))?;
    Ok(Some(start))
}

/// Whether a read of the address is survived, by a child that does only that.
fn readable(address: usize) -> Result<bool> {
    // SAFETY: The child calls nothing but _exit(), which may be called after a fork.
    let child = unsafe { libc::fork() };
    ensure!(child >= 0, "fork: {}", std::io::Error::last_os_error());
    if child == 0 {
        // SAFETY: An address of a mapping; the read may end this process by a SIGBUS, which
        // is what the child is for.
        unsafe {
            ptr::read_volatile(address as *const u32);
            libc::_exit(0)
        }
    }
    let mut status = 0;
    loop {
        // SAFETY: `status` outlives the call.
        if unsafe { libc::waitpid(child, &raw mut status, 0) } == child {
            return Ok(status == 0);
        }
        let error = std::io::Error::last_os_error();
        ensure!(
            error.kind() == std::io::ErrorKind::Interrupted,
            "waitpid: {error}"
        );
    }
}

fn monotonic_raw() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` outlives the call. It cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_RAW, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// A sample, and the system's time around it: the narrowest bracket of many.
struct Bracket {
    before: u64,
    after: u64,
    sample: page::Sample<Params>,
}

fn bracket(page: &RealPage) -> Result<Bracket> {
    (0..2000)
        .filter_map(|_| {
            let before = monotonic_raw();
            let sample = sample(page, rdtsc_ordered).ok()?;
            let after = monotonic_raw();
            Some(Bracket {
                before,
                after,
                sample,
            })
        })
        .min_by_key(|bracket| bracket.after - bracket.before)
        .context("the page's version never settled")
}

fn skip(reason: &str) {
    // Past the harness, which swallows what print!() prints; in one piece.
    let line = format!("\nSKIP real_page: {reason}\n");
    let mut stdout = std::io::stdout();
    // A reader of this output that is gone has no use for the line.
    let _ = stdout
        .write_all(line.as_bytes())
        .and_then(|()| stdout.flush());
}

#[test]
fn real_page() -> Result<()> {
    let Some(address) = find_page()? else {
        skip("no [vvar_vclock] in /proc/self/maps: an old kernel, or one without guest support");
        return Ok(());
    };
    if !readable(address)? {
        skip("[vvar_vclock] has no kvmclock page: no KVM guest, or kvm-clock was never in use");
        return Ok(());
    }
    let page = RealPage(address as *const VcpuTimeInfo);
    if page.version() == 0 {
        skip("the page was never written by a host");
        return Ok(());
    }

    let first = bracket(&page)?;
    let params = first.sample.params;
    ensure!(first.sample.version % 2 == 0, "odd: {:?}", first.sample);
    ensure!(params.validate() == Ok(()), "not valid: {params:?}");
    ensure!(
        params.tsc_timestamp <= first.sample.tsc,
        "from the future: {:?}",
        first.sample
    );

    // Two readings in a row: the second is later, by less than it took.
    let again = bracket(&page)?;
    let passed = again.sample.count().wrapping_sub(first.sample.count());
    let took = again.after - first.before;
    ensure!(
        passed > 0 && passed <= took + took / 2000 + 1,
        "{passed} ns in {took} ns"
    );

    thread::sleep(Duration::from_secs(1));
    let second = bracket(&page)?;

    // Over a second, time goes on as the system's does: NTP slews by at most 500 ppm, and the
    // brackets are as wide as they are.
    let elapsed = second.before - first.before;
    let passed = second.sample.count() - first.sample.count();
    let width = (first.after - first.before) + (second.after - second.before);
    let bound = elapsed / 2000 + width;
    ensure!(
        passed.abs_diff(elapsed) <= bound,
        "expected {elapsed} ns +- {bound}, seen {passed} ns, {params:?}"
    );

    // The frequency that the page implies is the TSC's.
    let cycles = second.sample.tsc - first.sample.tsc;
    let measured = u128::from(cycles) * 1_000_000_000 / u128::from(elapsed);
    let implied = u128::from(params.tsc_hz().context("validated")?);
    ensure!(
        measured.abs_diff(implied) <= implied / 1000,
        "expected {implied} Hz, measured {measured} Hz"
    );
    println!(
        "version {} {params:?} {implied} Hz, measured {measured} Hz",
        second.sample.version
    );
    Ok(())
}
