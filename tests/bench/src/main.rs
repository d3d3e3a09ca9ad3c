// SPDX-License-Identifier: GPL-2.0

//! Nanoseconds, in a process of its own: it runs code that it has patched itself.

use anyhow::{Context, Result};
use clap::Parser;
use paraclock_bench::native::{self, Kernel};
use std::fs;
use std::path::PathBuf;

#[derive(Parser)]
#[command(
    name = "paraclock-bench",
    about = "Measures what a reading costs on this machine's CPU",
    version
)]
struct Cli {
    /// The built kernel: what `rig kdir` prints
    #[arg(long)]
    kernel: PathBuf,
    /// The C file with the kernel's side
    #[arg(long)]
    program: PathBuf,
    /// A directory for what is compiled
    #[arg(long)]
    work: PathBuf,
    /// Where the figures go
    #[arg(long)]
    output: PathBuf,
    /// How often each clock has its turn
    #[arg(long, default_value_t = native::ROUNDS)]
    rounds: usize,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let kernel = Kernel {
        build: &cli.kernel,
        work: &cli.work,
        program: &cli.program,
    };
    let measured = native::measure(&kernel, cli.rounds.max(1))?;
    let json = serde_json::to_string_pretty(&measured)?;
    fs::write(&cli.output, json)
        .with_context(|| format!("cannot write {}", cli.output.display()))?;
    println!(
        "{} figures in {}",
        measured.figures.len(),
        cli.output.display()
    );
    Ok(())
}
