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

/// Wakes a task at a given time, and when a given node is over. Dropping a `TaskWakeup` does not cancel its timer, so
/// the owner must call [`clear`](TaskWakeup::clear) first.
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
    /// The future's entry into its scope counts as an await. This is the state of that await.
    await_state: AwaitState,
    /// The error that the future will return once its hooks have run.
    error: Option<TimeoutError>,
    #[cfg(feature = "report")]
    history: Option<ReportHistory>,
}

#[derive(Debug)]
struct Waiting {
    node: Arc<Node>,
    key: usize,
}

/// Wakes the task at once, because there is no watchdog that could wake the task later. The task's next poll tries
/// again to start a watchdog.
#[cold]
#[inline(never)]
pub(super) fn poll_again(waker: &Waker) {
    waker.wake_by_ref();
}

/// Wakes the task at once if the node has a deadline and no watchdog can be started, because then nothing would wake
/// the task at the deadline.
#[inline]
pub(super) fn rely_on(node: &Arc<Node>, waker: &Waker) {
    if watchdog::global().is_missing() && node.expires_at() != NEVER && !thread::ensure_watchdog() {
        poll_again(waker);
    }
}

/// The task's own waker. In a traced poll, `cx` has another waker, and each clone of that waker counts as a wait of the
/// future. The clone that a scope keeps for its deadline is no wait of the future. So that clone is made from the
/// task's own waker.
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

    /// `true` if the timer is for `deadline` and has not fired: then the timer now wakes `waker`. `false` otherwise:
    /// then the timer is cancelled.
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

    /// For a future whose scope has been over since the time `over`, and which waits to be dropped by an outer future.
    /// Returns the time until which this future stays pending.
    pub(super) fn patience(&mut self, now: u64, over: u64) -> u64 {
        let patience = &mut self.cold.get_or_insert_default().patience;
        // A wait begins `PATIENCE` before its end. If the last wait began before `over`, it was a wait for an earlier
        // drop. So a new wait begins now.
        if patience.saturating_sub(PATIENCE) < over {
            *patience = now.saturating_add(PATIENCE);
        }
        *patience
    }

    /// Whether the last poll found the scope over. Call this before [`wake_by`](Self::wake_by), because `wake_by`
    /// resets it.
    pub(super) fn was_over(&self) -> bool {
        self.cold.as_ref().is_some_and(|cold| cold.over)
    }

    pub(super) fn set_over(&mut self) {
        self.cold.get_or_insert_default().over = true;
    }

    /// Makes `node` wake the task when `node` is over, in place of the node of an earlier call. With `None`, no node
    /// wakes the task. Returns `false` if `node` is already over.
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
    /// A clone or a drop of a waker runs foreign code. That code must not be able to leave `scope`. So the caller must
    /// have opened another scope inside `scope`.
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
            // Another task polls the scope, or no task polls it. So the scope's node must wake this task.
            // `scope.node()` makes a node if the scope has none, because a token that is made later may cancel the
            // scope.
            Some(scope) => self.wake_by(Some(scope.node()), waker),
        }
    }

    /// For a pending await: wakes its task at `end`, and as soon as a scope around the await is over. `end` is a time
    /// on the clock of `env`.
    pub(super) fn wake_await(&mut self, thread: &Thread, env: &TestEnv, end: u64, waker: &Waker) {
        let shares_clock = env.shares_clock(&TestEnv::current());
        // This closure clones and drops no waker: that may run foreign code, and the closure has borrowed the frame of
        // a scope.
        let (deadline, node) = innermost(thread, |scope| {
            let deadline = if shares_clock { thread.deadline.get() } else { NEVER };
            match scope.filter(|scope| !(shares_clock && scope.is_polled_with(waker))) {
                Some(scope) => (deadline, Some(Arc::clone(scope.node()))),
                // Only `end` counts: there is no scope, or the future of the scope wakes the task when the scope is
                // over.
                None => (NEVER, None),
            }
        });
        // The timer is set even if the scope around wakes the task earlier, because the future may be moved out of that
        // scope.
        self.wake_at_on(env, end.min(deadline), waker);
        if !self.wake_by(node.as_ref(), waker) {
            // The scope is already over. The next poll of the await finds that out, so the task is woken now.
            waker.wake_by_ref();
        }
    }

    /// For an await that stays pending although its scope is over. Makes the watchdog wake the task at `until`. The end
    /// of a scope no longer wakes the task.
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

    /// Whether the time of the timer has come. Then the future may be due for a report, and its next poll must call
    /// [`traced`](Self::traced) to find out.
    #[cfg(feature = "report")]
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn is_report_due(&self) -> bool {
        self.timer.is_some_and(|(at, _)| at <= watchdog::global().reached())
    }

    /// Counts a poll. Returns the time at which the watchdog must wake the task for a report. [`NEVER`] if no report is
    /// due, or if the scope wakes the task at that time anyway. Called only while reports are on.
    #[cfg(feature = "report")]
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn count_poll(&mut self, thread: &Thread, scope: &Scope) -> u64 {
        self.polls.add(thread, scope);
        wake_up_for(self.history().map_or_else(|| first_event(scope), |history| history.next(scope)))
    }

    /// Polls a future. If the future is due for a report, traces the poll and reports the future.
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
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn clear(&mut self) {
        if self.timer.is_some() | self.cold.is_some() {
            self.take_back();
        }
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn take_back(&mut self) {
        // The timer comes last: to cancel it drops a waker, and that may panic.
        if self.cold.is_some() {
            self.cold = None;
        }
        if let Some((_, timer)) = self.timer.take() {
            timer.cancel();
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.node.remove_waker(self.key);
    }
}
