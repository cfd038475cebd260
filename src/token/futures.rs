use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project::{pin_project, pinned_drop};

use super::cancellation_token::CancellationToken;
use crate::thread;
use crate::time::NEVER;
use crate::watchdog;

impl CancellationToken {
    /// Waits until the token is over.
    ///
    /// # Cancellation safety
    ///
    /// Nothing is lost when the future is dropped.
    pub fn cancelled(&self) -> Cancelled<'_> {
        Cancelled { token: self, wait: Wait::default() }
    }

    /// Waits until the token is over. The returned future owns the token.
    ///
    /// # Cancellation safety
    ///
    /// Nothing is lost when the future is dropped.
    pub fn cancelled_owned(self) -> CancelledOwned {
        CancelledOwned { token: self, wait: Wait::default() }
    }

    /// Runs a future until it is done, or until the token is over. If the token is over first, the future is dropped
    /// and the result is `None`.
    ///
    /// # Fairness
    ///
    /// If the token is over before the first poll, the future is never polled. In each poll the future is polled before
    /// the token is checked: a value that is ready wins.
    ///
    /// # Cancellation safety
    ///
    /// This future is as cancellation-safe as the future that it runs.
    ///
    /// ```
    /// # pollster::block_on(async {
    /// use timebox::CancellationToken;
    ///
    /// let token = CancellationToken::new();
    /// assert_eq!(token.run_until_cancelled(async { 7 }).await, Some(7));
    /// token.cancel();
    /// assert_eq!(token.run_until_cancelled(async { 7 }).await, None);
    /// # });
    /// ```
    #[doc(alias = "with_cancellation_token")]
    pub fn run_until_cancelled<F: Future>(&self, future: F) -> RunUntilCancelled<'_, F> {
        RunUntilCancelled { token: self, wait: Wait::default(), started: false, future: Some(future) }
    }

    /// Like [`run_until_cancelled`](Self::run_until_cancelled), but the returned future owns the token.
    ///
    /// # Cancellation safety
    ///
    /// This future is as cancellation-safe as the future that it runs.
    pub async fn run_until_cancelled_owned<F: Future>(self, future: F) -> Option<F::Output> {
        self.run_until_cancelled(future).await
    }
}

#[derive(Debug, Default)]
struct Wait {
    key: Option<usize>,
}

impl Wait {
    fn poll(&mut self, token: &CancellationToken, cx: &mut Context<'_>) -> Poll<()> {
        match self.key {
            Some(key) => {
                token.node().update_waker(key, cx.waker());
            }
            None => self.key = token.node().add_waker(cx.waker()),
        }
        // The check comes after the registration. So an end before the check is seen here, and a later end wakes the
        // task. `add_waker` returns `None` if the node is over, but also if the node's lock was lost in a fork. So
        // `None` does not mean that the token is over.
        if token.is_cancelled() {
            self.leave(token);
            return Poll::Ready(());
        }
        let watchdog = watchdog::global();
        if watchdog.is_missing() && token.node().expires_at() != NEVER && !thread::ensure_watchdog() {
            // No thread can be had for a watchdog, so nobody would notice the deadline. So the task is woken at once,
            // and its next poll tries again to start a watchdog.
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
    token: &'a CancellationToken,
    wait: Wait,
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
    token: CancellationToken,
    wait: Wait,
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
    token: &'a CancellationToken,
    wait: Wait,
    started: bool,
    /// `None` once the future is done or dropped.
    #[pin]
    future: Option<F>,
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
