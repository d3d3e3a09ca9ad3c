// SPDX-License-Identifier: GPL-2.0

//! The commands of the device `guest-time`, as types: what cannot be said here is no command. Written they
//! are the device's own lines, and lines are read back; `tests/host/guest-time.rst` says what each one does.

use anyhow::{Context, Error, Result, bail};
use std::fmt;
use std::str::FromStr;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Migrate(Migration),
    Spurious {
        vp: Option<u32>,
    },
    AckDelay {
        us: u64,
    },
    PageInvalid {
        us: u64,
    },
    Seq(Raw<u32>),
    Scale(Raw<u64>),
    Offset(Raw<u64>),
    FreqMsr(Raw<u64>),
    RefStep {
        ns: i64,
    },
    KvmVersion {
        vcpu: u32,
        odd: bool,
    },
    KvmRaw {
        vcpu: u32,
        field: Field,
        /// The shift is signed, and reads as the device writes it.
        value: Raw<i128>,
    },
    Stable(bool),
    Stopped {
        vcpu: Option<u32>,
    },
    WriteMidRead {
        count: u64,
        gap_us: Option<u64>,
        hold_us: Option<u64>,
    },
    TscOffset {
        of: Whose,
        cycles: i64,
        stale: bool,
    },
    TscDrift {
        vcpu: u32,
        ppb: i64,
    },
    TscAdjust {
        vcpu: u32,
        value: i64,
    },
    AdjustOnStart {
        vcpu: u32,
        value: Raw<i64>,
    },
    Gp {
        msr: u32,
        on: bool,
        access: Access,
    },
    PageGarbage,
    Heal,
    Now,
    State,
    Stat,
    Trace {
        from: u64,
        count: u64,
    },
    Storm(Storm),
}

/// A change of the TSC's frequency, and of the TSC.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Migration {
    pub khz: u64,
    /// Cycles.
    pub jump: Option<i64>,
    pub page: Option<Page>,
    pub invalid_us: Option<u64>,
    pub notify: Option<Notify>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    Valid,
    /// Until it is acknowledged.
    Invalid,
    /// Left as it is, which no honest host does.
    Stale,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notify {
    Normal,
    Lost,
    Double,
    LateUs(u64),
    WrongVp(u32),
}

/// A value that the guest is shown, whatever it would honestly be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raw<T> {
    Honest,
    Value(T),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Mul,
    Shift,
    Tsc,
    System,
    Flags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    Vcpu(u32),
    Socket(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
    Both,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storm {
    Start {
        seed: u64,
        /// A second.
        rate: u64,
        count: u64,
        kinds: Option<String>,
    },
    /// The commands, without one being done.
    List {
        seed: u64,
        count: u64,
        kinds: Option<String>,
    },
    Stop,
    Progress,
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Page::Valid => "valid",
            Page::Invalid => "invalid",
            Page::Stale => "stale",
        })
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Field::Mul => "mul",
            Field::Shift => "shift",
            Field::Tsc => "tsc",
            Field::System => "system",
            Field::Flags => "flags",
        })
    }
}

impl<T: fmt::Display> fmt::Display for Raw<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Raw::Honest => f.write_str("honest"),
            Raw::Value(v) => v.fmt(f),
        }
    }
}

/// ` key=value`, or nothing.
fn option<T: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    key: &str,
    value: Option<&T>,
) -> fmt::Result {
    value.map_or(Ok(()), |v| write!(f, " {key}={v}"))
}

impl fmt::Display for Migration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "migrate khz={}", self.khz)?;
        option(f, "jump", self.jump.as_ref())?;
        option(f, "page", self.page.as_ref())?;
        option(f, "invalid_us", self.invalid_us.as_ref())?;
        match self.notify {
            None => Ok(()),
            Some(Notify::Normal) => f.write_str(" notify=normal"),
            Some(Notify::Lost) => f.write_str(" notify=lost"),
            Some(Notify::Double) => f.write_str(" notify=double"),
            Some(Notify::LateUs(us)) => write!(f, " late_us={us}"),
            Some(Notify::WrongVp(vp)) => write!(f, " wrong_vp={vp}"),
        }
    }
}

impl fmt::Display for Storm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Storm::Start {
                seed,
                rate,
                count,
                kinds,
            } => {
                write!(f, "storm seed={seed} rate={rate} count={count}")?;
                option(f, "kinds", kinds.as_ref())
            }
            Storm::List { seed, count, kinds } => {
                write!(f, "storm seed={seed} count={count} list=1")?;
                option(f, "kinds", kinds.as_ref())
            }
            Storm::Stop => f.write_str("storm stop"),
            Storm::Progress => f.write_str("storm"),
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Migrate(m) => m.fmt(f),
            Command::Spurious { vp } => {
                f.write_str("spurious")?;
                option(f, "vp", vp.as_ref())
            }
            Command::AckDelay { us } => write!(f, "ack_delay us={us}"),
            Command::PageInvalid { us } => write!(f, "page_invalid us={us}"),
            Command::Seq(value) => write!(f, "seq value={value}"),
            Command::Scale(value) => write!(f, "scale value={value}"),
            Command::Offset(value) => write!(f, "offset value={value}"),
            // A decimal zero means honest to the device.
            Command::FreqMsr(Raw::Value(hz)) => write!(f, "freq_msr value={hz:#x}"),
            Command::FreqMsr(Raw::Honest) => f.write_str("freq_msr value=honest"),
            Command::RefStep { ns } => write!(f, "ref_step ns={ns}"),
            Command::KvmVersion { vcpu, odd } => {
                write!(f, "kvm_version vcpu={vcpu} odd={}", u8::from(*odd))
            }
            Command::KvmRaw { vcpu, field, value } => {
                write!(f, "kvm_raw vcpu={vcpu} field={field} value={value}")
            }
            Command::Stable(on) => write!(f, "stable {}", on_off(*on)),
            Command::Stopped { vcpu } => {
                f.write_str("stopped")?;
                option(f, "vcpu", vcpu.as_ref())
            }
            Command::WriteMidRead {
                count,
                gap_us,
                hold_us,
            } => {
                write!(f, "write_mid_read count={count}")?;
                option(f, "gap_us", gap_us.as_ref())?;
                option(f, "hold_us", hold_us.as_ref())
            }
            Command::TscOffset { of, cycles, stale } => {
                match of {
                    Whose::Vcpu(n) => write!(f, "tsc_offset vcpu={n} cycles={cycles}")?,
                    Whose::Socket(n) => write!(f, "tsc_offset socket={n} cycles={cycles}")?,
                }
                f.write_str(if *stale { " page=stale" } else { "" })
            }
            Command::TscDrift { vcpu, ppb } => write!(f, "tsc_drift vcpu={vcpu} ppb={ppb}"),
            Command::TscAdjust { vcpu, value } => {
                write!(f, "tsc_adjust vcpu={vcpu} value={value}")
            }
            Command::AdjustOnStart { vcpu, value } => {
                write!(f, "adjust_on_start vcpu={vcpu} value={value}")
            }
            Command::Gp { msr, on, access } => {
                write!(f, "gp msr={msr:#x} {}", on_off(*on))?;
                f.write_str(match access {
                    Access::Read => " read",
                    Access::Write => " write",
                    Access::Both => "",
                })
            }
            Command::PageGarbage => f.write_str("page_garbage"),
            Command::Heal => f.write_str("heal"),
            Command::Now => f.write_str("now"),
            Command::State => f.write_str("state"),
            Command::Stat => f.write_str("stat"),
            Command::Trace { from, count } => write!(f, "trace from={from} count={count}"),
            Command::Storm(storm) => storm.fmt(f),
        }
    }
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// A whole number, decimal or after `0x`.
trait Number: Sized {
    fn number(text: &str) -> Result<Self>;
}

impl<T: TryFrom<i128>> Number for T {
    fn number(text: &str) -> Result<T> {
        let wide = match text.strip_prefix("0x") {
            Some(hex) => i128::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        };
        wide.and_then(|n| T::try_from(n).ok())
            .with_context(|| format!("`{text}` is no number, or out of range"))
    }
}

/// The words after the verb; what has been asked for is taken out.
struct Words<'a>(Vec<&'a str>);

impl<'a> Words<'a> {
    fn word(&mut self, word: &str) -> bool {
        let at = self.0.iter().position(|w| *w == word);
        at.map(|i| self.0.remove(i)).is_some()
    }

    fn text(&mut self, key: &str) -> Option<&'a str> {
        let value = |w: &&'a str| w.strip_prefix(key).and_then(|w| w.strip_prefix('='));
        let at = self.0.iter().position(|w| value(w).is_some())?;
        value(&self.0.remove(at))
    }

    fn maybe<T: Number>(&mut self, key: &str) -> Result<Option<T>> {
        self.text(key)
            .map(|t| T::number(t).with_context(|| format!("{key}=")))
            .transpose()
    }

    fn need<T: Number>(&mut self, key: &str) -> Result<T> {
        self.maybe(key)?.with_context(|| format!("needs {key}="))
    }

    fn raw<T: Number>(&mut self) -> Result<Raw<T>> {
        match self.text("value").context("needs value=")? {
            "honest" => Ok(Raw::Honest),
            text => Ok(Raw::Value(T::number(text).context("value=")?)),
        }
    }

    fn on_off(&mut self) -> Result<bool> {
        match (self.word("on"), self.word("off")) {
            (true, false) => Ok(true),
            (false, true) => Ok(false),
            _ => bail!("needs one of on, off"),
        }
    }

    fn notify(&mut self) -> Result<Option<Notify>> {
        if let Some(us) = self.maybe("late_us")? {
            return Ok(Some(Notify::LateUs(us)));
        }
        if let Some(vp) = self.maybe("wrong_vp")? {
            return Ok(Some(Notify::WrongVp(vp)));
        }
        Ok(Some(match self.text("notify") {
            None => return Ok(None),
            Some("normal") => Notify::Normal,
            Some("lost") => Notify::Lost,
            Some("double") => Notify::Double,
            Some(other) => bail!("notify={other}: there are normal, lost, double"),
        }))
    }

    fn migration(&mut self) -> Result<Migration> {
        Ok(Migration {
            khz: self.need("khz")?,
            jump: self.maybe("jump")?,
            page: match self.text("page") {
                None => None,
                Some("valid") => Some(Page::Valid),
                Some("invalid") => Some(Page::Invalid),
                Some("stale") => Some(Page::Stale),
                Some(other) => bail!("page={other}: there are valid, invalid, stale"),
            },
            invalid_us: self.maybe("invalid_us")?,
            notify: self.notify()?,
        })
    }

    fn storm(&mut self) -> Result<Storm> {
        if self.word("stop") {
            return Ok(Storm::Stop);
        }
        if self.0.is_empty() {
            return Ok(Storm::Progress);
        }
        let (seed, count) = (self.need("seed")?, self.need("count")?);
        let kinds = self.text("kinds").map(str::to_owned);
        Ok(match self.maybe::<u8>("list")? {
            Some(1) => Storm::List { seed, count, kinds },
            _ => Storm::Start {
                seed,
                rate: self.need("rate")?,
                count,
                kinds,
            },
        })
    }

    fn command(&mut self, verb: &str) -> Result<Command> {
        Ok(match verb {
            "migrate" => Command::Migrate(self.migration()?),
            "spurious" => Command::Spurious {
                vp: self.maybe("vp")?,
            },
            "ack_delay" => Command::AckDelay {
                us: self.need("us")?,
            },
            "page_invalid" => Command::PageInvalid {
                us: self.need("us")?,
            },
            "seq" => Command::Seq(self.raw()?),
            "scale" => Command::Scale(self.raw()?),
            "offset" => Command::Offset(self.raw()?),
            "freq_msr" => match self.text("value").context("needs value=")? {
                "honest" | "0" => Command::FreqMsr(Raw::Honest),
                hz => Command::FreqMsr(Raw::Value(Number::number(hz)?)),
            },
            "ref_step" => Command::RefStep {
                ns: self.need("ns")?,
            },
            "kvm_version" => Command::KvmVersion {
                vcpu: self.need("vcpu")?,
                odd: self.need::<u8>("odd")? != 0,
            },
            "kvm_raw" => Command::KvmRaw {
                vcpu: self.need("vcpu")?,
                field: match self.text("field").context("needs field=")? {
                    "mul" => Field::Mul,
                    "shift" => Field::Shift,
                    "tsc" => Field::Tsc,
                    "system" => Field::System,
                    "flags" => Field::Flags,
                    other => bail!("field={other}: there are mul, shift, tsc, system, flags"),
                },
                value: self.raw()?,
            },
            "stable" => Command::Stable(self.on_off()?),
            "stopped" => Command::Stopped {
                vcpu: self.maybe("vcpu")?,
            },
            "write_mid_read" => Command::WriteMidRead {
                count: self.need("count")?,
                gap_us: self.maybe("gap_us")?,
                hold_us: self.maybe("hold_us")?,
            },
            "tsc_offset" => Command::TscOffset {
                of: match (self.maybe("vcpu")?, self.maybe("socket")?) {
                    (Some(n), None) => Whose::Vcpu(n),
                    (None, Some(n)) => Whose::Socket(n),
                    _ => bail!("needs one of vcpu=, socket="),
                },
                cycles: self.need("cycles")?,
                stale: self.text("page") == Some("stale"),
            },
            "tsc_drift" => Command::TscDrift {
                vcpu: self.need("vcpu")?,
                ppb: self.need("ppb")?,
            },
            "tsc_adjust" => Command::TscAdjust {
                vcpu: self.need("vcpu")?,
                value: self.need("value")?,
            },
            "adjust_on_start" => Command::AdjustOnStart {
                vcpu: self.need("vcpu")?,
                value: self.raw()?,
            },
            "gp" => Command::Gp {
                msr: self.need("msr")?,
                on: self.on_off()?,
                access: match (self.word("read"), self.word("write")) {
                    (true, false) => Access::Read,
                    (false, true) => Access::Write,
                    _ => Access::Both,
                },
            },
            "page_garbage" => Command::PageGarbage,
            "heal" => Command::Heal,
            "now" => Command::Now,
            "state" => Command::State,
            "stat" => Command::Stat,
            "trace" => Command::Trace {
                from: self.need("from")?,
                count: self.need("count")?,
            },
            "storm" => Command::Storm(self.storm()?),
            _ => bail!("there is no such command; `help` lists them"),
        })
    }
}

impl FromStr for Command {
    type Err = Error;

    fn from_str(line: &str) -> Result<Command> {
        let mut words = line.split_whitespace();
        let verb = words.next().unwrap_or_default();
        let mut words = Words(words.collect());
        let command = words
            .command(verb)
            .with_context(|| format!("the command `{line}`"))?;
        if let Some(word) = words.0.first() {
            bail!("the command `{line}`: {verb} does not take `{word}`");
        }
        Ok(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As they are written here they are read, and the other way round.
    const LINES: &[&str] = &[
        "migrate khz=3000000",
        "migrate khz=3000000 jump=-5 page=invalid invalid_us=30 notify=double",
        "migrate khz=1000000 late_us=400",
        "migrate khz=1000000 page=stale wrong_vp=1",
        "migrate khz=1000000 page=valid notify=lost",
        "migrate khz=1000000 notify=normal",
        "spurious",
        "spurious vp=2",
        "ack_delay us=50000",
        "page_invalid us=7",
        "seq value=4294967295",
        "seq value=honest",
        "scale value=18446744073709551615",
        "offset value=0",
        "freq_msr value=0x0",
        "freq_msr value=honest",
        "ref_step ns=-1000",
        "kvm_version vcpu=1 odd=1",
        "kvm_version vcpu=1 odd=0",
        "kvm_raw vcpu=0 field=shift value=-77",
        "kvm_raw vcpu=0 field=system value=18446744073709551615",
        "kvm_raw vcpu=0 field=mul value=honest",
        "kvm_raw vcpu=0 field=tsc value=5",
        "kvm_raw vcpu=0 field=flags value=255",
        "stable on",
        "stable off",
        "stopped",
        "stopped vcpu=3",
        "write_mid_read count=100",
        "write_mid_read count=100 gap_us=0 hold_us=2",
        "tsc_offset vcpu=1 cycles=-100",
        "tsc_offset socket=1 cycles=100 page=stale",
        "tsc_drift vcpu=1 ppb=-500",
        "tsc_adjust vcpu=1 value=-3",
        "adjust_on_start vcpu=1 value=9",
        "adjust_on_start vcpu=1 value=honest",
        "gp msr=0x40000021 on",
        "gp msr=0x3b off read",
        "gp msr=0x3b on write",
        "page_garbage",
        "heal",
        "now",
        "state",
        "stat",
        "trace from=3 count=16",
        "storm seed=1 rate=200 count=1000",
        "storm seed=1 rate=200 count=1000 kinds=migrate,rewrite",
        "storm seed=1 count=10 list=1 kinds=all",
        "storm stop",
        "storm",
    ];

    #[test]
    fn lines_are_read_and_written_alike() {
        for line in LINES {
            let command: Command = line.parse().unwrap();
            assert_eq!(command.to_string(), *line, "{command:?}");
        }
    }

    #[test]
    fn numbers_may_be_hexadecimal() {
        let command: Command = "gp msr=59 on".parse().unwrap();
        assert_eq!(command, "gp msr=0x3b on".parse().unwrap());
        assert_eq!(
            "freq_msr value=0".parse::<Command>().unwrap(),
            Command::FreqMsr(Raw::Honest)
        );
    }

    #[test]
    fn what_is_no_command_is_refused_with_a_reason() {
        for (line, want) in [
            ("", "no such command"),
            ("nonsense", "no such command"),
            ("migrate", "needs khz="),
            ("migrate khz=abc", "`abc` is no number"),
            ("migrate khz=1 speed=3", "does not take `speed=3`"),
            ("migrate khz=1 page=half", "valid, invalid, stale"),
            ("migrate khz=1 notify=never", "normal, lost, double"),
            ("seq value=4294967296", "out of range"),
            ("kvm_raw vcpu=0 field=foo value=1", "field=foo"),
            ("stable on off", "one of on, off"),
            ("tsc_offset cycles=1", "one of vcpu=, socket="),
            ("heal now", "does not take `now`"),
            ("storm seed=1 count=1", "needs rate="),
        ] {
            let error = format!("{:#}", line.parse::<Command>().unwrap_err());
            assert!(error.contains(want), "`{line}`: {error}");
        }
    }
}
