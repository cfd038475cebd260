//! Whether limits are on, and how arms fence.

use crate::sync::{AtomicU8, Ordering, const_fn};

/// What every entry into a scope has to know, in one byte, so that the usual case is one comparison.
#[derive(Debug)]
pub(crate) struct Mode(AtomicU8);

impl Mode {
    /// Arms may leave their half of the fence to the watchdog.
    pub(super) const ASYMMETRIC: u8 = 1;
    /// Limits are off.
    const OFF: u8 = 2;
    /// Nobody has said yet whether limits are on or off.
    const UNSAID: u8 = 4;

    const_fn! {
        pub(super) fn new() -> Self {
            Self(AtomicU8::new(Self::UNSAID))
        }
    }

    // Relaxed throughout: the bits do not depend on each other, and nothing is published through them. For the fence
    // see README, "Switching to the asymmetric fence".
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn has(&self, bit: u8) -> bool {
        self.0.load(Ordering::Relaxed) & bit != 0
    }

    /// Whether limits are on, and known to be.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn has_limits(&self) -> bool {
        !self.has(Self::OFF | Self::UNSAID)
    }

    pub(super) fn set(&self, bit: u8, on: bool) {
        if on {
            self.0.fetch_or(bit, Ordering::Relaxed);
        } else {
            self.0.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    /// Whether limits are on; `None` if nobody has said so.
    pub(crate) fn limits(&self) -> Option<bool> {
        let mode = self.0.load(Ordering::Relaxed);
        (mode & Self::UNSAID == 0).then_some(mode & Self::OFF == 0)
    }

    /// Switches limits on or off; with `first` only if nobody has yet.
    pub(crate) fn set_limits(&self, on: bool, first: bool) {
        let update = |mode: u8| {
            let said = mode & Self::UNSAID == 0;
            let off = if on { 0 } else { Self::OFF };
            (!(first && said)).then_some(mode & Self::ASYMMETRIC | off)
        };
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
    }
}
