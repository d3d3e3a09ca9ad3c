// SPDX-License-Identifier: GPL-2.0

//! A figure, as the guest prints it and as it is written to `results.json`.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;

/// One figure. Where something does not apply it is `-`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What was measured: words from the general to the particular, by dots.
    pub name: String,
    pub clock: String,
    /// Of the driver alone.
    pub mode: String,
    /// Whose interface the guest is shown.
    pub host: String,
    #[serde(serialize_with = "plain")]
    pub value: f64,
    pub unit: String,
    /// The clock that it is compared with, in the same run.
    pub control: Option<String>,
    /// To the control's.
    pub ratio: Option<f64>,
}

/// What is counted has no fraction, and is not shown with one.
fn plain<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    const EXACT: f64 = 9.0e15;
    if value.fract() == 0.0 && value.abs() < EXACT {
        serializer.serialize_i64(*value as i64)
    } else {
        serializer.serialize_f64(*value)
    }
}

/// The driver's clocksource.
pub const OURS: &str = "paraclock";
/// Where a word does not apply.
pub const NONE: &str = "-";

impl Figure {
    /// Reads a line `bench: clock=C mode=M name=N unit=U value=V`; `None` if it is none.
    ///
    /// # Errors
    ///
    /// A line that begins like one and lacks something.
    pub fn parse(line: &str, host: &str) -> Result<Option<Self>> {
        let Some(words) = line.strip_prefix("bench: ") else {
            return Ok(None);
        };
        let get = |key: &str| {
            words
                .split(' ')
                .find_map(|w| w.strip_prefix(key)?.strip_prefix('='))
                .filter(|value| !value.is_empty())
                .with_context(|| format!("no {key}= in `{line}`"))
        };
        Ok(Some(Self {
            name: get("name")?.to_owned(),
            clock: get("clock")?.to_owned(),
            mode: get("mode")?.to_owned(),
            host: host.to_owned(),
            value: get("value")?
                .parse::<i64>()
                .with_context(|| format!("no number in `{line}`"))? as f64,
            unit: get("unit")?.to_owned(),
            control: None,
            ratio: None,
        }))
    }

    /// Whether two figures are of the same thing.
    pub fn is_as(&self, other: &Self) -> bool {
        (&self.name, &self.clock, &self.mode, &self.host)
            == (&other.name, &other.clock, &other.mode, &other.host)
    }

    /// The clock with its mode.
    pub fn column(&self) -> String {
        if self.mode == NONE {
            self.clock.clone()
        } else {
            format!("{} {}", self.clock, self.mode)
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} on {}", self.name, self.column(), self.host)
    }
}

/// All figures of a guest's output.
///
/// # Errors
///
/// A line that cannot be read, or the same figure twice.
pub fn parse_all<'a>(lines: impl Iterator<Item = &'a str>, host: &str) -> Result<Vec<Figure>> {
    let mut figures: Vec<Figure> = Vec::new();
    for line in lines {
        if let Some(figure) = Figure::parse(line, host)? {
            if figures.iter().any(|f| f.is_as(&figure)) {
                bail!("measured twice: {figure}");
            }
            figures.push(figure);
        }
    }
    Ok(figures)
}

/// How two runs differ: each figure that is not the same, with both values; the second is `None` where it
/// is missing.
pub fn differences<'a>(first: &'a [Figure], second: &[Figure]) -> Vec<(&'a Figure, Option<f64>)> {
    first
        .iter()
        .filter_map(|f| {
            let other = second.iter().find(|s| s.is_as(f)).map(|s| s.value);
            (other != Some(f.value)).then_some((f, other))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str =
        "bench: clock=paraclock mode=page name=vdso.monotonic unit=instructions value=117";

    #[test]
    fn a_line_of_the_guest() {
        let figure = Figure::parse(LINE, "kvm").unwrap().unwrap();
        assert_eq!(figure.name, "vdso.monotonic");
        assert_eq!(figure.column(), "paraclock page");
        assert_eq!((figure.value, figure.host.as_str()), (117.0, "kvm"));
        assert_eq!(Figure::parse("noise", "kvm").unwrap(), None);
        for broken in [
            "bench: clock=x mode=- unit=ns value=1",
            "bench: clock=x mode=- name=y unit=ns value=",
            "bench: clock=x mode=- name=y unit=ns value=1.5e",
        ] {
            assert!(Figure::parse(broken, "kvm").is_err(), "{broken}");
        }
        assert!(parse_all([LINE, LINE].into_iter(), "kvm").is_err());
    }

    #[test]
    fn json_has_the_promised_words() {
        let mut figure = Figure::parse(LINE, "kvm").unwrap().unwrap();
        figure.control = Some("kvm-clock".into());
        figure.ratio = Some(1.0);
        let json = serde_json::to_value(&figure).unwrap();
        let keys: Vec<&str> = json
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let mut promised = [
            "name", "clock", "mode", "host", "value", "unit", "control", "ratio",
        ];
        promised.sort_unstable();
        let mut keys = keys;
        keys.sort_unstable();
        assert_eq!(keys, promised);
        assert!(json.to_string().contains("\"value\":117}"), "{json}");
        assert_eq!(serde_json::from_value::<Figure>(json).unwrap(), figure);
    }

    #[test]
    fn runs_are_compared() {
        let a = parse_all([LINE].into_iter(), "kvm").unwrap();
        assert!(differences(&a, &a.clone()).is_empty());
        let b = parse_all([LINE.replace("117", "118").as_str()].into_iter(), "kvm").unwrap();
        assert_eq!(differences(&a, &b)[0].1, Some(118.0));
        assert_eq!(differences(&a, &[])[0].1, None);
    }
}
