// SPDX-License-Identifier: GPL-2.0

//! The monitor of a test host: a command goes in, its answer comes out.

use super::command::Command;
use super::reply::Reply;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Longer than any command takes, `ack_delay` and its like being waited for elsewhere.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Serialize)]
#[serde(tag = "execute", content = "arguments")]
enum Request<'a> {
    #[serde(rename = "qmp_capabilities")]
    Capabilities {},
    #[serde(rename = "x-guest-time")]
    GuestTime { line: &'a str },
    #[serde(rename = "device_add")]
    DeviceAdd(&'a Vcpu),
}

/// A vCPU that was left out when the machine was started, by its place.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Vcpu {
    pub driver: &'static str,
    pub id: String,
    pub socket_id: u32,
    pub core_id: u32,
    pub thread_id: u32,
}

/// What the monitor says: the greeting first, then an answer for each request, and events between them.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Message {
    Greeting {
        #[serde(rename = "QMP")]
        _qmp: serde_json::Value,
    },
    Event {
        event: String,
    },
    Error {
        error: Refusal,
    },
    Return {
        #[serde(rename = "return")]
        value: Answer,
    },
}

#[derive(Debug, Deserialize)]
struct Refusal {
    desc: String,
}

#[derive(Debug, Deserialize)]
struct Answer {
    /// Of the device; other commands answer with nothing.
    reply: Option<String>,
}

/// A connection to one machine.
pub struct Qmp {
    input: UnixStream,
    output: BufReader<UnixStream>,
}

impl Qmp {
    pub fn connect(socket: &Path) -> Result<Qmp> {
        let input = UnixStream::connect(socket)
            .with_context(|| format!("no monitor at {}: has QEMU ended?", socket.display()))?;
        Qmp::on(input)
    }

    fn on(input: UnixStream) -> Result<Qmp> {
        input
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| input.set_write_timeout(Some(PATIENCE)))
            .context("cannot set up the monitor's socket")?;
        let output = BufReader::new(input.try_clone().context("cannot share a socket")?);
        let mut qmp = Qmp { input, output };
        if !matches!(qmp.receive()?, Message::Greeting { .. }) {
            bail!("the monitor does not greet: is that QEMU's QMP?");
        }
        qmp.request(&Request::Capabilities {})?;
        Ok(qmp)
    }

    fn receive(&mut self) -> Result<Message> {
        let mut line = String::new();
        let n = self
            .output
            .read_line(&mut line)
            .with_context(|| format!("the monitor says nothing for {} s", PATIENCE.as_secs()))?;
        if n == 0 {
            bail!("the monitor has hung up: the machine has ended");
        }
        serde_json::from_str(&line).with_context(|| format!("the monitor says `{}`", line.trim()))
    }

    fn request(&mut self, request: &Request<'_>) -> Result<Answer> {
        let mut text = serde_json::to_string(request).context("cannot encode a request")?;
        text.push('\n');
        self.input
            .write_all(text.as_bytes())
            .context("cannot write to the monitor: has the machine ended?")?;
        loop {
            match self.receive()? {
                Message::Return { value } => return Ok(value),
                Message::Error { error } => bail!("QEMU refuses: {}", error.desc),
                Message::Event { event } if event == "SHUTDOWN" => {
                    bail!("the machine shuts down")
                }
                Message::Event { .. } | Message::Greeting { .. } => {}
            }
        }
    }

    /// Plugs a vCPU in.
    pub fn plug(&mut self, vcpu: &Vcpu) -> Result<()> {
        self.request(&Request::DeviceAdd(vcpu)).map(|_| ())
    }

    /// Has the device do one thing. An error of the device's names the command.
    pub fn command(&mut self, command: &Command) -> Result<Reply> {
        let line = command.to_string();
        let text = self
            .request(&Request::GuestTime { line: &line })?
            .reply
            .with_context(|| format!("`{line}`: QEMU answers without the device's reply"))?;
        Reply::parse(&text).with_context(|| format!("`{line}`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A monitor that says `said` and, in the end, what it was told.
    fn monitor(said: &'static str, lines: usize) -> (Result<Qmp>, std::thread::JoinHandle<String>) {
        let (here, there) = UnixStream::pair().unwrap();
        let thread = std::thread::spawn(move || {
            let mut reader = BufReader::new(there.try_clone().unwrap());
            (&there).write_all(said.as_bytes()).unwrap();
            let mut told = String::new();
            for _ in 0..lines {
                reader.read_line(&mut told).unwrap();
            }
            told
        });
        (Qmp::on(here), thread)
    }

    const GREETING: &str = r#"{"QMP": {"version": {}, "capabilities": []}}
{"return": {}}
"#;

    #[test]
    fn a_command_and_its_answer() {
        let said = concat!(
            "{\"QMP\": {}}\n{\"return\": {}}\n",
            "{\"timestamp\": {}, \"event\": \"RTC_CHANGE\", \"data\": {}}\n",
            "{\"return\": {\"reply\": \"ok pending=1 gen=7\"}}\n"
        );
        let (qmp, thread) = monitor(said, 2);
        let reply = qmp.unwrap().command(&Command::Heal).unwrap();
        assert_eq!(reply.get::<u64>("gen").unwrap(), 7);
        let told = thread.join().unwrap();
        assert_eq!(
            told,
            "{\"execute\":\"qmp_capabilities\",\"arguments\":{}}\n\
             {\"execute\":\"x-guest-time\",\"arguments\":{\"line\":\"heal\"}}\n"
        );
    }

    #[test]
    fn both_kinds_of_errors_name_the_reason() {
        let said = concat!(
            "{\"QMP\": {}}\n{\"return\": {}}\n",
            "{\"return\": {\"reply\": \"error khz=1: no\"}}\n",
            "{\"error\": {\"class\": \"GenericError\", \"desc\": \"there is no guest-time device\"}}\n"
        );
        let (qmp, _thread) = monitor(said, 3);
        let mut qmp = qmp.unwrap();
        let error = format!("{:#}", qmp.command(&Command::Heal).unwrap_err());
        assert!(
            error.contains("heal") && error.contains("khz=1: no"),
            "{error}"
        );
        let error = format!("{:#}", qmp.command(&Command::Heal).unwrap_err());
        assert!(error.contains("no guest-time device"), "{error}");
    }

    #[test]
    fn a_machine_that_has_gone() {
        let (qmp, _thread) = monitor(GREETING, 1);
        let error = qmp.unwrap().command(&Command::Heal).unwrap_err();
        assert!(format!("{error:#}").contains("ended"), "{error:#}");
        let (qmp, _thread) = monitor("", 0);
        assert!(format!("{:#}", qmp.err().unwrap()).contains("hung up"));
    }
}
