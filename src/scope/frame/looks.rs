//! Decides when the watchdog looks at a scope for a report.

use std::mem::MaybeUninit;

use super::Scope;
use crate::scope::spec::Kind;
use crate::thread::Thread;
use crate::time::{NEVER, clock};
use crate::watchdog::{self, NO_WARNING};

/// How long the watchdog sees the same poll of a future before it counts the poll as stuck, in nanoseconds.
pub(crate) const STUCK_POLL: u64 = 10_000_000;

#[cfg_attr(not(debug_assertions), inline(always))]
pub(crate) fn is_watched() -> bool {
    // Under a mock clock there are no reports, because the watchdog does not know its times.
    watchdog::global().settings().is_watched() && !clock::is_mocked()
}

impl Scope {
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(in crate::scope) fn is_outermost(&self) -> bool {
        self.outer.is_null() || self.outer().is_none()
    }

    pub(crate) fn entered_at(&self) -> u64 {
        self.entered
    }

    /// After how long the scope is slow, in nanoseconds. The scope's own setting comes first. Without one, an outermost
    /// scope has the policy's setting, and an inner scope has `NO_WARNING`.
    pub(in crate::scope) fn warn_after(&self) -> u64 {
        match self.extras().map(|extras| extras.readable.warn_after) {
            Some(own) if own != NEVER => own.min(NO_WARNING),
            _ if self.is_outermost() => watchdog::global().warn_after(),
            _ => NO_WARNING,
        }
    }

    /// Called while the scope is being entered. `false`: reports are off, and nothing is armed. `true`: the scope's
    /// deadline is armed, and the watchdog's first look at the scope, if the scope needs a look. A poll's deadline is
    /// armed even if its future has a timer, because the watchdog must notice a stuck poll.
    ///
    /// The first look comes after half of the limit or of `warn_after`, whichever is shorter. In this look the watchdog
    /// notes how long the thread has run, so that the report can tell slow code from a thread that gets no processor.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn arm_if_watched(&mut self, thread: &Thread, effective: u64) -> bool {
        if !is_watched() {
            return false;
        }
        let is_polled = self.kind.is_polled();
        if is_polled {
            self.poll = MaybeUninit::new(thread.next_poll());
        }
        let has_extras = !self.extras.is_null();
        if matches!(self.kind, Kind::Block | Kind::Future) && !has_extras && self.outer.is_null() {
            // The sum cannot overflow: see `NO_WARNING`. The look comes before the deadline `effective`, which is
            // `entered + asked`, because there is no scope around. If the look was due before this poll began, see
            // `arm_look`.
            let look = self.entered + watchdog::global().warn_after().min(self.asked) / 2;
            if !is_polled || look > watchdog::global().reached() {
                thread.arm_with_look(effective, look);
                return true;
            }
        }
        if effective != self.outer_deadline {
            thread.arm(effective);
        }
        if self.kind != Kind::Block || has_extras || self.is_outermost() {
            self.arm_look(thread);
        }
        true
    }

    #[inline(never)]
    fn arm_look(&mut self, thread: &Thread) {
        let warn_after = self.warn_after();
        if warn_after == NO_WARNING && !self.is_outermost() {
            return;
        }
        let mut at = self.entered + warn_after.min(self.asked) / 2;
        if self.kind.is_polled() && at <= watchdog::global().reached() {
            // The first look was due before this poll began. So from now on reports of a slow future come from its
            // polls, which are traced (`observe.rs`). The watchdog need look only if this poll itself gets stuck.
            let now = clock::now();
            thread.now.set(now);
            at = now + STUCK_POLL;
        }
        // A look at a scope around this one may be armed already, for an earlier time. Then the earlier time stays
        // armed. When this scope is left, nothing arms a look for the scopes around it: the observer finds the time of
        // its next look by itself.
        let armed = thread.slot().look();
        if !self.outer.is_null() && armed > self.entered {
            at = at.min(armed);
        }
        thread.arm_look(at);
    }
}
