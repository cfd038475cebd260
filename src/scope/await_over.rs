//! Decides whether an await of this crate in a scope that is over gives the error or stays pending.
//!
//! - If the await is in a future that is about to be dropped, in the same poll, the await stays pending. If it gave the
//!   error, the body of the future would run on after the await.
//! - Within a grace, and in a block around a `block_on`, an await gives the error, so that the body can clean up. An
//!   await that began before the scope was over gives the error at once. Of the awaits that begin later, one in each
//!   poll gives the error, and the others stay pending. So a loop that ignores the error leaves its poll, and the end
//!   of the grace can end the loop.

#[cfg(not(timebox_loom))]
use std::cell::Cell;

use super::frame::{Scope, innermost};
#[cfg(not(timebox_loom))]
use crate::test_env::TestEnv;
use crate::thread::Thread;
use crate::time::{NEVER, clock};

/// How long an await stays pending if the future around it is about to be dropped, in nanoseconds. After that the await
/// gives the error, because the drop may never come: the future may be stuck in this very poll, in a `block_on`.
pub(crate) const PATIENCE: u64 = 20_000_000;

/// Of the awaits that began after the scope was over, only one gives the error in each poll. Each other await stays
/// pending until the end of the grace. If there is no grace, it stays pending for this long, in nanoseconds.
const PACE: u64 = 1_000_000;

/// The state that an await keeps from poll to poll.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AwaitState {
    /// Whether the await was polled before its scope was over.
    began_in_time: bool,
    /// Since when the await has been pending although its scope is over; 0 if it has not.
    since: u64,
    /// Whether an earlier poll returned [`AwaitAction::AwaitDrop`].
    awaits_drop: bool,
}

pub(crate) enum AwaitAction {
    /// The await goes on: no scope around it is over.
    GoOn,
    Fail,
    /// The await does not give the error yet. It is polled again at `until`, and may give the error then. If what it
    /// waits for comes earlier, it gives that.
    Stay {
        until: u64,
    },
    /// The await stays pending, because the future around it is about to be dropped. It is polled again at `until`,
    /// because somebody may have moved it out of that future.
    ///
    /// `was_in_time`: the await began before the scope was over, and no earlier poll returned `AwaitDrop`. If `false`,
    /// a sleep gives no `Ok`, even if it is done.
    AwaitDrop {
        until: u64,
        was_in_time: bool,
    },
}

/// What happens next to an await if a scope around it is over.
pub(super) enum AfterEnd {
    /// A future in this poll is about to be dropped. `is_held_up` says that the drop must wait for a shield.
    Drop { is_held_up: bool },
    /// No future in this poll is about to be dropped, so the body may clean up until this time. [`NEVER`] if no grace
    /// limits the cleanup.
    CleanUp { until: u64 },
}

impl AwaitState {
    pub(crate) fn look(&mut self, thread: &Thread) -> AwaitAction {
        innermost(thread, |scope| match scope {
            Some(scope) if scope.is_over_by_clock(thread) => self.look_when_over(scope),
            _ => {
                *self = Self { began_in_time: true, ..Self::default() };
                AwaitAction::GoOn
            }
        })
    }

    #[cold]
    fn look_when_over(&mut self, scope: &Scope) -> AwaitAction {
        let now = clock::now();
        let stays = match scope.after_end(now) {
            AfterEnd::Drop { is_held_up } => {
                let was_in_time = self.began_in_time && !self.awaits_drop;
                self.awaits_drop = true;
                self.wait_for_drop(now, is_held_up).map(|until| AwaitAction::AwaitDrop { until, was_in_time })
            }
            AfterEnd::CleanUp { until } => {
                self.wait_for_turn(scope, now, until).map(|until| AwaitAction::Stay { until })
            }
        };
        stays.unwrap_or_else(|| {
            // The await gives the error. If it is polled once more, it counts as a new await that began after the end
            // of the scope.
            *self = Self::default();
            AwaitAction::Fail
        })
    }

    /// Until when the await waits for the drop. `None`: the drop has not come in time, so the await gives the error.
    fn wait_for_drop(&mut self, now: u64, is_held_up: bool) -> Option<u64> {
        if is_held_up {
            // A shield delays the drop. Without a wakeup, perhaps this await would never be polled again: it may be in
            // a set of futures or in a task of its own, and the future around it may end. So the await asks for a poll
            // at this time. In that poll, the await decides again.
            return Some(now.saturating_add(PATIENCE));
        }
        let until = self.pending_since(now).saturating_add(PATIENCE);
        (now < until).then_some(until)
    }

    /// Until when the await stays pending. `None`: it gives the error now.
    fn wait_for_turn(&mut self, scope: &Scope, now: u64, until: u64) -> Option<u64> {
        let polled = scope.polled().last();
        // An await that began before the scope was over always gives the error. Of the others, one gives the error in
        // each poll, and the rest wait. `told` is the frame that records that an await has given the error. A future
        // has a new frame in each poll, so each poll begins with nothing recorded. A block has one frame for all polls
        // of the futures inside, so the record stays. So in a block, an await that is pending since an earlier time
        // (`since < now`) must be in a later poll, and gives the error all the same.
        let is_polled_anew = polled.is_none() && self.since != 0 && self.since < now;
        let told = polled.unwrap_or(scope);
        if self.began_in_time || is_polled_anew || !told.has_given_error() {
            told.set_error_given();
            return None;
        }
        let paced = self.pending_since(now).saturating_add(PACE);
        Some(if until == NEVER { paced.max(now + 1) } else { until })
    }

    fn pending_since(&mut self, now: u64) -> u64 {
        if self.since == 0 {
            self.since = now;
        }
        self.since
    }
}

/// Of the awaits on a thread that could end at once, one in this many takes a break.
#[cfg(not(timebox_loom))]
const AT_ONCE: u32 = 128;

/// Whether an await that could end at once stays pending for one more poll. Without such breaks, a loop of such awaits
/// would never leave its poll: no other task would run, nobody could abort the loop, and limits around it would not
/// act. In a test environment the result is `false`, because every run must go the same way.
#[cfg(not(timebox_loom))]
pub(crate) fn takes_a_break() -> bool {
    if TestEnv::is_in_force() {
        return false;
    }
    thread_local!(static ENDED: Cell<u32> = const { Cell::new(0) });
    let ended = ENDED.get().wrapping_add(1);
    ENDED.set(ended);
    ended.is_multiple_of(AT_ONCE)
}

#[cfg(timebox_loom)]
pub(crate) fn takes_a_break() -> bool {
    false
}
