// SPDX-License-Identifier: GPL-2.0

//! One check of two CPUs: how it is opened, and what each of the two does in it.

use super::{
    record::{
        Record,
        SAID, //
    },
    Tscs, //
};
use crate::{
    abstractions::{
        async_call,
        cpu,
        cpu::Pinned,
        tsc::rdtsc_ordered,
        tsc_adjust::tsc_khz, //
    },
    backend::Backend,
    clock::Clock,
    logic::{
        tsc_adjust::{
            Check as ToCheck,
            Input,
            Message,
            Outcome,
            Runs,
            Standing,
            Verdict,
            MAX_RUNS, //
        },
        tsc_sync::{
            Bounds,
            Env,
            Ticket, //
        },
        word::Word, //
    },
};
use kernel::{
    cpu::CpuId,
    sync::Arc, //
};

/// How often a check that came to nothing is made anew at once. On a CPU that starts that is one across
/// which the TSC was changed, and else one without a result as well.
pub(super) const SESSIONS: u32 = 3;

/// How many turns a starting CPU waits at most for what does not take long: the end of a change of the
/// TSC, or the control CPU's of the last session.
const TURNS: u32 = 1_000_000;

/// A CPU on which one side of the check runs.
struct Here<'a, B: Backend>(&'a Clock<B>);

impl<B: Backend> Env for Here<'_, B> {
    fn tsc(&self) -> u64 {
        rdtsc_ordered()
    }

    fn us(&self) -> Option<u64> {
        self.0.backend.us()
    }

    fn relax(&self) {
        cpu::relax();
        // As the kernel's check has it: interrupts are disabled for 20 ms and more.
        cpu::touch_watchdogs();
    }
}

/// Tries something again and again that will be possible soon.
pub(super) fn soon<R>(mut attempt: impl FnMut() -> Option<R>) -> Option<R> {
    for _ in 0..TURNS {
        let result = attempt();
        if result.is_some() {
            return result;
        }
        cpu::relax();
    }
    None
}

/// A session, as the control CPU has to know it.
#[derive(Clone, Copy)]
pub(super) struct Session {
    ticket: Ticket,
    /// How long to sample, in ms; below 128.
    ms: u32,
    /// Whether both CPUs were up before.
    is_up: bool,
    /// The number of the control CPU: a call of an earlier session may come late, and to another one.
    pub(super) control: u32,
}

impl Session {
    const MS: u32 = 32;
    const IS_UP: u32 = 39;
    const CONTROL: u32 = 40;

    fn to_word(self) -> u64 {
        u64::from(self.ticket.to_number())
            | (u64::from(self.ms) & 0x7f) << Self::MS
            | u64::from(self.is_up) << Self::IS_UP
            | u64::from(self.control) << Self::CONTROL
    }

    fn from_word(word: u64) -> Self {
        Self {
            ticket: Ticket::from_number(word as u32),
            ms: (word >> Self::MS) as u32 & 0x7f,
            is_up: word >> Self::IS_UP & 1 != 0,
            control: (word >> Self::CONTROL) as u32,
        }
    }

    fn bounds(self) -> Bounds {
        let bounds = Bounds::new(tsc_khz(), self.ms);
        if self.is_up {
            bounds.impatient()
        } else {
            bounds
        }
    }
}

/// How a session came out, for who has started it.
pub(super) enum Came {
    /// It has a result, which stands in the record.
    ToResult,
    /// The TSC was changed meanwhile, or is.
    ToNothing,
}

impl<B: Backend> Tscs<B> {
    /// A CPU that is good to compare another one with; the lowest number, the boot CPU as a rule.
    pub(super) fn control(&self, other: u32) -> Option<CpuId> {
        let reliable = self.is_reliable();
        let (cpu, _) = self.up().find(|(cpu, record)| {
            *cpu != other
                && record.standing() != Standing::Socket
                && record.standing().verdict(reliable) == Verdict::Allowed
        })?;
        CpuId::from_u32(cpu)
    }

    /// Opens a session for the control CPU and the starting one; `None` where the TSC is being
    /// changed, or a CPU has not left the last one.
    pub(super) fn open(&self, control: CpuId, ms: u32, is_up: bool) -> Option<Session> {
        let ticket = soon(|| {
            let is_changing = self.changes.load_acquire() & 1 != 0;
            if is_changing {
                None
            } else {
                self.check.open().ok()
            }
        })?;
        let session = Session {
            ticket,
            ms,
            is_up,
            control: control.as_u32(),
        };
        self.session.store_release(session.to_word());
        Some(session)
    }

    /// The starting CPU's side of a session, with all that follows from what it finds.
    ///
    /// Context: interrupts disabled, on that CPU.
    pub(super) fn start(
        &self,
        here: &Pinned,
        record: &Record,
        mut input: Input,
        session: Session,
    ) -> Came {
        let bounds = session.bounds();
        let before = self.changes.load_acquire();
        let mut is_void = false;
        let mut runs = Runs::default();
        let mut messages = [None; MAX_RUNS as usize];
        // Also where a change is under way: the other CPU is not to wait for nobody.
        self.check.starting(
            session.ticket,
            &Here(&self.clock),
            &bounds,
            |run, measured| {
                if before & 1 != 0 || self.changes.load_acquire() != before {
                    is_void = true;
                    return false;
                }
                self.counts.runs.increment();
                let outcome =
                    measured.map_or(Outcome::Absent, |measured| measured.outcome(&bounds));
                input.step = runs.step(run, record.set_to(), outcome);
                let decision = self.follow(record, &mut input, false, |value| {
                    self.write(here, value, session.is_up)
                });
                if let Some(message) = messages.get_mut(usize::from(run.saturating_sub(1))) {
                    *message = decision.log;
                }
                decision.check != ToCheck::Skip
            },
        );
        for message in messages.iter().flatten() {
            // One that comes to nothing again and again is said once.
            let is_open = matches!(message, Message::Failed(Outcome::Unseen | Outcome::Absent));
            if !is_open || !record.is(SAID) {
                self.log(here.cpu(), message);
            }
            if is_open {
                record.set(SAID, true);
            }
        }
        if is_void {
            self.counts.void.increment();
            record.stand(Standing::Pending);
            // That says nothing of how busy the host is.
            record.retries.store(0);
            Came::ToNothing
        } else {
            if record.standing().verdict(false) == Verdict::Allowed {
                record.retries.store(0);
                record.set(SAID, false);
            }
            Came::ToResult
        }
    }

    /// The control CPU's side of a session.
    ///
    /// Context: interrupts disabled.
    pub(super) fn be_compared_with(&self) {
        let session = Session::from_word(self.session.load_acquire());
        if session.control != Pinned::new().cpu() {
            // A call of an earlier session, in which it was this CPU.
            return;
        }
        self.check
            .control(session.ticket, &Here(&self.clock), &session.bounds());
    }
}

/// The control CPU, that is called by the one that starts.
pub(super) struct Control<B: Backend>(pub(super) Arc<Tscs<B>>);

impl<B: Backend> async_call::Target for Control<B> {
    fn called(&self) {
        self.0.be_compared_with();
    }
}
