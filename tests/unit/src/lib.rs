// SPDX-License-Identifier: GPL-2.0

//! The module's pure logic on the build machine.
//!
//! The files are the very ones that `paraclock.ko` is built from; everything else of this crate is
//! in `tests/`. Two runs:
//!
//! ```text
//! cargo test -p paraclock-unit
//! RUSTFLAGS="--cfg loom" cargo test -p paraclock-unit --release --test loom
//! ```
//!
//! The second is the model checker's: it runs every interleaving of a few threads, up to a number
//! of preemptions, and every value that the memory model lets a load return. It wants a target
//! directory of its own (`--target-dir`), since the flag rebuilds all dependencies.

#[path = "../../../src/logic/mod.rs"]
pub mod logic;
