use crate::sync::{AtomicU64, SetOnce};
use crate::time::NEVER;

/// A `warn_after` that means "no warning": 146 years. It is not larger, so that its sum with a time does not overflow.
pub(crate) const NO_WARNING: u64 = 1 << 62;

pub(crate) trait Observer: Sync {
    /// Called by the watchdog at the beginning of a pass. `due`: the numbers of the slots whose deadline or next look
    /// has come since the last pass. `late`: how late the pass begins. Returns the time by which the observer must be
    /// called again.
    ///
    /// Must not allocate or free memory, or wait for a thread that does, because that thread may be stuck in the
    /// allocator.
    fn pass(&self, due: &mut dyn Iterator<Item = usize>, now: u64, late: u64) -> u64;

    /// Called on the watchdog's thread before its first pass. Allocates the memory that the passes need.
    fn prepare(&self);

    /// Called by a thread that has got the slot with the number `slots - 1`, so that passes have room for that thread.
    fn make_room(&self, slots: usize);
}

pub(super) struct Reports {
    pub(super) observer: SetOnce<&'static dyn Observer>,
    pub(super) warn_after: AtomicU64,
    /// The time of the last pass. That pass, or one before it, gave the observer each deadline and look up to this
    /// time.
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
