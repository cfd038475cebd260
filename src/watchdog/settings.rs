//! The settings in one byte: whether limits are on, which fence an arm needs, and whether reports are on.

use crate::sync::{AtomicU8, Ordering, const_fn};

/// The settings, which every entry into a scope reads. They are in one byte so that the usual case is one comparison.
#[derive(Debug)]
pub(crate) struct Settings(AtomicU8);

impl Settings {
    /// Set while the watchdog uses `heavy_barrier`, a system call that acts as a fence on all threads. Then an arm
    /// needs only a compiler fence.
    pub(super) const ASYMMETRIC: u8 = 1;
    /// Limits are off.
    const OFF: u8 = 2;
    /// Limits have not been switched on or off yet.
    const UNSET: u8 = 4;
    /// Set while a policy of reports is in force. Then a thread also arms the time at which the watchdog must look at
    /// the thread: see `arm_look`.
    #[cfg(feature = "report")]
    const WATCHED: u8 = 8;

    const_fn! {
        pub(super) fn new() -> Self {
            Self(AtomicU8::new(Self::UNSET))
        }
    }

    // Relaxed throughout: the bits do not depend on each other, and nothing is published through them. For the fence
    // see README, "Switching to the asymmetric fence".
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn has(&self, bit: u8) -> bool {
        self.0.load(Ordering::Relaxed) & bit != 0
    }

    #[cfg(feature = "report")]
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn is_watched(&self) -> bool {
        self.has(Self::WATCHED)
    }

    #[cfg(feature = "report")]
    pub(super) fn set_watched(&self, on: bool) {
        self.set(Self::WATCHED, on);
    }

    /// `true` if limits are on. `false` if they are off, but also if neither `set_limits` nor `init_limits` was called
    /// yet. So if this is `false`, call `limits`. This is the fast test.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn has_limits(&self) -> bool {
        !self.has(Self::OFF | Self::UNSET)
    }

    pub(super) fn set(&self, bit: u8, on: bool) {
        if on {
            self.0.fetch_or(bit, Ordering::Relaxed);
        } else {
            self.0.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    /// Whether limits are on; `None` if neither `set_limits` nor `init_limits` was called yet.
    pub(crate) fn limits(&self) -> Option<bool> {
        let bits = self.0.load(Ordering::Relaxed);
        (bits & Self::UNSET == 0).then_some(bits & Self::OFF == 0)
    }

    pub(crate) fn set_limits(&self, on: bool) {
        self.update_limits(on, |_| true);
    }

    pub(crate) fn init_limits(&self, on: bool) {
        self.update_limits(on, |bits| bits & Self::UNSET != 0);
    }

    fn update_limits(&self, on: bool, may: impl Fn(u8) -> bool) {
        let off = if on { 0 } else { Self::OFF };
        let update = |bits: u8| may(bits).then_some(bits & !(Self::OFF | Self::UNSET) | off);
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
    }
}
