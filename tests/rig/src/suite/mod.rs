// SPDX-License-Identifier: GPL-2.0

//! The test suites and the command that runs them.

mod docs;
mod files;
mod guests;
mod host;
mod hotplug;
mod install;
mod nested;
mod patches;
mod style;
mod unit;
mod update;

use crate::context::Context;
use crate::progress::human;
use crate::report::{self, Report};
use anyhow::{Context as _, Result, bail};
pub use guests::run_one;
pub use host::{guest_words as host_words, soak};
pub use hotplug::guest_words as hotplug_words;
pub use nested::guest_words as nested_words;
use std::io::{Write, stdout};
use std::time::Instant;
pub use update::guest_words as update_words;

pub struct Suite {
    pub name: &'static str,
    pub about: &'static str,
    run: fn(&Context, &mut Report) -> Result<()>,
}

/// In the order in which they are run: what is quick and fails often comes first.
pub const SUITES: &[Suite] = &[
    Suite {
        name: "style",
        about: "rustfmt, clippy (kernel and host), checkpatch, shellcheck, licence lines",
        run: style::run,
    },
    Suite {
        name: "unit",
        about: "the module's own files and the rig on the host: cargo test, loom",
        run: unit::run,
    },
    Suite {
        name: "docs",
        about: "Documentation/ builds without a warning",
        run: docs::run,
    },
    Suite {
        name: "patches",
        about: "the kernel series applies with git am, and each patch builds",
        run: patches::run,
    },
    Suite {
        name: "install",
        about: "make modules and make modules_install for a kernel of one's own",
        run: install::run,
    },
    Suite {
        name: "kvm",
        about: "the driver in guests of a real KVM: KUnit and kselftest",
        run: guests::kvm,
    },
    Suite {
        name: "hyperv",
        about: "the same where KVM shows Hyper-V's interface, alone and beside its own",
        run: guests::hyperv,
    },
    Suite {
        name: "update",
        about: "the clock under migrations, on the test host, with the C clocks beside it",
        run: update::run,
    },
    Suite {
        name: "hotplug",
        about: "TSC_ADJUST and the TSCs of CPUs that come and go, on two sockets",
        run: hotplug::run,
    },
    Suite {
        name: "nested",
        about: "the guest as a host: KVM's guests, while the TSC changes under their host",
        run: nested::run,
    },
    Suite {
        name: "host",
        about: "the test host, whose TSC changes under a running guest",
        run: host::run,
    },
];

/// `rig suites`
pub fn list() {
    for suite in SUITES {
        println!("    {:<10} {}", suite.name, suite.about);
    }
}

/// `rig check-debug`: true if nothing failed. In the guests in which the driver has the most to do.
pub fn check_debug(cx: &Context) -> Result<bool> {
    type Run = fn(&Context, &mut Report) -> Result<()>;
    const SUITES: [(&str, Run); 2] = [
        ("update-debug", update::run_debug),
        ("hotplug-debug", hotplug::run_debug),
    ];
    let mut out = stdout();
    let told = "cannot write the results";
    writeln!(out, "KTAP version 1\n1..{}", SUITES.len()).context(told)?;
    let mut reports = Vec::new();
    for (number, (name, run)) in (1..).zip(SUITES) {
        let mut report = Report::default();
        if let Err(e) = run(cx, &mut report) {
            report.fail("the suite itself", format!("{e:#}"), None);
        }
        report.print(name, number, &mut out).context(told)?;
        reports.push((name.to_owned(), report));
    }
    report::summarise(&reports, &cx.root, &mut out).context(told)
}

/// `rig check`: true if nothing failed.
pub fn check(cx: &Context, only: &[String]) -> Result<bool> {
    let known: Vec<&str> = SUITES.iter().map(|s| s.name).collect();
    if let Some(wrong) = only.iter().find(|name| !known.contains(&name.as_str())) {
        bail!(
            "there is no suite `{wrong}`; there are: {}",
            known.join(", ")
        );
    }
    let chosen: Vec<&Suite> = SUITES
        .iter()
        .filter(|s| only.is_empty() || only.iter().any(|name| name == s.name))
        .collect();
    let mut out = stdout();
    let told = "cannot write the results";
    writeln!(out, "KTAP version 1\n1..{}", chosen.len()).context(told)?;
    let mut reports = Vec::new();
    let start = Instant::now();
    for (number, suite) in (1..).zip(chosen) {
        eprintln!(
            "==> suite {}: {} ({} since the start)",
            suite.name,
            suite.about,
            human(start.elapsed())
        );
        let mut report = Report::default();
        let began = Instant::now();
        if let Err(e) = cx
            .fresh_logs(suite.name)
            .and_then(|_| (suite.run)(cx, &mut report))
        {
            report.fail("the suite itself", format!("{e:#}"), None);
        }
        if report.items.is_empty() {
            report.fail("the suite itself", "it gave no result at all", None);
        }
        report.print(suite.name, number, &mut out).context(told)?;
        writeln!(
            out,
            "# {}: {} passed, {} failed, {} skipped in {}",
            suite.name,
            report.passed(),
            report.failed(),
            report.skipped(),
            human(began.elapsed())
        )
        .context(told)?;
        reports.push((suite.name.to_owned(), report));
    }
    report::summarise(&reports, &cx.root, &mut out).context(told)
}
