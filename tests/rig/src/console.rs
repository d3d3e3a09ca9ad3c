// SPDX-License-Identifier: GPL-2.0

//! From the bytes of a serial line to lines of text, each told to be the kernel's or user space's.
//!
//! Kernel and user space write to the same UART without asking each other, so a kernel line may start in the
//! middle of a user's: `ok 1 lo[   12.345678] paraclock: ...` and then `ads`. CONFIG_PRINTK_TIME gives every
//! kernel line a mark by which the two can be separated again.

use regex::Regex;
use std::sync::LazyLock;
use std::time::Duration;

/// Which of the two machines printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The machine that is the KVM host.
    L1,
    /// The guest under test.
    L2,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Source::L1 => "L1",
            Source::L2 => "L2",
        })
    }
}

/// One line of a console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Since the rig was started.
    pub at: Duration,
    /// From the kernel's log, `text` then being without the time stamp.
    pub kernel: bool,
    /// The kernel's time stamp, as printed.
    pub stamp: String,
    pub text: String,
}

impl Line {
    pub fn user(at: Duration, text: impl Into<String>) -> Self {
        Line {
            at,
            kernel: false,
            stamp: String::new(),
            text: text.into(),
        }
    }

    pub fn kernel(at: Duration, stamp: &str, text: &str) -> Self {
        Line {
            at,
            kernel: true,
            stamp: stamp.to_owned(),
            text: text.to_owned(),
        }
    }
}

/// `[   12.345678] `, with the caller that CONFIG_PRINTK_CALLER adds.
static STAMP: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\[ *\d+\.\d{6}\](?:\[ *[TC]\d+\])? ")
        .expect("a constant pattern that the unit tests compile")
});

/// A terminal's escape sequences: SeaBIOS resets the screen on the serial line.
static ESCAPE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\x1b(?:\[[0-9;?=]*[A-Za-z]|[A-Za-z])")
        .expect("a constant pattern that the unit tests compile")
});

/// Longer than any line that a guest prints on purpose; a stream without line ends must not fill the memory.
const MAX_LINE: usize = 64 * 1024;

/// Assembles lines from one console.
#[derive(Default)]
pub struct Assembler {
    bytes: Vec<u8>,
    /// A user's line that a kernel line cut in two.
    head: String,
}

impl Assembler {
    /// Takes what was read and returns the lines that are now complete.
    pub fn push(&mut self, data: &[u8], at: Duration) -> Vec<Line> {
        let mut lines = Vec::new();
        for &byte in data {
            if byte == b'\n' || self.bytes.len() >= MAX_LINE {
                self.end_line(at, &mut lines);
            }
            if byte != b'\n' {
                self.bytes.push(byte);
            }
        }
        lines
    }

    /// The stream has ended: what is left is a line, too.
    pub fn finish(&mut self, at: Duration) -> Vec<Line> {
        let mut lines = Vec::new();
        if !self.bytes.is_empty() {
            self.end_line(at, &mut lines);
        }
        let head = std::mem::take(&mut self.head);
        if !head.is_empty() {
            lines.push(Line::user(at, head));
        }
        lines
    }

    fn end_line(&mut self, at: Duration, lines: &mut Vec<Line>) {
        let bytes = std::mem::take(&mut self.bytes);
        let text = String::from_utf8_lossy(&bytes);
        let text = ESCAPE.replace_all(text.trim_end_matches('\r'), "");
        let text = text.trim_start_matches('\r');
        // A diagnostic that quotes the kernel's log ("# [   12.3] ...") is the user's own.
        match STAMP.find(text) {
            Some(stamp) if !quotes(&text[..stamp.start()]) => {
                self.head
                    .push_str(text[..stamp.start()].trim_end_matches('\r'));
                lines.push(Line::kernel(at, stamp.as_str(), &text[stamp.end()..]));
            }
            _ => {
                let mut whole = std::mem::take(&mut self.head);
                whole.push_str(text);
                lines.push(Line::user(at, whole));
            }
        }
    }
}

fn quotes(head: &str) -> bool {
    !head.is_empty() && head.chars().all(|c| matches!(c, '#' | '|' | ' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> Vec<(bool, String)> {
        let mut a = Assembler::default();
        let mut lines = a.push(text.as_bytes(), Duration::ZERO);
        lines.extend(a.finish(Duration::ZERO));
        lines.into_iter().map(|l| (l.kernel, l.text)).collect()
    }

    fn user(s: &str) -> (bool, String) {
        (false, s.to_owned())
    }

    fn kernel(s: &str) -> (bool, String) {
        (true, s.to_owned())
    }

    #[test]
    fn plain() {
        assert_eq!(
            run("ok 1 a\r\n[    0.000000] Linux\r\nlast"),
            [user("ok 1 a"), kernel("Linux"), user("last")]
        );
        assert_eq!(
            run("[   1.000000][    T1]     ok 1 indented\n"),
            [kernel("    ok 1 indented")]
        );
    }

    #[test]
    fn a_kernel_line_in_the_middle() {
        assert_eq!(
            run("ok 1 lo[   12.345678] paraclock: hi\r\nads\r\n"),
            [kernel("paraclock: hi"), user("ok 1 loads")]
        );
        assert_eq!(
            run("ok 1 lo[   12.345678] one\r\n[   12.345679] two\r\nads\r\n"),
            [kernel("one"), kernel("two"), user("ok 1 loads")]
        );
        // Cut between the carriage return and the line feed.
        assert_eq!(
            run("ok 1 loads\r[   12.345678] one\r\n\nok 2\n"),
            [kernel("one"), user("ok 1 loads"), user("ok 2")]
        );
    }

    #[test]
    fn a_quoted_kernel_line_is_the_users() {
        assert_eq!(
            run("# [   12.345678] BUG: quoted\n"),
            [user("# [   12.345678] BUG: quoted")]
        );
    }

    #[test]
    fn cut_short_in_the_middle() {
        assert_eq!(
            run("ok 1 lo[   12.345678] Kernel panic"),
            [kernel("Kernel panic"), user("ok 1 lo")]
        );
    }

    #[test]
    fn byte_by_byte() {
        let mut a = Assembler::default();
        let mut lines = Vec::new();
        for b in "\x1bc\x1b[?7l\x1b[2Jok 1 a\r\n[    0.000000] b\r\n".bytes() {
            lines.extend(a.push(&[b], Duration::ZERO));
        }
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].text, "ok 1 a");
        assert!(lines[1].kernel);
    }

    #[test]
    fn an_endless_line_is_cut() {
        let mut a = Assembler::default();
        let lines = a.push(&vec![b'x'; 3 * MAX_LINE], Duration::ZERO);
        assert!(!lines.is_empty());
        assert!(a.bytes.len() <= MAX_LINE);
    }

    #[test]
    fn not_utf8() {
        let mut a = Assembler::default();
        assert_eq!(a.push(b"a\xffb\n", Duration::ZERO)[0].text, "a\u{fffd}b");
    }
}
