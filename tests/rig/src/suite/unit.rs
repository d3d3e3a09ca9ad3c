// SPDX-License-Identifier: GPL-2.0

//! `cargo test` over the host's crates, and the tests that loom drives through every interleaving.

use crate::context::Context;
use crate::exec;
use crate::progress::Step;
use crate::report::Report;
use anyhow::Result;
use regex::Regex;
use std::path::Path;

pub fn run(cx: &Context, report: &mut Report) -> Result<()> {
    let mut all = exec::command("cargo");
    all.args(["test", "--release", "--workspace", "--no-fail-fast"])
        // The benchmark's own test maps its vDSO.
        .env("PARACLOCK_KDIR", &cx.artifacts()?.kernel.build)
        .current_dir(&cx.root);
    cargo(cx, report, "cargo test", &mut all)?;
    let mut loom = exec::command("cargo");
    loom.args([
        "test",
        "--release",
        "-p",
        "paraclock-unit",
        "--no-fail-fast",
        "--test",
        "loom",
        "--test",
        "tsc_sync_loom",
    ])
    .arg("--target-dir")
    .arg(cx.root.join("target/loom"))
    .env("RUSTFLAGS", "--cfg loom")
    .current_dir(&cx.root);
    cargo(cx, report, "loom", &mut loom)
}

fn cargo(
    cx: &Context,
    report: &mut Report,
    name: &str,
    command: &mut std::process::Command,
) -> Result<()> {
    let mut step = Step::start(name);
    let log = cx
        .logs("unit")
        .join(format!("{}.log", name.replace(' ', "-")));
    let done = exec::logged(command, &log, &mut step)?;
    let found = parse(&done.output)?;
    let (before, number) = (report.failed(), found.len());
    for case in found {
        add(report, &case, &log);
    }
    if !done.success && report.failed() == before {
        let why = format!(
            "{}\n{}",
            done.status,
            exec::telling_lines(&done.output).join("\n")
        );
        report.fail(name, why, Some(&log));
    } else if number == 0 {
        report.fail(name, "no test was run", Some(&log));
    }
    step.finish(&format!("{number} tests"));
    Ok(())
}

fn add(report: &mut Report, case: &Case, log: &Path) {
    match &case.result {
        Found::Ok => report.pass(&case.name),
        Found::Skipped(why) => report.skip(&case.name, why),
        Found::Failed(why) => report.fail(&case.name, why, Some(log)),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Ok,
    Skipped(String),
    Failed(String),
}

#[derive(Debug, PartialEq, Eq)]
struct Case {
    name: String,
    result: Found,
}

/// Reads what libtest prints. A test that cannot run on this machine prints `SKIP name: reason` and returns.
fn parse(output: &str) -> Result<Vec<Case>> {
    let running = Regex::new(r"^\s*(?:Running (?:unittests |tests/)?(\S+)|Doc-tests (\S+))")?;
    let binary = Regex::new(r"\(\S*?([^/ ()]+?)(?:-[0-9a-f]{16})?\)$")?;
    let test = Regex::new(r"^test (.+?) \.\.\. (ok|FAILED|ignored(?:, (.*))?)$")?;
    let skip = Regex::new(r"SKIP:? +(\S+?):? +(.*)$")?;
    let mut cases: Vec<Case> = Vec::new();
    let mut crate_name = String::new();
    let mut skips: Vec<(String, String)> = Vec::new();
    // With one thread, libtest prints a test's name, what the test prints past it, and then the result.
    let mut begun = "";
    for line in output.lines() {
        let whole;
        let line = if line.starts_with("test ") && line.ends_with(" ... ") {
            begun = line;
            continue;
        } else if !begun.is_empty() && matches!(line, "ok" | "FAILED") {
            whole = format!("{}{line}", std::mem::take(&mut begun));
            &whole
        } else {
            line
        };
        if let Some(c) = running.captures(line) {
            let by_file = c.get(2).or(c.get(1)).map_or("", |m| m.as_str());
            crate_name = binary
                .captures(line)
                .map_or(by_file, |c| c.get(1).map_or("", |m| m.as_str()))
                .to_owned();
        } else if let Some(c) = test.captures(line) {
            let result = match &c[2] {
                "ok" => Found::Ok,
                "FAILED" => Found::Failed(panic_of(output, &c[1])),
                _ => Found::Skipped(c.get(3).map_or("ignored", |m| m.as_str()).to_owned()),
            };
            cases.push(Case {
                name: format!("{crate_name}: {}", c[1].trim_end_matches(" - should panic")),
                result,
            });
        } else if let Some(c) = skip.captures(line) {
            skips.push((c[1].to_owned(), c[2].to_owned()));
        }
    }
    for (name, why) in skips {
        // Named after the test, or after the program if that holds one test only.
        let of_program = format!("{name}: ");
        let named = |c: &Case| c.name.ends_with(&name) || c.name.starts_with(&of_program);
        if let Some(case) = cases.iter_mut().find(|c| c.result == Found::Ok && named(c)) {
            case.result = Found::Skipped(why);
        }
    }
    Ok(cases)
}

/// What a failed test printed.
fn panic_of(output: &str, name: &str) -> String {
    let head = format!("---- {name} stdout ----");
    let lines: Vec<&str> = output
        .lines()
        .skip_while(|l| *l != head)
        .skip(1)
        .filter(|l| !l.trim().is_empty())
        .take_while(|l| !l.starts_with("---- ") && *l != "failures:" && !l.starts_with("note: "))
        .take(12)
        .collect();
    if lines.is_empty() {
        "it failed and printed nothing".to_owned()
    } else {
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skip_in_the_middle_of_the_line() {
        let text = "     Running tests/real_page.rs (target/release/deps/real_page-0123456789abcdef)\n\
            test real_page ... \nSKIP real_page: no KVM guest\nok\n";
        let skipped = Found::Skipped("no KVM guest".into());
        assert_eq!(
            parse(text).unwrap(),
            [Case {
                name: "real_page: real_page".into(),
                result: skipped
            }]
        );
    }

    #[test]
    fn libtest() {
        let text = "   Compiling x\n     Running unittests src/lib.rs (target/release/deps/unit-0123456789abcdef)\n\n\
            running 4 tests\ntest scale::exact ... ok\ntest vvar ... ignored, no KVM guest\ntest bad ... FAILED\n\
            test other ... ok\n\nSKIP other: not here\n\nfailures:\n\n---- bad stdout ----\n\nthread 'bad' panicked at src/x.rs:1:1:\nexpected 1, seen 2\n\
            note: run with\n\n\nfailures:\n    bad\n\ntest result: FAILED. 2 passed; 1 failed\n   Doc-tests unit\n\nrunning 1 test\n\
            test src/lib.rs - f (line 3) ... ok\n";
        let cases = parse(text).unwrap();
        assert_eq!(cases.len(), 5);
        assert_eq!(
            cases[0],
            Case {
                name: "unit: scale::exact".into(),
                result: Found::Ok
            }
        );
        assert_eq!(cases[1].result, Found::Skipped("no KVM guest".into()));
        assert_eq!(
            cases[2].result,
            Found::Failed("thread 'bad' panicked at src/x.rs:1:1:\nexpected 1, seen 2".into())
        );
        assert_eq!(cases[3].result, Found::Skipped("not here".into()));
        assert_eq!(cases[4].name, "unit: src/lib.rs - f (line 3)");
    }
}
