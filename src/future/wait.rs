use std::fmt;
use std::future::{Future, IntoFuture};
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project::{pin_project, pinned_drop};

use super::task_wakeup::TaskWakeup;
use crate::error::TimeoutError;
use crate::scope::await_over::{AwaitAction, AwaitState, takes_a_break};
use crate::scope::test_hooks::point;
use crate::scope::{WaitLimit, error_at};
use crate::test_env::TestEnv;
use crate::thread::Thread;
use crate::time::{Limit, clock};

/// Waits for a future, but no longer than the limit. The future can go on afterwards: pass `&mut future`, or the handle
/// of a task.
///
/// `wait` opens no scope, so the future does not know of the limit: its deadlines, tokens and handles are those of the
/// scopes around it. After the limit you can wait again. [`timeout`](super::timeout) is for work that must *end* at the
/// limit: under a `timeout` the checkpoints of `&mut future` would fail from the first limit on, and its tokens,
/// handles and hooks would be over for good.
///
/// The future is polled first, then the deadline is checked, also with a limit of zero: a value that is ready wins. The
/// time begins with the first poll.
///
/// # Errors
///
/// A [`TimeoutError`] if the limit is reached first. Nothing was cut off, so the error is
/// [settled](TimeoutError::settled). In a scope that is over the wait fails as [`sleep`](super::sleep) does.
///
/// If the wait is polled after its end, it stays pending.
///
/// # Cancellation safety
///
/// A wait is as cancellation-safe as its future. A future that was passed by value is dropped with the wait.
///
/// # Examples
///
/// A heartbeat, for as long as a job lasts:
///
/// ```
/// # pollster::block_on(async {
/// use std::pin::pin;
/// use std::time::Duration;
/// use timebox::future;
///
/// let mut job = pin!(future::sleep(Duration::from_millis(50)));
/// let mut beats = 0;
/// let result = loop {
///     match future::wait(Duration::from_millis(5), &mut job).await {
///         Ok(result) => break result,
///         Err(_still_at_work) => beats += 1,
///     }
/// };
/// assert!(result.is_ok());
/// println!("{beats} heartbeats");
/// # });
/// ```
#[track_caller]
pub fn wait<F: IntoFuture>(limit: impl Into<Limit>, future: F) -> Wait<F::IntoFuture> {
    Wait {
        limit: limit.into(),
        location: Location::caller(),
        env: TestEnv::current(),
        begun: None,
        await_state: AwaitState::default(),
        wakeup: TaskWakeup::default(),
        is_done: false,
        future: future.into_future(),
    }
}

/// The future of [`wait`].
#[must_use = "futures do nothing unless polled"]
#[pin_project(PinnedDrop)]
pub struct Wait<F> {
    limit: Limit,
    location: &'static Location<'static>,
    /// The test environment whose clock the wait follows.
    env: TestEnv,
    /// The limit and its deadline. The limit begins at the first poll. `None` before the first poll and after the end
    /// of the wait.
    begun: Option<WaitLimit>,
    await_state: AwaitState,
    wakeup: TaskWakeup,
    is_done: bool,
    #[pin]
    future: F,
}

impl<F: Future> Future for Wait<F> {
    type Output = Result<F::Output, TimeoutError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if *this.is_done {
            return Poll::Pending;
        }
        let (begun, location, limit, env) = (this.begun, *this.location, &*this.limit, this.env);
        let begins = begun.is_none();
        let own = Thread::with(|thread| {
            let begun = begun.get_or_insert_with(|| {
                point(thread, location);
                if env.is_real() {
                    *env = TestEnv::current();
                }
                WaitLimit::begin(limit, env.reading(clock::now()), location)
            });
            begun.deadline()
        });
        let result = match this.future.poll(cx) {
            Poll::Ready(output) => Ok(output),
            Poll::Pending => {
                let error = Thread::with(|thread| {
                    let now = env.reading(clock::now());
                    match this.await_state.look(thread) {
                        AwaitAction::Fail => return error_at(thread, location),
                        AwaitAction::AwaitDrop { until, .. } => {
                            this.wakeup.stay(&TestEnv::current(), until, cx.waker());
                        }
                        _ if own <= now && begins && takes_a_break() => cx.waker().wake_by_ref(),
                        _ if own <= now => return begun.as_ref().map(|begun| begun.error(thread, now)),
                        AwaitAction::Stay { until } => this.wakeup.stay(env, own.min(until), cx.waker()),
                        AwaitAction::GoOn => this.wakeup.wake_await(thread, env, own, cx.waker()),
                    }
                    None
                });
                let Some(error) = error else { return Poll::Pending };
                Err(error)
            }
        };
        this.wakeup.clear();
        *begun = None;
        *this.is_done = true;
        Poll::Ready(result)
    }
}

#[pinned_drop]
impl<F> PinnedDrop for Wait<F> {
    fn drop(self: Pin<&mut Self>) {
        self.project().wakeup.clear();
    }
}

impl<F> fmt::Debug for Wait<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wait")
            .field("limit", &self.limit)
            .field("is_done", &self.is_done)
            .finish_non_exhaustive()
    }
}
