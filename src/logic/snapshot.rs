// SPDX-License-Identifier: GPL-2.0

//! The last parameters that were seen whole: what is left where a page fails.

use super::{
    pvclock::Params,
    word::Word, //
};

/// A copy of the last parameters accepted from a page.
///
/// Written by whichever reader first sees a new version; read where the page cannot be, because
/// its version stays odd or its content makes no sense. Any context, NMIs included: a writer that
/// finds another one at work gives up, and a reader tries a bounded number of times.
///
/// # Ordering
///
/// A sequence lock of one word. `sequence` is odd while a writer is at work; the exchange that
/// makes it odd is fully ordered, the barrier that follows orders it before the stores of the
/// content, and the releasing store that makes it even follows these. A reader takes the sequence
/// with acquire semantics before the content, and once more behind a read barrier after it.
pub struct Snapshot<W> {
    sequence: W,
    tsc_timestamp: W,
    system_time: W,
    // mul | shift << 32 | flags << 40 | VALID
    scale: W,
}

const VALID: u64 = 1 << 63;

/// How often a reader tries: more than two failures need a writer that is interrupted, or writers
/// in a row, and each of these is a rewrite of the page by the host.
const TRIES: u32 = 16;

impl<W: Word> Snapshot<W> {
    /// Makes an empty snapshot from four words that are zero.
    pub const fn new(sequence: W, tsc_timestamp: W, system_time: W, scale: W) -> Self {
        Self {
            sequence,
            tsc_timestamp,
            system_time,
            scale,
        }
    }

    fn write(&self, tsc_timestamp: u64, system_time: u64, scale: u64) -> bool {
        let sequence = self.sequence.load();
        if sequence & 1 != 0
            || self
                .sequence
                .compare_exchange(sequence, sequence.wrapping_add(1))
                .is_err()
        {
            return false;
        }
        self.sequence.wmb();
        self.tsc_timestamp.store(tsc_timestamp);
        self.system_time.store(system_time);
        self.scale.store(scale);
        self.sequence.store_release(sequence.wrapping_add(2));
        true
    }

    /// Remembers `params`, unless another CPU is doing so at this moment.
    ///
    /// Returns whether it was done.
    pub fn publish(&self, params: &Params) -> bool {
        self.write(
            params.tsc_timestamp,
            params.system_time,
            u64::from(params.mul)
                | u64::from(params.shift as u8) << 32
                | u64::from(params.flags) << 40
                | VALID,
        )
    }

    /// Forgets the parameters. Only where no reader runs, as [`super::clamp::Clamp::reset`].
    pub fn reset(&self) {
        self.write(0, 0, 0);
    }

    /// Returns the last parameters remembered.
    ///
    /// `None` where there are none, or a writer was at work each time.
    pub fn get(&self) -> Option<Params> {
        for _ in 0..TRIES {
            let sequence = self.sequence.load_acquire();
            if sequence & 1 != 0 {
                continue;
            }
            let tsc_timestamp = self.tsc_timestamp.load();
            let system_time = self.system_time.load();
            let scale = self.scale.load();
            self.sequence.rmb();
            if self.sequence.load() != sequence {
                continue;
            }
            return (scale & VALID != 0).then_some(Params {
                tsc_timestamp,
                system_time,
                mul: scale as u32,
                shift: (scale >> 32) as u8 as i8,
                flags: (scale >> 40) as u8,
            });
        }
        None
    }
}
