// SPDX-License-Identifier: GPL-2.0

//! What a figure may be at most, as one file of the repository says.

use crate::figure::{Figure, OURS};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::fs;
use std::path::Path;

/// `limits.toml`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    #[serde(rename = "mode")]
    modes: Vec<Mode>,
    #[serde(rename = "limit")]
    limits: Vec<Limit>,
}

/// A mode of the driver and the C clock that it stands beside.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mode {
    host: String,
    mode: String,
    control: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limit {
    host: String,
    mode: String,
    names: Vec<String>,
    at_most: Option<u64>,
    percent: Option<u64>,
    /// Of the driver's own figure of that name, and not of the control's.
    of: Option<String>,
    /// Instructions beyond that.
    #[serde(default)]
    more: u64,
    reason: Option<String>,
}

impl Limit {
    fn is_for(&self, figure: &Figure) -> bool {
        figure.clock == OURS
            && figure.host == self.host
            && figure.mode == self.mode
            && self.names.iter().any(|name| matches(name, &figure.name))
    }
}

impl Limit {
    fn beyond(&self) -> String {
        match self.more {
            0 => String::new(),
            more => format!(" and {more} more"),
        }
    }

    /// Whether that is the figure that another one is judged by.
    fn is_measure(&self, figure: &Figure, judged: &Figure, control: &str) -> bool {
        let is_it = match &self.of {
            Some(of) => figure.name == *of && figure.clock == OURS && figure.mode == judged.mode,
            None => figure.name == judged.name && figure.clock == control,
        };
        is_it && figure.host == judged.host
    }

    /// What is a hundred percent, in words.
    fn measure(&self, control: &str) -> String {
        match &self.of {
            Some(of) => format!("its {of}"),
            None => format!("{control}'s"),
        }
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

impl Limits {
    pub fn load(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} makes no sense", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let limits: Self = toml::from_str(text)?;
        for limit in &limits.limits {
            let what = format!(
                "the limit on {} of {} {}",
                limit.names.join(", "),
                limit.host,
                limit.mode
            );
            if limit.at_most.is_none() && limit.percent.is_none() {
                bail!("{what} limits nothing");
            }
            if limit.percent.is_none() && (limit.more > 0 || limit.of.is_some()) {
                bail!("{what} allows more, and does not say more than what");
            }
            let allows = limit.more > 0 || limit.percent.is_some_and(|p| p > 100);
            if allows && limit.reason.as_ref().is_none_or(|r| r.trim().is_empty()) {
                bail!("{what} allows more than the control takes, and gives no reason");
            }
            if limits.control(&limit.host, &limit.mode).is_none() {
                bail!("{what} is of a mode that is not in the list");
            }
        }
        Ok(limits)
    }

    /// The hosts that there are modes for, each once.
    pub fn hosts(&self) -> Vec<&str> {
        let mut hosts: Vec<&str> = self.modes.iter().map(|m| m.host.as_str()).collect();
        hosts.dedup();
        hosts
    }

    /// The C clock of a mode.
    fn control(&self, host: &str, mode: &str) -> Option<&str> {
        let mode = self
            .modes
            .iter()
            .find(|m| m.host == host && m.mode == mode)?;
        Some(&mode.control)
    }

    /// Gives each figure of the driver its control, if that was measured in the same run.
    pub fn compare(&self, figures: &mut [Figure]) {
        let run = figures.to_vec();
        for figure in figures
            .iter_mut()
            .filter(|f| f.clock == OURS && f.control.is_none())
        {
            let Some(control) = self.control(&figure.host, &figure.mode) else {
                continue;
            };
            let theirs = run
                .iter()
                .find(|f| f.name == figure.name && f.host == figure.host && f.clock == control)
                .map(|f| f.value);
            if let Some(theirs) = theirs {
                figure.control = Some(control.to_owned());
                figure.ratio =
                    (theirs > 0.0).then(|| (figure.value / theirs * 1000.0).round() / 1000.0);
            }
        }
    }

    /// What of the limits of one host does not hold in a run of it, or cannot be told.
    pub fn exceeded(&self, host: &str, run: &[Figure]) -> Vec<String> {
        let mut over = Vec::new();
        for limit in self.limits.iter().filter(|l| l.host == host) {
            for name in &limit.names {
                if !run
                    .iter()
                    .any(|f| limit.is_for(f) && matches(name, &f.name))
                {
                    over.push(format!(
                        "{name}, {OURS} {} on {host}: was not measured",
                        limit.mode
                    ));
                }
            }
            for figure in run.iter().filter(|f| limit.is_for(f)) {
                over.extend(self.judge(limit, figure, run));
            }
        }
        over
    }

    fn judge(&self, limit: &Limit, figure: &Figure, run: &[Figure]) -> Vec<String> {
        let mut over = Vec::new();
        if figure.unit != "instructions" {
            over.push(format!("{figure}: {} have no limits", figure.unit));
            return over;
        }
        if let Some(most) = limit.at_most.filter(|&most| figure.value > most as f64) {
            over.push(format!(
                "{figure}: expected at most {most}, seen {}",
                figure.value
            ));
        }
        let Some(percent) = limit.percent else {
            return over;
        };
        // What has no counterpart in C, as a bare reading of the TSC, has the same name in both.
        let control = self.control(&limit.host, &limit.mode).unwrap_or_default();
        let theirs = run.iter().find(|f| limit.is_measure(f, figure, control));
        let measure = limit.measure(control);
        match theirs {
            Some(theirs)
                if figure.value * 100.0
                    > theirs.value * percent as f64 + limit.more as f64 * 100.0 =>
            {
                over.push(format!(
                    "{figure}: expected at most {percent} % of {measure} {}{}, seen {}",
                    theirs.value,
                    limit.beyond(),
                    figure.value
                ))
            }
            Some(_) => {}
            None => over.push(format!("{figure}: {measure} was not measured beside it")),
        }
        over
    }

    /// What the limits are, for people.
    pub fn describe(&self, host: &str) -> String {
        let mut text = String::new();
        for limit in self.limits.iter().filter(|l| l.host == host) {
            let control = self.control(&limit.host, &limit.mode).unwrap_or_default();
            let mut bounds = Vec::new();
            bounds.extend(limit.at_most.map(|n| n.to_string()));
            let measure = limit.measure(control);
            bounds.extend(limit.percent.map(|p| match p {
                100 => format!("{measure}{}", limit.beyond()),
                _ => format!("{p} % of {measure}{}", limit.beyond()),
            }));
            text += &format!(
                "    limit: {OURS} {}: {}: at most {}\n",
                limit.mode,
                limit.names.join(", "),
                bounds.join(" and ")
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::parse_all;

    /// The repository's own file.
    const FILE: &str = include_str!("../limits.toml");

    const SMALL: &str = r#"
        [[mode]]
        host = "kvm"
        mode = "page"
        control = "kvm-clock"
        [[limit]]
        host = "kvm"
        mode = "page"
        names = ["vdso.monotonic"]
        at_most = 126
        [[limit]]
        host = "kvm"
        mode = "page"
        names = ["vdso.*"]
        percent = 100
    "#;

    fn run(ours: u64, theirs: u64) -> Vec<Figure> {
        let lines = [
            format!(
                "bench: clock=paraclock mode=page name=vdso.monotonic unit=instructions value={ours}"
            ),
            format!(
                "bench: clock=kvm-clock mode=- name=vdso.monotonic unit=instructions value={theirs}"
            ),
        ];
        parse_all(lines.iter().map(String::as_str), "kvm").unwrap()
    }

    #[test]
    fn the_repositorys_file_is_read() {
        let limits = Limits::parse(FILE).unwrap();
        assert_eq!(limits.hosts(), ["kvm", "hyperv", "migrate", "migrate-kvm"]);
        // On the other host is no count, but the drift.
        for host in ["kvm", "hyperv", "migrate"] {
            // With nothing measured, nothing holds.
            assert!(!limits.exceeded(host, &[]).is_empty());
            assert!(limits.describe(host).contains("at most"));
        }
    }

    #[test]
    fn within_and_over() {
        let limits = Limits::parse(SMALL).unwrap();
        assert!(limits.exceeded("kvm", &run(117, 117)).is_empty());
        let over = limits.exceeded("kvm", &run(118, 117));
        assert_eq!(over.len(), 1);
        assert!(over[0].contains("kvm-clock's 117"), "{over:?}");
        assert_eq!(limits.exceeded("kvm", &run(127, 127)).len(), 1);
        assert_eq!(limits.exceeded("kvm", &run(127, 126)).len(), 2);
    }

    #[test]
    fn an_allowance_is_exact() {
        let more = SMALL.replace("percent = 100", "percent = 101\nreason = \"x\"");
        let limits = Limits::parse(&more.replace("at_most = 126", "at_most = 5000")).unwrap();
        assert!(limits.exceeded("kvm", &run(2626, 2600)).is_empty());
        assert_eq!(limits.exceeded("kvm", &run(2627, 2600)).len(), 1);
        let more = SMALL.replace("percent = 100", "percent = 100\nmore = 13\nreason = \"x\"");
        let limits = Limits::parse(&more.replace("at_most = 126", "at_most = 5000")).unwrap();
        assert!(limits.exceeded("kvm", &run(2613, 2600)).is_empty());
        let over = limits.exceeded("kvm", &run(2614, 2600));
        assert!(over[0].contains("2600 and 13 more, seen 2614"), "{over:?}");
    }

    #[test]
    fn a_figure_may_be_judged_by_another() {
        let of = SMALL.replace(
            "names = [\"vdso.*\"]\n        percent = 100",
            "names = [\"cpus8.*\"]\n        percent = 100\n        of = \"vdso.monotonic\"",
        );
        let limits = Limits::parse(&of).unwrap();
        let mut figures = run(117, 90);
        let mut beside = figures[0].clone();
        beside.name = "cpus8.vdso.monotonic".into();
        figures.push(beside);
        assert!(limits.exceeded("kvm", &figures).is_empty());
        assert!(limits.describe("kvm").contains("its vdso.monotonic"));
        figures[2].value = 118.0;
        let over = limits.exceeded("kvm", &figures);
        assert!(over[0].contains("its vdso.monotonic 117"), "{over:?}");
        // What it is judged by is missing, and over the first limit's as well.
        assert_eq!(limits.exceeded("kvm", &figures[1..]).len(), 2);
    }

    #[test]
    fn what_was_not_measured_does_not_hold() {
        let limits = Limits::parse(SMALL).unwrap();
        assert_eq!(limits.exceeded("kvm", &run(117, 117)[..1]).len(), 1);
        assert_eq!(limits.exceeded("kvm", &run(117, 117)[1..]).len(), 2);
        assert!(limits.exceeded("hyperv", &[]).is_empty());
    }

    #[test]
    fn nanoseconds_are_never_judged() {
        let limits = Limits::parse(SMALL).unwrap();
        let mut figures = run(117, 117);
        figures[0].unit = "ns".into();
        let over = limits.exceeded("kvm", &figures);
        assert!(
            !over.is_empty() && over.iter().all(|o| o.contains("have no limits")),
            "{over:?}"
        );
    }

    #[test]
    fn a_file_that_makes_no_sense() {
        for (from, to, word) in [
            ("percent = 100", "percent = 101", "reason"),
            ("percent = 100", "percent = 100\nmore = 1", "reason"),
            ("at_most = 126", "at_most = 126\nmore = 1", "more than what"),
            ("at_most = 126", "", "limits nothing"),
            ("at_most = 126", "atmost = 126", "atmost"),
            (
                "mode = \"page\"\n        control",
                "mode = \"msr\"\n        control",
                "not in the list",
            ),
        ] {
            let error = format!(
                "{:#}",
                Limits::parse(&SMALL.replacen(from, to, 1)).unwrap_err()
            );
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn ratios_are_to_the_control_of_the_run() {
        let limits = Limits::parse(SMALL).unwrap();
        let mut figures = run(58, 116);
        limits.compare(&mut figures);
        assert_eq!(figures[0].control.as_deref(), Some("kvm-clock"));
        assert_eq!(figures[0].ratio, Some(0.5));
        assert_eq!(figures[1].control, None);
    }
}
