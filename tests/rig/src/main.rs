// SPDX-License-Identifier: GPL-2.0

//! The rig of paraclock: sets up what is needed, boots guests on a real KVM, runs the tests.

mod bench;
mod console;
mod context;
mod demo;
mod exec;
mod guest;
mod ktap;
mod migrate;
mod progress;
mod report;
mod session;
mod setup;
mod shell;
mod suite;
mod verdict;
mod vm;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};
use context::Context;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;
use vm::probe::Machine;
use vm::{Flavour, Host};

#[derive(Parser)]
#[command(name = "rig", about = "Sets up, boots and tests paraclock", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct Common {
    /// A kernel tree or tarball to use in place of Debian's; it is copied and not changed
    #[arg(long, env = "KSRC", global = true, value_name = "PATH")]
    ksrc: Option<PathBuf>,
    /// A tree of QEMU's source for the outer QEMU, in place of Debian's; it is copied and not changed
    #[arg(long, env = "QEMU_SRC", global = true, value_name = "DIR")]
    qemu_src: Option<PathBuf>,
    /// The checkout, if not the one around the current directory
    #[arg(long, global = true, value_name = "DIR")]
    root: Option<PathBuf>,
    /// What runs the guest
    #[arg(long, global = true, value_enum, default_value = "auto")]
    machine: Machine,
    /// Print what the machines print
    #[arg(long, short, global = true)]
    verbose: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Download, verify and build all that the other commands need
    Setup,
    /// Print the directory of the built kernel, for `make -C`
    Kdir {
        /// Print what else `make` needs, as assignments
        #[arg(long)]
        environment: bool,
    },
    /// Run Kbuild for the module, with the kernel of the cache
    Kbuild {
        /// Targets and variables
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Say what the guests run on, and why
    Machine,
    /// List the test suites
    Suites,
    /// Run the tests
    Check {
        /// Only this suite; may be repeated or hold several names
        #[arg(long, value_name = "NAME", value_delimiter = ',')]
        suite: Vec<String>,
        /// Only this flavour of the guest, of the suites that boot some; may be repeated
        #[arg(long, value_enum, value_delimiter = ',')]
        flavour: Vec<Flavour>,
    },
    /// Run the tests of updates in a kernel that watches its locks, its memory and its own reports
    CheckDebug,
    /// Show the driver at work
    Demo {
        /// What the guest is shown of its hypervisor
        #[arg(long, value_enum, default_value = "kvm")]
        host: Shown,
    },
    /// A shell in the running guest
    Shell {
        /// What the guest is shown of its hypervisor
        #[arg(long, value_enum, default_value = "kvm")]
        host: Host,
        /// A guest of the tests instead
        #[arg(long, value_enum, conflicts_with = "host")]
        flavour: Option<Flavour>,
        /// In the emulated host instead
        #[arg(long)]
        l1: bool,
    },
    /// Have an L2 read its clock on all CPUs for long, on the test host: no machine may die
    Soak {
        /// Each turn
        #[arg(long, default_value = "10")]
        minutes: u64,
        /// Turns
        #[arg(long, default_value = "5")]
        times: u64,
    },
    /// Measure what the clock costs, beside the C clocks, and judge the limits
    Bench {
        /// Whose clocks; without it, all that there are limits for
        #[arg(long, value_enum)]
        host: Option<bench::Guest>,
    },
}

/// What the demonstration shows.
#[derive(Clone, Copy, ValueEnum)]
enum Shown {
    /// KVM's clock, on a real KVM
    Kvm,
    /// Hyper-V's, as KVM emulates it
    Hyperv,
    /// Both
    Both,
    /// A few migrations between hosts whose TSCs differ, on the test host
    Migrate,
}

fn main() -> ExitCode {
    let start = Instant::now();
    match run(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("rig: {e:#} (after {})", progress::human(start.elapsed()));
            ExitCode::FAILURE
        }
    }
}

/// True for success, false for a failure that has been told.
fn run(cli: Cli) -> Result<bool> {
    let Common {
        ksrc,
        qemu_src,
        root,
        machine,
        verbose,
    } = cli.common;
    // `make KSRC=` with nothing after it asks for nothing.
    let ksrc = ksrc.filter(|p| !p.as_os_str().is_empty());
    let qemu_src = qemu_src.filter(|p| !p.as_os_str().is_empty());
    let options = setup::Options {
        ksrc,
        qemu_src,
        root,
        debug: matches!(cli.command, Command::CheckDebug),
    };
    let cx = || Context::new(options.clone(), machine, verbose);
    match cli.command {
        Command::Setup => setup::command_setup(&options)?,
        Command::Kdir { environment } => setup::command_kdir(&options, environment)?,
        Command::Kbuild { arguments } => setup::command_kbuild(&options, &arguments)?,
        Command::Machine => {
            let cx = cx()?;
            let choice = cx.choice()?;
            let kind = if choice.direct {
                "directly on /dev/kvm"
            } else {
                "in the nested rig"
            };
            println!("guests run {kind}: {}", choice.why);
        }
        Command::Suites => suite::list(),
        Command::Check { suite, flavour } => {
            let mut cx = cx()?;
            cx.flavours = flavour;
            return suite::check(&cx, &suite);
        }
        Command::CheckDebug => return suite::check_debug(&cx()?),
        Command::Demo { host } => match host {
            Shown::Kvm => demo::run(&cx()?, Host::Kvm)?,
            Shown::Hyperv => demo::run(&cx()?, Host::Hyperv)?,
            Shown::Both => demo::run(&cx()?, Host::Both)?,
            Shown::Migrate => migrate::run(&cx()?)?,
        },
        Command::Shell { host, flavour, l1 } => {
            shell::run(&cx()?, flavour.unwrap_or(host.flavour()), l1)?;
        }
        Command::Soak { minutes, times } => return suite::soak(&cx()?, minutes * 60, times),
        Command::Bench { host } => bench::run(&cx()?, host)?,
    }
    Ok(true)
}
