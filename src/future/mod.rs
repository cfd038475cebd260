//! Scopes of futures, on any executor.
//!
//! The scope of a future is entered when its first poll begins. It is open in every poll and in the drop, on whichever
//! thread they run. So code in the future finds the scope through the free functions of the crate. No timer of a
//! runtime is needed: the watchdog wakes the task, even while all threads of the executor are blocked.
//!
//! The first poll fixes the deadline of the scope. The scopes around it are determined anew in each poll: they are the
//! scopes that are open where the future is polled. So one future can be polled under one short limit after another
//! (`&mut future` is a future), and a future that moves to another task leaves its old surroundings. To bring a scope
//! to another task use [`Handle::enter_future`](crate::Handle::enter_future).
//!
//! # When time runs out
//!
//! The future is polled first, then the deadline is checked: a value that is ready wins. After the deadline the hooks
//! of the scope run; then the future is dropped, inside its scope, and the result is an error that is not
//! [settled](crate::TimeoutError::settled). No poll blocks for a hook: while the hooks run the result is pending, and
//! the future is not polled any more.
//!
//! **Without a grace the scope ends the future, not the await.** An await of this crate ([`sleep`], [`wait`],
//! [`interruptible`], the entry of a scope) stays pending, and is dropped where it stands. So an outer limit that has
//! passed never makes a body run on after an await, and code that was written for another timer needs no change.
//!
//! **Within a [grace](crate::Timebox::grace) an await gives the error**, so that the body can clean up; the value that the
//! body returns is the result. Every await that was pending gives the error. Of the awaits that begin later, one in
//! each poll gives the error, and the others stay pending until the grace ends. So a loop that ignores errors occupies
//! no thread, and does not outlive the grace. Cleanup that awaits belongs in a [`shield`]. A grace holds for every
//! future that is polled in the scope or entered by its handles.
//!
//! In a block around a `block_on` an await gives the error too, since a block cannot drop the future.
//!
//! If an inner scope is over only because an outer scope is over, the outer future decides: it drops both futures, or
//! its grace holds for both. So `&mut future` survives the limit under which it is polled. If a `block_on` inside the
//! outer poll drives the inner future, the outer future cannot drop it: then the inner future waits 20 ms for the drop,
//! and ends by itself.
//!
//! # One future, several limits
//!
//! Three things look alike:
//!
//! | you have | use |
//! |---|---|
//! | work that must end at the limit | [`timeout`] |
//! | work that goes on while you look after it now and then: a heartbeat, a progress report | [`wait`]`(limit, &mut work)`, again and again |
//! | work for which several callers wait: a shared load, a cache fill, coalesced requests | [`Handle::root`](crate::Handle::root) around the work, and in each caller a [`timeout`] around the waiting |
//!
//! A shared future (`futures::future::Shared`, a `OnceCell`, a coalescing cache) is polled by any of its callers, in
//! the scopes of that caller. Without the root, the checkpoints, hooks, tokens and handles of the work would belong to
//! the caller that polls it: a load that was begun by a caller with 30 ms left could fail for a caller with five
//! seconds.
//!
//! # Examples
//!
//! ```
//! # pollster::block_on(async {
//! use std::time::Duration;
//! use timebox::{TimeoutError, future};
//!
//! let result = future::timeout(Duration::from_millis(10), async {
//!     future::sleep(Duration::from_secs(60)).await?;
//!     Ok::<_, TimeoutError>("awake")
//! })
//! .await;
//! assert!(result.unwrap_err().is_timeout());
//! # });
//! ```

mod interruptible;
mod or_else;
mod poll_scope;
pub(crate) mod scoped;
mod shield;
mod sleep;
#[cfg(feature = "stream")]
mod stream;
pub(crate) mod task_wakeup;
mod wait;

use std::future::{Future, IntoFuture};
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project::pin_project;

use crate::error::TimeoutError;
use crate::scope::SuspendedScope;
use crate::scope::{Handle, Timebox};
use crate::time::Limit;
use scoped::Scoped;

pub use interruptible::{Interruptible, interruptible};
pub use or_else::TimeoutOrElse;
pub use poll_scope::{PollScope, ScopeTemplate};
pub use shield::{Shield, shield};
pub use sleep::{Sleep, sleep};
#[cfg(feature = "stream")]
pub use stream::{StreamExt, TimeoutStream};
pub use wait::{Wait, wait};

/// Runs a future under a limit, as [`timeout`](crate::timeout()) runs a block.
///
/// The output of the future must be a `Result` (E0271) whose error is `From<TimeoutError>` (E0277). If it is not, use
/// [`timeout_value`]. If the compiler cannot tell the error type of an async block (E0283), end the block with
/// `Ok::<_, MyError>(..)`, [as the front page shows](crate#e0283-type-annotations-needed).
///
/// # Errors
///
/// The errors of the future. A [`TimeoutError`] if the future was not polled because no time was left, or was dropped
/// because it did not end in time.
///
/// # Cancellation safety
///
/// Dropping the returned future drops the inner future inside its scope.
///
/// # Examples
///
/// ```
/// # pollster::block_on(async {
/// use std::time::Duration;
/// use timebox::{TimeoutError, future};
///
/// let result = future::timeout(Duration::from_secs(1), async { Ok::<_, TimeoutError>(7) }).await;
/// assert_eq!(result.unwrap(), 7);
/// # });
/// ```
#[doc(alias("timeout_at", "fail_after"))]
#[track_caller]
#[inline]
pub fn timeout<F, T, E>(limit: impl Into<Limit>, future: F) -> Timeout<F::IntoFuture>
where
    F: IntoFuture<Output = Result<T, E>>,
    E: From<TimeoutError>,
{
    Timeout {
        scoped: Scoped::new(SuspendedScope::new(limit.into(), Location::caller()), future.into_future()),
    }
}

/// Runs a future under a limit, for an output that is no `Result`. For a `Result` use [`timeout`], which gives one
/// `Result` and not two nested ones.
///
/// # Errors
///
/// A [`TimeoutError`] if the future was not polled, or was dropped because it did not end in time.
///
/// # Cancellation safety
///
/// As [`timeout`].
///
/// # Examples
///
/// ```
/// # pollster::block_on(async {
/// use std::time::Duration;
/// use timebox::future;
///
/// let never = future::timeout_value(Duration::from_millis(5), std::future::pending::<()>());
/// let error = never.await.unwrap_err();
/// assert!(error.is_timeout() && !error.settled());
/// # });
/// ```
#[doc(alias("timeout_at", "move_on_after"))]
#[track_caller]
#[inline]
pub fn timeout_value<F: IntoFuture>(limit: impl Into<Limit>, future: F) -> TimeoutValue<F::IntoFuture> {
    TimeoutValue {
        scoped: Scoped::new(SuspendedScope::new(limit.into(), Location::caller()), future.into_future()),
    }
}

/// The future of [`timeout`]. If it is polled again after it is done, it stays pending.
///
/// The task may poll this future within another future of this crate, whose deadline is earlier. Then only that other
/// future has a timer. So if you move this future out of the other one, poll it once in its new place: until then its
/// own deadline does not wake the task.
#[must_use = "futures do nothing unless polled"]
#[pin_project]
#[derive(Debug)]
pub struct Timeout<F> {
    #[pin]
    scoped: Scoped<F>,
}

impl<F, T, E> Future for Timeout<F>
where
    F: Future<Output = Result<T, E>>,
    E: From<TimeoutError>,
{
    type Output = Result<T, E>;

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().scoped.poll(cx, |output| output, |_| ())
    }
}

/// The future of [`timeout_value`]. If it is polled again after it is done, it stays pending.
#[must_use = "futures do nothing unless polled"]
#[pin_project]
#[derive(Debug)]
pub struct TimeoutValue<F> {
    #[pin]
    scoped: Scoped<F>,
}

impl<F: Future> Future for TimeoutValue<F> {
    type Output = Result<F::Output, TimeoutError>;

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().scoped.poll(cx, Ok, |_| ())
    }
}

/// Limits as methods of futures. If you also import another trait named `FutureExt`, write
/// `use timebox::future::FutureExt as _`.
///
/// ```
/// # pollster::block_on(async {
/// use std::time::Duration;
/// use timebox::TimeoutError;
/// use timebox::future::FutureExt;
///
/// let work = async { Ok::<_, TimeoutError>(7) };
/// assert_eq!(work.timebox(Duration::from_secs(1)).await.unwrap(), 7);
/// assert_eq!(async { 7 }.timebox_value(Duration::from_secs(1)).await.unwrap(), 7);
/// # });
/// ```
pub trait FutureExt: Future {
    /// As [`timeout`].
    #[track_caller]
    fn timebox<T, E>(self, limit: impl Into<Limit>) -> Timeout<Self>
    where
        Self: Future<Output = Result<T, E>> + Sized,
        E: From<TimeoutError>,
    {
        timeout(limit, self)
    }

    /// As [`timeout_value`].
    #[track_caller]
    fn timebox_value(self, limit: impl Into<Limit>) -> TimeoutValue<Self>
    where
        Self: Sized,
    {
        timeout_value(limit, self)
    }
}

impl<F: Future> FutureExt for F {}

impl Timebox {
    /// Runs a future, as [`future::timeout`](timeout) does.
    ///
    /// # Errors
    ///
    /// As [`future::timeout`](timeout).
    ///
    /// # Cancellation safety
    ///
    /// As [`future::timeout`](timeout).
    ///
    /// # Examples
    ///
    /// ```
    /// # pollster::block_on(async {
    /// use std::time::Duration;
    /// use timebox::{TimeoutError, Timebox, future};
    ///
    /// // Ten milliseconds to work, and a second more to undo it.
    /// let result = Timebox::new(Duration::from_millis(10))
    ///     .grace(Duration::from_secs(1))
    ///     .run_future(async {
    ///         let work = future::sleep(Duration::from_secs(60)).await;
    ///         if work.is_err() {
    ///             // roll back
    ///         }
    ///         work
    ///     })
    ///     .await;
    /// let error: TimeoutError = result.unwrap_err();
    /// assert!(error.settled());
    /// # });
    /// ```
    #[track_caller]
    pub fn run_future<F, T, E>(self, future: F) -> Timeout<F::IntoFuture>
    where
        F: IntoFuture<Output = Result<T, E>>,
        E: From<TimeoutError>,
    {
        let (limit, extras) = self.into_parts();
        Timeout {
            scoped: Scoped::new(
                SuspendedScope::with(limit, extras, Location::caller()),
                future.into_future(),
            ),
        }
    }

    /// Runs a future whose output is no `Result`, as [`future::timeout_value`](timeout_value) does.
    ///
    /// # Errors
    ///
    /// As [`future::timeout_value`](timeout_value).
    ///
    /// # Cancellation safety
    ///
    /// As [`future::timeout`](timeout).
    #[track_caller]
    pub fn run_future_value<F: IntoFuture>(self, future: F) -> TimeoutValue<F::IntoFuture> {
        self.run_future_value_at(Location::caller(), future.into_future())
    }

    pub(crate) fn run_future_value_at<F: Future>(
        self,
        location: &'static Location<'static>,
        future: F,
    ) -> TimeoutValue<F> {
        let (limit, extras) = self.into_parts();
        TimeoutValue { scoped: Scoped::new(SuspendedScope::with(limit, extras, location), future) }
    }
}

impl Handle {
    /// Runs a future, in any task, in a scope within the scopes of the handle. The scopes that are open where the
    /// future is polled do not count inside it.
    ///
    /// # Errors
    ///
    /// As [`future::timeout`](timeout).
    ///
    /// # Cancellation safety
    ///
    /// As [`future::timeout`](timeout).
    ///
    /// # Examples
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// use std::time::Duration;
    /// use timebox::{TimeoutError, future};
    ///
    /// let result = future::timeout(Duration::from_millis(10), async {
    ///     let handle = timebox::handle();
    ///     let task = handle.enter_future(None::<Duration>, async {
    ///         future::sleep(Duration::from_secs(60)).await?;
    ///         Ok::<_, TimeoutError>(())
    ///     });
    ///     tokio::spawn(task).await.expect("no panic")
    /// })
    /// .await;
    /// assert!(result.unwrap_err().is_timeout());
    /// # });
    /// ```
    #[track_caller]
    pub fn enter_future<F, T, E>(&self, limit: impl Into<Limit>, future: F) -> Timeout<F::IntoFuture>
    where
        F: IntoFuture<Output = Result<T, E>>,
        E: From<TimeoutError>,
    {
        let extras = self.extras();
        Timeout {
            scoped: Scoped::new(
                SuspendedScope::with(limit.into(), extras, Location::caller()),
                future.into_future(),
            ),
        }
    }
}
