//! The future behind [`timeout`](super::timeout): an inner future and its scope.

use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::ptr;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project::{pin_project, pinned_drop};

use super::alert::Alert;
use super::polled::Polled;
use crate::error::{Cause, TimeoutError};
use crate::scope::checkpoint::is_over;
use crate::scope::frame::{Around, Kind, Terms};
use crate::scope::{Admission, Extras, Scope, admit, admit_polled, catching};
use crate::time::{Limit, clock};
use crate::token::trail::Circumstances;
use crate::watchdog::slots::Thread;

#[pin_project(PinnedDrop)]
pub(super) struct Scoped<F> {
    state: State,
    location: &'static Location<'static>,
    extras: Option<Box<Extras>>,
    alert: Alert,
    /// Until it is done or dropped.
    #[pin]
    future: Option<F>,
}

/// Where its scope is.
enum State {
    /// Not entered, with a duration.
    Plain(Duration),
    /// Not entered, with any limit.
    New(Box<Limit>),
    Entered(Polled),
    Left,
}

impl<F: Future> Scoped<F> {
    #[inline(always)]
    pub(super) fn new(
        limit: Limit,
        extras: Option<Box<Extras>>,
        location: &'static Location<'static>,
        future: F,
    ) -> Self {
        let state = match limit.into_duration() {
            Ok(duration) => State::Plain(duration),
            Err(limit) => State::New(Box::new(limit)),
        };
        Self { state, location, extras, alert: Alert::default(), future: Some(future) }
    }

    #[inline]
    pub(super) fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<F::Output, TimeoutError>> {
        let mut this = self.project();
        Thread::with(|thread| {
            let extras = this.extras.as_deref();
            if let State::Plain(_) | State::New(_) = this.state
                && let Err(error) = this.state.enter(thread, extras, this.location)
            {
                this.future.set(None);
                return Poll::Ready(Err(error));
            }
            // One that is done stays so, and has no second output.
            let State::Entered(polled) = this.state else { return Poll::Pending };
            let own = polled.own();
            let has_timer = this.alert.is_set_for(own);
            let poll = polled.open(thread, ptr::from_ref(cx.waker()), extras, has_timer, |scope| {
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
                this.alert.clear();
                *this.state = State::Left;
            }
            poll
        })
    }
}

impl State {
    /// Enters the scope, at the first poll.
    #[inline(always)]
    fn enter(
        &mut self,
        thread: &Thread,
        extras: Option<&Extras>,
        location: &'static Location<'static>,
    ) -> Result<(), TimeoutError> {
        let polled = match (&*self, extras) {
            (State::Plain(duration), None) => {
                let (limit, cause, kind) = (Some(*duration), Cause::Deadline, Kind::Future);
                admit_polled(thread, *duration, location)
                    .map(|(own, entered)| Polled::new(Terms { own, entered, limit, cause, location, kind }))
            }
            (State::Plain(duration), _) => enter_any(thread, &Limit::from(*duration), extras, location),
            (State::New(limit), _) => enter_any(thread, limit, extras, location),
            (State::Entered(_) | State::Left, _) => return Ok(()),
        };
        let (state, result) = match polled {
            Ok(polled) => (State::Entered(polled), Ok(())),
            Err(error) => (State::Left, Err(error)),
        };
        *self = state;
        result
    }
}

#[cold]
fn enter_any(
    thread: &Thread,
    limit: &Limit,
    extras: Option<&Extras>,
    location: &'static Location<'static>,
) -> Result<Polled, TimeoutError> {
    let (kind, around) = match extras.and_then(|extras| extras.handle.as_ref()) {
        Some(handle) => (Kind::EnteredFuture, Around::Node(handle.node())),
        None => (Kind::Future, Around::Thread),
    };
    let Admission { terms, effective: _, node, spending } =
        admit(thread, limit, extras, location, kind, around)?;
    Ok(Polled::with(terms, node, spending))
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
    #[inline]
    fn drop(self: Pin<&mut Self>) {
        let mut this = self.project();
        // One that was never polled has no scope yet, one that is done none any more.
        if let State::Entered(polled) = this.state {
            let extras = this.extras.as_deref();
            Thread::with(|thread| polled.open(thread, ptr::null(), extras, true, |_| this.future.set(None)));
        }
    }
}

impl<F> fmt::Debug for Scoped<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scoped").field("state", &self.state).finish_non_exhaustive()
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::Plain(duration) => write!(f, "New({duration:?})"),
            State::New(limit) => write!(f, "New({limit:?})"),
            State::Entered(polled) => fmt::Debug::fmt(polled, f),
            State::Left => f.write_str("Left"),
        }
    }
}
