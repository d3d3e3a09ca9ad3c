// SPDX-License-Identifier: GPL-2.0

//! What the device answers: `ok key=value ...`, lists of such records separated by `; `, or `error` and why.

use anyhow::{Context, Result, bail};
use std::str::FromStr;

/// An answer that is not an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// What is said once.
    head: Record,
    /// What is said of each of many.
    pub rest: Vec<String>,
}

impl Reply {
    pub fn parse(text: &str) -> Result<Reply> {
        let text = text.trim();
        if let Some(why) = text.strip_prefix("error") {
            bail!("the device refuses: {}", why.trim());
        }
        let Some(text) = text
            .strip_prefix("ok")
            .filter(|t| t.is_empty() || t.starts_with([' ', ';']))
        else {
            bail!("the device answers `{text}`, which is neither ok nor error");
        };
        let mut parts = text.split(';').map(str::trim);
        Ok(Reply {
            head: Record(parts.next().unwrap_or_default().to_owned()),
            rest: parts.map(str::to_owned).collect(),
        })
    }

    pub fn get<T: FromStr>(&self, key: &str) -> Result<T>
    where
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        self.head.get(key)
    }
}

/// `key=value` and more of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record(String);

impl Record {
    pub fn new(text: &str) -> Record {
        Record(text.to_owned())
    }

    pub fn get<T: FromStr>(&self, key: &str) -> Result<T>
    where
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        let text = self
            .0
            .split_whitespace()
            .find_map(|w| w.strip_prefix(key)?.strip_prefix('='))
            .with_context(|| format!("no {key}= in `{}`", self.0))?;
        text.parse()
            .with_context(|| format!("{key}={text} in `{}`", self.0))
    }
}

/// `now`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    pub ref_100ns: u64,
    pub ref_ns: u64,
    pub host_ns: u64,
    pub khz: u64,
    /// How many switches there have been.
    pub generation: u64,
    /// A migration that the guest has not acknowledged.
    pub pending: bool,
}

impl Now {
    pub fn parse(r: &Reply) -> Result<Now> {
        Ok(Now {
            ref_100ns: r.get("ref100ns")?,
            ref_ns: r.get("refns")?,
            host_ns: r.get("hostns")?,
            khz: r.get("khz")?,
            generation: r.get("gen")?,
            pending: r.get::<u8>("pending")? != 0,
        })
    }
}

/// `stat`, as far as it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    pub migrations: u64,
    pub switches: u64,
    pub acks: u64,
    pub notified: u64,
    pub errors: u64,
}

impl Stat {
    pub fn parse(r: &Reply) -> Result<Stat> {
        Ok(Stat {
            migrations: r.get("migrations")?,
            switches: r.get("switches")?,
            acks: r.get("acks")?,
            notified: r.get("notified")?,
            errors: r.get("errors")?,
        })
    }
}

/// One entry of the trace: the TSC changed, at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch {
    pub number: u64,
    pub host_ns: u64,
    /// Reference time on either side, in 100 ns.
    pub reference: (u64, u64),
    pub tsc: (u64, u64),
    pub khz: (u64, u64),
}

impl Switch {
    pub fn parse(text: &str) -> Result<Switch> {
        let r = Record::new(text);
        let pair = |key: &str| -> Result<(u64, u64)> {
            Ok((
                r.get(&format!("{key}_before"))?,
                r.get(&format!("{key}_after"))?,
            ))
        };
        Ok(Switch {
            number: r.get("n")?,
            host_ns: r.get("hostns")?,
            reference: pair("ref")?,
            tsc: pair("tsc")?,
            khz: pair("khz")?,
        })
    }

    /// By how many units reference time stepped at the switch.
    pub fn step(&self) -> i128 {
        i128::from(self.reference.1) - i128::from(self.reference.0)
    }
}

/// The device's `trace-file`: a line for each switch.
pub fn trace(text: &str) -> Result<Vec<Switch>> {
    text.lines()
        .filter(|l| !l.trim().is_empty())
        .map(Switch::parse)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SWITCH: &str = "n=3 why=ack askedns=5 hostns=77 ref_before=100 ref_after=99 \
                          tsc_before=1 tsc_after=18446744073709551615 khz_before=2000000 khz_after=3000000 seq=4";

    #[test]
    fn ok_and_error() {
        let r = Reply::parse("ok pending=0 gen=12 hostns=5\n").unwrap();
        assert_eq!(r.get::<u64>("gen").unwrap(), 12);
        assert!(r.rest.is_empty());
        assert!(Reply::parse("ok").is_ok());
        for (text, want) in [
            ("error khz=1: no", "khz=1: no"),
            ("okay", "neither"),
            ("", "neither"),
        ] {
            let error = format!("{:#}", Reply::parse(text).unwrap_err());
            assert!(error.contains(want), "{error}");
        }
    }

    #[test]
    fn what_is_missing_or_no_number_is_named() {
        let r = Reply::parse("ok gen=x agen=4").unwrap();
        assert!(format!("{:#}", r.get::<u64>("gen").unwrap_err()).contains("gen=x"));
        assert!(format!("{:#}", r.get::<u64>("hostns").unwrap_err()).contains("no hostns="));
    }

    #[test]
    fn a_list() {
        let r = Reply::parse(&format!("ok total=2 from=0; {SWITCH}; {SWITCH}")).unwrap();
        assert_eq!(r.get::<u64>("total").unwrap(), 2);
        assert_eq!(r.rest.len(), 2);
        let s = Switch::parse(&r.rest[1]).unwrap();
        assert_eq!(s.number, 3);
        assert_eq!(s.khz, (2_000_000, 3_000_000));
        assert_eq!(s.step(), -1);
    }

    #[test]
    fn a_trace_file() {
        let all = trace(&format!("{SWITCH}\n{SWITCH}\n\n")).unwrap();
        assert_eq!(all.len(), 2);
        assert!(trace("n=1 hostns=2").is_err());
    }
}
