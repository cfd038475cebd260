//! Wakes a task when a scope around it is over.

use std::sync::Arc;
#[cfg(feature = "report")]
use std::task::Poll;
use std::task::{Context, Waker};

use crate::error::TimeoutError;
use crate::scope::Scope;
use crate::scope::await_over::{AwaitState, PATIENCE};
use crate::scope::innermost;
#[cfg(feature = "report")]
use crate::scope::is_watched;
#[cfg(feature = "report")]
use crate::scope::observe::{Polls, ReportHistory, first_event, wake_up_for};
#[cfg(feature = "report")]
use crate::sync::traced_waker::untraced;
use crate::test_env::TestEnv;
use crate::thread::{self, Thread};
use crate::time::NEVER;
use crate::token::node::Node;
use crate::watchdog::{self, Timer};

/// Wakes a task at a given time, and when a given node is over. A drop does not cancel the timer, so the owner must call
/// [`clear`](TaskWakeup::clear) first.
#[derive(Debug, Default)]
pub(crate) struct TaskWakeup {
    timer: Option<(u64, Timer)>,
    #[cfg(feature = "report")]
    polls: Polls,
    /// State that most futures do not need. It is boxed, so that a move of the future copies less.
    cold: Option<Box<ColdState>>,
}

#[derive(Debug, Default)]
struct ColdState {
    waiting: Option<Waiting>,
    /// Until this time, this future waits to be dropped by an outer future whose scope is over.
    patience: u64,
    /// Whether the last poll found the future's scope over.
    over: bool,
    /// The entry into the future's scope counts as an await. This is the state of that await, not used after the entry.
    await_state: AwaitState,
    /// The error that the future will give once its hooks have run.
    error: Option<TimeoutError>,
    /// What was reported about this future; `None` while nothing was.
    #[cfg(feature = "report")]
    history: Option<ReportHistory>,
}

#[derive(Debug)]
struct Waiting {
    node: Arc<Node>,
    key: usize,
}

/// Wakes the task at once, because there is no watchdog that could wake it later. Its next poll tries again to start
/// one.
#[cold]
#[inline(never)]
pub(super) fn poll_again(waker: &Waker) {
    waker.wake_by_ref();
}

/// Calls [`poll_again`] if the node has a deadline, but there is no watchdog that could wake the task at the deadline.
#[inline]
pub(super) fn rely_on(node: &Arc<Node>, waker: &Waker) {
    if watchdog::global().is_missing() && node.expires_at() != NEVER && !thread::ensure_watchdog() {
        poll_again(waker);
    }
}

/// The task's own waker. In a traced poll, `cx` has a waker that takes each clone for a wait of the future. The clone
/// that a scope keeps for its deadline is no such wait, so it is made from the task's own waker.
#[cfg_attr(not(debug_assertions), inline(always))]
pub(super) fn task_waker<'a>(cx: &Context<'a>) -> &'a Waker {
    #[cfg(feature = "report")]
    return untraced(cx.waker());
    #[cfg(not(feature = "report"))]
    cx.waker()
}

impl TaskWakeup {
    /// Makes the watchdog wake the task at `deadline`; with [`NEVER`], not at all. This replaces the deadline of an
    /// earlier call.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn wake_at(&mut self, deadline: u64, waker: &Waker) {
        if TestEnv::is_in_force() {
            return self.wake_at_staged(deadline, waker);
        }
        if self.timer.is_none() || !self.keeps_timer(deadline, waker) {
            if deadline == NEVER {
                return;
            }
            let timer = thread::schedule(deadline, waker.clone());
            self.timer = Some((deadline, timer));
        }
        if !thread::ensure_watchdog() {
            poll_again(waker);
        }
    }

    #[cold]
    #[inline(never)]
    fn wake_at_staged(&mut self, deadline: u64, waker: &Waker) {
        self.wake_at_on(&TestEnv::current(), deadline, waker);
    }

    /// As [`wake_at`](Self::wake_at), but `deadline` is a time on the clock of `env`, not of this thread.
    pub(crate) fn wake_at_on(&mut self, env: &TestEnv, deadline: u64, waker: &Waker) {
        if !self.keeps_timer(deadline, waker) && deadline != NEVER {
            let timer = thread::schedule_on(env, deadline, waker.clone());
            self.timer = Some((deadline, timer));
        }
        if self.timer.is_some() && env.has_real_clock() && !thread::ensure_watchdog() {
            poll_again(waker);
        }
    }

    /// If the present timer is for `deadline`, makes it wake `waker`, and returns `true`. Otherwise cancels the timer.
    #[inline(never)]
    fn keeps_timer(&mut self, deadline: u64, waker: &Waker) -> bool {
        let Some((before, timer)) = self.timer else { return false };
        if before == deadline && timer.redirect(waker) {
            return true;
        }
        timer.cancel();
        self.timer = None;
        false
    }

    #[inline]
    pub(super) fn is_set_for(&self, deadline: u64) -> bool {
        self.timer.is_some_and(|(at, _)| at == deadline)
    }

    /// Since `over`, an outer future should have dropped this one. Returns until when this future stays pending, to
    /// wait for that drop.
    pub(super) fn patience(&mut self, now: u64, over: u64) -> u64 {
        let patience = &mut self.cold.get_or_insert_default().patience;
        // The last wait began `PATIENCE` before its end. If that was before `over`, it was a wait for an earlier drop.
        // So a new wait begins now.
        if patience.saturating_sub(PATIENCE) < over {
            *patience = now.saturating_add(PATIENCE);
        }
        *patience
    }

    /// Whether an earlier poll found the scope over. Call this before [`wake_by`](Self::wake_by), which resets it.
    pub(super) fn was_over(&self) -> bool {
        self.cold.as_ref().is_some_and(|cold| cold.over)
    }

    pub(super) fn set_over(&mut self) {
        self.cold.get_or_insert_default().over = true;
    }

    /// Makes `node` wake the task when it is over, in place of the node of an earlier call. `false` if `node` is over
    /// already.
    pub(super) fn wake_by(&mut self, node: Option<&Arc<Node>>, waker: &Waker) -> bool {
        if let Some(cold) = &mut self.cold {
            cold.over = false;
            if let (Some(waiting), Some(node)) = (&cold.waiting, node)
                && Arc::ptr_eq(&waiting.node, node)
            {
                rely_on(node, waker);
                return node.update_waker(waiting.key, waker);
            }
            cold.waiting = None;
        }
        let Some(node) = node else { return true };
        rely_on(node, waker);
        let Some(key) = node.add_waker(waker) else { return !node.is_over() };
        self.cold.get_or_insert_default().waiting = Some(Waiting { node: Arc::clone(node), key });
        true
    }

    /// Sets wakeups of the task: at `own`, at `around` (the effective deadline of `scope`), and at a cancel of `scope`.
    /// If the same task polls `scope`, this sets only the wakeup at `own`, because the future of `scope` sets the
    /// others. Returns `false` if `scope` is already over.
    ///
    /// A clone or a drop of a waker runs foreign code, which must not leave `scope`. So the caller must have an open
    /// scope inside `scope`.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn wake_with(&mut self, scope: Option<&Scope>, around: u64, own: u64, waker: &Waker) -> bool {
        let covered = scope.is_some_and(|scope| scope.is_polled_with(waker));
        let deadline = if own < around {
            own
        } else if covered {
            NEVER
        } else {
            around
        };
        self.wake_at(deadline, waker);
        match scope.filter(|_| !covered) {
            None => self.cold.is_none() || self.wake_by(None, waker),
            // The scope is polled by another task, or by none. So the scope's node must wake this task. The node is
            // made if there is none, because a token that is made later may cancel the scope.
            Some(scope) => self.wake_by(Some(scope.node()), waker),
        }
    }

    /// For a pending await: wakes its task at `end`, and as soon as a scope around the await is over. `end` is a time
    /// on the clock of `env`.
    pub(super) fn wake_await(&mut self, thread: &Thread, env: &TestEnv, end: u64, waker: &Waker) {
        let shares_clock = env.shares_clock(&TestEnv::current());
        // No waker is cloned or dropped in this closure: that may run foreign code, and here a scope's frame is
        // borrowed.
        let (deadline, node) = innermost(thread, |scope| {
            let deadline = if shares_clock { thread.deadline.get() } else { NEVER };
            match scope.filter(|scope| !(shares_clock && scope.is_polled_with(waker))) {
                Some(scope) => (deadline, Some(Arc::clone(scope.node()))),
                // There is no scope, or the scope's future wakes the task: only `end` counts.
                None => (NEVER, None),
            }
        });
        // The timer is set even if the scope around wakes the task earlier: the future may be carried out of that scope.
        self.wake_at_on(env, end.min(deadline), waker);
        if !self.wake_by(node.as_ref(), waker) {
            // The scope is over already, so the task is woken now. In its next poll, the await sees the end of the
            // scope.
            waker.wake_by_ref();
        }
    }

    /// For an await that stays pending although its scope is over. From now on the task is woken at `until`, and no
    /// longer at the end of a scope.
    pub(super) fn stay(&mut self, env: &TestEnv, until: u64, waker: &Waker) {
        self.wake_by(None, waker);
        self.wake_at_on(env, until, waker);
    }

    pub(super) fn await_state(&mut self) -> &mut AwaitState {
        &mut self.cold.get_or_insert_default().await_state
    }

    #[cfg(feature = "report")]
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn history(&self) -> Option<&ReportHistory> {
        self.cold.as_ref()?.history.as_ref()
    }

    /// Whether the future may be due for a report: the time of its timer has come. (Or the timer was set for the
    /// scope's deadline: then no report is due.)
    #[cfg(feature = "report")]
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn is_report_due(&self) -> bool {
        self.timer.is_some_and(|(at, _)| at <= watchdog::global().reached())
    }

    /// Counts a poll. Returns the time at which the task must be woken for a report, or [`NEVER`] if it need not be. Called only
    /// while reports are on.
    #[cfg(feature = "report")]
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn count_poll(&mut self, thread: &Thread, scope: &Scope) -> u64 {
        self.polls.add(thread, scope);
        wake_up_for(self.history().map_or_else(|| first_event(scope), |history| history.next(scope)))
    }

    /// Polls a future, and traces the poll if the future is due for a report.
    #[cfg(feature = "report")]
    pub(super) fn traced<T>(
        &mut self,
        scope: &Scope,
        cx: &mut Context<'_>,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        if !is_watched() {
            return poll(cx);
        }
        let history = self.cold.get_or_insert_default().history.get_or_insert_default();
        if history.next(scope).0 > watchdog::global().reached() {
            return poll(cx);
        }
        let mut output = Poll::Pending;
        history.trace(scope, &self.polls, cx, &mut |cx| {
            output = poll(cx);
            output.is_pending()
        });
        output
    }

    pub(super) fn keep_error(&mut self, error: TimeoutError) {
        self.cold.get_or_insert_default().error = Some(error);
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn kept_error(&self) -> Option<&TimeoutError> {
        self.cold.as_ref()?.error.as_ref()
    }
}

impl TaskWakeup {
    /// Cancels the timer, stops waiting for a node, and drops all other state.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn clear(&mut self) {
        if self.timer.is_some() | self.cold.is_some() {
            self.take_back();
        }
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn take_back(&mut self) {
        if let Some((_, timer)) = self.timer.take() {
            timer.cancel();
        }
        if self.cold.is_some() {
            self.cold = None;
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.node.remove_waker(self.key);
    }
}
