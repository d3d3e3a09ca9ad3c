// SPDX-License-Identifier: GPL-2.0

//! TSC_ADJUST of a CPU: how it is read and written, and put right again.

use super::{
    record::{
        Record,
        BARE,
        FRESH,
        OVERWRITTEN,
        UP,
        WARNED, //
    },
    Tscs, //
};
use crate::{
    abstractions::{
        cpu,
        cpu::Pinned,
        tsc,
        tsc_adjust::move_deadline,
        word::AtomicWord, //
    },
    backend::Backend,
    logic::{
        tsc_adjust::{
            verify,
            Found,
            Reason,
            Standing, //
        },
        word::Word, //
    },
};
use kernel::{
    cpu::CpuId,
    prelude::*, //
};

impl<B: Backend> Tscs<B> {
    /// Reads TSC_ADJUST of this CPU; `None` where there is none, or it cannot be read.
    pub(super) fn read(&self, here: &Pinned) -> Option<i64> {
        self.register?
            .read(here)
            .inspect_err(|_| self.counts.faults.increment())
            .ok()
    }

    /// Writes TSC_ADJUST of this CPU, and returns what it holds then. A host may refuse the write, or
    /// ignore it. Of a CPU that `is_up` the next timer comes no later for it.
    pub(super) fn write(&self, here: &Pinned, value: i64, is_up: bool) -> Option<i64> {
        let before = if is_up { self.read(here) } else { None };
        if self.register?.write(here, value).is_err() {
            self.counts.faults.increment();
        }
        let holds = self.read(here)?;
        if let Some(before) = before {
            move_deadline(here, holds.wrapping_sub(before));
        }
        Some(holds)
    }

    /// As [`Tscs::write`], of another CPU, which has to be online.
    pub(super) fn write_on(&self, cpu: CpuId, value: i64) -> Option<i64> {
        let (is_there, holds) = (AtomicWord::default(), AtomicWord::default());
        // The call is ordered: it has returned before the words are read.
        cpu::on(cpu, || {
            if let Some(value) = self.write(&Pinned::new(), value, true) {
                holds.store(value as u64);
                is_there.store(1);
            }
        })
        .ok()?;
        (is_there.load() != 0).then_some(holds.load() as i64)
    }

    /// Whether TSC_ADJUST of a CPU that is up may be written by the rules: whether the kernel is sure
    /// not to revert it.
    ///
    /// `tsc_verify_tsc_adjust()` reverts by what the kernel has noted when the CPU came up, or
    /// does nothing where the TSC is unstable to the kernel, which that never takes back. Of the
    /// boot CPU it has noted 0, in `tsc_init()` already, and so of all CPUs on its socket, which it
    /// sets to what the first one there has. Of other sockets nobody else knows.
    pub(super) fn may_write(&self, record: &Record) -> bool {
        let boot = self.records.first();
        tsc::is_unstable() || boot.is_some_and(|boot| boot.socket.load() == record.socket.load())
    }

    /// Writes back what somebody else has changed on the CPU on which the caller runs, and returns
    /// what is there then.
    pub(super) fn restore(
        &self,
        here: &Pinned,
        record: &Record,
        value: Option<i64>,
        resume: bool,
    ) -> Option<i64> {
        let set_to = record.set_to();
        let restore = verify(&Found {
            value,
            set_to,
            warned: record.is(WARNED),
            resume,
            overwritten: record
                .is(OVERWRITTEN)
                .then_some(record.overwritten.load() as i64),
            // Not a CPU that starts: it comes up with what somebody else makes it come up with. And
            // where the kernel's record is known to be what the rules say, it is somebody else who
            // insists.
            kernel_verifies: record.is(UP) && !tsc::is_unstable() && !self.may_write(record),
        });
        if let Some(value) = restore.write {
            let holds = self.write(here, value, record.is(UP));
            if holds != Some(value) {
                pr_warn!(
                    "CPU{}: TSC_ADJUST cannot be set back to {}, the host does not take it\n",
                    here.cpu(),
                    value
                );
                // What its TSC is worth by the value that it has nobody knows, and it cannot be set.
                record.set(BARE, true);
                record.set_to.store(holds.unwrap_or(0) as u64);
                record.stand(Standing::Denied(Reason::NotChecked));
                if here.cpu() == 0 {
                    // The others were compared with it.
                    for (_, other) in self.up() {
                        other.stand(Standing::Denied(Reason::NotChecked));
                    }
                }
                return None;
            }
            self.counts.restores.increment();
        }
        record.set_to.store(restore.set_to as u64);
        record.set(WARNED, restore.warned);
        record.set(OVERWRITTEN, restore.overwritten.is_some());
        record
            .overwritten
            .store(restore.overwritten.unwrap_or(0) as u64);
        if let Some(value) = value {
            if restore.log && restore.write.is_some() {
                pr_warn!(
                    "CPU{}: TSC_ADJUST was changed from {} to {} by somebody else, restored\n",
                    here.cpu(),
                    set_to,
                    value
                );
            }
        }
        if restore.set_to != set_to {
            self.counts.yielded.increment();
            // What its TSC is worth by that value nobody has looked at.
            record.stand(Standing::Pending);
            pr_info!(
                "CPU{}: TSC_ADJUST {} is the kernel's, instead of {}\n",
                here.cpu(),
                restore.set_to,
                set_to
            );
        }
        value.map(|_| restore.set_to)
    }

    /// Looks at TSC_ADJUST of the CPU on which the caller runs.
    fn look(&self, here: &Pinned, record: &Record, resume: bool) {
        if record.is(BARE) {
            // What it was set to is not known.
            record.set(FRESH, false);
            return;
        }
        let value = self.read(here);
        let set_to = record.set_to();
        if record.is(FRESH) {
            record.set(FRESH, false);
            if let Some(value) = value {
                // The kernel's own check runs behind ours, and has found a warp that ours could not
                // see. The kernel goes by that value from now on.
                if value != set_to && !tsc::is_unstable() {
                    record.set_to.store(value as u64);
                    self.counts.yielded.increment();
                    if matches!(record.standing(), Standing::Denied(_)) {
                        record.stand(Standing::Pending);
                    }
                    pr_info!(
                        "CPU{}: TSC_ADJUST moved from {} to {} by the kernel's check\n",
                        here.cpu(),
                        set_to,
                        value
                    );
                    return;
                }
            }
        }
        self.restore(here, record, value, resume);
    }

    pub(super) fn look_at(&self, cpu: CpuId, resume: bool) {
        if let Some(record) = self.record(cpu).filter(|record| record.is(UP)) {
            let _ = cpu::on(cpu, || self.look(&Pinned::new(), record, resume));
        }
    }
}
