// SPDX-License-Identifier: GPL-2.0

//! The tables that a person reads.

use crate::figure::{Figure, NONE, OURS};
use std::fmt::Write;

/// The values of one list, each once, in the order in which they come first.
fn distinct<'a>(values: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for value in values {
        if !seen.contains(&value) {
            seen.push(value);
        }
    }
    seen
}

/// A number with its thousands apart, and two digits of its fraction if it has one.
pub fn number(value: f64) -> String {
    let whole = format!("{:.0}", value.abs().trunc());
    let mut text = String::new();
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value.fract() != 0.0 {
        let fraction = format!("{:.2}", value.abs().fract());
        text += fraction.get(1..).unwrap_or_default();
    }
    if value < 0.0 {
        format!("-{text}")
    } else {
        text
    }
}

/// One host's figures: a line a name, a column a clock; the driver's with the ratio to its control.
pub fn of_host(figures: &[Figure], host: &str) -> String {
    let figures: Vec<&Figure> = figures
        .iter()
        .filter(|f| f.host == host && !f.name.starts_with("ns."))
        .collect();
    let columns = figures.iter().map(|f| f.column()).collect::<Vec<_>>();
    let columns = distinct(columns.iter().map(String::as_str));
    let width = |column: &str| column.len().max(20) + 2;
    let mut text = format!("    {:<32}{:<13}", "", "unit");
    for column in &columns {
        let _ = write!(text, "{column:>width$}", width = width(column));
    }
    text.push('\n');
    for name in distinct(figures.iter().map(|f| f.name.as_str())) {
        let row: Vec<&&Figure> = figures.iter().filter(|f| f.name == name).collect();
        let unit = row.first().map_or("", |f| f.unit.as_str());
        let _ = write!(text, "    {name:<32}{unit:<13}");
        for column in &columns {
            let cell = row
                .iter()
                .find(|f| f.column() == *column)
                .map_or(NONE.to_owned(), |f| {
                    let ratio = f.ratio.map_or(String::new(), |r| format!(" ({r:.3})"));
                    number(f.value) + &ratio
                });
            let _ = write!(text, "{cell:>width$}", width = width(column));
        }
        text.push('\n');
    }
    text
}

/// Nanoseconds: a line a clock.
pub fn of_native(figures: &[Figure]) -> String {
    let mut text = format!(
        "    {:<44}{:>9}{:>9}{:>9}{:>20}\n",
        "ns a call", "minimum", "median", "spread", "median to rdtscp"
    );
    for least in figures.iter().filter(|f| f.name.ends_with(".min")) {
        let start = least.name.trim_end_matches("min");
        let other = |what: &str| {
            let name = format!("{start}{what}");
            figures.iter().find(|f| {
                f.name == name
                    && (&f.clock, &f.mode, &f.host) == (&least.clock, &least.mode, &least.host)
            })
        };
        let cell = |f: Option<&Figure>| f.map_or(NONE.to_owned(), |f| format!("{:.2}", f.value));
        let host = if least.host == NONE {
            String::new()
        } else {
            format!(", {}", least.host)
        };
        let label = format!(
            "{} {}{host}",
            start.trim_start_matches("ns.").trim_end_matches('.'),
            least.column()
        );
        let median = other("median");
        let ratio = median
            .and_then(|f| f.ratio)
            .map_or(NONE.to_owned(), |r| format!("{r:.3}"));
        let _ = writeln!(
            text,
            "    {label:<44}{:>9.2}{:>9}{:>9}{ratio:>20}",
            least.value,
            cell(median),
            cell(other("spread"))
        );
    }
    text
}

/// How two runs of a host differ, for people.
pub fn of_differences(host: &str, compared: usize, found: &[(&Figure, Option<f64>)]) -> String {
    if found.is_empty() {
        return format!("    {host}: two runs gave the same {compared} figures\n");
    }
    let counts = found
        .iter()
        .filter(|(f, _)| f.unit == "instructions")
        .count();
    let mut text = format!(
        "    {host}: two runs gave the same {} figures, and {} that differ, {counts} of them counts of instructions:\n",
        compared - found.len(),
        found.len(),
    );
    for (figure, other) in found {
        let by = other.map_or("missing in the second".to_owned(), |other| {
            let share = if figure.value == 0.0 {
                String::new()
            } else {
                format!(" ({:+.2} %)", (other / figure.value - 1.0) * 100.0)
            };
            format!("{} and {}{share}", number(figure.value), number(other))
        });
        let _ = writeln!(text, "        {}, {}: {by}", figure.name, figure.column());
    }
    text
}

/// How many of the driver's counts are below, at and above their control's.
pub fn tally(figures: &[Figure]) -> (usize, usize, usize) {
    let ratios = figures
        .iter()
        .filter(|f| f.clock == OURS && f.unit == "instructions")
        .filter_map(|f| f.ratio);
    ratios.fold((0, 0, 0), |(below, at, above), r| match r {
        r if r < 1.0 => (below + 1, at, above),
        r if r > 1.0 => (below, at, above + 1),
        _ => (below, at + 1, above),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::{differences, parse_all};

    fn figures() -> Vec<Figure> {
        let lines = [
            "bench: clock=kvm-clock mode=- name=vdso.monotonic unit=instructions value=117",
            "bench: clock=paraclock mode=page name=vdso.monotonic unit=instructions value=1170",
            "bench: clock=paraclock mode=page name=module.rmmod unit=ticks value=99220448",
        ];
        parse_all(lines.into_iter(), "kvm").unwrap()
    }

    #[test]
    fn numbers_for_people() {
        for (value, text) in [
            (0.0, "0"),
            (117.0, "117"),
            (99_220_448.0, "99,220,448"),
            (-1234.0, "-1,234"),
            (22.35, "22.35"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn every_clock_has_a_column() {
        let mut all = figures();
        all[1].ratio = Some(10.0);
        let text = of_host(&all, "kvm");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].contains("kvm-clock") && lines[0].contains("paraclock page"));
        assert!(lines[1].contains("1,170 (10.000)"), "{text}");
        assert!(lines[2].contains(" - "), "what was not measured: {text}");
        assert_eq!(tally(&all), (0, 0, 1));
    }

    #[test]
    fn differences_are_told_with_their_size() {
        let (first, mut second) = (figures(), figures());
        assert!(
            of_differences("kvm", 3, &differences(&first, &second)).contains("the same 3 figures")
        );
        second[2].value = 100_000_000.0;
        let text = of_differences("kvm", 3, &differences(&first, &second));
        assert!(text.contains("1 that differ, 0 of them counts"), "{text}");
        assert!(text.contains("+0.79 %"), "{text}");
    }

    #[test]
    fn nanoseconds_have_a_line_a_clock() {
        let figure = |name: &str, value: f64, ratio| Figure {
            name: name.into(),
            clock: "kvm-clock".into(),
            mode: NONE.into(),
            host: "kvm".into(),
            value,
            unit: "ns".into(),
            control: None,
            ratio,
        };
        let all = [
            figure("ns.read.min", 30.25, Some(1.2)),
            figure("ns.read.median", 31.5, Some(1.25)),
            figure("ns.read.spread", 0.5, None),
        ];
        let text = of_native(&all);
        let line = text.lines().nth(1).unwrap();
        for word in ["read kvm-clock, kvm", "30.25", "31.50", "0.50", "1.250"] {
            assert!(line.contains(word), "{line}");
        }
    }
}
