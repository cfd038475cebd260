//! The functions that an expansion of [`timeboxed`](crate::timeboxed) calls. They may change in any release.

use std::any::type_name;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project::pin_project;

use crate::error::TimeoutError;
use crate::future::{Timeout, TimeoutOrElse};
use crate::scope::Timebox;

/// A `Result` whose error can be made of a [`TimeoutError`]. An expansion does everything through this trait. So the compiler has
/// only one error for a function that returns something else.
#[diagnostic::on_unimplemented(
    message = "a limit needs a place for its error, and `{Self}` is no `Result`",
    label = "expected a `Result`",
    note = "return a `Result` whose error is `From<TimeoutError>`; or call `Timebox::run_value` in the function, or in an async \
            one `Timebox::run_future_value`"
)]
pub trait Fallible: Sized {
    /// What an expansion with a fallback gets. The expansion runs the fallback, which may then use what the body has borrowed.
    type Outcome;
    type Timeout<F: Future<Output = Self>>: Future<Output = Self>;
    type TimeoutOrElse<F: Future<Output = Self>>: Future<Output = Self::Outcome>;

    #[track_caller]
    fn run(timebox: Timebox, body: impl FnOnce() -> Self) -> Self;
    #[track_caller]
    fn run_or_else(timebox: Timebox, body: impl FnOnce() -> Self) -> Self::Outcome;
    #[track_caller]
    fn run_future<F: Future<Output = Self>>(timebox: Timebox, future: F) -> Self::Timeout<F>;
    #[track_caller]
    fn run_future_or_else<F: Future<Output = Self>>(timebox: Timebox, future: F) -> Self::TimeoutOrElse<F>;

    /// For a `return` that has the type of the body and is never reached.
    fn never() -> Self {
        unreachable!()
    }

    /// Calls a fallback, and gives its parameter a type.
    fn fall_back(timed_out: TimeoutError, fallback: impl FnOnce(TimeoutError) -> Self) -> Self {
        fallback(timed_out)
    }
}

impl<T, E: FromTimeout> Fallible for Result<T, E> {
    /// With the inner `Err` the fallback is to run.
    type Outcome = Result<Result<T, TimeoutError>, E>;
    type Timeout<F: Future<Output = Self>> = Timeout<F>;
    type TimeoutOrElse<F: Future<Output = Self>> =
        TimeoutOrElse<InTime<F>, fn(TimeoutError) -> Self::Outcome>;

    #[inline]
    fn run(timebox: Timebox, body: impl FnOnce() -> Self) -> Self {
        timebox.run(|_| body())
    }

    fn run_or_else(timebox: Timebox, body: impl FnOnce() -> Self) -> Self::Outcome {
        timebox.run_or_else(|_| body().map(Ok), |timed_out| Ok(Err(timed_out)))
    }

    #[inline]
    fn run_future<F: Future<Output = Self>>(timebox: Timebox, future: F) -> Timeout<F> {
        timebox.run_future(future)
    }

    fn run_future_or_else<F: Future<Output = Self>>(timebox: Timebox, future: F) -> Self::TimeoutOrElse<F> {
        timebox.run_future_or_else(InTime(future), |timed_out| Ok(Err(timed_out)))
    }
}

/// An error that can be made of a [`TimeoutError`].
#[diagnostic::on_unimplemented(
    message = "the error type `{Self}` cannot take up a `timebox::TimeoutError`",
    label = "`{Self}` is not `From<TimeoutError>`",
    note = "give it a variant, with the crate thiserror `Timeout(#[from] timebox::TimeoutError)`, or write \
            `impl From<timebox::TimeoutError> for {Self}`; `Box<dyn Error>`, `io::Error` and `anyhow::Error` can take it up"
)]
pub trait FromTimeout: From<TimeoutError> {}

#[diagnostic::do_not_recommend]
impl<E: From<TimeoutError>> FromTimeout for E {}

/// A future whose value has come without the fallback.
#[derive(Debug)]
#[pin_project]
pub struct InTime<F>(#[pin] F);

impl<F, T, E> Future for InTime<F>
where
    F: Future<Output = Result<T, E>>,
{
    type Output = Result<Result<T, TimeoutError>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().0.poll(cx).map_ok(Ok)
    }
}

/// Calls a closure that may hand out what it has captured: one that is called where it stands may not.
pub fn call_once<R>(body: impl FnOnce() -> R) -> R {
    body()
}

/// The path of the function in which a type `Function` is declared.
pub fn path_of<Function>() -> &'static str {
    let mut path = type_name::<Function>();
    // The body of an async function is a closure in it.
    for inner in ["::Function", "::{{closure}}"] {
        path = path.strip_suffix(inner).unwrap_or(path);
    }
    path
}
