// SPDX-License-Identifier: GPL-2.0

//! Runs a program of this machine with its output in a log.

use crate::progress::Step;
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What `make` and `cargo run` leave in the environment and what would change a build behind its back.
const NOT_INHERITED: [&str; 17] = [
    "MAKEFLAGS",
    "MFLAGS",
    "GNUMAKEFLAGS",
    "MAKELEVEL",
    "MAKEOVERRIDES",
    "KSRC",
    "QEMU_SRC",
    "KDIR",
    "M",
    "O",
    "V",
    "SUITE",
    "LLVM",
    "CFLAGS",
    "LDFLAGS",
    "RUSTFLAGS",
    "CARGO_MANIFEST_DIR",
];

/// Longer than any single step of the tests takes on a slow machine.
const BOUND: Duration = Duration::from_secs(30 * 60);

pub fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    for name in NOT_INHERITED {
        command.env_remove(name);
    }
    command.env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
    command
}

/// How a program ended.
#[derive(Debug)]
pub struct Done {
    pub success: bool,
    /// As in `exit status: 1`.
    pub status: String,
    /// Standard output and standard error, as they came.
    pub output: String,
}

/// Runs it to its end and keeps what it printed in `log`.
pub fn logged(command: &mut Command, log: &Path, step: &mut Step) -> Result<Done> {
    let name = command.get_program().to_string_lossy().into_owned();
    if let Some(dir) = log.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    let file = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
    let share = || file.try_clone().context("cannot share a log");
    // In a group of its own, so that what it started can be ended with it.
    let mut child = command
        .stdout(share()?)
        .stderr(share()?)
        .process_group(0)
        .spawn()
        .with_context(|| {
            format!(
                "cannot run `{name}`: is it installed? scripts/bootstrap installs what is needed"
            )
        })?;
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child
            .try_wait()
            .with_context(|| format!("cannot wait for `{name}`"))?
        {
            break status;
        }
        if start.elapsed() > BOUND {
            if let Ok(id) = i32::try_from(child.id()) {
                // It may be gone in this moment.
                let _ = nix::sys::signal::killpg(
                    nix::unistd::Pid::from_raw(id),
                    nix::sys::signal::SIGKILL,
                );
            }
            child
                .wait()
                .with_context(|| format!("cannot wait for `{name}`"))?;
            bail!(
                "`{name}` had not ended after {} min; its output is in {}",
                BOUND.as_secs() / 60,
                log.display()
            );
        }
        step.tick("", None);
        std::thread::sleep(Duration::from_millis(30));
    };
    let output = fs::read(log).with_context(|| format!("cannot read {}", log.display()))?;
    Ok(Done {
        success: status.success(),
        status: status.to_string(),
        output: String::from_utf8_lossy(&output).into_owned(),
    })
}

/// What of an output tells best why it failed.
pub fn telling_lines(output: &str) -> Vec<String> {
    const SHOWN: usize = 12;
    let lines: Vec<&str> = output.lines().filter(|l| !l.trim().is_empty()).collect();
    let words = [
        "error", "Error", "ERROR", "warning", "WARNING", "***", "panicked", "FAILED",
    ];
    let found: Vec<&str> = lines
        .iter()
        .copied()
        .filter(|l| words.iter().any(|w| l.contains(w)))
        .collect();
    let chosen = if found.is_empty() {
        &lines[lines.len().saturating_sub(SHOWN)..]
    } else {
        &found[..]
    };
    chosen.iter().take(SHOWN).map(|l| (*l).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_status() {
        let dir = tempfile::tempdir().unwrap();
        let mut step = Step::start("test");
        let log = dir.path().join("a/log");
        let done = logged(
            command("sh").args(["-c", "echo out; echo err >&2; exit 3"]),
            &log,
            &mut step,
        )
        .unwrap();
        assert!(!done.success);
        assert_eq!(
            (done.output.as_str(), done.status.as_str()),
            ("out\nerr\n", "exit status: 3")
        );
        let error = logged(&mut command("no-such-program"), &log, &mut step).unwrap_err();
        assert!(error.to_string().contains("no-such-program"));
    }

    #[test]
    fn the_lines_that_tell() {
        assert_eq!(telling_lines("a\nb: error: c\nd\n"), ["b: error: c"]);
        assert_eq!(telling_lines("a\n\nb\n"), ["a", "b"]);
    }
}
