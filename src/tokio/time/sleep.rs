use std::future::Future;
use std::marker::PhantomPinned;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use ::tokio::time::Instant;
use pin_project::pin_project;

use super::alarm::Alarm;
use super::clock::{add, is_tokios};
use crate::time::{clock, nanos};

/// Waits for this long, as tokio's `sleep` does.
///
/// The time begins with this call. A duration that is too long for an [`Instant`] counts as 30 years.
///
/// The sleep does not end early when a scope is over, because its output `()` could not say so. It stays pending, and
/// is dropped with the future whose scope is over: at once, or at the end of a [grace](crate::Timebox::grace).
/// [`future::sleep`](crate::future::sleep) ends early, with the error.
///
/// # Cancellation safety
///
/// Nothing is lost when the future is dropped.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use std::time::Duration;
/// use timebox::tokio::time::sleep;
///
/// sleep(Duration::from_millis(1)).await;
/// # }
/// ```
pub fn sleep(duration: Duration) -> Sleep {
    let deadline = add(Instant::now(), duration);
    if is_tokios() || clock::is_mocked() {
        return Sleep::new(Alarm::new(deadline, clock::now().saturating_add(nanos(duration))));
    }
    sleep_until(deadline)
}

/// Waits until an instant, as tokio's `sleep_until` does. See [`sleep`].
///
/// # Cancellation safety
///
/// Nothing is lost when the future is dropped.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use timebox::tokio::time::{Duration, Instant, sleep_until};
///
/// let deadline = Instant::now() + Duration::from_millis(1);
/// sleep_until(deadline).await;
/// assert!(Instant::now() >= deadline);
/// # }
/// ```
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep::new(Alarm::at(deadline))
}

/// The future of [`sleep`] and [`sleep_until`]. Like tokio's it must be pinned before it is polled or reset.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use std::pin::pin;
/// use timebox::tokio::time::{Duration, Instant, sleep};
///
/// let mut sleep = pin!(sleep(Duration::from_secs(3600)));
/// assert!(!sleep.is_elapsed());
/// sleep.as_mut().reset(Instant::now() + Duration::from_millis(1));
/// sleep.as_mut().await;
/// assert!(sleep.is_elapsed());
/// # }
/// ```
#[must_use = "futures do nothing unless polled"]
#[pin_project]
#[derive(Debug)]
pub struct Sleep {
    alarm: Alarm,
    #[pin]
    pinned: PhantomPinned,
}

impl Sleep {
    fn new(alarm: Alarm) -> Self {
        Self { alarm, pinned: PhantomPinned }
    }

    /// When the sleep ends.
    pub fn deadline(&self) -> Instant {
        self.alarm.deadline()
    }

    /// Whether the time is over.
    pub fn is_elapsed(&self) -> bool {
        self.alarm.is_elapsed()
    }

    /// Moves the end of the sleep to another instant. If a task waits for the sleep, the task is woken at that instant,
    /// even if it does not poll the sleep before. A sleep that was polled to its end starts anew, and must be polled
    /// again.
    pub fn reset(self: Pin<&mut Self>, deadline: Instant) {
        self.project().alarm.reset(deadline);
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.project().alarm.poll(cx)
    }
}
