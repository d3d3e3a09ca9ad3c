// SPDX-License-Identifier: GPL-2.0

//! The shared 64-bit word on which the lock-free parts of the logic stand.

/// A 64-bit word that several CPUs, in any context, read and write at once.
///
/// The kernel implements it by its own atomics, a test by a model checker's: that is why it is a
/// trait. The names of the orderings are those of the Linux kernel memory model.
pub trait Word {
    /// Reads the word; orders nothing (`READ_ONCE()`).
    fn load(&self) -> u64;

    /// Reads the word, before every access that follows in program order (`smp_load_acquire()`).
    fn load_acquire(&self) -> u64;

    /// Writes the word; orders nothing (`WRITE_ONCE()`).
    fn store(&self, value: u64);

    /// Writes the word, after every access that precedes in program order
    /// (`smp_store_release()`).
    fn store_release(&self, value: u64);

    /// Replaces `old` by `new`, fully ordered (`cmpxchg()`).
    ///
    /// # Errors
    ///
    /// The value that the word held instead, which was left as it is.
    fn compare_exchange(&self, old: u64, new: u64) -> Result<(), u64>;

    /// Orders the loads before it with those after it (`smp_rmb()`).
    fn rmb(&self);

    /// Orders the stores before it with those after it (`smp_wmb()`).
    fn wmb(&self);
}
