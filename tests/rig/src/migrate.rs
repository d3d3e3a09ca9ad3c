// SPDX-License-Identifier: GPL-2.0

//! `rig demo --host migrate`: the guest's clock against the host's through a few migrations, the driver's beside
//! the C clocks, as tables and as a plot.

use crate::context::{Context, shown};
use crate::guest::{self, log_of};
use crate::session::Limits;
use crate::suite;
use crate::verdict::Verdict;
use crate::vm::testhost::reply::Record;
use crate::vm::{Flavour, Task};
use anyhow::{Context as _, Result, anyhow, bail};
use plotters::coord::Shift;
use plotters::prelude::*;
use std::fs;
use std::path::Path;

const OURS: &str = "paraclock";
/// In the guest whose processor promises what its host does not keep.
const UNTOLD: &str = "tsc";
/// What the driver may be off by: each of the migrations, and what a multiplier of 22 bits loses meanwhile.
const BOUND_NS: i64 = 2000;
/// What the clock that nobody tells is off by, at least.
const LOST_NS: i64 = 1_000_000;

/// One clock's way through the migrations.
#[derive(Debug, Default, PartialEq)]
struct Course {
    clock: String,
    mode: String,
    /// Milliseconds since its beginning, and by how many ns it is off then.
    samples: Vec<(u64, i64)>,
    /// When the TSC changed, and to how many kHz.
    switches: Vec<(u64, u64)>,
    worst: i64,
}

impl Course {
    fn title(&self) -> String {
        if self.clock == OURS {
            format!("{}, mode {}", self.clock, self.mode)
        } else {
            self.clock.clone()
        }
    }
}

/// Reads what `migrateview` prints.
fn courses<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Vec<Course>> {
    let mut all: Vec<Course> = Vec::new();
    for line in lines {
        let Some((mark, rest)) = line.strip_prefix('@').and_then(|l| l.split_once(' ')) else {
            continue;
        };
        let (clock, fields) = rest.split_once(' ').unwrap_or((rest, ""));
        let fields = Record::new(fields);
        if mark == "clock" {
            all.push(Course {
                clock: clock.to_owned(),
                mode: fields.get("mode")?,
                ..Course::default()
            });
            continue;
        }
        if !matches!(mark, "sample" | "switch" | "worst") {
            continue;
        }
        let course = all
            .last_mut()
            .filter(|c| c.clock == clock)
            .with_context(|| format!("`{line}` is of no clock that was begun"))?;
        match mark {
            "sample" => course.samples.push((fields.get("ms")?, fields.get("ns")?)),
            "switch" => course
                .switches
                .push((fields.get("ms")?, fields.get("khz")?)),
            _ => course.worst = fields.get("ns")?,
        }
    }
    Ok(all)
}

pub fn run(cx: &Context) -> Result<()> {
    let mut all = guest_courses(cx, Flavour::UpdateHyperv, "demo-migrate")?;
    all.append(&mut guest_courses(
        cx,
        Flavour::UpdateControl,
        "demo-control",
    )?);
    let path = cx.build().join("demo/migrate.svg");
    draw(&all, &path)?;
    println!("{}", summary(&all, &shown(&path, &cx.root))?);
    Ok(())
}

fn guest_courses(cx: &Context, flavour: Flavour, name: &str) -> Result<Vec<Course>> {
    let done = suite::run_one(cx, Task::Migrate, flavour, name, Limits::default(), true)?;
    let log = log_of(cx, &done.log);
    if let Verdict::Finished { status: 1.. } = done.verdict {
        bail!("something was wrong in the guest, as told above (log: {log})");
    }
    if !matches!(done.verdict, Verdict::Finished { status: 0 }) {
        bail!(
            "the demonstration failed: {} (log: {log})",
            guest::explain(&done.verdict)
        );
    }
    let lines = done
        .lines
        .iter()
        .filter(|l| !l.kernel)
        .map(|l| l.text.as_str());
    courses(lines).with_context(|| format!("the guest's figures cannot be read (log: {log})"))
}

/// As a person would say it.
fn amount(ns: i64) -> String {
    let value = ns as f64;
    match ns.abs() {
        0..10_000 => format!("{ns} ns"),
        10_000..10_000_000 => format!("{:.1} us", value / 1e3),
        10_000_000..10_000_000_000 => format!("{:.1} ms", value / 1e6),
        _ => format!("{:.1} s", value / 1e9),
    }
}

/// The last line; an error where it would have to tell of a clock that is wrong, or of a control that is right.
fn summary(all: &[Course], plot: &str) -> Result<String> {
    let find = |name: &str| {
        all.iter()
            .find(|c| c.clock == name)
            .with_context(|| format!("the guest has shown no clock {name}"))
    };
    let (ours, untold) = (find(OURS)?, find(UNTOLD)?);
    let told = all
        .iter()
        .filter(|c| c.clock != OURS)
        .map(|c| format!("{} {}", c.clock, amount(c.worst)))
        .collect::<Vec<_>>()
        .join(", ");
    if ours.mode != "tsc" {
        bail!("expected mode tsc, seen mode {}", ours.mode);
    }
    if ours.switches.is_empty() || ours.worst > BOUND_NS {
        bail!(
            "expected {OURS} to be off by {BOUND_NS} ns at most, seen {} ns in {} migrations",
            ours.worst,
            ours.switches.len()
        );
    }
    if untold.worst < LOST_NS {
        bail!(
            "expected the clock that is not told of migrations to be off by {LOST_NS} ns or more, seen {} ns",
            untold.worst
        );
    }
    Ok(format!(
        "Through {} migrations {OURS} in mode {} was off the host's clock by {} at worst ({told}; plot: {plot}).",
        ours.switches.len(),
        ours.mode,
        amount(ours.worst),
    ))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const COLOURS: [RGBColor; 3] = [
    RGBColor(0xe4, 0x57, 0x56),
    RGBColor(0x4c, 0x78, 0xa8),
    RGBColor(0x88, 0x88, 0x88),
];

fn draw(all: &[Course], path: &Path) -> Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    let root = SVGBackend::new(path, (960, 760)).into_drawing_area();
    panels(all, &root)
        .and_then(|()| root.present().map_err(|e| anyhow!("{e}")))
        .with_context(|| format!("cannot draw {}", path.display()))
}

/// Above, how far off each clock is, on a logarithmic scale; below, those that are not off by much, as they are.
fn panels(all: &[Course], root: &Area<'_>) -> Result<()> {
    let failed = |e: &dyn std::fmt::Display| anyhow!("{e}");
    root.fill(&WHITE).map_err(|e| failed(&e))?;
    let (above, below) = root.split_vertically(380);
    let last = all
        .iter()
        .filter_map(|c| c.samples.last())
        .map(|s| s.0)
        .max()
        .unwrap_or(1);

    let mut chart = ChartBuilder::on(&above)
        .caption(
            "Guest's clock against the host's, absolute",
            ("sans-serif", 18),
        )
        .margin(8)
        .x_label_area_size(32)
        .y_label_area_size(80)
        .build_cartesian_2d(0..last, (1f64..1e12).log_scale())
        .map_err(|e| failed(&e))?;
    chart
        .configure_mesh()
        .x_desc("ms of the host's clock; lines: the TSC changes")
        .y_desc("off by")
        .y_label_formatter(&|ns| scale(*ns))
        .light_line_style(TRANSPARENT)
        .draw()
        .map_err(|e| failed(&e))?;
    for (course, colour) in all.iter().zip(COLOURS) {
        let points = course
            .samples
            .iter()
            .map(|&(ms, ns)| (ms, (ns.unsigned_abs() as f64).max(1.0)));
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))
            .map_err(|e| failed(&e))?
            .label(format!(
                "{}: {} at worst",
                course.title(),
                amount(course.worst)
            ))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    let switches = all.first().map_or(&[][..], |c| &c.switches);
    chart
        .draw_series(
            switches
                .iter()
                .map(|&(ms, _)| PathElement::new([(ms, 1.0), (ms, 1e12)], BLACK.mix(0.25))),
        )
        .map_err(|e| failed(&e))?;
    chart
        .draw_series(switches.iter().map(|&(ms, khz)| {
            Text::new(
                format!("{:.1} GHz", khz as f64 / 1e6),
                (ms, 4e11),
                ("sans-serif", 12),
            )
        }))
        .map_err(|e| failed(&e))?;
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::MiddleRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()
        .map_err(|e| failed(&e))?;

    let close: Vec<(&Course, RGBColor)> = all
        .iter()
        .zip(COLOURS)
        .filter(|(c, _)| c.worst < LOST_NS)
        .collect();
    let most = close
        .iter()
        .map(|(c, _)| c.worst)
        .max()
        .unwrap_or(0)
        .max(200);
    let mut chart = ChartBuilder::on(&below)
        .caption("The same, of those that are told", ("sans-serif", 18))
        .margin(8)
        .x_label_area_size(32)
        .y_label_area_size(80)
        .build_cartesian_2d(0..last, -most..most)
        .map_err(|e| failed(&e))?;
    chart
        .configure_mesh()
        .x_desc("ms of the host's clock")
        .y_desc("off by, ns")
        .light_line_style(TRANSPARENT)
        .draw()
        .map_err(|e| failed(&e))?;
    for (course, colour) in close {
        chart
            .draw_series(LineSeries::new(
                course.samples.iter().copied(),
                colour.stroke_width(2),
            ))
            .map_err(|e| failed(&e))?;
        chart
            .draw_series(
                course
                    .switches
                    .iter()
                    .map(|&(ms, _)| PathElement::new([(ms, -most), (ms, most)], colour.mix(0.3))),
            )
            .map_err(|e| failed(&e))?;
    }
    Ok(())
}

fn scale(ns: f64) -> String {
    for (unit, name) in [(1e9, "s"), (1e6, "ms"), (1e3, "us")] {
        if ns >= unit {
            return format!("{} {name}", ns / unit);
        }
    }
    format!("{ns} ns")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: [&str; 9] = [
        "@clock paraclock mode=tsc",
        "a table's line",
        "@sample paraclock ms=10 ns=-35",
        "@switch paraclock ms=11 khz=3100000 took_us=120",
        "@worst paraclock ns=35",
        "@clock tsc mode=none",
        "@sample tsc ms=10 ns=12300000000",
        "@worst tsc ns=12300000000",
        "@rig end status=0 tainted=0",
    ];

    #[test]
    fn the_guests_lines_are_read() {
        let all = courses(LINES.into_iter()).unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].samples, [(10, -35)]);
        assert_eq!(all[0].switches, [(11, 3_100_000)]);
        assert!(courses(["@sample tsc ms=1 ns=1"].into_iter()).is_err());
        assert!(courses(["@clock tsc mode=none", "@worst tsc"].into_iter()).is_err());
    }

    #[test]
    fn the_last_line_has_the_mode_and_the_worst_error() {
        let line = summary(&courses(LINES.into_iter()).unwrap(), "x.svg").unwrap();
        assert!(
            line.contains("mode tsc") && line.contains("35 ns"),
            "{line}"
        );
        assert!(line.contains("tsc 12.3 s"), "{line}");
    }

    #[test]
    fn what_is_wrong_is_an_error() {
        for (from, to) in [
            ("mode=tsc", "mode=page"),
            ("@worst paraclock ns=35", "@worst paraclock ns=35000"),
            ("@worst tsc ns=12300000000", "@worst tsc ns=12"),
        ] {
            let lines = LINES.map(|l| l.replace(from, to));
            let all = courses(lines.iter().map(String::as_str)).unwrap();
            assert!(summary(&all, "x.svg").is_err(), "{from}");
        }
    }

    #[test]
    fn all_is_drawn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b.svg");
        draw(&courses(LINES.into_iter()).unwrap(), &path).unwrap();
        let text = fs::read_to_string(path).unwrap();
        assert!(text.contains("paraclock, mode tsc: 35 ns at worst"));
    }
}
