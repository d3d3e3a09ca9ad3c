// SPDX-License-Identifier: GPL-2.0

//! `rig shell`: this terminal, on the console of a running guest.

use crate::console::Source;
use crate::context::Context;
use crate::guest;
use crate::progress::Step;
use crate::vm::initramfs;
use crate::vm::run::{Console, Launch, Machine};
use crate::vm::{Flavour, Task, direct, testhost};
use anyhow::{Context as _, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{self, SetArg, Termios};
use std::fs::File;
use std::io::{ErrorKind, IsTerminal, Read, Write, stdin, stdout};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Ctrl-A, and then X: as in QEMU and in screen.
const PREFIX: u8 = 1;

/// Raw mode, given back when dropped.
struct Raw(Option<Termios>);

impl Raw {
    fn new() -> Result<Raw> {
        if !stdin().is_terminal() {
            return Ok(Raw(None));
        }
        let before = termios::tcgetattr(stdin()).context("cannot read the terminal's mode")?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(stdin(), SetArg::TCSANOW, &raw)
            .context("cannot set the terminal's mode")?;
        Ok(Raw(Some(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // Nothing can be done about a terminal that is gone.
            let _ = termios::tcsetattr(stdin(), SetArg::TCSANOW, before);
        }
    }
}

/// A shell in L2, or with `host` in L1.
pub fn run(cx: &Context, flavour: Flavour, host: bool) -> Result<()> {
    let logs = cx.fresh_logs("shell")?;
    let image = cx.l2_image(cx.payload()?)?;
    let artifacts = cx.artifacts()?;
    let (launch, wanted): (Launch, Source) = if host {
        (guest::nested(cx, Task::Shell, &[], &image)?, Source::L1)
    } else if let Some(shape) = flavour.test_host() {
        (
            testhost::launch(artifacts, &image, Task::Shell, flavour, shape, &logs)?,
            Source::L2,
        )
    } else if cx.choice()?.direct {
        let qemu = initramfs::inner_qemu(artifacts)?;
        (
            direct::launch(artifacts, &qemu, &image, Task::Shell, flavour)?,
            Source::L2,
        )
    } else {
        (
            guest::nested(cx, Task::Shell, &[flavour], &image)?,
            Source::L2,
        )
    };
    let step = Step::start(if host {
        "booting the host, L1"
    } else {
        "booting the guest, L2"
    });
    let mut machine = Machine::start(&launch, &logs)?;
    println!(
        "Ctrl-A X ends the machine and leaves; Ctrl-A Ctrl-A sends a Ctrl-A. The shell comes in about 10 s."
    );
    let raw = Raw::new()?;
    let mut consoles: Vec<(Source, Console)> = machine.consoles.drain(..).collect();
    let at = consoles
        .iter()
        .position(|(s, _)| *s == wanted)
        .context("a machine without that console")?;
    let (_, console) = consoles.swap_remove(at);
    let left = bridge(&mut machine, console, &mut consoles)?;
    drop(raw);
    step.finish(if left {
        "ended by Ctrl-A X"
    } else {
        "the machine is off"
    });
    Ok(())
}

/// Copies both ways until the machine ends (false) or the user leaves (true).
fn bridge(
    machine: &mut Machine,
    mut console: Console,
    others: &mut [(Source, Console)],
) -> Result<bool> {
    let mut input = stdin();
    let mut prefixed = false;
    let mut input_open = true;
    let mut last = Instant::now();
    loop {
        let gone = machine.try_wait()?.is_some();
        let mut buffer = [0; 4096];
        // The other console would stop its writer once the pipe is full.
        for (_, other) in others.iter_mut() {
            while matches!(other.output.read(&mut buffer), Ok(n) if n > 0) {}
        }
        loop {
            match console.output.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    last = Instant::now();
                    let mut out = stdout().lock();
                    out.write_all(&buffer[..n])
                        .and_then(|()| out.flush())
                        .context("cannot write to the terminal")?;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        if gone {
            for line in machine
                .said()
                .lines()
                .filter(|l| !l.contains(": warning: "))
            {
                eprint!("{line}\r\n");
            }
            return Ok(false);
        }
        // A script at the other end: once it has ended, what is still being said is waited for, and no more.
        if !input_open && last.elapsed() > Duration::from_secs(60) {
            return Ok(true);
        }
        let ready = {
            let mut fds = vec![PollFd::new(console.output.as_fd(), PollFlags::POLLIN)];
            if input_open {
                fds.push(PollFd::new(input.as_fd(), PollFlags::POLLIN));
            }
            match poll(&mut fds, PollTimeout::from(100u8)) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(e).context("cannot wait for the terminal"),
            }
            fds.get(1).is_some_and(|fd| fd.any().unwrap_or(false))
        };
        if !ready {
            continue;
        }
        let n = input
            .read(&mut buffer)
            .context("cannot read from the terminal")?;
        input_open = n > 0;
        let mut out = Vec::new();
        for &byte in &buffer[..n] {
            match (prefixed, byte) {
                (true, b'x' | b'X') => return Ok(true),
                (false, PREFIX) => prefixed = true,
                _ => {
                    prefixed = false;
                    out.push(byte);
                }
            }
        }
        send(&mut console.input, &out)?;
    }
}

fn send(console: &mut File, mut data: &[u8]) -> Result<()> {
    while !data.is_empty() {
        match console.write(data) {
            Ok(n) => data = &data[n..],
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(5))
            }
            Err(e) => return Err(e).context("cannot write to the guest's console"),
        }
    }
    Ok(())
}
