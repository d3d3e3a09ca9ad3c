// SPDX-License-Identifier: GPL-2.0

//! A parser for KTAP, the format of KUnit and kselftest results.
//!
//! Two ways of nesting are in use and may be mixed: KUnit indents a subtest's document, and kselftest's
//! `runner.sh` puts `# ` before every line that a test program prints. Both are a *prefix* here: a document
//! is opened by its version line, and its results carry exactly the prefix of that line.
//!
//! What counts is a leaf: a result without a document of its own below it. A parent that is `not ok` although
//! all its children passed counts as one more failure, since something went wrong that no child names.

use regex::Regex;
use std::sync::LazyLock;

/// How one result came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    Pass,
    Fail,
    /// Not run, with the reason that the test gave.
    Skip(String),
}

/// One leaf result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestCase {
    /// Names from the outermost document to the result, joined by a slash.
    pub name: String,
    pub status: Status,
    /// For a failure: the diagnostic lines that came before it.
    pub diagnostics: Vec<String>,
}

/// Everything that was found in one stream of lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub cases: Vec<TestCase>,
    /// Breaches of the format that make the results incomplete: each counts as a failure.
    pub problems: Vec<String>,
}

impl Report {
    /// Failures and what makes the results incomplete.
    pub fn failed(&self) -> usize {
        self.cases
            .iter()
            .filter(|c| c.status == Status::Fail)
            .count()
            + self.problems.len()
    }
}

static VERSION: LazyLock<Regex> = LazyLock::new(|| regex(r"^((?:# | +)*)K?TAP version (\d+)\s*$"));
static PLAN: LazyLock<Regex> =
    LazyLock::new(|| regex(r"^((?:# | +)*)1\.\.(\d+)(?:\s*#\s*(.*))?\s*$"));
static RESULT: LazyLock<Regex> =
    LazyLock::new(|| regex(r"^((?:# | +)*)(not ok|ok)(?:\s+(\d+))?(?:\s+-)?(?:\s+(.*?))?\s*$"));
static DIRECTIVE: LazyLock<Regex> =
    LazyLock::new(|| regex(r"(?i)(?:^|\s)#\s*(SKIP|TODO|XFAIL|TIMEOUT|ERROR)\b:?\s*(.*)$"));
static BAIL: LazyLock<Regex> = LazyLock::new(|| regex(r"^((?:# | +)*)Bail out!\s*(.*)$"));
static SUBTEST: LazyLock<Regex> = LazyLock::new(|| regex(r"^((?:# | +)*)# Subtest: (.*?)\s*$"));

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a constant pattern that the unit tests compile")
}

/// How many diagnostic lines a failure keeps: the last ones, where the reason usually stands.
const MAX_DIAGNOSTICS: usize = 40;

/// A document that is still open.
struct Level {
    prefix: String,
    /// From a `# Subtest:` line.
    name: Option<String>,
    plan: Option<usize>,
    results: usize,
    /// Leaves and problems found in documents below, waiting for their parent's result line.
    below: Option<Report>,
    diagnostics: Vec<String>,
    found: Report,
    bailed: bool,
}

impl Level {
    fn new(prefix: &str) -> Self {
        Level {
            prefix: prefix.to_owned(),
            name: None,
            plan: None,
            results: 0,
            below: None,
            diagnostics: Vec::new(),
            found: Report::default(),
            bailed: false,
        }
    }

    /// Ends the document and returns what it held.
    fn close(mut self) -> Report {
        if let Some(orphans) = self.below.take() {
            // The parent's result line never came: the run was cut off inside the children.
            self.found.cases.extend(orphans.cases);
            self.found.problems.extend(orphans.problems);
            if !self.bailed {
                self.found
                    .problems
                    .push(self.say("ends before the result of its last subtest"));
            }
        }
        if !self.bailed {
            match self.plan {
                None => self.found.problems.push(self.say("has no plan (`1..N`)")),
                Some(n) if n != self.results => {
                    self.found
                        .problems
                        .push(self.say(&format!("planned {n} results and gave {}", self.results)));
                }
                Some(_) => {}
            }
        }
        self.found
    }

    fn say(&self, what: &str) -> String {
        match &self.name {
            Some(name) => format!("{name}: {what}"),
            None => format!("the document {what}"),
        }
    }
}

/// Parses `lines`; whatever is not KTAP is taken for a diagnostic of the innermost open document.
pub fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Report {
    let mut parser = Parser::default();
    for line in lines {
        parser.line(line);
    }
    parser.finish()
}

#[derive(Default)]
struct Parser {
    levels: Vec<Level>,
    report: Report,
}

impl Parser {
    fn line(&mut self, line: &str) {
        if let Some(c) = VERSION.captures(line) {
            self.open(&c[1]);
        } else if let Some(c) = BAIL.captures(line) {
            self.bail(&c[1], c.get(2).map_or("", |m| m.as_str()));
        } else if let Some(c) = SUBTEST.captures(line) {
            self.subtest(&c[1], &c[2], line);
        } else if let Some(c) = PLAN.captures(line)
            && self.unwind_to(&c[1])
        {
            let n = c[2].parse().unwrap_or(usize::MAX);
            let note = c.get(3).map_or("", |m| m.as_str());
            self.plan(n, note);
        } else if let Some(c) = RESULT.captures(line)
            && self.unwind_to(&c[1])
        {
            let text = c.get(4).map_or("", |m| m.as_str());
            self.result(&c[2] == "ok", c.get(3).map(|m| m.as_str()), text);
        } else {
            self.diagnostic(line);
        }
    }

    /// A version line: opens a document, below the open one if its prefix is longer.
    fn open(&mut self, prefix: &str) {
        self.close_while(|top| !is_below(prefix, &top.prefix));
        self.levels.push(Level::new(prefix));
    }

    /// `# Subtest: name` names the document that it stands in, or opens one (TAP 14 has no inner version line).
    fn subtest(&mut self, prefix: &str, name: &str, line: &str) {
        let known = self.levels.iter().any(|l| l.prefix == prefix);
        if known {
            self.close_while(|top| top.prefix != prefix);
            if let Some(top) = self.levels.last_mut() {
                top.name = Some(name.to_owned());
            }
        } else if self
            .levels
            .last()
            .is_some_and(|top| is_below(prefix, &top.prefix))
        {
            let mut level = Level::new(prefix);
            level.name = Some(name.to_owned());
            self.levels.push(level);
        } else {
            self.diagnostic(line);
        }
    }

    fn plan(&mut self, n: usize, note: &str) {
        let Some(top) = self.levels.last_mut() else {
            return;
        };
        if top.plan.is_some_and(|p| p != n) {
            let problem = top.say("has two plans");
            top.found.problems.push(problem);
        }
        top.plan = Some(n);
        let skipped = note
            .get(..4)
            .is_some_and(|w| w.eq_ignore_ascii_case("skip"));
        if n == 0 && skipped {
            let name = top.name.clone().unwrap_or_default();
            let reason = note[4..].trim_start_matches(':').trim().to_owned();
            top.found.cases.push(TestCase {
                name,
                status: Status::Skip(reason),
                diagnostics: Vec::new(),
            });
        }
    }

    fn result(&mut self, ok: bool, number: Option<&str>, text: &str) {
        let Some(top) = self.levels.last_mut() else {
            return;
        };
        top.results += 1;
        let (name, status) = split_directive(ok, text);
        let name = match (name.is_empty(), number) {
            (false, _) => short(&name).to_owned(),
            (true, Some(n)) => format!("test {n}"),
            (true, None) => format!("test {}", top.results),
        };
        if let Some(n) = number.and_then(|n| n.parse::<usize>().ok())
            && n != top.results
        {
            let problem = top.say(&format!("numbers result {} as {n}", top.results));
            top.found.problems.push(problem);
            top.results = n;
        }
        let diagnostics = std::mem::take(&mut top.diagnostics);
        let children = top
            .below
            .take()
            .filter(|r| !r.cases.is_empty() || !r.problems.is_empty());
        let Some(children) = children else {
            let diagnostics = if status == Status::Fail {
                diagnostics
            } else {
                Vec::new()
            };
            top.found.cases.push(TestCase {
                name,
                status,
                diagnostics,
            });
            return;
        };
        let unexplained = status == Status::Fail && children.failed() == 0;
        for mut case in children.cases {
            case.name = join(&name, &case.name);
            top.found.cases.push(case);
        }
        top.found
            .problems
            .extend(children.problems.into_iter().map(|p| join(&name, &p)));
        if unexplained {
            top.found.cases.push(TestCase {
                name,
                status: Status::Fail,
                diagnostics,
            });
        }
    }

    /// Aborts the document with that prefix and all below it.
    fn bail(&mut self, prefix: &str, reason: &str) {
        if !self.unwind_to(prefix) && self.levels.is_empty() {
            self.report.problems.push(format!("Bail out! {reason}"));
            return;
        }
        if let Some(top) = self.levels.last_mut() {
            let problem = top.say(&format!("Bail out! {reason}"));
            top.found.problems.push(problem);
            top.bailed = true;
        }
    }

    fn diagnostic(&mut self, line: &str) {
        let Some(top) = self.levels.last_mut() else {
            return;
        };
        if top.diagnostics.len() == MAX_DIAGNOSTICS {
            top.diagnostics.remove(0);
        }
        top.diagnostics.push(line.trim_end().to_owned());
    }

    /// Closes what is open below the document with that prefix. False if there is no such document.
    fn unwind_to(&mut self, prefix: &str) -> bool {
        if !self.levels.iter().any(|l| l.prefix == prefix) {
            return false;
        }
        self.close_while(|top| top.prefix != prefix);
        true
    }

    fn close_while(&mut self, more: impl Fn(&Level) -> bool) {
        while let Some(top) = self.levels.pop_if(|top| more(top)) {
            let diagnostics = top.diagnostics.clone();
            let found = top.close();
            match self.levels.last_mut() {
                Some(parent) => {
                    let below = parent.below.get_or_insert_default();
                    below.cases.extend(found.cases);
                    below.problems.extend(found.problems);
                    parent.diagnostics.extend(diagnostics);
                }
                None => {
                    self.report.cases.extend(found.cases);
                    self.report.problems.extend(found.problems);
                }
            }
        }
    }

    fn finish(mut self) -> Report {
        self.close_while(|_| true);
        self.report
    }
}

fn is_below(prefix: &str, of: &str) -> bool {
    prefix.len() > of.len() && prefix.starts_with(of)
}

/// kselftest's runner names a test "selftests: <directory>: <program>"; only the program tells tests apart.
fn short(name: &str) -> &str {
    match name.strip_prefix("selftests: ") {
        Some(rest) => rest.rsplit(": ").next().unwrap_or(rest),
        None => name,
    }
}

fn join(parent: &str, child: &str) -> String {
    if child.is_empty() {
        parent.to_owned()
    } else {
        format!("{parent}/{child}")
    }
}

/// Takes `# SKIP reason` and its like off a result's description.
fn split_directive(ok: bool, text: &str) -> (String, Status) {
    let plain = if ok { Status::Pass } else { Status::Fail };
    let Some(c) = DIRECTIVE.captures(text) else {
        // kselftest: "name # exit=1" on a failure is a remark, and no part of the name.
        let name = text.split(" # ").next().unwrap_or(text);
        return (unescape(name), plain);
    };
    let name = unescape(&text[..c.get(0).map_or(0, |m| m.start())]);
    let reason = c[2].trim().to_owned();
    match c[1].to_ascii_uppercase().as_str() {
        "SKIP" if ok => (name, Status::Skip(reason)),
        // A known failure: expected to fail, so neither a pass nor a failure of the run.
        "TODO" | "XFAIL" if !ok => (name, Status::Skip(format!("known failure: {reason}"))),
        "XFAIL" => (name, Status::Skip(format!("expected failure: {reason}"))),
        "TODO" => (name, plain),
        // TIMEOUT and ERROR are failures whatever stands before them; so is "not ok # SKIP".
        _ => (name, Status::Fail),
    }
}

fn unescape(name: &str) -> String {
    name.trim().trim_start_matches("- ").replace("\\#", "#")
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Report {
        pub fn passed(&self) -> usize {
            self.cases
                .iter()
                .filter(|c| c.status == Status::Pass)
                .count()
        }

        pub fn skipped(&self) -> usize {
            self.cases
                .iter()
                .filter(|c| matches!(c.status, Status::Skip(_)))
                .count()
        }
    }

    fn run(text: &str) -> Report {
        parse(text.lines())
    }

    fn names(r: &Report) -> Vec<&str> {
        r.cases.iter().map(|c| c.name.as_str()).collect()
    }

    #[test]
    fn flat() {
        let r = run("TAP version 13\n1..3\nok 1 a\nnot ok 2 b\nok 3 c # SKIP no such host\n");
        assert_eq!((r.passed(), r.failed(), r.skipped()), (1, 1, 1));
        assert_eq!(r.cases[2].status, Status::Skip("no such host".into()));
        assert!(r.problems.is_empty());
    }

    #[test]
    fn kunit_nests_by_indentation() {
        let r = run(
            "KTAP version 1\n1..1\n    KTAP version 1\n    # Subtest: scale\n    # module: paraclock_kunit\n    1..2\n    \
                     ok 1 exact\n    ok 2 shift\n# scale: pass:2 fail:0 skip:0 total:2\nok 1 scale\n",
        );
        assert_eq!(names(&r), ["scale/exact", "scale/shift"]);
        assert_eq!((r.passed(), r.failed()), (2, 0));
    }

    #[test]
    fn kunit_parameterised_tests_nest_twice() {
        let r = run(
            "KTAP version 1\n1..1\n    KTAP version 1\n    # Subtest: s\n    1..1\n        KTAP version 1\n        \
                     # Subtest: p\n        ok 1 one\n        ok 2 two\n        1..2\n    ok 1 p\nok 1 s\n",
        );
        assert_eq!(names(&r), ["s/p/one", "s/p/two"]);
        assert_eq!(r.failed(), 0, "{:?}", r.problems);
    }

    #[test]
    fn kselftest_nests_by_hash() {
        let r = run(
            "TAP version 13\n1..2\n# timeout set to 45\n# selftests: paraclock: load\n# TAP version 13\n# 1..2\n\
                     # ok 1 loads\n# # some remark\n# not ok 2 selects\n# # Totals: pass:1 fail:1\n\
                     not ok 1 selftests: paraclock: load # exit=1\n# timeout set to 45\n\
                     # selftests: paraclock: plain\nok 2 selftests: paraclock: plain\n",
        );
        assert_eq!(names(&r), ["load/loads", "load/selects", "plain"]);
        assert_eq!((r.passed(), r.failed()), (2, 1));
        assert_eq!(r.cases[1].diagnostics, ["# # some remark"]);
    }

    #[test]
    fn a_parent_that_fails_alone_is_a_failure() {
        let r = run(
            "TAP version 13\n1..1\n# TAP version 13\n# 1..1\n# ok 1 fine\nnot ok 1 selftests: p: crash # exit=139\n",
        );
        assert_eq!((r.passed(), r.failed()), (1, 1));
        assert_eq!(r.cases[1].name, "crash");
    }

    #[test]
    fn a_child_that_fails_below_a_passing_parent_is_a_failure() {
        let r =
            run("KTAP version 1\n1..1\n  KTAP version 1\n  1..1\n  not ok 1 inner\nok 1 outer\n");
        assert_eq!((r.passed(), r.failed()), (0, 1));
    }

    #[test]
    fn todo_is_a_known_failure_and_counts_as_skipped() {
        let r = run(
            "TAP version 13\n1..3\nnot ok 1 a # TODO later\nok 2 b # TODO later\nnot ok 3 c # SKIP odd\n",
        );
        assert_eq!((r.passed(), r.failed(), r.skipped()), (1, 1, 1));
    }

    #[test]
    fn timeout_is_a_failure() {
        let r = run("TAP version 13\n1..1\nnot ok 1 selftests: p: slow # TIMEOUT 45 seconds\n");
        assert_eq!(r.failed(), 1);
        assert_eq!(r.cases[0].name, "slow");
    }

    #[test]
    fn a_missing_plan_is_a_problem() {
        let r = run("TAP version 13\nok 1 a\n");
        assert_eq!((r.passed(), r.failed()), (1, 1));
        assert!(r.problems[0].contains("no plan"), "{:?}", r.problems);
    }

    #[test]
    fn truncated_output_is_a_problem() {
        let r = run("TAP version 13\n1..3\nok 1 a\nok 2 b\n");
        assert_eq!((r.passed(), r.failed()), (2, 1));
        assert!(
            r.problems[0].contains("planned 3 results and gave 2"),
            "{:?}",
            r.problems
        );
    }

    #[test]
    fn truncation_inside_a_child_is_a_problem() {
        let r = run("TAP version 13\n1..2\n# TAP version 13\n# 1..3\n# ok 1 a\n");
        assert_eq!(r.passed(), 1);
        assert!(r.failed() >= 2, "{:?}", r.problems);
    }

    #[test]
    fn a_missing_number_in_the_middle_is_a_problem() {
        let r = run("TAP version 13\n1..3\nok 1 a\nok 3 c\n");
        assert_eq!((r.passed(), r.failed()), (2, 1));
    }

    #[test]
    fn bail_out_is_a_failure() {
        let r = run("TAP version 13\n1..3\nok 1 a\nBail out! no module\n");
        assert_eq!((r.passed(), r.failed()), (1, 1));
        assert!(r.problems[0].contains("no module"));
        let nested = run(
            "TAP version 13\n1..1\n# TAP version 13\n# 1..3\n# Bail out! none\nnot ok 1 selftests: p: t # exit=1\n",
        );
        assert_eq!(nested.failed(), 1, "{nested:?}");
    }

    #[test]
    fn skipping_everything_by_the_plan() {
        let r = run("TAP version 13\n1..0 # SKIP not a KVM guest\n");
        assert_eq!((r.passed(), r.failed(), r.skipped()), (0, 0, 1));
        let nested = run(
            "TAP version 13\n1..1\n# TAP version 13\n# 1..0 # SKIP no\nok 1 selftests: p: t # SKIP\n",
        );
        assert_eq!((nested.failed(), nested.skipped()), (0, 1), "{nested:?}");
    }

    #[test]
    fn lines_of_others_between_are_diagnostics() {
        let r = run(
            "boot noise\nok 7 not a result, no document is open\nTAP version 13\nparaclock: loaded\n1..2\nok 1 a\n\
                     okay this is no result\n    ok 1 indented, but no document at this depth\nnot ok 2 b\ntail\n",
        );
        assert_eq!((r.passed(), r.failed()), (1, 1));
        assert_eq!(r.cases[1].diagnostics.len(), 2);
    }

    #[test]
    fn two_documents_one_after_the_other() {
        let r = run("TAP version 13\n1..1\nok 1 a\nTAP version 13\n1..1\nok 1 b\n");
        assert_eq!((r.passed(), r.failed()), (2, 0), "{:?}", r.problems);
        let cut = run("TAP version 13\n1..2\nok 1 a\nTAP version 13\n1..1\nok 1 b\n");
        assert_eq!((cut.passed(), cut.failed()), (2, 1));
    }

    #[test]
    fn nothing_is_nothing() {
        assert_eq!(run("hello\n"), Report::default());
    }

    #[test]
    fn an_empty_description_gets_a_name() {
        assert_eq!(names(&run("TAP version 13\n1..1\nok 1\n")), ["test 1"]);
        assert_eq!(
            names(&run("TAP version 13\n1..1\nok 1 - dashed\n")),
            ["dashed"]
        );
    }
}
