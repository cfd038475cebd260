//! What an await of this crate does in a scope that is over: whether it gives the error, or stays pending.
//!
//! - Beneath a future in the same poll that is about to be dropped it stays pending. A body never runs on after an await
//!   because a scope around it has ended.
//! - Within a grace, and in a block around a `block_on`, it gives the error, so that the body can clean up.
//!
//! An await that had begun before gives the error at once. One that begins when the scope is over already gives it once in
//! a poll; then it stays pending. So a loop that ignores the error leaves its poll, and the grace can end it.

#[cfg(not(timebox_loom))]
use std::cell::Cell;

use super::frame::{Scope, innermost};
#[cfg(not(timebox_loom))]
use crate::test_env::TestEnv;
use crate::thread::Thread;
use crate::time::{NEVER, clock};

/// How long an await waits to be dropped with the future around it, in nanoseconds. That one may be stuck in this very
/// poll, in a `block_on`, and never come to that.
pub(crate) const PATIENCE: u64 = 20_000_000;

/// How long an await stays pending that would give the error too often, where no grace ends the wait.
const PACE: u64 = 1_000_000;

/// What an await remembers from poll to poll of the scopes that are over around it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AwaitState {
    /// Whether it began in a scope that was not over.
    began_in_time: bool,
    /// Since when it stays pending in a scope that is over; 0 if it does not.
    since: u64,
    /// Whether it has been found to wait for its drop.
    awaits_drop: bool,
}

/// What an await does.
pub(crate) enum AwaitAction {
    /// No scope around it is over.
    GoOn,
    /// It gives the error.
    Fail,
    /// It stays pending, and is polled again at this time: the error may be given then.
    Stay { until: u64 },
    /// It stays pending, to be dropped with the future around it; it is polled again at this time, since it may have been
    /// carried out of that. Its own end does not count meanwhile; `was_in_time` until now, if it came before this.
    AwaitDrop { until: u64, was_in_time: bool },
}

/// How the scopes end that are over around a place.
pub(super) enum Ending {
    /// A future in this poll is about to be dropped; or waits for a shield, or for its hooks.
    Drop { is_held_up: bool },
    /// The body may clean up until this time.
    CleanUp { until: u64 },
}

impl AwaitState {
    /// Looks at the scopes around an await.
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
        let stays = match scope.ending(now) {
            Ending::Drop { is_held_up } => {
                let was_in_time = self.began_in_time && !self.awaits_drop;
                self.awaits_drop = true;
                self.wait_for_drop(now, is_held_up).map(|until| AwaitAction::AwaitDrop { until, was_in_time })
            }
            Ending::CleanUp { until } => {
                self.wait_for_turn(scope, now, until).map(|until| AwaitAction::Stay { until })
            }
        };
        stays.unwrap_or_else(|| {
            // The error is given: from now on this await is as one that begins here.
            *self = Self::default();
            AwaitAction::Fail
        })
    }

    /// Until when to wait for being dropped; `None` if that has not come.
    fn wait_for_drop(&mut self, now: u64, is_held_up: bool) -> Option<u64> {
        if is_held_up {
            // The future around it can let go of it without a poll of it: one that is in a set of futures, or a task of its
            // own, has to look for itself.
            return Some(now.saturating_add(PATIENCE));
        }
        let until = self.pending_since(now).saturating_add(PATIENCE);
        (now < until).then_some(until)
    }

    /// Until when to wait before the error may be given; `None` if it may be given now.
    fn wait_for_turn(&mut self, scope: &Scope, now: u64, until: u64) -> Option<u64> {
        let polled = scope.polled().last();
        // Where no future is polled it cannot be told where a poll begins: but an await that was pending is in another.
        let is_polled_anew = polled.is_none() && self.since != 0 && self.since < now;
        let told = polled.unwrap_or(scope);
        if self.began_in_time || is_polled_anew || !told.has_told() {
            told.set_told();
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

/// How many awaits of a thread may end at once, without having waited, before one takes a break.
#[cfg(not(timebox_loom))]
const AT_ONCE: u32 = 128;

/// Whether an await that is about to end at once, since it has no time to begin with, stays pending for one poll more. So a
/// loop of such awaits leaves its poll now and then: other tasks run, the loop can be aborted, and limits around it act.
/// Not on a test's clock: there each await comes to the same in every run.
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
