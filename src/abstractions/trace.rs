// SPDX-License-Identifier: GPL-2.0

//! The module's tracepoints.
//!
//! `kernel::tracepoint` declares those that the `kernel` crate's bindings know of. These are defined
//! in `trace.h`, and called by functions in `trace.c`.
//!
//! Context: any but an update of a clocksource, since what is recorded has a time.

use crate::{
    bindings,
    logic::options::Mode, //
};
use kernel::prelude::*;

/// The readers are about to be stopped, to go on in mode `to`.
pub(crate) fn update_begin(from: Mode, to: Mode) {
    // SAFETY: The function has no preconditions.
    unsafe { bindings::paraclock_trace_update_begin(from as u32, to as u32) };
}

/// The TSC has changed: the old one before the acknowledgement, the new one after it.
pub(crate) fn acknowledge(tsc_before: u64, tsc_after: u64, hz: u64) {
    // SAFETY: The function has no preconditions.
    unsafe { bindings::paraclock_trace_acknowledge(tsc_before, tsc_after, hz) };
}

/// The readers go on, in `mode`; or nothing has come of it.
pub(crate) fn update_end(mode: Mode, result: Result, elapsed_ns: u64, correction_ns: i64) {
    let error = result.map_or_else(|error| error.to_errno(), |()| 0);
    // SAFETY: The function has no preconditions.
    unsafe { bindings::paraclock_trace_update_end(mode as u32, error, elapsed_ns, correction_ns) };
}
