//! The functions that an expansion of [`timeboxed`](crate::timeboxed) calls. They may change in any release.

use std::any::type_name;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project::pin_project;

use crate::error::TimeoutError;
use crate::future::{Timeout, TimeoutOrElse};
use crate::scope::Timebox;

/// A `Result` whose error can be made of a [`TimeoutError`]. The code that the macro writes calls only this trait. So
/// if a function returns no `Result`, the compiler reports only one error.
#[diagnostic::on_unimplemented(
    message = "a limit needs a place for its error, and `{Self}` is no `Result`",
    label = "expected a `Result`",
    note = "return a `Result` whose error is `From<TimeoutError>`; or call `Timebox::run_value` in the function, or in an async \
            one `Timebox::run_future_value`"
)]
pub trait Fallible: Sized {
    /// What `run_or_else` and `run_future_or_else` return to the expansion of a macro. The expansion itself runs the
    /// fallback, after the body, so the fallback may use what the body has borrowed.
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

    /// Never called. The macro writes `return never()` into dead code, so that the compiler knows the type of the
    /// result.
    fn never() -> Self {
        unreachable!()
    }

    /// Calls a fallback. The macro does not call the closure itself, so that the compiler finds the type of its
    /// parameter here.
    fn fall_back(timed_out: TimeoutError, fallback: impl FnOnce(TimeoutError) -> Self) -> Self {
        fallback(timed_out)
    }
}

impl<T, E: FromTimeout> Fallible for Result<T, E> {
    /// `Ok(Err(_))` means that the time was up: then the macro runs the fallback.
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

/// Turns the future's `Ok(value)` into `Ok(Ok(value))`. The inner `Ok` says that the value came in time, so the
/// fallback does not run.
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

/// Calls a closure that may return a `&mut` that it has captured. The bound `FnOnce` is needed for that: the compiler
/// rejects such a closure if it is called where it is written.
pub fn call_once<R>(body: impl FnOnce() -> R) -> R {
    body()
}

/// `Function` is a type that is declared in a function. Returns the path of that function.
pub fn path_of<Function>() -> &'static str {
    let mut path = type_name::<Function>();
    // The body of an async function is a closure, which is a part of the path.
    for inner in ["::Function", "::{{closure}}"] {
        path = path.strip_suffix(inner).unwrap_or(path);
    }
    path
}
