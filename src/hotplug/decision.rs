// SPDX-License-Identifier: GPL-2.0

//! What is decided about a CPU, by [`crate::logic::tsc_adjust`], and what follows from it.

use super::{
    record::{
        Record,
        BARE, //
    },
    Tscs, //
};
use crate::{
    backend::Backend,
    logic::{
        tsc_adjust::{
            decide,
            Check as ToCheck,
            Decision,
            Input,
            Message,
            Place,
            Reference,
            Standing,
            Step, //
        },
        word::Word, //
    },
};
use kernel::prelude::*;

/// Whether sockets are reset asynchronously (`tsc_async_resets`): the kernel sets that on an SGI UV
/// by itself alone, and this driver loads where there is a hypervisor alone.
const ASYNC_RESETS: bool = false;

impl<B: Backend> Tscs<B> {
    /// What to decide about: a CPU that came up with that TSC_ADJUST, as far as it may be written.
    pub(super) fn input(&self, boot_value: Option<i64>, place: Place) -> Input {
        Input {
            boot_value,
            place,
            async_resets: ASYNC_RESETS,
            reliable: self.is_reliable() || self.is_needed.load() == 0,
            // Asked for when the verdict is: the CPU's own one is what is kept.
            withdrawn: false,
            step: Step::Starting,
        }
    }

    /// By whose TSC_ADJUST a CPU of the socket goes: the first one that is up of those that `is`
    /// admits and that stand for themselves.
    pub(super) fn reference(&self, socket: u64, is: impl Fn(u32) -> bool) -> Option<Reference> {
        self.up()
            .find(|(cpu, record)| {
                is(*cpu) && record.socket.load() == socket && record.standing() != Standing::Socket
            })
            .map(|(_, record)| Reference {
                boot_value: record.boot_value.load() as i64,
                set_to: record.set_to(),
                in_step: !matches!(record.standing(), Standing::Denied(_)),
            })
    }

    /// Decides about a CPU, does that, and notes it; `write` writes its TSC_ADJUST and returns what
    /// that holds then. What there is to log comes later: the other CPU may wait.
    ///
    /// A CPU `was_denied` that would pass now by its TSC_ADJUST alone is to be checked: that this is
    /// right is not what it lacked. So is one whose register does not hold what is written to it.
    pub(super) fn follow(
        &self,
        record: &Record,
        input: &mut Input,
        was_denied: bool,
        write: impl FnOnce(i64) -> Option<i64>,
    ) -> Decision {
        let mut decision = decide(input);
        let mut log = decision.log;
        if let Some(value) = decision.write {
            let holds = write(value);
            if holds == Some(value) {
                self.counts.writes.increment();
            } else {
                record.set(BARE, true);
                record.set_to.store(holds.unwrap_or(0) as u64);
                if matches!(
                    log,
                    Some(Message::Moved { .. } | Message::BootCpuSet { .. })
                ) {
                    log = None;
                }
                input.boot_value = None;
                decision = decide(input);
            }
        }
        if was_denied && decision.check == ToCheck::Skip {
            // Not for the boot CPU, with which the others are compared.
            input.boot_value = None;
            let set_to = decision.set_to;
            decision = decide(input);
            decision.set_to = set_to;
        }
        decision.log = decision.log.or(log);
        if let Some(value) = decision.set_to {
            record.set_to.store(value as u64);
        }
        record.stand(Standing::of(input, &decision));
        decision
    }

    pub(super) fn log(&self, cpu: u32, message: &Message) {
        if message.once() {
            if self.has_differed.load() != 0 {
                return;
            }
            self.has_differed.store(1);
        }
        // By `core`'s own formatting, as the logic knows no other.
        match message {
            Message::BootCpuLeft { .. } => {
                pr_info!("CPU{}: {}\n", cpu, core::format_args!("{message}"))
            }
            _ => pr_warn!("CPU{}: {}\n", cpu, core::format_args!("{message}")),
        }
    }
}
