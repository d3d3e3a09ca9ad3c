// SPDX-License-Identifier: GPL-2.0

//! CPUs that are up: at load, when the option changes, and when a check came to nothing.

use super::{
    record::{
        is_off,
        keep_doubt,
        Record,
        BARE,
        KNOWN,
        MOVABLE,
        MOVING,
        UP, //
    },
    session::SESSIONS,
    Tscs, //
};
use crate::{
    abstractions::{
        cpu,
        cpu::{
            HotplugReadGuard,
            Pinned, //
        },
        word::AtomicWord, //
    },
    backend::Backend,
    logic::{
        tsc_adjust::{
            Check as ToCheck,
            HostsWord,
            Input,
            Place,
            Reason,
            Standing,
            FIRST_MS, //
        },
        word::Word, //
    },
};
use kernel::{
    cpu::CpuId,
    time::{
        Delta,
        Instant,
        Monotonic, //
    },
};

/// How often a check that came to no result is made anew, a second apart.
const RETRIES: u64 = 10;

/// Every how many seconds from then on.
const RETRIES_LATER: u64 = 60;

/// How long one look goes on to begin checks that are made anew, in ms: hotplug, suspend and the
/// parameters wait for it meanwhile. The next look goes on with the others.
const RETRIES_MS: i64 = 100;

impl<B: Backend> Tscs<B> {
    /// Begins the record of a CPU that is up already.
    ///
    /// Context: the hotplug lock is held.
    pub(super) fn adopt(&self, cpu: CpuId) {
        let Some(record) = self.record(cpu) else {
            return;
        };
        let is_there = AtomicWord::default();
        if self.register.is_some() {
            let _ = cpu::on(cpu, || {
                if let Some(found) = self.read(&Pinned::new()) {
                    record.boot_value.store(found as u64);
                    record.set_to.store(found as u64);
                    is_there.store(1);
                }
            });
            record.set(BARE, is_there.load() == 0);
        }
        record.socket.store(cpu::socket(cpu).into());
        record.stand(Standing::Pending);
        let flags = record.flags.load();
        record.flags.store_release(flags | UP | KNOWN);
    }

    /// Decides about those CPUs that are up that `wanted` admits, in ascending order. Who goes by one
    /// that was moved follows.
    ///
    /// Context: may sleep; the hotplug lock and [`Tscs::work`] are held.
    pub(super) fn survey(&self, guard: &HotplugReadGuard, wanted: impl Fn(&Record) -> bool) {
        for cpu in guard.online() {
            let Some(record) = self.record(cpu).filter(|record| wanted(record)) else {
                continue;
            };
            let set_to = record.set_to();
            let may_move = self.begin_moving(record);
            self.decide_about(cpu, record, may_move);
            if record.set_to() != set_to && record.standing() != Standing::Socket {
                for sibling in guard.online() {
                    if let Some(other) = self.record(sibling) {
                        let goes_by_it = other.standing() == Standing::Socket
                            && other.socket.load() == record.socket.load();
                        if goes_by_it {
                            self.decide_about(sibling, other, may_move);
                        }
                    }
                }
            }
            for record in self.records.iter() {
                record.set(MOVING, false);
            }
        }
    }

    /// Decides about a CPU that is up. Where it must not be moved it is compared all the same.
    fn decide_about(&self, cpu: CpuId, record: &Record, may_move: bool) {
        let number = cpu.as_u32();
        let socket = record.socket.load();
        let place = match self.reference(socket, |other| other < number) {
            Some(reference) => Place::Sibling(reference),
            None if number == 0 => Place::Boot,
            None => Place::FirstOnSocket,
        };
        let set_to = record.set_to();
        let was_denied = record.is(MOVABLE) || matches!(record.standing(), Standing::Denied(_));
        let was_off = record.is(MOVABLE)
            || matches!(record.standing(), Standing::Denied(reason) if reason != Reason::NotChecked);
        let fits = match place {
            Place::Sibling(reference) => reference.set_to == set_to,
            _ => false,
        };
        let is_there = self.register.is_some() && !record.is(BARE);
        let may_write = is_there && self.may_write(record);
        // What may not be written is as good as not there: then it is checked, and not moved.
        let value = (is_there && fits || may_write && may_move).then_some(set_to);
        let mut input = self.input(value, place);
        let decision = self.follow(record, &mut input, was_denied, |value| {
            self.write_on(cpu, value)
        });
        if let Some(message) = &decision.log {
            self.log(number, message);
        }
        if let ToCheck::Run(ms) = decision.check {
            // Nobody waits here, and to look for longer is to see more.
            let ms = if record.retries.load() == 0 {
                ms
            } else {
                FIRST_MS
            };
            self.check_up(cpu, record, input, ms);
        }
        keep_doubt(record, was_denied);
        // Nor is a CPU that was off in step for a check that came to no result.
        let (standing, was_movable) = (record.standing(), record.is(MOVABLE));
        let is_movable =
            is_off(standing) && may_write && !may_move || standing.is_open(false) && was_off;
        record.set(MOVABLE, is_movable);
        if is_movable && !was_movable {
            // Not a minute from now.
            record.retries.store(0);
        }
    }

    /// Has a CPU checked that is up.
    fn check_up(&self, cpu: CpuId, record: &Record, input: Input, ms: u32) {
        for _ in 0..SESSIONS {
            let Some(session) = self
                .control(cpu.as_u32())
                .and_then(|control| self.open(control, ms, true))
            else {
                return;
            };
            let Some(control) = CpuId::from_u32(session.control) else {
                return;
            };
            let _ = cpu::on_both(control, cpu, || {
                let here = Pinned::new();
                if here.cpu() == cpu.as_u32() {
                    self.start(&here, record, input, session);
                } else {
                    self.be_compared_with();
                }
            });
            // Else the two have hardly run at once, or the TSC was changed meanwhile.
            if !record.standing().is_open(self.is_reliable()) {
                return;
            }
        }
    }

    /// Checks the CPUs anew of which a check has come to no result; in the long run not often.
    pub(super) fn retry(&self, guard: &HotplugReadGuard) {
        // While the word is withdrawn there is no mode `tsc` anyway, and with the word the TSC is
        // reliable again.
        if self.is_needed.load() == 0 || self.word() == HostsWord::Withdrawn {
            return;
        }
        let reliable = self.is_reliable();
        let begin = Instant::<Monotonic>::now();
        self.survey(guard, |record| {
            let is_wanted = record.standing().is_open(reliable) || record.is(MOVABLE) && !reliable;
            if !record.is(UP) || !is_wanted || begin.elapsed() > Delta::from_millis(RETRIES_MS) {
                return false;
            }
            let retries = record.retries.load();
            record.retries.store(retries.saturating_add(1));
            retries < RETRIES || retries % RETRIES_LATER == 0
        });
    }
}
