// SPDX-License-Identifier: GPL-2.0

//! What the clocks cost: figures, their limits, tables and plots; and nanoseconds on this machine.

pub mod figure;
pub mod limits;
pub mod module;
pub mod native;
pub mod plot;
pub mod table;

/// The driver's files, the very ones that `paraclock.ko` is built from.
#[allow(dead_code, reason = "not all of it is measured")]
#[path = "../../../src/logic/mod.rs"]
mod logic;
