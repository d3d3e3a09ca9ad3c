// SPDX-License-Identifier: GPL-2.0

//! Safe abstractions over the parts of the kernel that the `kernel` crate does not cover.
//!
//! All of the driver's `unsafe` is below this module. Each file stands for itself and is written
//! as if it were to move to `rust/kernel/`.

pub(crate) mod async_call;
pub(crate) mod clocksource;
pub(crate) mod cpu;
pub(crate) mod cpuhp;
pub(crate) mod cpuid;
pub(crate) mod debugfs;
pub(crate) mod msr;
pub(crate) mod page;
pub(crate) mod param;
pub(crate) mod periodic;
pub(crate) mod pm;
pub(crate) mod pvclock;
pub(crate) mod reenlightenment;
pub(crate) mod reference_tsc;
pub(crate) mod shutdown;
pub(crate) mod trace;
pub(crate) mod tsc;
pub(crate) mod tsc_adjust;
pub(crate) mod word;
