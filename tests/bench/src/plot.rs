// SPDX-License-Identifier: GPL-2.0

//! Plots of the figures, as SVG.

use crate::figure::{Figure, NONE, OURS};
use anyhow::{Context, Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const SIZE: (u32, u32) = (960, 420);
const COLOURS: [RGBColor; 5] = [
    RGBColor(0x88, 0x88, 0x88),
    RGBColor(0x4c, 0x78, 0xa8),
    RGBColor(0x72, 0xb7, 0xb2),
    RGBColor(0xe4, 0x57, 0x56),
    RGBColor(0xf5, 0x85, 0x18),
];

/// A value of a clock in a group.
struct Bar<'a> {
    group: &'a str,
    clock: String,
    value: f64,
}

/// Draws all that there are figures for below `dir`, and returns the files.
pub fn all(figures: &[Figure], dir: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let mut files = Vec::new();
    let mut hosts: Vec<&str> = figures
        .iter()
        .filter(|f| f.clock == OURS && f.unit == "instructions")
        .map(|f| f.host.as_str())
        .collect();
    hosts.dedup();
    for host in hosts {
        // What takes an exit to the host is off by a factor of 30: in a plot of its own.
        let of_host = |exits: bool| -> Vec<Bar> {
            let slow = |f: &Figure| f.mode == "msr" || f.clock.ends_with("_msr");
            [
                "vdso.monotonic",
                "syscall.monotonic",
                "kernel.ktime_get",
                "kernel.ktime_get_mono_fast_ns",
                "kernel.read",
            ]
            .into_iter()
            .flat_map(|group| {
                figures
                    .iter()
                    .filter(move |f| f.host == host && f.name == group && slow(f) == exits)
                    .map(move |f| Bar {
                        group,
                        clock: f.column(),
                        value: f.value,
                    })
            })
            .collect()
        };
        for (exits, suffix) in [(false, ""), (true, "-msr")] {
            let bars = of_host(exits);
            if !bars.is_empty() {
                let title = format!("Instructions a reading, {host}");
                files.push(drawn(
                    dir,
                    &format!("instructions-{host}{suffix}.svg"),
                    |a| columns(a, &title, &bars),
                )?);
            }
        }
        for (name, what, unit, scale_by) in [
            ("up", "cpu-up", "A CPU up, millions of ticks", 1e6),
            ("down", "cpu-down", "A CPU down, millions of ticks", 1e6),
            (
                "update.bracket",
                "update-bracket",
                "An update, instructions from begin to end",
                1.0,
            ),
            (
                "update.ack",
                "update-ack",
                "From the interrupt to the acknowledgement, thousands of instructions",
                1e3,
            ),
        ] {
            let series = scale(figures, host, name, scale_by);
            if !series.is_empty() {
                let title = format!("{unit} by CPUs online, {host}");
                files.push(drawn(dir, &format!("{what}-{host}.svg"), |a| {
                    lines(a, &title, &series)
                })?);
            }
        }
    }
    let bars: Vec<Bar> = figures
        .iter()
        .filter_map(|f| {
            let group = match f.name.strip_prefix("ns.")? {
                "read.min" => "read, minimum",
                "read.median" => "read, median",
                "vdso.monotonic.min" => "vDSO, minimum",
                "vdso.monotonic.median" => "vDSO, median",
                _ => return None,
            };
            let clock = if f.clock == OURS && f.host != NONE {
                format!("{} {}", f.clock, f.host)
            } else {
                f.column()
            };
            Some(Bar {
                group,
                clock,
                value: f.value,
            })
        })
        .collect();
    if !bars.is_empty() {
        files.push(drawn(dir, "nanoseconds.svg", |a| {
            columns(a, "Nanoseconds a reading on this machine", &bars)
        })?);
    }
    Ok(files)
}

/// A figure, divided by `scale_by`, by the number of CPUs online, for each clock.
fn scale(
    figures: &[Figure],
    host: &str,
    name: &str,
    scale_by: f64,
) -> Vec<(String, Vec<(f64, f64)>)> {
    let mut series: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
    for f in figures.iter().filter(|f| f.host == host) {
        let cpus = match f.name.strip_prefix("cpus") {
            _ if f.name == name => Some(1.0),
            Some(rest) => rest
                .strip_suffix(name)
                .and_then(|rest| rest.strip_suffix('.')?.parse::<f64>().ok()),
            None => None,
        };
        if let Some(cpus) = cpus {
            let point = (cpus, f.value / scale_by);
            let column = f.column();
            match series.iter_mut().find(|(name, _)| *name == column) {
                Some((_, points)) => points.push(point),
                None => series.push((column, vec![point])),
            }
        }
    }
    series
}

fn drawn(dir: &Path, name: &str, draw: impl FnOnce(&Area) -> Result<()>) -> Result<PathBuf> {
    let path = dir.join(name);
    let area = SVGBackend::new(&path, SIZE).into_drawing_area();
    let failed = || format!("cannot draw {}", path.display());
    area.fill(&WHITE)
        .map_err(|e| anyhow!("{e}"))
        .with_context(failed)?;
    draw(&area).with_context(failed)?;
    area.present()
        .map_err(|e| anyhow!("{e}"))
        .with_context(failed)?;
    drop(area);
    Ok(path)
}

fn text(size: i32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&BLACK)
}

/// Groups of columns, with their values.
fn columns(area: &Area<'_>, title: &str, bars: &[Bar]) -> Result<()> {
    let mut groups: Vec<&str> = Vec::new();
    let mut clocks: Vec<&str> = Vec::new();
    for bar in bars {
        if !groups.contains(&bar.group) {
            groups.push(bar.group);
        }
        if !clocks.contains(&bar.clock.as_str()) {
            clocks.push(&bar.clock);
        }
    }
    let top = bars.iter().map(|b| b.value).fold(1.0, f64::max) * 1.25;
    let failed = |e: DrawingAreaErrorKind<std::io::Error>| anyhow!("{e}");
    let mut chart = ChartBuilder::on(area)
        .caption(title, text(18))
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..groups.len() as f64, 0.0..top)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(0)
        .draw()
        .map_err(failed)?;
    let width = 0.9 / clocks.len() as f64;
    for (c, clock) in clocks.iter().enumerate() {
        let colour = COLOURS[c % COLOURS.len()];
        let own: Vec<(f64, f64)> = bars
            .iter()
            .filter(|b| b.clock == *clock)
            .filter_map(|b| {
                let group = groups.iter().position(|g| *g == b.group)?;
                Some((group as f64 + 0.05 + c as f64 * width, b.value))
            })
            .collect();
        chart
            .draw_series(
                own.iter().map(|&(x, y)| {
                    Rectangle::new([(x, 0.0), (x + width * 0.92, y)], colour.filled())
                }),
            )
            .map_err(failed)?
            .label(*clock)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.filled()));
        chart
            .draw_series(
                own.iter().map(|&(x, y)| {
                    Text::new(crate::table::number(y), (x, y + top * 0.035), text(11))
                }),
            )
            .map_err(failed)?;
    }
    for (g, group) in groups.iter().enumerate() {
        chart
            .draw_series([Text::new(
                (*group).to_owned(),
                (g as f64 + 0.05, -top * 0.02),
                text(13),
            )])
            .map_err(failed)?;
    }
    legend(&mut chart)
}

/// Lines of a value by a number of CPUs.
fn lines(area: &Area, title: &str, series: &[(String, Vec<(f64, f64)>)]) -> Result<()> {
    let points = || series.iter().flat_map(|(_, points)| points);
    let most = points().map(|p| p.0).fold(1.0, f64::max);
    let top = points().map(|p| p.1).fold(1.0, f64::max) * 1.25;
    let failed = |e: DrawingAreaErrorKind<std::io::Error>| anyhow!("{e}");
    let mut chart = ChartBuilder::on(area)
        .caption(title, text(18))
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..most * 1.05, 0.0..top)
        .map_err(failed)?;
    chart.configure_mesh().draw().map_err(failed)?;
    for (i, (name, points)) in series.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        chart
            .draw_series(
                LineSeries::new(points.iter().copied(), colour.stroke_width(2)).point_size(3),
            )
            .map_err(failed)?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 12, y)], colour.stroke_width(2)));
    }
    legend(&mut chart)
}

fn legend<'a, 'b: 'a, X, Y>(
    chart: &mut ChartContext<'a, SVGBackend<'b>, Cartesian2d<X, Y>>,
) -> Result<()>
where
    X: Ranged<ValueType = f64>,
    Y: Ranged<ValueType = f64>,
{
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .label_font(text(12))
        .draw()
        .map_err(|e| anyhow!("{e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::parse_all;

    #[test]
    fn plots_name_their_clocks() {
        let lines = [
            "bench: clock=kvm-clock mode=- name=vdso.monotonic unit=instructions value=117",
            "bench: clock=paraclock mode=page name=vdso.monotonic unit=instructions value=116",
            "bench: clock=paraclock mode=page name=cpus2.up unit=ticks value=2000000",
            "bench: clock=paraclock mode=page name=cpus4.up unit=ticks value=4000000",
            "bench: clock=paraclock mode=msr name=vdso.monotonic unit=instructions value=3000",
        ];
        let figures = parse_all(lines.into_iter(), "kvm").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let files = all(&figures, dir.path()).unwrap();
        assert_eq!(files.len(), 3, "{files:?}");
        let first = fs::read_to_string(&files[0]).unwrap();
        for word in [
            "<svg",
            "kvm-clock",
            "paraclock page",
            "116",
            "vdso.monotonic",
        ] {
            assert!(first.contains(word), "{word}");
        }
        assert!(!first.contains("paraclock msr"));
        assert!(all(&[], dir.path()).unwrap().is_empty());
    }
}
