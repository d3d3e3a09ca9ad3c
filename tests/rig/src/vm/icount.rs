// SPDX-License-Identifier: GPL-2.0

//! An emulated machine whose time is the number of instructions that it has executed, so that the TSC counts them, in
//! a guest of its guest as well. What it counts depends on nothing else that this machine does.

/// All CPUs in turns.
pub const ACCEL: &str = "tcg,thread=single";

/// By `shift=0` an instruction takes a nanosecond; nobody waits while all CPUs are idle. One run is to be like the
/// other: no time of day and no randomness but of the emulator's own.
pub const OPTIONS: [&str; 6] = [
    "-icount",
    "shift=0,sleep=off",
    "-rtc",
    "base=2026-01-01,clock=vm",
    "-seed",
    "1",
];

/// The frequency of a TSC that counts instructions.
pub const TSC_KHZ: u64 = 1_000_000;
