//! The same for futures.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::pin::pin;
use std::task::Poll;

use super::probe::{Injector, Where, inject_future};
use super::sweep::{Outcome, Report};
use crate::error::TimeoutError;

/// As [`expire_at_checkpoint`](super::expire_at_checkpoint()), for a future. Each time it is pending, or that of a scope
/// in it, is an interruption point too.
///
/// # Errors
///
/// If the expiry came where the future was pending and no scope was open in it: then it was dropped.
///
/// # Examples
///
/// ```
/// # pollster::block_on(async {
/// use std::time::Duration;
/// use timebox::{TimeoutError, future, testing};
///
/// let minute = Duration::from_secs(60);
/// // 1 is the entry, 2 the sleep, and at 3 the scope is pending.
/// let result = testing::future::expire_at_checkpoint(3, future::timeout(minute, future::sleep(minute))).await;
/// let error: TimeoutError = result.unwrap().unwrap_err();
/// assert!(error.is_timeout() && !error.settled());
/// # });
/// ```
#[track_caller]
pub fn expire_at_checkpoint<F: Future>(
    number: usize,
    future: F,
) -> impl Future<Output = Result<F::Output, TimeoutError>> + use<F> {
    inject_future(&Injector::new(Where::At { number, in_shields: false }), future)
}

/// As [`expire_at`](super::expire_at()), for a future.
///
/// # Errors
///
/// As [`expire_at_checkpoint`].
#[track_caller]
pub fn expire_at<F: Future>(
    label: &str,
    future: F,
) -> impl Future<Output = Result<F::Output, TimeoutError>> + use<F> {
    inject_future(&Injector::new(Where::In(label.into())), future)
}

/// As [`for_each_checkpoint`](super::for_each_checkpoint()), for futures.
///
/// # Panics
///
/// As [`for_each_checkpoint`](super::for_each_checkpoint()).
///
/// # Examples
///
/// ```
/// # pollster::block_on(async {
/// use timebox::{TimeoutError, checkpoint, testing};
///
/// let report = testing::future::for_each_checkpoint(|| async {
///     checkpoint()?;
///     checkpoint()?;
///     Ok::<_, TimeoutError>("done")
/// })
/// .await;
/// assert_eq!(report.points().len(), 2);
/// # });
/// ```
pub async fn for_each_checkpoint<F: Future>(body: impl FnMut() -> F) -> Report<F::Output> {
    let report = try_for_each_checkpoint(body).await;
    report.assert();
    report
}

/// As [`for_each_checkpoint`], except that it does not panic.
pub async fn try_for_each_checkpoint<F: Future>(mut body: impl FnMut() -> F) -> Report<F::Output> {
    let location = Location::caller();
    let injector = Injector::new(Where::Nowhere);
    let outcome = run(&injector, body()).await;
    let mut report = Report::new(location, outcome);
    let all = injector.seen();
    if report.unharmed().held() {
        for number in 1..=all.len() {
            let injector = Injector::new(Where::At { number, in_shields: false });
            let outcome = run(&injector, body()).await;
            report.add(number, &all, &injector.seen(), outcome);
        }
    }
    report
}

async fn run<F: Future>(injector: &std::sync::Arc<Injector>, future: F) -> Outcome<F::Output> {
    let mut future = pin!(inject_future(injector, future));
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(result)) => Poll::Ready(Outcome::of(Ok(result))),
        Err(payload) => Poll::Ready(Outcome::of(Err(payload))),
    })
    .await
}
