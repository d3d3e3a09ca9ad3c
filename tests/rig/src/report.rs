// SPDX-License-Identifier: GPL-2.0

//! What the suites found, and how it is told.

use crate::exec::{self, Done};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Pass,
    /// What was expected and what was seen: a few lines.
    Fail(String),
    /// Why it could not be run here.
    Skip(String),
}

/// One result, counted once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub name: String,
    pub outcome: Outcome,
    pub log: Option<PathBuf>,
}

/// What one suite found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub items: Vec<Item>,
    /// Deaths of the rig that were followed by another try: flavour and how it looked.
    pub rig_deaths: Vec<String>,
}

impl Report {
    pub fn pass(&mut self, name: impl Into<String>) {
        self.items.push(Item {
            name: name.into(),
            outcome: Outcome::Pass,
            log: None,
        });
    }

    pub fn fail(&mut self, name: impl Into<String>, why: impl Into<String>, log: Option<&Path>) {
        self.items.push(Item {
            name: name.into(),
            outcome: Outcome::Fail(why.into()),
            log: log.map(Path::to_owned),
        });
    }

    /// A program that was run for its exit status.
    pub fn program(&mut self, name: impl Into<String>, done: &Done, log: &Path) {
        if done.success {
            self.pass(name);
        } else {
            let why = exec::telling_lines(&done.output).join("\n");
            self.fail(name, format!("{}\n{why}", done.status), Some(log));
        }
    }

    pub fn skip(&mut self, name: impl Into<String>, why: impl Into<String>) {
        self.items.push(Item {
            name: name.into(),
            outcome: Outcome::Skip(why.into()),
            log: None,
        });
    }

    fn count(&self, want: impl Fn(&Outcome) -> bool) -> usize {
        self.items.iter().filter(|i| want(&i.outcome)).count()
    }

    pub fn passed(&self) -> usize {
        self.count(|o| *o == Outcome::Pass)
    }

    pub fn failed(&self) -> usize {
        self.count(|o| matches!(o, Outcome::Fail(_)))
    }

    pub fn skipped(&self) -> usize {
        self.count(|o| matches!(o, Outcome::Skip(_)))
    }

    /// The suite as a KTAP document below its name's result.
    pub fn print(&self, suite: &str, number: usize, out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "    KTAP version 1\n    # Subtest: {suite}\n    1..{}",
            self.items.len()
        )?;
        for (i, item) in (1..).zip(&self.items) {
            match &item.outcome {
                Outcome::Pass => writeln!(out, "    ok {i} {}", item.name)?,
                Outcome::Skip(why) => writeln!(out, "    ok {i} {} # SKIP {why}", item.name)?,
                Outcome::Fail(why) => {
                    for line in why.lines() {
                        writeln!(out, "    # {line}")?;
                    }
                    if let Some(log) = &item.log {
                        writeln!(out, "    # log: {}", log.display())?;
                    }
                    writeln!(out, "    not ok {i} {}", item.name)?;
                }
            }
        }
        for death in &self.rig_deaths {
            writeln!(out, "    # rig death: {death}")?;
        }
        let verdict = if self.failed() == 0 { "ok" } else { "not ok" };
        writeln!(out, "{verdict} {number} {suite}")
    }
}

/// The end of a run of suites; its last line is what scripts read. Returns whether all is well.
pub fn summarise(
    reports: &[(String, Report)],
    root: &Path,
    out: &mut impl Write,
) -> io::Result<bool> {
    let total = |f: fn(&Report) -> usize| reports.iter().map(|(_, r)| f(r)).sum::<usize>();
    let (passed, failed, skipped) = (
        total(Report::passed),
        total(Report::failed),
        total(Report::skipped),
    );
    writeln!(out)?;
    for (suite, report) in reports {
        for item in &report.items {
            let Outcome::Fail(why) = &item.outcome else {
                continue;
            };
            let first = why.lines().next().unwrap_or("");
            write!(out, "failed: {suite}: {}: {first}", item.name)?;
            if let Some(log) = &item.log {
                write!(
                    out,
                    " (log: {})",
                    log.strip_prefix(root).unwrap_or(log).display()
                )?;
            }
            writeln!(out)?;
        }
    }
    let deaths: Vec<&String> = reports.iter().flat_map(|(_, r)| &r.rig_deaths).collect();
    if !deaths.is_empty() {
        writeln!(
            out,
            "rig deaths: {}, each tried again: {}",
            deaths.len(),
            join(&deaths)
        )?;
    }
    // Where nothing was tested, nothing passed.
    let good = failed == 0 && passed + skipped > 0;
    writeln!(out, "{passed} passed, {failed} failed, {skipped} skipped")?;
    out.flush()?;
    Ok(good)
}

fn join(words: &[&String]) -> String {
    words
        .iter()
        .map(|s| s.as_str())
        .collect::<Vec<_>>()
        .join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ktap;

    fn some() -> Report {
        let mut r = Report::default();
        r.pass("a");
        r.fail(
            "b",
            "expected 1\nseen 2",
            Some(Path::new("/x/build/logs/b.log")),
        );
        r.skip("c", "no such host");
        r.rig_deaths.push("kvm-own: hang".into());
        r
    }

    #[test]
    fn what_is_printed_is_ktap() {
        let mut text = b"KTAP version 1\n1..1\n".to_vec();
        some().print("style", 1, &mut text).unwrap();
        let parsed = ktap::parse(std::str::from_utf8(&text).unwrap().lines());
        assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
        assert_eq!(
            (parsed.passed(), parsed.failed(), parsed.skipped()),
            (1, 1, 1)
        );
    }

    #[test]
    fn the_last_line_counts() {
        let mut text = Vec::new();
        let good = summarise(&[("style".into(), some())], Path::new("/x"), &mut text).unwrap();
        assert!(!good);
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text.lines().last(), Some("1 passed, 1 failed, 1 skipped"));
        assert!(
            text.contains("failed: style: b: expected 1 (log: build/logs/b.log)"),
            "{text}"
        );
        assert!(text.contains("rig deaths: 1"), "{text}");
    }

    #[test]
    fn nothing_tested_is_no_success() {
        assert!(!summarise(&[], Path::new("/"), &mut Vec::new()).unwrap());
    }
}
