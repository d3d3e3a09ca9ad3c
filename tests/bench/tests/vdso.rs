// SPDX-License-Identifier: GPL-2.0

//! The kernel's vDSO in this process says what its pages say, in every mode, and so do the readers.

use paraclock_bench::native::{Kernel, verify};
use std::path::Path;

#[test]
fn vdso() {
    let Some(build) = std::env::var_os("PARACLOCK_KDIR") else {
        println!("\nSKIP vdso: PARACLOCK_KDIR names no built kernel");
        return;
    };
    let work = tempfile::tempdir().expect("a temporary directory");
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("c/clocks.c");
    let kernel = Kernel {
        build: Path::new(&build),
        work: work.path(),
        program: &program,
    };
    verify(&kernel).expect("the clocks say what their pages say");
}
