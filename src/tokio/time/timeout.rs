use std::fmt;
use std::future::{Future, IntoFuture};
use std::panic::Location;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use ::tokio::task::coop::{consume_budget, has_budget_remaining, unconstrained};
use ::tokio::time::{Instant, Sleep as TokioSleep};
use pin_project::pin_project;

use super::clock::{add, is_tokios, of_instant};
use super::error::Elapsed;
use crate::error::TimeoutError;
use crate::future::scoped::Scoped;
use crate::scope::{SuspendedScope, is_enabled};
use crate::time::{NEVER, clock, nanos};

/// Runs a future under a limit, as tokio's `timeout` does, in a scope of this crate.
///
/// As with tokio's:
///
/// - The time begins with this call.
/// - The future is polled before the deadline is looked at. A future that is ready at once gives `Ok`, even if the
///   limit is zero.
/// - After [`Elapsed`] the [`Timeout`] keeps the future, which can be [taken out](Timeout::into_inner) or polled again.
///   The future is dropped with the `Timeout`. With `timeout(..).await` that is at once.
/// - A future that uses up the task's budget cannot put off the end.
///
/// Different from tokio's:
///
/// - In the future, and in its drop, the scope is ambient: [`remaining`](crate::remaining()) and all the rest of this crate work.
/// - If the scope of an outer future is over and has no [grace](crate::Timebox::grace), this future stays pending, and
///   is dropped with the outer future. Within a grace this future goes on, so that it can limit a cleanup.
/// - Neither a runtime nor its timer is needed. The limit acts while all threads of the runtime are blocked.
/// - While tokio's clock is [paused](super#a-paused-clock), the limit follows that clock.
///
/// # Errors
///
/// [`Elapsed`] if the future did not end in time.
///
/// # Cancellation safety
///
/// Dropping the returned future drops the inner one inside its scope.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use timebox::tokio::time::{Duration, sleep, timeout}; // was: tokio::time
///
/// let limit = Duration::from_millis(10);
/// assert!(timeout(limit, sleep(60 * limit)).await.is_err());
/// assert_eq!(timeout(limit, async { timebox::remaining() <= Some(limit) }).await, Ok(true));
/// # }
/// ```
#[track_caller]
#[inline]
pub fn timeout<F: IntoFuture>(duration: Duration, future: F) -> Timeout<F::IntoFuture> {
    let tokios = || add(Instant::now(), duration);
    Timeout::new(nanos(duration), clock::now(), tokios, future, Location::caller())
}

/// Runs a future until an instant at most, as tokio's `timeout_at` does. See [`timeout`].
///
/// # Errors
///
/// [`Elapsed`] if the future did not end in time.
///
/// # Cancellation safety
///
/// As [`timeout`].
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use timebox::tokio::time::{Instant, timeout_at};
///
/// assert!(timeout_at(Instant::now(), std::future::pending::<()>()).await.is_err());
/// assert!(timeout_at(Instant::now(), std::future::ready(7)).await.is_ok());
/// # }
/// ```
#[track_caller]
pub fn timeout_at<F: IntoFuture>(deadline: Instant, future: F) -> Timeout<F::IntoFuture> {
    let now = clock::now();
    Timeout::new(of_instant(deadline).saturating_sub(now), now, || deadline, future, Location::caller())
}

/// The future of [`timeout`] and [`timeout_at`].
///
/// # Examples
///
/// The future can be taken out, even after its time is up:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use std::time::Duration;
/// use timebox::tokio::time::timeout;
/// use tokio::sync::oneshot;
///
/// let (sender, receiver) = oneshot::channel();
/// let mut limited = timeout(Duration::from_millis(5), receiver);
/// assert!((&mut limited).await.is_err());
/// sender.send("late").unwrap();
/// assert_eq!(limited.into_inner().await, Ok("late"));
/// # }
/// ```
#[must_use = "futures do nothing unless polled"]
#[pin_project]
pub struct Timeout<T> {
    #[pin]
    scoped: Scoped<T, true>,
    paused: Option<Box<Paused>>,
    /// The error that a poll found when the task had no budget left. The next poll returns the error.
    elapsed: Option<TimeoutError>,
}

/// A limit on tokio's clock while that clock is paused. `timer` enforces the limit, and the scope has no deadline.
struct Paused {
    limit: u64,
    timer: Pin<Box<TokioSleep>>,
}

impl<T: Future> Timeout<T> {
    #[inline]
    fn new<F: IntoFuture<IntoFuture = T>>(
        limit: u64,
        now: u64,
        deadline: impl FnOnce() -> Instant,
        future: F,
        location: &'static Location<'static>,
    ) -> Self {
        let mut paused = None;
        let mut asked = limit;
        if is_tokios() && is_enabled() {
            let timer = Box::pin(::tokio::time::sleep_until(deadline()));
            paused = Some(Box::new(Paused { limit, timer }));
            asked = NEVER;
        }
        let scope = SuspendedScope::begun(asked, now, location);
        Self { scoped: Scoped::new(scope, future.into_future()), paused, elapsed: None }
    }
}

impl<T> Timeout<T> {
    /// The future.
    pub fn get_ref(&self) -> &T {
        self.scoped.future().unwrap_or_else(|| unreachable!("the future is kept"))
    }

    /// The future.
    pub fn get_mut(&mut self) -> &mut T {
        self.scoped.future_mut().unwrap_or_else(|| unreachable!("the future is kept"))
    }

    /// Takes the future out of its scope.
    pub fn into_inner(self) -> T {
        self.scoped.into_future().unwrap_or_else(|| unreachable!("the future is kept"))
    }
}

impl<T: Future> Future for Timeout<T> {
    type Output = Result<T::Output, Elapsed>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let had_budget = has_budget_remaining();
        // An earlier poll found this error, but had no budget left to return it. It is returned now, without another
        // poll of the future.
        if let Some(error) = this.elapsed.take() {
            return elapse(this.elapsed, error, had_budget, cx).map(Err);
        }
        let mut poll = this.scoped.as_mut().poll(cx, Ok, |_| ());
        if poll.is_pending()
            && let Some(limit) = poll_paused(this.paused, had_budget, cx)
        {
            this.scoped.as_mut().expire(limit, clock::real_now());
            poll = this.scoped.as_mut().poll(cx, Ok, |_| ());
        }
        match poll {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(output)) => {
                this.scoped.leave();
                Poll::Ready(Ok(output))
            }
            Poll::Ready(Err(error)) => elapse(this.elapsed, error, had_budget, cx).map(Err),
        }
    }
}

/// Returns the limit if it is on tokio's clock (`paused`), and the clock has reached it. `None` otherwise.
#[inline]
fn poll_paused(paused: &mut Option<Box<Paused>>, had_budget: bool, cx: &mut Context<'_>) -> Option<u64> {
    let Paused { limit, timer } = &mut **paused.as_mut()?;
    let limit = *limit;
    // If the future has used up tokio's coop budget in this poll, the timer is polled without a budget. Otherwise a
    // timer that is due would stay pending.
    let poll = if had_budget && !has_budget_remaining() {
        pin!(unconstrained(timer.as_mut())).poll(cx)
    } else {
        timer.as_mut().poll(cx)
    };
    if poll.is_pending() {
        return None;
    }
    *paused = None;
    Some(limit)
}

/// Returns the error. Uses up some of the task's budget, because a loop over timeouts that are over must let other
/// tasks run. If the task had no budget left even before the future was polled, keeps the error for the next poll, and
/// returns `Pending`.
#[cold]
fn elapse(
    kept: &mut Option<TimeoutError>,
    error: TimeoutError,
    had_budget: bool,
    cx: &mut Context<'_>,
) -> Poll<Elapsed> {
    if pin!(consume_budget()).poll(cx).is_pending() && !had_budget {
        *kept = Some(error);
        return Poll::Pending;
    }
    Poll::Ready(Elapsed::new(error))
}

impl<T> fmt::Debug for Timeout<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timeout").field("scoped", &self.scoped).finish_non_exhaustive()
    }
}
