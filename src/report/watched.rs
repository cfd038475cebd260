//! Blocks and futures without a limit. Reports tell of them if they take long.

use std::borrow::Cow;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project::pin_project;

use crate::scope::watched;

/// Runs a block, and reports it as [slow](super::Kind::Slow) if it takes this long. Returns what the block returns.
///
/// The block is not bounded: it always runs, and it runs in the scopes around it. So its checkpoints, tokens and
/// handles are those of the scopes around it. Nothing is reported while no [policy](super::Policy) is installed.
///
/// # Panics
///
/// A panic of the block passes through.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use timebox::report;
///
/// let sum = report::watch("nightly sum", Duration::from_secs(5), || (1..=100).sum::<u32>());
/// assert_eq!(sum, 5050);
/// ```
#[track_caller]
pub fn watch<R>(label: impl Into<Cow<'static, str>>, duration: Duration, body: impl FnOnce() -> R) -> R {
    watched::Watched::new(label.into(), duration, Location::caller()).run(body)
}

/// Watches each poll of a future, on any executor: a poll that takes this long is reported as
/// [stalled](super::Kind::Stalled) while it is stuck, with its stack. So code that blocks the executor's thread is
/// found. For the workers of tokio there is also [`watch_runtime`](fn@super::watch_runtime).
///
/// The future is not bounded, and it may be pending for any time. The output is that of the future. A poll is reported
/// after 10 ms at the earliest. Nothing is reported while no [policy](super::Policy) is installed.
///
/// # Cancellation safety
///
/// The same as that of the future. Dropping `Watched` drops the future. The drop is not watched.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use timebox::report;
///
/// # pollster::block_on(async {
/// let answer = report::watched("connection", Duration::from_millis(100), async { 42 }).await;
/// assert_eq!(answer, 42);
/// # });
/// ```
#[track_caller]
pub fn watched<F: IntoFuture>(
    label: impl Into<Cow<'static, str>>,
    duration: Duration,
    future: F,
) -> Watched<F::IntoFuture> {
    let watched = Box::new(watched::Watched::new(label.into(), duration, Location::caller()));
    Watched { watched, future: future.into_future() }
}

/// The future of [`watched`].
#[must_use = "futures do nothing unless polled"]
#[pin_project]
pub struct Watched<F> {
    watched: Box<watched::Watched>,
    #[pin]
    future: F,
}

impl<F: Future> Future for Watched<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let future = this.future;
        this.watched.poll(|| future.poll(cx))
    }
}

impl<F> fmt::Debug for Watched<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").finish_non_exhaustive()
    }
}
