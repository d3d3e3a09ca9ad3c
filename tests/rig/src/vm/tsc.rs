// SPDX-License-Identifier: GPL-2.0

//! The frequency of this machine's TSC, which TCG hands through to L1 as it is.
//!
//! L1 is told (`tsc_early_khz=`), as it cannot find out well enough: without CONSTANT_TSC, which TCG does not
//! offer, KVM in L1 keeps the frequency from before the kernel's refined calibration, and L2's kvmclock was
//! 550 ppm off.

use anyhow::{Context, Result, bail};
use std::time::{Duration, Instant};

/// In kHz.
pub fn khz() -> Result<u64> {
    // The median of three: a preemption between the two clocks of one reading spoils that run only.
    let mut runs = [measure()?, measure()?, measure()?];
    runs.sort_unstable();
    let found = runs[1];
    if !(100_000..20_000_000).contains(&found) {
        bail!(
            "the TSC of this machine seems to run at {found} kHz, which cannot be; is it usable from user space?"
        );
    }
    Ok(found)
}

#[cfg(target_arch = "x86_64")]
fn measure() -> Result<u64> {
    const SPAN: Duration = Duration::from_millis(100);
    let (start, from) = bracketed();
    while start.elapsed() < SPAN {
        std::hint::spin_loop();
    }
    let (end, to) = bracketed();
    let ns = u64::try_from((end - start).as_nanos())
        .context("a measurement of 100 ms took centuries")?;
    Ok(to.wrapping_sub(from).saturating_mul(1_000_000) / ns)
}

/// The clock and the TSC at one moment: the tightest of a few readings.
#[cfg(target_arch = "x86_64")]
fn bracketed() -> (Instant, u64) {
    let read = || {
        // SAFETY: RDTSC has no precondition but the instruction, which every x86-64 CPU has.
        let before = unsafe { core::arch::x86_64::_rdtsc() };
        let at = Instant::now();
        // SAFETY: As above.
        let after = unsafe { core::arch::x86_64::_rdtsc() };
        (
            after.wrapping_sub(before),
            at,
            before.wrapping_add(after.wrapping_sub(before) / 2),
        )
    };
    let mut best = read();
    for _ in 0..20 {
        let next = read();
        if next.0 < best.0 {
            best = next;
        }
    }
    (best.1, best.2)
}

#[cfg(not(target_arch = "x86_64"))]
fn measure() -> Result<u64> {
    bail!("the rig emulates an x86-64 machine on an x86-64 machine, and this is another")
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    #[test]
    fn two_measurements_agree() {
        let (a, b) = (super::khz().unwrap(), super::khz().unwrap());
        // 200 ppm: the error that a shared machine makes in 100 ms is far below.
        assert!(a.abs_diff(b) * 5000 < a, "{a} and {b} kHz");
    }
}
