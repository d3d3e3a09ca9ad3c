// SPDX-License-Identifier: GPL-2.0

//! A shared word every access of which is a point at which the script of a test may act.

use paraclock_unit::logic::word::Word;
use std::{cell::Cell, rc::Rc};

/// A machine that a script acts upon.
pub trait Machine {
    /// A point at which the script may act.
    fn step(self: &Rc<Self>);

    /// Whether there is something to act upon: not before the reader has been made.
    fn is_set_up(&self) -> bool;
}

pub struct HookedWord<M> {
    value: Cell<u64>,
    machine: Rc<M>,
}

impl<M> HookedWord<M> {
    pub fn zero(machine: &Rc<M>) -> Self {
        Self {
            value: Cell::new(0),
            machine: Rc::clone(machine),
        }
    }
}

impl<M: Machine> Word for HookedWord<M> {
    fn load(&self) -> u64 {
        self.machine.step();
        self.value.get()
    }

    fn load_acquire(&self) -> u64 {
        self.load()
    }

    fn store(&self, value: u64) {
        // Reader::new() stores before there is a machine to step.
        if self.machine.is_set_up() {
            self.machine.step();
        }
        self.value.set(value);
    }

    fn store_release(&self, value: u64) {
        self.store(value);
    }

    fn compare_exchange(&self, old: u64, new: u64) -> Result<(), u64> {
        self.machine.step();
        let seen = self.value.get();
        if seen == old {
            self.value.set(new);
            Ok(())
        } else {
            Err(seen)
        }
    }

    fn rmb(&self) {}

    fn wmb(&self) {}
}
