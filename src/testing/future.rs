//! The functions of [`testing`](super) for futures.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use super::probe::{Injector, Where, inject_future};
use super::sweep::{Outcome, Report};
use crate::error::TimeoutError;
use crate::sync::{AtomicBool, Mutex, Ordering, lock};

type Place = &'static Location<'static>;

/// Like [`expire_at_checkpoint`](super::expire_at_checkpoint()), for a future. The future gets a scope of its own, so
/// each poll that leaves it pending is an interruption point.
///
/// # Errors
///
/// If the scope around the future expired while the future was pending and had no scope open. The future was then
/// dropped. Or if an outer scope was over at the start. The future was then not polled.
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
    inject_future(&Injector::new(Where::At { number, in_shields: false }), Location::caller(), future)
}

/// Like [`expire_at`](super::expire_at()), for a future.
///
/// # Errors
///
/// Those of [`expire_at_checkpoint`].
#[track_caller]
pub fn expire_at<F: Future>(
    label: &str,
    future: F,
) -> impl Future<Output = Result<F::Output, TimeoutError>> + use<F> {
    inject_future(&Injector::new(Where::In(label.into())), Location::caller(), future)
}

/// Like [`for_each_checkpoint`](super::for_each_checkpoint()), for futures.
///
/// # Panics
///
/// For the reasons of [`for_each_checkpoint`](super::for_each_checkpoint()).
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
#[track_caller]
pub fn for_each_checkpoint<F: Future>(body: impl FnMut() -> F) -> impl Future<Output = Report<F::Output>> {
    let sweep = try_for_each_checkpoint(body);
    async {
        let report = sweep.await;
        report.assert();
        report
    }
}

/// Like [`for_each_checkpoint`], but returns the report and does not panic.
#[track_caller]
pub fn try_for_each_checkpoint<F: Future>(
    mut body: impl FnMut() -> F,
) -> impl Future<Output = Report<F::Output>> {
    let location = Location::caller();
    async move {
        let (all, first) = run(Where::Nowhere, location, &mut body).await;
        let mut report = Report::new(location, first);
        if report.unharmed().held() {
            for number in 1..=all.len() {
                let (seen, outcome) = run(Where::At { number, in_shields: false }, location, &mut body).await;
                report.add(number, &all, &seen, outcome);
            }
        }
        report
    }
}

/// Runs the body once, and polls the body's future only after wakeups of that future. The task may also be woken for an
/// earlier run, or for another future in the task. A poll after such a wakeup would leave the future pending again, and
/// so would add an interruption point.
async fn run<F: Future>(
    place: Where,
    location: Place,
    body: impl FnOnce() -> F,
) -> (Vec<Place>, Outcome<F::Output>) {
    let injector = Injector::new(place);
    let mut future = pin!(inject_future(&injector, location, async { body().await }));
    let own_waker =
        Arc::new(RunWaker { woken: AtomicBool::new(true), task: Mutex::new(Waker::noop().clone()) });
    let waker = Waker::from(Arc::clone(&own_waker));
    let outcome = poll_fn(|context| {
        if !own_waker.take_woken(context.waker()) {
            return Poll::Pending;
        }
        let mut context = Context::from_waker(&waker);
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(result)) => Poll::Ready(Outcome::of(Ok(result))),
            Err(payload) => Poll::Ready(Outcome::of(Err(payload))),
        }
    })
    .await;
    (injector.seen(), outcome)
}

/// The waker of one run. It records that the run was woken, and wakes the task.
struct RunWaker {
    woken: AtomicBool,
    task: Mutex<Waker>,
}

impl RunWaker {
    /// Whether there was a wakeup since the last call. Later wakeups go to `task`.
    fn take_woken(&self, task: &Waker) -> bool {
        // The task is stored before `woken` is read, so that a wakeup after that read wakes this task.
        let before = std::mem::replace(&mut *lock(&self.task), task.clone());
        drop(before);
        // Acquire: pairs with the Release in `wake`.
        self.woken.swap(false, Ordering::Acquire)
    }
}

impl Wake for RunWaker {
    fn wake(self: Arc<Self>) {
        // Release: pairs with the Acquire in `take_woken`. So the poll sees everything that happened before the
        // wakeup.
        self.woken.store(true, Ordering::Release);
        let task = lock(&self.task).clone();
        task.wake();
    }
}
