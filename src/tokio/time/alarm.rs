//! The timer behind a sleep and an interval.

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use ::tokio::task::coop::consume_budget;
use ::tokio::time::{Instant, Sleep as TokioSleep};

use super::clock as timing;
use crate::future::task_wakeup::TaskWakeup;
use crate::test_env::TestEnv;
use crate::time::{clock, nanos};

pub(super) struct Alarm {
    deadline: Instant,
    /// The deadline in nanoseconds, on the clock of `env`.
    end: u64,
    env: TestEnv,
    wakeup: TaskWakeup,
    /// The waker of the task that waits. `reset` needs it.
    waker: Option<Waker>,
    /// A timer of tokio, if tokio's clock is or was paused. Then only this timer counts, and `end` does not.
    tokios: Option<Pin<Box<TokioSleep>>>,
}

impl Alarm {
    pub(super) fn new(deadline: Instant, end: u64) -> Self {
        let mut alarm = Self {
            deadline,
            end,
            env: TestEnv::current(),
            wakeup: TaskWakeup::default(),
            waker: None,
            tokios: None,
        };
        alarm.follow();
        alarm
    }

    pub(super) fn at(deadline: Instant) -> Self {
        Self::new(deadline, timing::of_instant(deadline))
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(super) fn is_elapsed(&self) -> bool {
        match &self.tokios {
            Some(tokios) => tokios.is_elapsed(),
            None => self.end <= self.env.reading(clock::now()),
        }
    }

    /// If tokio's clock is or was paused, leaves the alarm to a timer of tokio.
    fn follow(&mut self) {
        if self.tokios.is_none() && self.env.has_real_clock() && timing::is_tokios() {
            self.wakeup.clear();
            self.tokios = Some(Box::pin(::tokio::time::sleep_until(self.deadline)));
        }
    }

    /// Ready at the deadline. A poll at or after the deadline uses up some of the task's budget (tokio's `coop`).
    /// Otherwise a loop over timers that are due would keep other tasks from running.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.follow();
        if let Some(tokios) = &mut self.tokios {
            return tokios.as_mut().poll(cx);
        }
        if self.env.reading(clock::now()) < self.end {
            self.wakeup.wake_at_on(&self.env, self.end, cx.waker());
            match &mut self.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                waker => *waker = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        ready!(pin!(consume_budget()).poll(cx));
        self.wakeup.clear();
        self.waker = None;
        Poll::Ready(())
    }

    /// Moves the deadline. If a task waits for the alarm, it is woken at the new deadline.
    pub(super) fn reset(&mut self, deadline: Instant) {
        self.deadline = deadline;
        self.end = if self.env.shares_clock(&TestEnv::current()) {
            timing::of_instant(deadline)
        } else {
            self.env.reading(clock::now()).saturating_add(nanos(deadline - Instant::now()))
        };
        match (&mut self.tokios, &self.waker) {
            (Some(tokios), _) => tokios.as_mut().reset(deadline),
            (None, Some(waker)) => self.wakeup.wake_at_on(&self.env, self.end, waker),
            (None, None) => {}
        }
    }

    /// Moves the deadline, and forgets the task. No timer runs until the next poll.
    pub(super) fn restart(&mut self, deadline: Instant) {
        self.wakeup.clear();
        self.waker = None;
        self.tokios = None;
        self.reset(deadline);
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.wakeup.clear();
    }
}

impl fmt::Debug for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Alarm").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}
