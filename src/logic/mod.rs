// SPDX-License-Identifier: GPL-2.0

//! Pure logic: what can be decided without a kernel.
//!
//! Nothing below this module names a kernel type: it uses [`core`] alone, so that the very same
//! files are compiled into `paraclock.ko`, into its KUnit module and into a crate of the build
//! machine, where property tests and a model checker run over them.

pub mod clamp;
pub mod cpuid;
pub mod elapsed;
pub mod frequency;
pub mod mode;
pub mod options;
pub mod page;
pub mod pvclock;
pub mod reader;
pub mod reference_tsc;
pub mod snapshot;
pub mod tsc_adjust;
pub mod tsc_sync;
pub mod word;
