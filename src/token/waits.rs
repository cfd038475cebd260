//! Futures that wait for a token.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project::{pin_project, pinned_drop};

use super::handles::CancellationToken;
use crate::thread;
use crate::time::NEVER;
use crate::watchdog;

/// Where a task is registered that waits for a token.
#[derive(Debug, Default)]
pub(super) struct Wait {
    key: Option<usize>,
}

impl Wait {
    fn poll(&mut self, token: &CancellationToken, cx: &mut Context<'_>) -> Poll<()> {
        let registered = match self.key {
            Some(key) => token.node().update_waker(key, cx.waker()),
            None => {
                self.key = token.node().add_waker(cx.waker());
                self.key.is_some()
            }
        };
        // A node that was lost in a fork takes no wakers; nobody will cancel it any more either.
        let over = !registered && token.node().is_over();
        // Registered first, then asked: an end in between is seen here or wakes the task.
        if over || token.is_cancelled() {
            self.leave(token);
            return Poll::Ready(());
        }
        let watchdog = watchdog::global();
        if watchdog.is_missing() && token.node().expires_at() != NEVER && !thread::ensure_watchdog() {
            // Nobody is there yet to tell of its deadline: it is asked again.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    fn leave(&mut self, token: &CancellationToken) {
        if let Some(key) = self.key.take()
            && !token.node().is_over()
        {
            token.node().remove_waker(key);
        }
    }
}

/// The future of [`CancellationToken::cancelled`].
#[must_use = "futures do nothing unless polled"]
#[derive(Debug)]
#[doc(alias = "WaitForCancellationFuture")]
pub struct Cancelled<'a> {
    pub(super) token: &'a CancellationToken,
    pub(super) wait: Wait,
}

impl Future for Cancelled<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.wait.poll(this.token, cx)
    }
}

impl Drop for Cancelled<'_> {
    fn drop(&mut self) {
        self.wait.leave(self.token);
    }
}

/// The future of [`CancellationToken::cancelled_owned`].
#[must_use = "futures do nothing unless polled"]
#[derive(Debug)]
#[doc(alias = "WaitForCancellationFutureOwned")]
pub struct CancelledOwned {
    pub(super) token: CancellationToken,
    pub(super) wait: Wait,
}

impl Future for CancelledOwned {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.wait.poll(&this.token, cx)
    }
}

impl Drop for CancelledOwned {
    fn drop(&mut self) {
        self.wait.leave(&self.token);
    }
}

/// The future of [`CancellationToken::run_until_cancelled`].
#[must_use = "futures do nothing unless polled"]
#[pin_project(PinnedDrop)]
#[derive(Debug)]
pub struct RunUntilCancelled<'a, F> {
    pub(super) token: &'a CancellationToken,
    pub(super) wait: Wait,
    pub(super) started: bool,
    /// Until it is done, or dropped.
    #[pin]
    pub(super) future: Option<F>,
}

impl<F: Future> Future for RunUntilCancelled<'_, F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(future) = this.future.as_mut().as_pin_mut() else { return Poll::Pending };
        let output = if !std::mem::replace(this.started, true) && this.token.is_cancelled() {
            None
        } else if let Poll::Ready(output) = future.poll(cx) {
            Some(output)
        } else if this.wait.poll(this.token, cx).is_ready() {
            None
        } else {
            return Poll::Pending;
        };
        this.future.set(None);
        Poll::Ready(output)
    }
}

#[pinned_drop]
impl<F> PinnedDrop for RunUntilCancelled<'_, F> {
    fn drop(self: Pin<&mut Self>) {
        let this = self.project();
        this.wait.leave(this.token);
    }
}
