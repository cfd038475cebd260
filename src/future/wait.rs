use std::fmt;
use std::future::{Future, IntoFuture};
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project::{pin_project, pinned_drop};

use super::alert::Alert;
use crate::error::TimeoutError;
use crate::scope::frame::{Around, Terms, error_at};
use crate::scope::over::{Stand, Standing, takes_a_break};
use crate::scope::staged::point;
use crate::scope::{Scope, Spending, begin_wait};
use crate::time::seam::Seam;
use crate::time::{Limit, clock};
use crate::token::node::End;
use crate::token::trail::Circumstances;
use crate::watchdog::slots::Thread;

/// Waits at most so long for a future that goes on: `&mut future`, the handle of a task.
///
/// It opens no scope. The future is not told of the limit: its deadlines, tokens and handles are those of the scopes
/// around, and when the wait is over it can be waited for again. [`timeout`](super::timeout) is for work that shall *end*
/// at the limit; under that, `&mut future` would be told at the first limit that it is over.
///
/// The future is polled before the deadline is looked at, also with a limit of zero: a value that is ready wins. The time
/// begins with the first poll.
///
/// # Errors
///
/// A [`TimeoutError`] when the limit is reached. Nothing was cut off, so it is [settled](TimeoutError::settled). In a scope
/// that is over it fails as [`sleep`](super::sleep) does.
///
/// Polled after its end it stays pending.
///
/// # Cancellation safety
///
/// That of the future. A future that was given by value is dropped with the wait.
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
/// assert!(result.is_ok() && beats > 0);
/// # });
/// ```
#[track_caller]
pub fn wait<F: IntoFuture>(limit: impl Into<Limit>, future: F) -> Wait<F::IntoFuture> {
    Wait {
        limit: limit.into(),
        location: Location::caller(),
        seam: Seam::current(),
        begun: None,
        standing: Standing::default(),
        alert: Alert::default(),
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
    /// On whose clock it waits.
    seam: Seam,
    /// From the first poll on.
    begun: Option<Begun>,
    standing: Standing,
    alert: Alert,
    is_done: bool,
    #[pin]
    future: F,
}

struct Begun {
    terms: Terms,
    /// Left when the wait is over.
    _spending: Option<Spending>,
}

impl<F: Future> Future for Wait<F> {
    type Output = Result<F::Output, TimeoutError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if *this.is_done {
            return Poll::Pending;
        }
        let (begun, location, limit, seam) = (this.begun, *this.location, &*this.limit, this.seam);
        let begins = begun.is_none();
        let own = Thread::with(|thread| {
            let begun = begun.get_or_insert_with(|| {
                point(thread, location);
                if seam.is_real() {
                    *seam = Seam::current();
                }
                let (terms, spending) = begin_wait(limit, seam.reading(clock::now()), location);
                Begun { terms, _spending: spending }
            });
            begun.terms.own()
        });
        let result = match this.future.poll(cx) {
            Poll::Ready(output) => Ok(output),
            Poll::Pending => {
                let error = Thread::with(|thread| {
                    let now = seam.reading(clock::now());
                    match this.standing.look(thread) {
                        Stand::Fail => return error_at(thread, location),
                        Stand::AwaitDrop { until, .. } => {
                            this.alert.stay(&Seam::current(), until, cx.waker());
                        }
                        _ if own <= now && begins && takes_a_break() => cx.waker().wake_by_ref(),
                        _ if own <= now => return begun.as_ref().map(|begun| begun.error(thread, now)),
                        Stand::Stay { until } => this.alert.stay(seam, own.min(until), cx.waker()),
                        Stand::GoOn => this.alert.wake_await(thread, seam, own, cx.waker()),
                    }
                    None
                });
                let Some(error) = error else { return Poll::Pending };
                Err(error)
            }
        };
        this.alert.clear();
        *begun = None;
        *this.is_done = true;
        Poll::Ready(result)
    }
}

impl Begun {
    /// The error when the limit is reached.
    #[cold]
    fn error(&self, thread: &Thread, now: u64) -> TimeoutError {
        let terms = &self.terms;
        let end = End::new(terms.cause, terms.own());
        let how = Circumstances::at(terms.location, now);
        Scope::error_without_frame(thread, terms, None, Some(end), Around::Thread, how)
    }
}

#[pinned_drop]
impl<F> PinnedDrop for Wait<F> {
    fn drop(self: Pin<&mut Self>) {
        self.project().alert.clear();
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
