//! Slots: one word for each thread. The thread writes its deadline there, and the watchdog reads it.
//!
//! Invariants:
//! 1. Only the thread that has a slot writes it. Of all other threads only the watchdog reads it.
//! 2. A slot, and the timers with the same number, belong to at most one thread.

use crate::sync::chunked_vec::ChunkedVec;
use crate::sync::{AtomicU64, CachePadded, Ordering, const_fn};
use crate::time::NEVER;

/// The deadline that the slot's thread armed last. The watchdog ignores a deadline in the past.
#[derive(Debug)]
pub(crate) struct Slot(CachePadded<AtomicU64>);

impl Slot {
    const_fn! {
        pub(crate) fn new() -> Self {
            Self(CachePadded(AtomicU64::new(NEVER)))
        }
    }

    #[inline]
    pub(super) fn get(&self) -> u64 {
        // Relaxed: read by the thread that wrote it, or by a scan, whose fences are in `Watchdog::pass`.
        self.0.0.load(Ordering::Relaxed)
    }

    /// For the thread that has the slot. It arms by `Watchdog::arm`, and sets "never" before it gives the slot back.
    #[inline]
    pub(crate) fn set(&self, deadline: u64) {
        // Relaxed: the fence of `Watchdog::arm` follows.
        self.0.0.store(deadline, Ordering::Relaxed);
    }
}

impl Default for Slot {
    fn default() -> Self {
        Self::new()
    }
}

/// All slots ever made.
pub(crate) type Slots = ChunkedVec<Slot>;

impl Slots {
    /// The earliest deadline after `floor`.
    pub(super) fn earliest(&self, floor: u64) -> u64 {
        self.iter().map(Slot::get).filter(|&deadline| deadline > floor).min().unwrap_or(NEVER)
    }
}

/// The slots that no thread has.
#[derive(Debug)]
pub(super) struct FreeSlots {
    returned: Vec<usize>,
}

impl FreeSlots {
    pub(super) const fn new() -> Self {
        Self { returned: Vec::new() }
    }

    pub(super) fn take(&mut self) -> Option<usize> {
        self.returned.pop()
    }

    pub(super) fn give_back(&mut self, index: usize) {
        self.returned.push(index);
    }
}
