// SPDX-License-Identifier: GPL-2.0

//! The last parameters that were seen whole: what is left where a page fails.

use super::{
    page::Params,
    word::Word, //
};
use core::marker::PhantomData;

/// The last parameters seen in a page, each under the version that the page had.
///
/// Written by whichever reader first sees a new version; read where the page cannot be, because
/// its version stays odd or its content makes no sense, and where the clock hands over from one
/// version to the next. Any context, NMIs included: a writer that finds another one at work gives
/// up. There are two slots, of which a writer takes the older one, so the newer one can be read
/// even while a writer stands still halfway, in the very context that interrupted it.
///
/// # Ordering
///
/// The lock's exchange is fully ordered, and its release a store-release, so the writers' stores
/// follow one another. A slot's tag is a sequence: it is emptied, a write barrier orders that
/// before the stores of the content, and the releasing store of the new tag follows these. A
/// reader takes the tag with acquire semantics before the content, and once more behind a read
/// barrier after it. One and the same tag twice is one and the same content: a tag counts the
/// writes beside the version, since hosts begin anew with the versions they count.
pub struct Snapshot<W, P> {
    /// 1 while a writer is at work, else 0.
    lock: W,
    slots: [Slot<W>; 2],
    _params: PhantomData<fn() -> P>,
}

struct Slot<W> {
    /// [`VALID`], the number of the write and the version; 0 where the slot is empty.
    tag: W,
    /// The parameters.
    words: [W; 3],
}

const VALID: u64 = 1 << 63;

/// The tag of the write that follows those with the tags `a` and `b`. 31 bits count writes.
const fn next_tag(a: u64, b: u64, version: u32) -> u64 {
    let last = if older(a, b) { b } else { a };
    VALID | (last.wrapping_add(1 << 32) & !VALID & !(u32::MAX as u64)) | version as u64
}

/// Whether `tag` is one of this version.
const fn is_of(tag: u64, version: u32) -> bool {
    tag & VALID != 0 && tag as u32 == version
}

/// Whether the slot with the tag `a` was written before that with the tag `b`, or never.
const fn older(a: u64, b: u64) -> bool {
    // The count of writes wraps: its highest bit is brought to the sign.
    let (writes_a, writes_b) = ((a << 1) >> 32, (b << 1) >> 32);
    a == 0 || b != 0 && (((writes_a as u32).wrapping_sub(writes_b as u32)) as i32) < 0
}

impl<W: Word> Slot<W> {
    fn new(word: &impl Fn() -> W) -> Self {
        Self {
            tag: word(),
            words: [word(), word(), word()],
        }
    }

    fn write(&self, tag: u64, params: [u64; 3]) {
        self.tag.store(0);
        self.tag.wmb();
        for (word, value) in self.words.iter().zip(params) {
            word.store(value);
        }
        self.tag.store_release(tag);
    }

    /// Returns the tag and what is under it, unless the slot is empty or being written.
    fn read(&self) -> Option<(u64, [u64; 3])> {
        let tag = self.tag.load_acquire();
        if tag == 0 {
            return None;
        }
        let params = self.words.each_ref().map(Word::load);
        self.tag.rmb();
        (self.tag.load() == tag).then_some((tag, params))
    }
}

impl<W: Word, P: Params> Snapshot<W, P> {
    /// Makes an empty snapshot from words that are zero.
    pub fn new(word: impl Fn() -> W) -> Self {
        Self {
            lock: word(),
            slots: [Slot::new(&word), Slot::new(&word)],
            _params: PhantomData,
        }
    }

    /// Remembers what the page says under `version`, and changes the word `state` from `from`, to
    /// `to`, as one.
    ///
    /// The slot with the version `from` is left alone: while `state` holds a version that was
    /// changed to here, [`Snapshot::get`] of that version succeeds at once, in any context.
    ///
    /// Returns whether `state` was changed. It is not where it is not `from`, and where another
    /// CPU, or the context that this one interrupted, is at work here at this moment.
    pub fn publish(&self, version: u32, params: &P, state: &W, from: u64, to: u64) -> bool {
        if self.lock.compare_exchange(0, 1).is_err() {
            return false;
        }
        // Only here is `state` changed to a version: if it is `from` now, it will not become
        // another version before the lock is released, and no slot but that of `from` is needed.
        let changed = state.load() == from && {
            let [a, b] = &self.slots;
            let (tag_a, tag_b) = (a.tag.load(), b.tag.load());
            // Where `from` is not a version, no slot is needed.
            let needed = |tag| from <= u64::from(u32::MAX) && is_of(tag, from as u32);
            let slot = match (needed(tag_a), needed(tag_b)) {
                (true, false) => b,
                (false, true) => a,
                // Of two with the same version the later one is the one in force.
                _ if older(tag_a, tag_b) => a,
                _ => b,
            };
            slot.write(next_tag(tag_a, tag_b, version), params.to_words());
            state.compare_exchange(from, to).is_ok()
        };
        self.lock.store_release(0);
        changed
    }

    /// Forgets the parameters. Only where no reader runs, as [`super::clamp::Clamp::reset`].
    pub fn reset(&self) {
        for slot in &self.slots {
            slot.tag.store(0);
        }
    }

    /// Returns what the page last said under `version`; `None` where that is forgotten.
    pub fn get(&self, version: u32) -> Option<P> {
        self.newest(|tag| is_of(tag, version))
    }

    /// Returns the last parameters remembered, if there are any.
    pub fn last(&self) -> Option<P> {
        self.newest(|_| true)
    }

    /// Returns what was written last under such a tag.
    fn newest(&self, wanted: impl Fn(u64) -> bool) -> Option<P> {
        let [a, b] = self
            .slots
            .each_ref()
            .map(|slot| slot.read().filter(|(tag, _)| wanted(*tag)));
        match (a, b) {
            (Some(a), Some(b)) => Some(if older(a.0, b.0) { b.1 } else { a.1 }),
            (a, b) => a.or(b).map(|(_, params)| params),
        }
        .map(P::from_words)
    }
}
