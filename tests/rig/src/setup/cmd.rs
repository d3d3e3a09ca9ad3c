// SPDX-License-Identifier: GPL-2.0

//! Running other programs: with a log, with progress, and with errors that help.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::progress::Step;

/// Variables that would change a build behind its back; `make` exports some of them to
/// the programs it runs, and this tool is run by `make`.
const NOT_INHERITED: &[&str] = &[
    "MAKEFLAGS",
    "MFLAGS",
    "GNUMAKEFLAGS",
    "MAKELEVEL",
    "MAKEOVERRIDES",
    "ARCH",
    "CROSS_COMPILE",
    "KSRC",
    "KDIR",
    "KBUILD_OUTPUT",
    "O",
    "M",
    "V",
    "C",
    "W",
    "LLVM",
    "CC",
    "HOSTCC",
    "CFLAGS",
    "CXXFLAGS",
    "LDFLAGS",
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_TARGET_DIR",
    "RUST_LIB_SRC",
    "LD_LIBRARY_PATH",
    "LANGUAGE",
];

/// A command in the C locale without what `make` and `cargo run` leave in the environment.
pub fn command(program: &str) -> Command {
    let mut c = Command::new(program);
    for name in NOT_INHERITED {
        c.env_remove(name);
    }
    c.env("LC_ALL", "C").stdin(Stdio::null());
    c
}

/// Is there such a program on the path?
pub fn find_program(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|dir| dir.join(name))
        .find(|p| p.is_file())
}

fn describe(c: &Command) -> String {
    let mut text = c.get_program().to_string_lossy().into_owned();
    for arg in c.get_args() {
        text.push(' ');
        text += &arg.to_string_lossy();
        if text.len() > 160 {
            text += " ...";
            break;
        }
    }
    text
}

/// The standard output of a command that is quick.
pub fn output(c: &mut Command) -> Result<String> {
    let what = describe(c);
    let out = c.output().with_context(|| {
        format!("cannot run `{what}`: is it installed? scripts/bootstrap installs what is needed")
    })?;
    if !out.status.success() {
        bail!(
            "`{what}` failed ({})\n{}",
            out.status,
            indent(&error_lines(&String::from_utf8_lossy(&out.stderr)))
        );
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

fn indent(lines: &[String]) -> String {
    lines
        .iter()
        .map(|l| format!("    {l}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// What of a log says why: the last lines that speak of an error, else the last ones.
pub fn error_lines(log: &str) -> Vec<String> {
    const SHOWN: usize = 12;
    const WORDS: &[&str] = &[
        "error",
        "Error",
        "ERROR",
        "E: ",
        "fatal",
        "FAILED",
        "***",
        "undefined",
        "cannot",
        "No space",
        "not found",
    ];
    let lines: Vec<&str> = log.lines().filter(|l| !l.trim().is_empty()).collect();
    let telling: Vec<&str> = lines
        .iter()
        .copied()
        .filter(|l| WORDS.iter().any(|w| l.contains(w)))
        .collect();
    let chosen = if telling.is_empty() { lines } else { telling };
    let skip = chosen.len().saturating_sub(SHOWN);
    chosen[skip..].iter().map(|l| (*l).to_owned()).collect()
}

/// What counts as progress in the output of a command.
pub struct Meter<'a> {
    pub counts: &'a dyn Fn(&str) -> bool,
    pub unit: &'a str,
    pub expected: u64,
}

/// A build must not go on, and write into the cache, when the lock on it is gone with us.
fn die_with_us(c: &mut Command) {
    let ask =
        || nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM).map_err(Into::into);
    // SAFETY: between fork and exec the closure only makes a system call.
    unsafe { c.pre_exec(ask) };
}

/// Runs the command, its output appended to `log`; gives the number of lines counted.
pub fn run(c: &mut Command, log: &Path, step: &mut Step, meter: Option<Meter<'_>>) -> Result<u64> {
    let what = describe(c);
    if let Some(dir) = log.parent() {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    let out = File::options()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("open the log {}", log.display()))?;
    std::io::Write::write_all(&mut &out, format!("+ {what}\n").as_bytes())
        .with_context(|| format!("write the log {}", log.display()))?;
    let mut reader = File::open(log).with_context(|| format!("open {}", log.display()))?;
    reader.seek(SeekFrom::End(0)).context("seek in the log")?;
    die_with_us(c);
    let clone = || out.try_clone().context("share the log");
    let mut child = c
        .stdout(clone()?)
        .stderr(clone()?)
        .spawn()
        .with_context(|| {
            format!(
                "cannot run `{what}`: is it installed? scripts/bootstrap installs what is needed"
            )
        })?;

    let mut text = String::new();
    let mut partial: Vec<u8> = Vec::new();
    let mut counted = 0;
    let status = loop {
        let status = child.try_wait().context("wait for a program")?;
        reader.read_to_end(&mut partial).context("read the log")?;
        if let Some(end) = partial.iter().rposition(|b| *b == b'\n') {
            let lines: Vec<u8> = partial.drain(..=end).collect();
            let lines = String::from_utf8_lossy(&lines).into_owned();
            if let Some(m) = &meter {
                counted += lines.lines().filter(|l| (m.counts)(l)).count() as u64;
            }
            text += &lines;
        }
        if let Some(status) = status {
            break status;
        }
        match &meter {
            Some(m) => step.tick(m.unit, Some((counted, m.expected))),
            None => step.tick("", None),
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    text += &String::from_utf8_lossy(&partial);
    if status.success() {
        return Ok(counted);
    }
    let full = if text.contains("No space left on device") {
        "\nthe disk is full: make room, or set PARACLOCK_CACHE to a directory on another file system"
    } else {
        ""
    };
    bail!(
        "`{what}` failed ({status}){full}\n{}\n    whole log: {}",
        indent(&error_lines(&text)),
        log.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_picked_from_a_log() {
        let log = "  CC a.o\nfoo.c:3: error: no\n  CC b.o\nmake: *** [all] Error 2\n";
        assert_eq!(
            error_lines(log),
            ["foo.c:3: error: no", "make: *** [all] Error 2"]
        );
        assert_eq!(error_lines("one\n\ntwo\n"), ["one", "two"]);
        assert_eq!(error_lines(&"x error\n".repeat(50)).len(), 12);
    }

    #[test]
    fn a_run_counts_and_keeps_a_log() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let log = dir.path().join("logs/x.log");
        let mut step = Step::start("test");
        let meter = || {
            Some(Meter {
                counts: &|l| l.starts_with("CC"),
                unit: "files",
                expected: 2,
            })
        };
        let mut sh = command("sh");
        sh.args(["-c", "echo CC a; echo LD b; printf 'CC c\n'"]);
        assert_eq!(run(&mut sh, &log, &mut step, meter())?, 2);

        let mut sh = command("sh");
        sh.args(["-c", "echo 'x.c: error: y'; exit 3"]);
        let error = run(&mut sh, &log, &mut step, meter())
            .unwrap_err()
            .to_string();
        assert!(error.contains("x.c: error: y"), "{error}");
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.contains("x.log"), "{error}");
        assert!(fs::read_to_string(&log)?.contains("LD b"));
        Ok(())
    }

    #[test]
    fn an_absent_program_is_named() {
        let error = output(&mut command("no-such-program-here")).unwrap_err();
        assert!(error.to_string().contains("no-such-program-here"));
    }
}
