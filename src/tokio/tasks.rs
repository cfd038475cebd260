use std::future::Future;
use std::panic::Location;

use ::tokio::task::{self, AbortHandle, JoinHandle, JoinSet};

use crate::error::TimeoutError;
use crate::scope::{Timebox, handle};
use crate::time::Limit;

/// Spawns a task that runs within the scope of the caller, as [`Handle::enter_future`](crate::Handle::enter_future)
/// does.
///
/// Once the scope is over, so is the task: it is dropped at its next `await`, and the handle gives the [`TimeoutError`]
/// as the task's own error. The [grace](crate::Timebox::grace) of the scope holds for the task too. Outside every scope
/// this is `tokio::spawn`.
///
/// The type is that of `tokio::spawn` for a future that returns a `Result`, so the code around `spawn(..).await??` need
/// not change. The error type must be `From<TimeoutError>`. For another output use [`spawn_value`]; for a task that
/// outlives its caller use `tokio::spawn`.
///
/// # Errors
///
/// The handle gives the errors of the future, and a [`TimeoutError`] if the future was not polled, or was dropped
/// because it did not end in time.
///
/// # Panics
///
/// Outside a runtime, as `tokio::spawn` does.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use std::time::Duration;
/// use timebox::{TimeoutError, future};
///
/// let request = async {
///     let task = timebox::tokio::spawn(future::sleep(Duration::from_secs(3600)));
///     task.await.expect("no panic")
/// };
/// let error: TimeoutError = future::timeout(Duration::from_millis(10), request).await.unwrap_err();
/// assert!(error.is_timeout());
/// # }
/// ```
#[track_caller]
pub fn spawn<F, T, E>(future: F) -> JoinHandle<Result<T, E>>
where
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: From<TimeoutError> + Send + 'static,
{
    task::spawn(handle().enter_future(Limit::NONE, future))
}

/// As [`spawn`], for a future whose output is no `Result`.
///
/// # Errors
///
/// The handle gives a [`TimeoutError`] if the future was not polled, or was dropped because it did not end in time.
///
/// # Panics
///
/// Outside a runtime, as `tokio::spawn` does.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use std::time::Duration;
/// use timebox::{future, remaining};
///
/// let limit = Duration::from_secs(60);
/// let request = async { timebox::tokio::spawn_value(async { remaining() }).await.expect("no panic") };
/// assert!(future::timeout(limit, request).await.unwrap() <= Some(limit));
/// # }
/// ```
#[track_caller]
pub fn spawn_value<F>(future: F) -> JoinHandle<Result<F::Output, TimeoutError>>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let within = Timebox::new(Limit::NONE).within(&handle());
    task::spawn(within.run_future_value_at(Location::caller(), future))
}

/// Runs a closure on a thread for blocking work, within the scope of the caller, as
/// [`Handle::wrap`](crate::Handle::wrap) does.
///
/// The closure's [checkpoints](crate::checkpoint()) and [interruptible](crate::interruptible()) calls fail once the
/// scope is over. So the thread becomes free. (The drop of the request alone would not end the closure.) A closure that
/// still waits for a thread when its scope is over does not start. Outside every scope this is
/// `tokio::task::spawn_blocking`.
///
/// The type is that of tokio's `spawn_blocking` for a closure that returns a `Result`. The error type must be
/// `From<TimeoutError>`. For another output use [`spawn_blocking_value`].
///
/// # Errors
///
/// The handle gives the errors of the closure, and a [`TimeoutError`] if the closure was not started.
///
/// # Panics
///
/// Outside a runtime, as tokio's does.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use std::time::Duration;
/// use timebox::{checkpoint, future};
///
/// fn hash() -> timebox::Result<u32> {
///     loop {
///         checkpoint()?;
///     }
/// }
///
/// let request = async { timebox::tokio::spawn_blocking(hash).await.expect("no panic") };
/// let error = future::timeout(Duration::from_millis(10), request).await.unwrap_err();
/// assert!(error.is_timeout()); // and the thread of `hash` is free again
/// # }
/// ```
#[track_caller]
pub fn spawn_blocking<F, T, E>(body: F) -> JoinHandle<Result<T, E>>
where
    F: FnOnce() -> Result<T, E> + Send + 'static,
    T: Send + 'static,
    E: From<TimeoutError> + Send + 'static,
{
    task::spawn_blocking(handle().wrap(body))
}

/// As [`spawn_blocking`], for a closure that returns no `Result`.
///
/// # Errors
///
/// The handle gives a [`TimeoutError`] if the closure was not started.
///
/// # Panics
///
/// Outside a runtime, as tokio's does.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use std::time::Duration;
/// use timebox::{future, remaining};
///
/// let limit = Duration::from_secs(60);
/// let request = async { timebox::tokio::spawn_blocking_value(remaining).await.expect("no panic") };
/// assert!(future::timeout(limit, request).await.unwrap() <= Some(limit));
/// # }
/// ```
#[track_caller]
pub fn spawn_blocking_value<F, T>(body: F) -> JoinHandle<Result<T, TimeoutError>>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    task::spawn_blocking(handle().wrap_value(body))
}

/// [`spawn`] and [`spawn_blocking`] for a [`JoinSet`].
///
/// tokio-util's `TaskTracker` needs no trait: `timebox::tokio::spawn(tracker.track_future(future))`.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use std::time::Duration;
/// use timebox::tokio::JoinSetExt;
/// use timebox::{TimeoutError, future};
/// use tokio::task::JoinSet;
///
/// let request = async {
///     let mut parts = JoinSet::new();
///     parts.spawn_in_scope(async { Ok::<_, TimeoutError>(1) });
///     parts.spawn_blocking_in_scope(|| { timebox::checkpoint()?; Ok(2) });
///     let mut sum = 0;
///     while let Some(part) = parts.join_next().await {
///         sum += part.expect("no panic")?;
///     }
///     Ok::<_, TimeoutError>(sum)
/// };
/// assert_eq!(future::timeout(Duration::from_secs(60), request).await.unwrap(), 3);
/// # }
/// ```
pub trait JoinSetExt<T, E> {
    /// Spawns a task in the set, within the scope of the caller. See [`spawn`].
    #[track_caller]
    fn spawn_in_scope<F>(&mut self, future: F) -> AbortHandle
    where
        F: Future<Output = Result<T, E>> + Send + 'static;

    /// Runs a closure on a thread for blocking work, within the scope of the caller. See [`spawn_blocking`].
    #[track_caller]
    fn spawn_blocking_in_scope<F>(&mut self, body: F) -> AbortHandle
    where
        F: FnOnce() -> Result<T, E> + Send + 'static;
}

impl<T, E> JoinSetExt<T, E> for JoinSet<Result<T, E>>
where
    T: Send + 'static,
    E: From<TimeoutError> + Send + 'static,
{
    #[track_caller]
    fn spawn_in_scope<F>(&mut self, future: F) -> AbortHandle
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        self.spawn(handle().enter_future(Limit::NONE, future))
    }

    #[track_caller]
    fn spawn_blocking_in_scope<F>(&mut self, body: F) -> AbortHandle
    where
        F: FnOnce() -> Result<T, E> + Send + 'static,
    {
        self.spawn_blocking(handle().wrap(body))
    }
}
