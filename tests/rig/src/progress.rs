// SPDX-License-Identifier: GPL-2.0

//! What a long step tells the person who waits for it.
//!
//! All of it goes to standard error, so that commands with a result (`rig kdir`) keep
//! standard output for it.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Without a terminal a line is a line of a log: one now and then is enough.
const LOG_INTERVAL: Duration = Duration::from_secs(15);
/// Estimates from less than this share of the work are guesses.
const ESTIMATE_FROM: f64 = 0.03;

/// `75 s` as `1 min 15 s`.
pub fn human(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        _ => format!("{} h {:02} min", s / 3600, s / 60 % 60),
    }
}

/// The time that is left after `elapsed` for `done` of `total`, where that can be said.
pub fn remaining(elapsed: Duration, done: u64, total: u64) -> Option<Duration> {
    if done == 0 || done >= total {
        return None;
    }
    let share = done as f64 / total as f64;
    (share >= ESTIMATE_FROM).then(|| elapsed.mul_f64((1.0 - share) / share))
}

/// One step of a longer job: a title, ticks while it runs, and a line at its end.
pub struct Step {
    title: String,
    start: Instant,
    printed: Instant,
    terminal: bool,
    open_line: bool,
}

impl Step {
    /// Starts the step and says so.
    pub fn start(title: impl Into<String>) -> Self {
        let title = title.into();
        let now = Instant::now();
        let step = Self {
            title,
            start: now,
            printed: now,
            terminal: std::io::stderr().is_terminal(),
            open_line: false,
        };
        eprintln!("==> {}", step.title);
        step
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// To be called often: prints now and then what was done and what is left.
    pub fn tick(&mut self, what: &str, done: Option<(u64, u64)>) {
        let interval = if self.terminal {
            Duration::from_millis(250)
        } else {
            LOG_INTERVAL
        };
        if self.printed.elapsed() < interval {
            return;
        }
        self.printed = Instant::now();
        let mut line = format!("    {}: ", self.title);
        if let Some((n, total)) = done {
            line += &format!("{n}/{} {what}, ", total.max(n));
        } else if !what.is_empty() {
            line += &format!("{what}, ");
        }
        line += &human(self.elapsed());
        if let Some(rest) = done.and_then(|(n, total)| remaining(self.elapsed(), n, total)) {
            line += &format!(", about {} left", human(rest));
        }
        self.put(&line);
    }

    fn put(&mut self, line: &str) {
        let mut err = std::io::stderr().lock();
        // A closed standard error is no reason to stop a build.
        let _ = if self.terminal {
            self.open_line = true;
            write!(err, "\r\x1b[K{line}").and_then(|()| err.flush())
        } else {
            writeln!(err, "{line}")
        };
    }

    /// A line that stays, between the ticks.
    pub fn note(&mut self, text: &str) {
        self.close_line();
        eprintln!("    {text}");
    }

    fn close_line(&mut self) {
        if std::mem::take(&mut self.open_line) {
            eprint!("\r\x1b[K");
        }
    }

    /// Ends the step with its time.
    pub fn finish(mut self, result: &str) {
        self.close_line();
        let sep = if result.is_empty() { "" } else { ": " };
        eprintln!(
            "    {}{sep}{result} ({})",
            self.title,
            human(self.elapsed())
        );
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.close_line();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_readable() {
        assert_eq!(human(Duration::from_secs(59)), "59 s");
        assert_eq!(human(Duration::from_secs(75)), "1 min 15 s");
        assert_eq!(human(Duration::from_secs(7260)), "2 h 01 min");
    }

    #[test]
    fn estimates_need_a_base() {
        let t = Duration::from_secs(30);
        assert_eq!(remaining(t, 0, 100), None);
        assert_eq!(remaining(t, 1, 100), None);
        assert_eq!(remaining(t, 100, 100), None);
        assert_eq!(remaining(t, 120, 100), None);
        assert_eq!(remaining(t, 25, 100), Some(Duration::from_secs(90)));
    }
}
