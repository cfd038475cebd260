use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::task_wakeup::TaskWakeup;
use crate::error::TimeoutError;
use crate::scope::await_over::{AwaitAction, AwaitState};
use crate::scope::error_at;
use crate::scope::test_hooks::point;
use crate::test_env::TestEnv;
use crate::thread::Thread;
use crate::time::{clock, nanos};

/// Sleeps, but no longer than the scope in which it is polled. The time begins with the first poll.
///
/// A sleep lets other tasks run, even with a duration of zero.
///
/// # Errors
///
/// A [`TimeoutError`] once the scope is over, if the body may clean up: within a [grace](crate::Timebox::grace), and in
/// a block around a `block_on`. Without a grace the sleep stays pending, and is dropped with the future around it: see
/// [the module](super). Of the sleeps that begin within a grace, one in each poll gives the error, at once; the others
/// stay pending.
///
/// If a sleep is polled after its end, it is ready again.
///
/// # Cancellation safety
///
/// Nothing is lost when the future is dropped.
///
/// # Examples
///
/// ```
/// # pollster::block_on(async {
/// use std::time::Duration;
/// use timebox::future;
///
/// assert!(future::sleep(Duration::from_millis(1)).await.is_ok());
/// # });
/// ```
#[track_caller]
pub fn sleep(duration: Duration) -> Sleep {
    Sleep {
        duration,
        end: None,
        await_state: AwaitState::default(),
        location: Location::caller(),
        wakeup: TaskWakeup::default(),
        env: TestEnv::current(),
    }
}

/// The future of [`sleep`].
#[must_use = "futures do nothing unless polled"]
#[derive(Debug)]
pub struct Sleep {
    duration: Duration,
    /// When the sleep ends; `None` until the first poll.
    end: Option<u64>,
    await_state: AwaitState,
    location: &'static Location<'static>,
    wakeup: TaskWakeup,
    /// The test environment whose clock the sleep follows.
    env: TestEnv,
}

impl Future for Sleep {
    type Output = Result<(), TimeoutError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        Thread::with(|thread| {
            if this.end.is_none() {
                point(thread, this.location);
            }
            let action = this.await_state.look(thread);
            if let AwaitAction::Fail = action {
                this.wakeup.clear();
                return Poll::Ready(error_at(thread, this.location).map_or(Ok(()), Err));
            }
            if let AwaitAction::AwaitDrop { until, was_in_time } = action {
                let (now, end) = this.begin();
                if !was_in_time || now < end {
                    this.wakeup.stay(&TestEnv::current(), until, cx.waker());
                    return Poll::Pending;
                }
            }
            let begins = this.end.is_none();
            let (now, end) = this.begin();
            if end <= now {
                this.wakeup.clear();
                if !begins {
                    return Poll::Ready(Ok(()));
                }
                // If the sleep could end in its first poll, it stays pending for one poll, so that other tasks run.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match action {
                AwaitAction::Stay { until } => this.wakeup.stay(&this.env, end.min(until), cx.waker()),
                _ => this.wakeup.wake_await(thread, &this.env, end, cx.waker()),
            }
            Poll::Pending
        })
    }
}

impl Sleep {
    /// Returns the present time on the sleep's clock, and the time when the sleep ends. The first call begins the
    /// sleep.
    fn begin(&mut self) -> (u64, u64) {
        // If the sleep was made outside every test environment, it follows the clock of its first poll.
        if self.end.is_none() && self.env.is_real() {
            self.env = TestEnv::current();
        }
        let now = self.env.reading(clock::now());
        (now, *self.end.get_or_insert_with(|| now.saturating_add(nanos(self.duration))))
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.wakeup.clear();
    }
}
