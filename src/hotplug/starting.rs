// SPDX-License-Identifier: GPL-2.0

//! A CPU comes up, or goes down.

use super::{
    record::{
        is_off,
        keep_doubt,
        Record,
        BARE,
        FRESH,
        KNOWN,
        MOVABLE,
        OVERWRITTEN,
        SAID,
        UP, //
    },
    session::{
        soon,
        Came,
        Control,
        SESSIONS, //
    },
    Tscs, //
};
use crate::{
    abstractions::{
        async_call::AsyncCall,
        cpu,
        cpu::Pinned,
        cpuhp,
        tsc::rdtsc_ordered, //
    },
    backend::Backend,
    clock::Clock,
    logic::{
        tsc_adjust::{
            Check as ToCheck,
            Input,
            Place,
            Reason,
            Standing, //
        },
        word::Word, //
    },
};
use kernel::{
    cpu::CpuId,
    prelude::*,
    sync::Arc, //
};

impl<B: Backend> Tscs<B> {
    /// A CPU starts, the one on which the caller runs.
    ///
    /// Context: the STARTING section: interrupts disabled, the CPU is not online yet.
    fn starting(&self, here: &Pinned, call: &AsyncCall<Control<B>>) {
        let Some((cpu, record)) = CpuId::from_u32(here.cpu())
            .and_then(|cpu| self.record(cpu).map(|record| (cpu, record)))
        else {
            return;
        };
        let number = cpu.as_u32();
        let socket = u64::from(cpu::socket(cpu));
        record.socket.store(socket);
        let mut found = self.read(here);
        let was_bare = record.is(BARE);
        record.set(BARE | MOVABLE, false);
        let was_denied = record.is(KNOWN) && matches!(record.standing(), Standing::Denied(_));
        // Where nobody has looked since it came up the last time, the kernel's check may have moved it.
        if record.is(KNOWN) && !record.is(FRESH) && !was_bare && self.is_at_work() {
            found = self.restore(here, record, found, false);
        } else {
            // Of an earlier life.
            record.set(OVERWRITTEN, false);
        }
        if found.is_none() && self.register.is_some() {
            record.set(BARE, true);
        }
        record.boot_value.store(found.unwrap_or(0) as u64);
        record.set_to.store(found.unwrap_or(0) as u64);
        record.retries.store(0);
        record.set(SAID, false);

        let place = match self.reference(socket, |other| other != number) {
            Some(reference) => Place::Sibling(reference),
            None => Place::FirstOnSocket,
        };
        let mut input = self.input(found, place);
        let decision = self.follow(record, &mut input, was_denied, |value| {
            self.write(here, value, false)
        });
        if let Some(message) = &decision.log {
            self.log(number, message);
        }
        match decision.check {
            ToCheck::Run(ms) => self.check_starting(here, record, input, ms, call),
            ToCheck::Skip => self.counts.skipped.increment(),
        }
        keep_doubt(record, was_denied);
        // Only now it counts, with the verdict that it has: nobody is to leave mode `tsc` for a check
        // that is under way, as the CPU does not read the clock yet.
        let flags = record.flags.load();
        record.flags.store_release(flags | UP | KNOWN | FRESH);
    }

    /// Has the CPU checked that starts, the one on which the caller runs. What cannot be done now is
    /// left to the look once a second.
    fn check_starting(
        &self,
        here: &Pinned,
        record: &Record,
        input: Input,
        ms: u32,
        call: &AsyncCall<Control<B>>,
    ) {
        for _ in 0..SESSIONS {
            let Some(control) = self.control(here.cpu()) else {
                return;
            };
            let Some(session) = self.open(control, ms, false) else {
                return;
            };
            let sent = soon(|| match call.send(control) {
                Err(error) if error == EBUSY => None,
                result => Some(result),
            });
            if !matches!(sent, Some(Ok(()))) {
                return;
            }
            match self.start(here, record, input, session) {
                Came::ToResult => return,
                Came::ToNothing => {}
            }
        }
    }

    /// A CPU goes, the one on which the caller runs.
    ///
    /// Context: the end of the STARTING section, backwards: interrupts disabled, not online any
    /// more. The verdict of a socket passes to one that goes by it, if it is a good one.
    fn dying(&self, here: &Pinned) {
        let Some(record) = self.records.get(here.cpu() as usize) else {
            return;
        };
        self.bequeath(record);
        // Last: there is no moment at which neither it nor its heir is asked.
        record.set(UP, false);
    }

    /// Passes the verdict of a socket on.
    fn bequeath(&self, record: &Record) {
        let standing = record.standing();
        if standing == Standing::Socket {
            return;
        }
        let socket = record.socket.load();
        let others = || {
            self.up()
                .map(|(_, other)| other)
                .filter(|other| !core::ptr::eq(*other, record) && other.socket.load() == socket)
        };
        if matches!(standing, Standing::Denied(_)) {
            // It may have been the CPU and not the socket: who went by it is looked at by itself.
            for other in others().filter(|other| other.standing() == Standing::Socket) {
                other.boot_value.store(record.boot_value.load());
                other.stand(Standing::Denied(Reason::NotChecked));
                // Until then it is as far off as that one was.
                other.set(MOVABLE, is_off(standing) || record.is(MOVABLE));
                other.retries.store(0);
            }
            return;
        }
        if others().any(|other| other.standing() != Standing::Socket) {
            return;
        }
        if let Some(heir) = others().next() {
            // Of the same value, since it was set to that.
            heir.boot_value.store(record.boot_value.load());
            heir.stand(standing);
        }
    }
}

/// What happens on a CPU that comes up or goes down: first its page, then its TSC.
pub(crate) struct Cpus<B: Backend> {
    clock: Arc<Clock<B>>,
    tscs: Arc<Tscs<B>>,
    call: Arc<AsyncCall<Control<B>>>,
}

impl<B: Backend> Cpus<B> {
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(clock: Arc<Clock<B>>, tscs: Arc<Tscs<B>>) -> Result<Self> {
        let call = Arc::pin_init(AsyncCall::new(Control(tscs.clone())), GFP_KERNEL)?;
        Ok(Self { clock, tscs, call })
    }
}

impl<B: Backend> cpuhp::Callbacks for Cpus<B> {
    fn starting(&self, cpu: CpuId) {
        // With what moves its TSC among it, so it says how long where nothing does.
        let begin = rdtsc_ordered();
        self.clock.starting();
        // One that was up when the callbacks were registered is online, and not starting.
        if self.tscs.has_begun.load() != 0 && !cpu::is_online(cpu) {
            self.tscs.starting(&Pinned::new(), &self.call);
            let cycles = rdtsc_ordered().wrapping_sub(begin);
            self.tscs.counts.starting.store(cycles);
        }
    }

    fn dying(&self, cpu: CpuId) {
        // One that stays up when the registration ends keeps its verdict until the end.
        if !cpu::is_online(cpu) {
            self.tscs.dying(&Pinned::new());
        }
        self.clock.dying();
    }
}
