//! What the watchdog keeps for reports, and the observer that it calls.

use crate::sync::{AtomicU64, SetOnce};
use crate::time::NEVER;

/// A `warn_after` that stands for "no warning": no scope is open for 146 years. The sum of this and a time does not
/// overflow.
pub(crate) const NO_WARNING: u64 = 1 << 62;

/// Looks at threads.
pub(crate) trait Observer: Sync {
    /// Called by the watchdog at the beginning of a pass. `due`: the numbers of the slots whose deadline or next look
    /// has come since the last pass. `late`: how late the pass begins. Returns the latest time for the next call.
    ///
    /// Neither allocates nor frees memory, and waits for no thread that does: that thread may be stuck in the allocator.
    fn pass(&self, due: &mut dyn Iterator<Item = usize>, now: u64, late: u64) -> u64;

    /// Called on the watchdog's thread before the first pass of that thread. Allocates what the passes need.
    fn prepare(&self);

    /// Called by a thread that has got the slot with the number `slots - 1`, so that passes have room for that thread.
    fn make_room(&self, slots: usize);
}

pub(super) struct Reports {
    pub(super) observer: SetOnce<&'static dyn Observer>,
    /// After how long an outermost scope is reported as slow.
    pub(super) warn_after: AtomicU64,
    /// The time of the last pass. The observer was told of every deadline and look up to this time.
    pub(super) passed: AtomicU64,
    /// The watchdog must call the observer again by this time.
    pub(super) next: AtomicU64,
}

impl std::fmt::Debug for Reports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reports").finish_non_exhaustive()
    }
}

impl Reports {
    pub(super) const fn new() -> Self {
        Self {
            observer: SetOnce::new(),
            warn_after: AtomicU64::new(NO_WARNING),
            passed: AtomicU64::new(0),
            next: AtomicU64::new(NEVER),
        }
    }
}
