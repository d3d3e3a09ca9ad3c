// SPDX-License-Identifier: GPL-2.0

//! Runs one QEMU: its consoles are pipes here, every line goes to a log and to the session, and it never
//! outlives this process.

use crate::console::{Assembler, Line, Source};
use crate::session::{self, Phase, Session};
use crate::verdict::Stop;
use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Told of what happens, while it happens.
pub trait Watcher {
    /// The machine runs; its monitor, if it has one, is at this socket.
    fn started(&mut self, _qmp: Option<&Path>) {}
    fn line(&mut self, _source: Source, _line: &Line) {}
    fn phase(&mut self, _phase: Phase, _at: Duration) {}
    fn tick(&mut self, _phase: Phase, _at: Duration) {}
}

/// Says nothing.
pub struct Quiet;

impl Watcher for Quiet {}

/// How to start a QEMU.
#[derive(Clone, Debug)]
pub struct Launch {
    pub program: PathBuf,
    pub args: Vec<OsString>,
    /// In the order of the serial ports.
    pub consoles: Vec<Source>,
    /// With a monitor for us.
    pub qmp: bool,
}

/// A QEMU that runs. Killed when dropped.
pub struct Machine {
    child: Child,
    pub consoles: Vec<(Source, Console)>,
    stderr: PathBuf,
    qmp: Option<PathBuf>,
    // The pipes stand in it.
    _dir: tempfile::TempDir,
}

/// A serial line's two directions.
///
/// Pipes, as they hold what a socket does not: a guest's kernel waits 10 ms for its UART and then drops a
/// character, and a socket's buffer is full after a few hundred of them, each being a message of its own.
pub struct Console {
    /// What the machine writes.
    pub output: File,
    /// What it reads.
    pub input: File,
}

/// As large as a pipe may be made without privileges.
const PIPE_SIZE: i32 = 1 << 20;

impl Console {
    /// Makes the pipes that QEMU's `-chardev pipe,path=` opens.
    fn make(path: &Path) -> Result<Console> {
        let open = |extension: &str| {
            let path = path.with_extension(extension);
            nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)
                .with_context(|| format!("cannot make the pipe {}", path.display()))?;
            // For both directions, so that neither end ever finds the other one missing.
            File::options()
                .read(true)
                .write(true)
                .custom_flags(OFlag::O_NONBLOCK.bits())
                .open(&path)
                .with_context(|| format!("cannot open the pipe {}", path.display()))
        };
        let console = Console {
            output: open("out")?,
            input: open("in")?,
        };
        // The usual size does for a machine that is not overloaded.
        let _ = fcntl(&console.output, FcntlArg::F_SETPIPE_SZ(PIPE_SIZE));
        Ok(console)
    }
}

impl Machine {
    pub fn start(launch: &Launch, log_dir: &Path) -> Result<Machine> {
        fs::create_dir_all(log_dir)
            .with_context(|| format!("cannot create {}", log_dir.display()))?;
        let dir = tempfile::Builder::new()
            .prefix("rig-")
            .tempdir()
            .context("cannot create a directory for pipes")?;
        // Dies with us, however we die: nothing else would end a guest whose rig was killed.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&launch.program)
            .args(&launch.args);
        let mut consoles = Vec::new();
        for (i, source) in launch.consoles.iter().enumerate() {
            let path = dir.path().join(format!("console{i}"));
            consoles.push((*source, Console::make(&path)?));
            command
                .arg("-chardev")
                .arg(format!("pipe,id=console{i},path={}", path.display()))
                .arg("-serial")
                .arg(format!("chardev:console{i}"));
        }
        let qmp = launch.qmp.then(|| dir.path().join("qmp"));
        if let Some(path) = &qmp {
            command
                .arg("-qmp")
                .arg(format!("unix:{},server=on,wait=off", path.display()));
        }
        let stderr = log_dir.join("qemu.stderr");
        let create =
            |p: &Path| File::create(p).with_context(|| format!("cannot create {}", p.display()));
        fs::write(log_dir.join("qemu.command"), format!("{command:?}\n"))
            .context("cannot write a log")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(create(&log_dir.join("qemu.stdout"))?)
            .stderr(create(&stderr)?)
            .spawn()
            .context("cannot start setpriv (of util-linux), which starts QEMU")?;
        Ok(Machine {
            child,
            consoles,
            stderr,
            qmp,
            _dir: dir,
        })
    }

    /// What QEMU printed to its standard error.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("cannot wait for QEMU")
    }

    fn exited(&self, status: ExitStatus) -> Stop {
        let status = status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        Stop::Exited {
            status,
            stderr: self.said(),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One console: what reads it and where it is logged.
struct Tap {
    source: Source,
    console: Console,
    assembler: Assembler,
    log: File,
}

impl Tap {
    /// Reads what is there; with `last`, all that there will ever be.
    fn drain(&mut self, now: Duration, last: bool) -> Result<Vec<Line>> {
        let mut lines = Vec::new();
        let mut buffer = [0; 16 * 1024];
        loop {
            match self.console.output.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => lines.extend(self.assembler.push(&buffer[..n], now)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e).context("cannot read a console"),
            }
        }
        if last {
            lines.extend(self.assembler.finish(now));
        }
        self.log(&lines)?;
        Ok(lines)
    }

    fn log(&mut self, lines: &[Line]) -> Result<()> {
        for l in lines {
            writeln!(self.log, "{:8.2} {}{}", l.at.as_secs_f64(), l.stamp, l.text)
                .context("cannot write a console's log: is the disk full?")?;
        }
        Ok(())
    }
}

/// How long a process has been ready to run and had no CPU: the thread of it that waited longest.
struct Starvation {
    tasks: PathBuf,
    /// By thread.
    seen: HashMap<OsString, Duration>,
}

impl Starvation {
    fn of(pid: u32) -> Starvation {
        Starvation {
            tasks: PathBuf::from(format!("/proc/{pid}/task")),
            seen: HashMap::new(),
        }
    }

    /// Since it was asked last. Zero where the kernel does not tell.
    fn since_last(&mut self) -> Duration {
        let mut most = Duration::ZERO;
        for task in fs::read_dir(&self.tasks).into_iter().flatten().flatten() {
            let Some(now) = fs::read_to_string(task.path().join("schedstat"))
                .ok()
                .and_then(|text| waited_in(&text))
            else {
                continue;
            };
            let before = self.seen.insert(task.file_name(), now).unwrap_or_default();
            most = most.max(now.saturating_sub(before));
        }
        most
    }
}

/// The second number of a `schedstat`: ns on a run queue.
fn waited_in(schedstat: &str) -> Option<Duration> {
    let ns = schedstat.split_whitespace().nth(1)?.parse().ok()?;
    Some(Duration::from_nanos(ns))
}

/// Runs the machine to its end, whatever that is, and tells the session.
pub fn watch(
    launch: &Launch,
    log_dir: &Path,
    session: &mut Session,
    clock: Instant,
    watcher: &mut dyn Watcher,
) -> Result<Stop> {
    let mut machine = Machine::start(launch, log_dir)?;
    watcher.started(machine.qmp.as_deref());
    let mut taps = Vec::new();
    for (source, console) in machine.consoles.drain(..) {
        let path = log_dir.join(format!("{}.log", source.to_string().to_lowercase()));
        let log = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        taps.push(Tap {
            source,
            console,
            assembler: Assembler::default(),
            log,
        });
    }
    // L1 is read first, so that whatever L2 said before L1 says that L2 has ended is there to be read.
    taps.sort_by_key(|t| t.source == Source::L2);
    let mut phase = session.phase();
    let mut starvation = Starvation::of(machine.child.id());
    loop {
        let exited = machine.try_wait()?;
        session.starved(starvation.since_last());
        let mut lines = Vec::new();
        for tap in &mut taps {
            let now = clock.elapsed();
            lines.extend(
                tap.drain(now, exited.is_some())?
                    .into_iter()
                    .map(|l| (tap.source, l)),
            );
        }
        for (source, line) in in_order(lines) {
            watcher.line(source, &line);
            session.line(source, line);
        }
        if session.phase() != phase {
            phase = session.phase();
            watcher.phase(phase, clock.elapsed());
        }
        watcher.tick(phase, clock.elapsed());
        if let Some(status) = exited {
            return Ok(machine.exited(status));
        }
        if let Some(stop) = session.overdue(clock.elapsed()) {
            return Ok(stop);
        }
        wait_for_output(&taps)?;
    }
}

/// Puts what L2 said before what L1 says of L2's end. The wires have no order between them, but L2 has long been
/// silent when L1 starts the next one, and says its first word long after.
fn in_order(lines: Vec<(Source, Line)>) -> Vec<(Source, Line)> {
    let (mut host, guest): (Vec<_>, Vec<_>) = lines
        .into_iter()
        .partition(|(source, _)| *source == Source::L1);
    let end = host
        .iter()
        .position(|(_, l)| session::is_end_of_run(l))
        .unwrap_or(host.len());
    let rest = host.split_off(end);
    host.into_iter().chain(guest).chain(rest).collect()
}

fn wait_for_output(taps: &[Tap]) -> Result<()> {
    const LOOK_UP: u16 = 200;
    let mut fds: Vec<PollFd<'_>> = taps
        .iter()
        .map(|t| PollFd::new(t.console.output.as_fd(), PollFlags::POLLIN))
        .collect();
    match poll(&mut fds, PollTimeout::from(LOOK_UP)) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(e) => Err(e).context("cannot wait for the consoles"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Limits;
    use crate::verdict::Verdict;
    use crate::vm::Flavour;

    #[test]
    fn waiting_for_a_cpu_is_seen() {
        assert_eq!(waited_in("5 1500 2\n"), Some(Duration::from_nanos(1500)));
        assert_eq!(waited_in(""), None);
        // More threads than CPUs: some of them wait.
        let done = std::sync::atomic::AtomicBool::new(false);
        let threads = 2 * std::thread::available_parallelism().map_or(2, usize::from);
        let mut own = Starvation::of(std::process::id());
        own.since_last();
        let seen = std::thread::scope(|s| {
            for _ in 0..threads {
                s.spawn(|| {
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(300));
            let seen = own.since_last();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            seen
        });
        if fs::read_to_string("/proc/self/schedstat").is_ok_and(|t| waited_in(&t).is_some()) {
            assert!(seen > Duration::from_millis(10), "{seen:?}");
        } else {
            println!("SKIP waiting_for_a_cpu_is_seen: this kernel has no schedstat");
        }
        assert_eq!(Starvation::of(u32::MAX).since_last(), Duration::ZERO);
    }

    /// A process in QEMU's place that knows its arguments `-chardev pipe,...,path=P`, one or two of them.
    fn fake(body: &str, consoles: Vec<Source>) -> Launch {
        let script = format!(
            "import sys, time\n\
             paths = [a.split('path=')[1] for a in sys.argv if 'path=' in a]\n\
             c = [open(p + '.out', 'wb', buffering=0) for p in paths]\n\
             def say(i, t): c[i].write((t + '\\r\\n').encode())\n{body}\n"
        );
        let args = ["-c", &script].iter().map(OsString::from).collect();
        Launch {
            program: PathBuf::from("/usr/bin/python3"),
            args,
            consoles,
            qmp: false,
        }
    }

    fn verdict(body: &str, limits: Limits) -> Verdict {
        let dir = tempfile::tempdir().unwrap();
        let clock = Instant::now();
        let mut session = Session::new(&[Flavour::KvmAdopt], limits);
        let launch = fake(body, vec![Source::L1, Source::L2]);
        let stop = watch(&launch, dir.path(), &mut session, clock, &mut Quiet).unwrap();
        let mut ended = session.finish(&stop);
        ended.outcomes.remove(0).verdict
    }

    const UP: &str = "say(0, '@rig l1 run kvm-adopt'); say(1, '@rig start kvm-adopt check')\n";

    #[test]
    fn a_finished_run() {
        let v = verdict(
            &format!(
                "{UP}say(1, '@rig end status=0 tainted=0'); say(0, '@rig l1 ran kvm-adopt status=0')"
            ),
            Limits::default(),
        );
        assert_eq!(v, Verdict::Finished { status: 0 });
    }

    #[test]
    fn the_guests_words_come_before_the_news_of_its_end() {
        let l = |source, text: &str| (source, Line::user(Duration::ZERO, text));
        let lines = vec![
            l(Source::L1, "@rig l1 run a"),
            l(Source::L1, "@rig l1 ran a status=0"),
            l(Source::L2, "x"),
        ];
        let texts: Vec<String> = in_order(lines).into_iter().map(|(_, l)| l.text).collect();
        assert_eq!(texts, ["@rig l1 run a", "x", "@rig l1 ran a status=0"]);
    }

    #[test]
    fn exit_status_0_alone_is_no_pass() {
        assert!(matches!(
            verdict(UP, Limits::default()),
            Verdict::RigDeath { .. }
        ));
    }

    #[test]
    fn exit_status_1_is_qemus_error() {
        let v = verdict(
            &format!("{UP}print('cannot', file=sys.stderr)\nsys.exit(1)"),
            Limits::default(),
        );
        assert_eq!(v, Verdict::QemuError("QEMU exited with 1: cannot".into()));
    }

    #[test]
    fn a_silent_machine_is_killed() {
        let limits = Limits {
            silence: Duration::from_millis(300),
            ..Limits::default()
        };
        let start = Instant::now();
        let v = verdict(&format!("{UP}time.sleep(60)"), limits);
        assert!(matches!(v, Verdict::RigDeath { .. }), "{v:?}");
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn one_that_does_not_start_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let mut session = Session::new(&[Flavour::KvmAdopt], Limits::default());
        let args = vec![
            "-c".into(),
            "import sys; sys.exit('no such machine')".into(),
        ];
        let launch = Launch {
            args,
            ..fake("", vec![Source::L1])
        };
        let stop = watch(
            &launch,
            dir.path(),
            &mut session,
            Instant::now(),
            &mut Quiet,
        )
        .unwrap();
        let verdict = session.finish(&stop).outcomes.remove(0).verdict;
        assert_eq!(
            verdict,
            Verdict::QemuError("QEMU exited with 1: no such machine".into())
        );
    }

    #[test]
    fn a_reader_that_is_late_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let body = "for i in range(60000): c[1].write(b'x')\nsay(1, '')\ntime.sleep(0.3)";
        let machine =
            Machine::start(&fake(body, vec![Source::L1, Source::L2]), dir.path()).unwrap();
        // All is written before the first byte is read.
        std::thread::sleep(Duration::from_secs(2));
        let (_, console) = machine
            .consoles
            .iter()
            .find(|(s, _)| *s == Source::L2)
            .unwrap();
        let mut read = 0;
        let mut buffer = [0; 4096];
        while let Ok(n) = (&console.output).read(&mut buffer) {
            read += buffer[..n].iter().filter(|b| **b == b'x').count();
        }
        assert_eq!(read, 60000);
    }
}
