use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::alert::Alert;
use crate::error::TimeoutError;
use crate::scope::Scope;
use crate::scope::frame::innermost;
use crate::scope::staged::point;
use crate::time::seam::Seam;
use crate::time::{clock, nanos};
use crate::watchdog::slots::Thread;

/// Sleeps, but no longer than the scope lasts in which it is polled. The time begins with the first poll.
///
/// # Errors
///
/// A [`TimeoutError`] as soon as the scope is over.
///
/// # Cancellation safety
///
/// Nothing is lost when the future is dropped.
///
/// # Examples
///
/// ```
/// # pollster::block_on(async {
/// use std::time::Duration;
/// use timebox::future;
///
/// assert!(future::sleep(Duration::from_millis(1)).await.is_ok());
/// # });
/// ```
#[track_caller]
pub fn sleep(duration: Duration) -> Sleep {
    Sleep {
        duration,
        end: None,
        location: Location::caller(),
        alert: Alert::default(),
        seam: Seam::current(),
    }
}

/// The future of [`sleep`].
#[must_use = "futures do nothing unless polled"]
#[derive(Debug)]
pub struct Sleep {
    duration: Duration,
    /// From the first poll on.
    end: Option<u64>,
    location: &'static Location<'static>,
    alert: Alert,
    /// On whose clock it sleeps.
    seam: Seam,
}

impl Future for Sleep {
    type Output = Result<(), TimeoutError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        Thread::with(|thread| {
            innermost(thread, |scope| {
                if this.end.is_none() {
                    point(thread, this.location);
                }
                if let Some(scope) = scope {
                    scope.check_by_clock(this.location)?;
                }
                // Made outside of a test's closure, it sleeps by the clock of its first poll.
                if this.end.is_none() && this.seam.is_real() {
                    this.seam = Seam::current();
                }
                let now = this.seam.reading(clock::now());
                let end = *this.end.get_or_insert_with(|| now.saturating_add(nanos(this.duration)));
                if end <= now {
                    this.alert.clear();
                    return Poll::Ready(Ok(()));
                }
                let woken = if this.seam.shares_clock(&Seam::current()) {
                    this.alert.wake_with(scope, thread.deadline.get(), end, cx.waker())
                } else {
                    this.alert.wake_at_on(&this.seam, end, cx.waker());
                    this.alert.wake_by(scope.map(Scope::node), cx.waker())
                };
                if !woken && let Some(scope) = scope {
                    scope.check_by_clock(this.location)?;
                }
                // It may be carried out of the scope that would wake it.
                if !this.alert.has_timer() {
                    this.alert.wake_at(end, cx.waker());
                }
                Poll::Pending
            })
        })
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.alert.clear();
    }
}
