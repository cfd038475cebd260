use std::fmt;
use std::future::{Future, IntoFuture};
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project::pin_project;

use super::scoped::Scoped;
use crate::error::TimeoutError;
use crate::scope::SuspendedScope;
use crate::scope::Timebox;

impl Timebox {
    /// Runs a future, and something cheaper if the future's own time runs out, as [`run_or_else`](Self::run_or_else)
    /// does for blocks.
    ///
    /// The fallback runs after the scope has been left, in three cases:
    ///
    /// - The future was not polled, because its own scope was over.
    /// - The future was dropped, because its own scope was over.
    /// - The future returned an `Err`, and before that an error that names its scope was raised. The returned `Err` is
    ///   dropped.
    ///
    /// Any other `Err`, the error of a scope around the future, and an `Ok` that is not [refused](Self::strict) pass
    /// through.
    ///
    /// # Errors
    ///
    /// The errors of the future that pass through, and the errors of the fallback.
    ///
    /// # Cancellation safety
    ///
    /// As [`future::timeout`](crate::future::timeout).
    ///
    /// # Examples
    ///
    /// ```
    /// # pollster::block_on(async {
    /// use std::time::Duration;
    /// use timebox::{TimeoutError, Timebox, future};
    ///
    /// let fresh = async {
    ///     future::sleep(Duration::from_secs(60)).await?;
    ///     Ok::<_, TimeoutError>("fresh")
    /// };
    /// let answer = Timebox::new(Duration::from_millis(10)).run_future_or_else(fresh, |_timed_out| Ok("stale"));
    /// assert_eq!(answer.await.unwrap(), "stale");
    /// # });
    /// ```
    #[track_caller]
    pub fn run_future_or_else<F, T, E, G>(self, future: F, fallback: G) -> TimeoutOrElse<F::IntoFuture, G>
    where
        F: IntoFuture<Output = Result<T, E>>,
        E: From<TimeoutError>,
        G: FnOnce(TimeoutError) -> Result<T, E>,
    {
        let (limit, mut extras) = self.into_parts();
        extras.falls_back = true;
        let scoped =
            Scoped::new(SuspendedScope::with(limit, extras, Location::caller()), future.into_future());
        TimeoutOrElse { scoped, fallback: Some(fallback) }
    }
}

/// The future of [`Timebox::run_future_or_else`]. If it is polled again after it is done, it stays pending.
#[must_use = "futures do nothing unless polled"]
#[pin_project]
pub struct TimeoutOrElse<F, G> {
    #[pin]
    scoped: Scoped<F>,
    fallback: Option<G>,
}

impl<F, T, E, G> Future for TimeoutOrElse<F, G>
where
    F: Future<Output = Result<T, E>>,
    E: From<TimeoutError>,
    G: FnOnce(TimeoutError) -> Result<T, E>,
{
    type Output = Result<T, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut raised = None;
        let leaving = |polled: &mut SuspendedScope| raised = polled.take_raised();
        let poll = this.scoped.poll(cx, |output| output, leaving);
        let Poll::Ready(result) = poll else { return Poll::Pending };
        Poll::Ready(match (result, raised, this.fallback.take()) {
            (Err(error), Some(timed_out), Some(fallback)) => {
                drop(error);
                fallback(timed_out)
            }
            (result, ..) => result,
        })
    }
}

impl<F, G> fmt::Debug for TimeoutOrElse<F, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeoutOrElse").field("scoped", &self.scoped).finish_non_exhaustive()
    }
}
