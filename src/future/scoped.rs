//! The future behind [`timeout`](super::timeout): an inner future and its scope.

use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::ptr;
use std::task::{Context, Poll};

use pin_project::{pin_project, pinned_drop};

use super::alert::Alert;
use super::polled::Polled;
use crate::error::TimeoutError;
use crate::scope::checkpoint::is_over;
use crate::scope::frame::Around;
use crate::scope::{Admission, Extras, Scope, admit, admit_polled, catching, plain_duration};
use crate::time::{Limit, clock};
use crate::token::trail::Circumstances;
use crate::watchdog::slots::Thread;

#[pin_project(PinnedDrop)]
pub(super) struct Scoped<F> {
    limit: Limit,
    extras: Option<Box<Extras>>,
    location: &'static Location<'static>,
    /// From the first poll on.
    polled: Option<Polled>,
    alert: Alert,
    /// Until it is done or dropped.
    #[pin]
    future: Option<F>,
}

impl<F: Future> Scoped<F> {
    #[inline]
    pub(super) fn new(
        limit: Limit,
        extras: Option<Box<Extras>>,
        location: &'static Location<'static>,
        future: F,
    ) -> Self {
        Self { limit, extras, location, polled: None, alert: Alert::default(), future: Some(future) }
    }

    #[inline]
    pub(super) fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<F::Output, TimeoutError>> {
        let mut this = self.project();
        // One that is done stays so, and has no second output.
        if this.future.is_none() {
            return Poll::Pending;
        }
        Thread::with(|thread| {
            let extras = this.extras.as_deref();
            let kind = Polled::kind(extras, ptr::from_ref(cx.waker()));
            let polled = match this.polled {
                Some(polled) => polled,
                None => match enter(thread, this.limit, extras, this.location, kind) {
                    Ok(polled) => this.polled.insert(polled),
                    Err(error) => {
                        this.future.set(None);
                        return Poll::Ready(Err(error));
                    }
                },
            };
            let own = polled.own;
            let has_timer = this.alert.is_set_for(own);
            let poll = polled.open(thread, kind, extras, has_timer, |scope| {
                // The future first: a value that is ready wins.
                let poll = match this.future.as_mut().as_pin_mut() {
                    Some(future) => catching(scope, || future.poll(cx)),
                    None => Ok(Poll::Pending),
                };
                let result = match poll {
                    Ok(Poll::Ready(output)) => Ok(output),
                    Ok(Poll::Pending) => match wait(thread, scope, this.alert, own, this.location, cx) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(error) => Err(error),
                    },
                    Err(unwound) => Err(unwound),
                };
                // Inside its scope.
                this.future.set(None);
                Poll::Ready(result)
            });
            if poll.is_ready() {
                *this.alert = Alert::default();
                *this.polled = None;
            }
            poll
        })
    }
}

/// Enters the scope of a future, at its first poll.
#[inline]
fn enter(
    thread: &Thread,
    limit: &Limit,
    extras: Option<&Extras>,
    location: &'static Location<'static>,
    kind: crate::scope::frame::Kind,
) -> Result<Polled, TimeoutError> {
    if let (Some(duration), None) = (plain_duration(limit), extras) {
        let (terms, _) = admit_polled(thread, duration, location, kind)?;
        return Ok(Polled::new(terms, None));
    }
    let handle = extras.and_then(|extras| extras.handle.as_ref());
    let around = handle.map_or(Around::Thread, |handle| Around::Node(handle.node()));
    let Admission { terms, effective: _, node } = admit(thread, limit, extras, location, kind, around)?;
    Ok(Polled::new(terms, node))
}

/// The future is pending: has its task woken in time; or, if that is over, the error with which to drop it.
#[inline]
fn wait(
    thread: &Thread,
    scope: &Scope,
    alert: &mut Alert,
    own: u64,
    location: &'static Location<'static>,
    cx: &Context<'_>,
) -> Poll<TimeoutError> {
    if !is_over(thread) {
        let woken = match scope.existing_node() {
            // Its own node tells it of all.
            Some(node) => {
                alert.wake_at(thread.deadline.get(), cx.waker());
                alert.wake_by(Some(node), cx.waker())
            }
            None => alert.wake_with(scope.visible_outer(), scope.around(), own, cx.waker()),
        };
        if woken {
            return Poll::Pending;
        }
    }
    wait_on(scope, alert, location, cx)
}

/// It is over: it may be polled on for a grace, or until a shield in it is done.
#[cold]
fn wait_on(
    scope: &Scope,
    alert: &mut Alert,
    location: &'static Location<'static>,
    cx: &Context<'_>,
) -> Poll<TimeoutError> {
    let now = clock::now();
    let shielded = scope.existing_node().map_or(0, |node| node.shielded_until());
    let until = scope.polled_until(now).max(shielded);
    if now < until {
        alert.wake_at(until, cx.waker());
        return Poll::Pending;
    }
    Poll::Ready(scope.error(Circumstances { settled: false, ..Circumstances::at(location, now) }))
}

#[pinned_drop]
impl<F> PinnedDrop for Scoped<F> {
    fn drop(self: Pin<&mut Self>) {
        let mut this = self.project();
        // One that was never polled has no scope yet, one that is done none any more.
        if let Some(polled) = this.polled
            && this.future.is_some()
        {
            let extras = this.extras.as_deref();
            Thread::with(|thread| {
                let kind = Polled::kind(extras, ptr::null());
                polled.open(thread, kind, extras, true, |_| this.future.set(None));
            });
        }
    }
}

impl<F> fmt::Debug for Scoped<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scoped")
            .field("limit", &self.limit)
            .field("polled", &self.polled)
            .finish_non_exhaustive()
    }
}
