//! Reports: the time at which a scope is looked at, from outside its thread.

use super::Scope;
use crate::thread::Thread;
use crate::time::{NEVER, clock};
use crate::watchdog::{self, NO_WARNING};

/// How long a poll of a future lasts before a look counts it as stuck, in nanoseconds.
pub(crate) const STUCK_POLL: u64 = 10_000_000;

/// Whether a policy of reports is in force.
#[cfg_attr(not(debug_assertions), inline(always))]
pub(crate) fn is_watched() -> bool {
    // The watchdog does not know the times of a mock clock.
    watchdog::global().settings().is_watched() && !clock::is_mocked()
}

impl Scope {
    pub(in crate::scope) fn is_outermost(&self) -> bool {
        self.outer.is_null()
    }

    pub(crate) fn entered_at(&self) -> u64 {
        self.entered
    }

    /// After how long the scope is slow, in nanoseconds. If the scope does not say, the policy says it for an outermost
    /// scope. An inner scope that does not say has `NO_WARNING`.
    pub(in crate::scope) fn warn_after(&self) -> u64 {
        match self.extras().map(|extras| extras.readable.warn_after) {
            Some(own) if own != NEVER => own.min(NO_WARNING),
            _ if self.is_outermost() => watchdog::global().warn_after(),
            _ => NO_WARNING,
        }
    }

    /// While reports are on, arms the deadline of this scope, which is being entered, and the first look at it. Returns whether
    /// reports are on. The deadline of a poll is armed even if there is a timer for it: the watchdog must notice a poll that is
    /// stuck.
    ///
    /// The first look comes when half of the scope's time has passed. It notes how much the thread has run, so that the report
    /// can tell code that takes long from a thread that gets no processor.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn arm_if_watched(&self, thread: &Thread, effective: u64) -> bool {
        if !is_watched() {
            return false;
        }
        let is_plain = self.extras.is_null() && !self.kind.is_polled();
        if is_plain && self.is_outermost() {
            // Not after the deadline. Cannot overflow: see `NO_WARNING`.
            let look = self.entered + watchdog::global().warn_after().min(self.asked) / 2;
            let look = look.min(effective);
            thread.arm_with_look(effective, look);
        } else {
            if effective != self.outer_deadline {
                thread.arm(effective);
            }
            if !is_plain {
                self.arm_look(thread);
            }
        }
        true
    }

    #[inline(never)]
    fn arm_look(&self, thread: &Thread) {
        let warn_after = self.warn_after();
        let mut at = self.entered + warn_after.min(self.asked) / 2;
        if self.kind.is_polled() {
            // A short poll needs no look: if the future is pending, a traced poll makes the report.
            let now = clock::now();
            thread.now.set(now);
            at = at.max(now + STUCK_POLL);
        }
        if warn_after == NO_WARNING && !self.is_outermost() {
            return;
        }
        // The look of a scope around this one may come first. It is not armed again when this scope is left, since the observer
        // finds the time of its next look by itself.
        let armed = thread.slot().look();
        if !self.is_outermost() && armed > self.entered {
            at = at.min(armed);
        }
        thread.arm_look(at);
    }
}
