// SPDX-License-Identifier: GPL-2.0

//! The look once a second, and the one after a suspend.

use super::{
    record::{
        FRESH,
        KNOWN,
        UP, //
    },
    Tscs, //
};
use crate::{
    abstractions::{
        cpu,
        cpu::HotplugReadGuard,
        periodic,
        tsc::rdtsc_ordered,
        word::AtomicWord, //
    },
    backend::Backend,
    logic::{
        tsc_adjust::{
            HostsWord,
            Message,
            Reason,
            Standing,
            VERIFY_PERIOD_S, //
        },
        word::Word, //
    },
};
use kernel::{
    cpu::CpuId,
    prelude::*,
    sync::Arc, //
};

/// How often in a row a TSC has to be found apart from the others by the look to be so.
const WATCHED_TIMES: u32 = 3;

impl<B: Backend> periodic::Task for Arc<Tscs<B>> {
    /// It waits for CPUs that their host may not run.
    const IS_LONG: bool = true;

    /// The look once a second: at what the kernel has made of CPUs that came up, at the next one in
    /// turn, and at those of which the check has come to nothing.
    fn run(&self) -> u32 {
        let _work = self.work.lock();
        let guard = HotplugReadGuard::new();
        let last = self.turn.load();
        let mut first = None;
        let mut next = None;
        for cpu in guard.online() {
            let number = u64::from(cpu.as_u32());
            first = first.or(Some(cpu));
            if number > last {
                next = next.or(Some(cpu));
            }
            if self.record(cpu).is_some_and(|record| record.is(FRESH)) {
                self.look_at(cpu, false);
            }
        }
        if let Some(cpu) = next.or(first) {
            self.turn.store(cpu.as_u32().into());
            self.look_at(cpu, false);
            self.watch(cpu);
        }
        self.forget();
        self.retry(&guard);
        VERIFY_PERIOD_S * 1000
    }
}

impl<B: Backend> Tscs<B> {
    /// Looks at all CPUs after a suspend: what they were set to may be gone with the power.
    ///
    /// Context: may sleep.
    pub(crate) fn resume(&self) {
        let _work = self.work.lock();
        let guard = HotplugReadGuard::new();
        if self.clock.boot_cpu_restored() {
            self.counts.restores.increment();
            pr_warn!("CPU0: TSC_ADJUST was not 0 after the suspend, restored\n");
        }
        for cpu in guard.online() {
            self.look_at(cpu, true);
        }
    }

    /// Compares the TSC of a CPU that has been found in step once more, by what a call takes: this is
    /// the watchdog of a TSC that is not reliable.
    ///
    /// Its reading has to lie between two of another CPU, one of before and one of after. That is
    /// off by microseconds, so it finds TSCs that go apart and not those that are a bit off.
    fn watch(&self, cpu: CpuId) {
        let Some(record) = self.record(cpu).filter(|record| record.is(UP)) else {
            return;
        };
        // The boot CPU is what the others are compared with.
        if cpu.as_u32() == 0
            || self.is_needed.load() == 0
            || self.is_reliable()
            // The host has said so itself, and will say when it is over.
            || self.word() == HostsWord::Withdrawn
            || !matches!(record.standing(), Standing::InStep | Standing::Socket)
        {
            return;
        }
        let Some(control) = self.control(cpu.as_u32()) else {
            return;
        };
        let number = self.changes.load_acquire();
        // One in which the host has set a TSC back, or forth, is not to be believed.
        let mut by = 0;
        for _ in 0..WATCHED_TIMES {
            match self.off(control, cpu) {
                None | Some(0) => return,
                Some(off) => by = off,
            }
        }
        if number & 1 != 0 || self.changes.load_acquire() != number {
            return;
        }
        record.stand(Standing::Denied(Reason::Warped));
        self.log(cpu.as_u32(), &Message::FellApart { by });
    }

    /// By how much a CPU's TSC is outside of two readings of the control CPU's; 0 where it is not.
    fn off(&self, control: CpuId, cpu: CpuId) -> Option<i64> {
        let read = |cpu| {
            let tsc = AtomicWord::default();
            // The call is ordered: it has returned before the next one is made.
            cpu::on(cpu, || tsc.store(rdtsc_ordered())).ok()?;
            Some(tsc.load())
        };
        let (before, tsc, after) = (read(control)?, read(cpu)?, read(control)?);
        // Modulo 2^64, as the TSC is.
        let (late, early) = (
            tsc.wrapping_sub(before) as i64,
            tsc.wrapping_sub(after) as i64,
        );
        Some(if late < 0 {
            late
        } else if early > 0 {
            early
        } else {
            0
        })
    }

    /// Forgets CPUs that were unplugged: another one may be plugged in in their place, which was never
    /// set to anything.
    fn forget(&self) {
        for (cpu, record) in (0u32..).zip(self.records.iter()) {
            if record.is(KNOWN)
                && !record.is(UP)
                && CpuId::from_u32(cpu).is_some_and(|cpu| !cpu::is_present(cpu))
            {
                record.set(KNOWN, false);
            }
        }
    }
}
