// SPDX-License-Identifier: GPL-2.0

//! What can be seen without running the code.

use super::files;
use crate::context::{Context, shown};
use crate::exec::{self, Done};
use crate::progress::Step;
use crate::report::Report;
use anyhow::{Context as _, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

pub fn run(cx: &Context, report: &mut Report) -> Result<()> {
    let files = files::list(&cx.root)?;
    format(cx, report, &files)?;
    licences(cx, report, &files)?;
    shell(cx, report, &files)?;
    host_clippy(cx, report)?;
    checkpatch(cx, report, &files)?;
    kernel_clippy(cx, report)
}

/// One program that is silent and returns 0 where all is well.
fn tool(cx: &Context, report: &mut Report, name: &str, command: &mut Command) -> Result<Done> {
    let mut step = Step::start(name);
    let log = cx
        .logs("style")
        .join(format!("{}.log", name.replace([' ', '/'], "-")));
    let done = exec::logged(command.current_dir(&cx.root), &log, &mut step)?;
    if done.success {
        report.pass(name);
    } else {
        let why = format!(
            "{}\n{}",
            done.status,
            exec::telling_lines(&done.output).join("\n")
        );
        report.fail(name, why, Some(&log));
    }
    step.finish(if done.success { "ok" } else { "FAILED" });
    Ok(done)
}

/// Each file by itself, as its `mod` lines lead from the host's crates, in their edition, to the module's files,
/// in the kernel's.
fn format(cx: &Context, report: &mut Report, files: &[PathBuf]) -> Result<()> {
    for (name, host, edition) in [
        ("rustfmt, host", true, "2024"),
        ("rustfmt, module", false, "2021"),
    ] {
        let wanted = |p: &&PathBuf| files::has_extension(p, "rs") && in_host_crate(p) == host;
        let mut seen = 0;
        let mut off = Vec::new();
        for path in files.iter().filter(wanted) {
            seen += 1;
            if let Some(why) = misformatted(cx, path, edition)? {
                off.push(format!("{}: {why}", path.display()));
            }
        }
        match (seen, off.len()) {
            (0, _) => report.fail(name, "there is no Rust source", None),
            (_, 0) => report.pass(name),
            (_, n) => report.fail(
                name,
                format!("{n} files are not as rustfmt has them\n{}", off.join("\n")),
                None,
            ),
        }
    }
    Ok(())
}

/// Why rustfmt would not leave this file as it is.
fn misformatted(cx: &Context, path: &Path, edition: &str) -> Result<Option<String>> {
    let path = cx.root.join(path);
    let open =
        || std::fs::File::open(&path).with_context(|| format!("cannot open {}", path.display()));
    // From standard input: so rustfmt follows no `mod`.
    let out = exec::command("rustfmt")
        .args(["--edition", edition, "--emit", "stdout", "--config-path"])
        .arg(cx.root.join(".rustfmt.toml"))
        .stdin(open()?)
        .output()
        .context("cannot run rustfmt: `rustup component add rustfmt` installs it")?;
    if !out.status.success() {
        return Ok(Some(
            String::from_utf8_lossy(&out.stderr)
                .lines()
                .next()
                .unwrap_or("it does not parse")
                .to_owned(),
        ));
    }
    let is = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let should = String::from_utf8_lossy(&out.stdout).into_owned();
    let is = String::from_utf8_lossy(&is).into_owned();
    if is == should {
        return Ok(None);
    }
    let line = is
        .lines()
        .zip(should.lines())
        .take_while(|(a, b)| a == b)
        .count()
        + 1;
    Ok(Some(format!("first at line {line}")))
}

fn in_host_crate(path: &Path) -> bool {
    ["tests/bench", "tests/rig", "tests/unit"]
        .iter()
        .any(|dir| path.starts_with(dir))
}

fn host_clippy(cx: &Context, report: &mut Report) -> Result<()> {
    let mut clippy = exec::command("cargo");
    clippy.args([
        "clippy",
        "--release",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ]);
    tool(cx, report, "clippy, host", &mut clippy).map(drop)
}

/// The module, built with the kernel's own lints: a warning is a failure. They ask for a SAFETY comment, too.
fn kernel_clippy(cx: &Context, report: &mut Report) -> Result<()> {
    let name = "clippy, module";
    // From scratch, since what is up to date is not looked at again.
    let out = cx.build().join("clippy");
    if out.exists() {
        std::fs::remove_dir_all(&out)?;
    }
    let log = cx.logs("build").join("clippy.log");
    if let Err(e) = cx.modules("clippy", &["CLIPPY=1"]) {
        report.fail(name, format!("{e:#}"), Some(&log));
        return Ok(());
    }
    let text = std::fs::read_to_string(&log)?;
    let warnings: Vec<&str> = text
        .lines()
        .filter(|l| l.contains("warning:") || l.contains("WARNING:") || l.starts_with("warning"))
        .collect();
    if warnings.is_empty() {
        report.pass(name);
    } else {
        report.fail(
            name,
            format!("{} warnings\n{}", warnings.len(), warnings.join("\n")),
            Some(&log),
        );
    }
    Ok(())
}

fn checkpatch(cx: &Context, report: &mut Report, files: &[PathBuf]) -> Result<()> {
    let patches: Vec<&PathBuf> = files
        .iter()
        .filter(|p| p.starts_with("patches") && files::has_extension(p, "patch"))
        .collect();
    if patches.is_empty() {
        report.skip("checkpatch", "there is no patch");
        return Ok(());
    }
    let source = cx.artifacts()?.kernel.source.clone();
    for patch in patches {
        let name = format!(
            "checkpatch {}",
            patch.file_name().unwrap_or_default().to_string_lossy()
        );
        let mut step = Step::start(&name);
        let log = cx
            .logs("style")
            .join(format!("{}.log", name.replace([' ', '/'], "-")));
        let mut checkpatch = exec::command("perl");
        checkpatch
            .current_dir(&source)
            .args([
                "scripts/checkpatch.pl",
                "--strict",
                "--no-color",
                "--show-types",
                // MAINTAINERS names whole folders, and the script wants it changed nevertheless. A commit that a
                // patch names is looked for in a history that is not here.
                "--ignore=FILE_PATH_CHANGES,UNKNOWN_COMMIT_ID",
            ])
            .arg(cx.root.join(patch));
        let done = exec::logged(&mut checkpatch, &log, &mut step)?;
        let findings: Vec<&str> = done
            .output
            .lines()
            .filter(|l| {
                ["ERROR:", "WARNING:", "CHECK:"]
                    .iter()
                    .any(|w| l.starts_with(w))
            })
            .collect();
        if done.success && findings.is_empty() && done.output.contains("total: 0 errors") {
            report.pass(name);
        } else {
            let why = if findings.is_empty() {
                exec::telling_lines(&done.output).join("\n")
            } else {
                findings.join("\n")
            };
            report.fail(name, why, Some(&log));
        }
    }
    Ok(())
}

fn shell(cx: &Context, report: &mut Report, files: &[PathBuf]) -> Result<()> {
    let mut scripts = Vec::new();
    for path in files.iter().filter(|p| !files::has_extension(p, "patch")) {
        let first = files::head(&cx.root.join(path), 1)?;
        let by_name = files::has_extension(path, "sh");
        let by_line = first.first().is_some_and(|l| {
            l.starts_with("#!")
                && (l.ends_with("/sh") || l.contains("bash") || l.ends_with("env sh"))
        });
        if by_name || by_line {
            scripts.push(path);
        }
    }
    if scripts.is_empty() {
        report.fail(
            "shellcheck",
            "there is no shell script, though scripts/bootstrap should be one",
            None,
        );
        return Ok(());
    }
    tool(
        cx,
        report,
        "shellcheck",
        exec::command("shellcheck").arg("--").args(scripts),
    )
    .map(drop)
}

/// A licence line in each file that can hold a comment.
fn licences(cx: &Context, report: &mut Report, files: &[PathBuf]) -> Result<()> {
    let mut without = Vec::new();
    for path in files.iter().filter(|p| !exempt(p)) {
        let head = files::head(&cx.root.join(path), 3)?;
        if !head.iter().any(|l| l.contains("SPDX-License-Identifier:")) {
            without.push(shown(path, &cx.root));
        }
    }
    if without.is_empty() {
        report.pass("licence lines");
    } else {
        let why = format!(
            "no SPDX-License-Identifier in the first lines of {} files\n{}",
            without.len(),
            without.join("\n")
        );
        report.fail("licence lines", why, None);
    }
    Ok(())
}

fn exempt(path: &Path) -> bool {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
    // The licence itself; what other programs write; the kernel's own .rustfmt.toml; kselftest's `settings` and `config`, which have none in the
    // kernel either, and patches, which carry those of the files they touch.
    matches!(
        name,
        "COPYING" | "Cargo.lock" | ".rustfmt.toml" | "settings" | "config"
    ) || ["patch", "svg", "png", "json", "proptest-regressions"]
        .iter()
        .any(|e| files::has_extension(path, e))
}
