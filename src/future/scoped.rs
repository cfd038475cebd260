//! The future behind [`timeout`](super::timeout): an inner future and its scope.

use std::fmt;
use std::future::Future;
use std::mem::{ManuallyDrop, needs_drop};
use std::panic::Location;
use std::pin::Pin;
use std::ptr;
use std::task::{Context, Poll};

use pin_project::{pin_project, pinned_drop};

use super::alert::Alert;
use super::polled::Polled;
use crate::error::TimeoutError;
use crate::scope::checkpoint::is_over;
use crate::scope::over::Stand;
use crate::scope::staged::{begin_wait, point};
use crate::scope::{Refused, Scope};
use crate::time::clock;
use crate::token::trail::Circumstances;
use crate::watchdog::slots::Thread;

#[pin_project(PinnedDrop)]
pub(super) struct Scoped<F> {
    polled: Polled,
    /// Cleared before the rest is dropped, so nothing is left to drop.
    alert: ManuallyDrop<Alert>,
    /// Until it is done or dropped.
    #[pin]
    future: Option<F>,
}

impl<F: Future> Scoped<F> {
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn new(polled: Polled, future: F) -> Self {
        Self { polled, alert: ManuallyDrop::new(Alert::default()), future: Some(future) }
    }

    /// Polls the future in its scope. `done` makes the output, here, where it need not be moved again;
    /// `leaving` sees the scope at its end.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn poll<T, E>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        done: impl Fn(F::Output) -> Result<T, E>,
        leaving: impl FnOnce(&mut Polled),
    ) -> Poll<Result<T, E>>
    where
        E: From<TimeoutError>,
    {
        // Not a closure with all that in it: what one captures goes through memory.
        Thread::with(|thread| self.poll_on(thread, cx, done, leaving))
    }

    #[inline]
    fn poll_on<T, E>(
        self: Pin<&mut Self>,
        thread: &Thread,
        cx: &mut Context<'_>,
        done: impl Fn(F::Output) -> Result<T, E>,
        leaving: impl FnOnce(&mut Polled),
    ) -> Poll<Result<T, E>>
    where
        E: From<TimeoutError>,
    {
        let this = self.project();
        let (polled, alert, mut future) = (this.polled, this.alert, this.future);
        // One that is done stays so, and has no second output. (Asked of the pin: a plain reference to the future would be
        // beside those that it has to itself.)
        if future.as_mut().as_pin_mut().is_none() {
            return Poll::Pending;
        }
        // Written in place: handed out of the scope it would be copied twice. And without a drop, which would need its
        // address and so keep it from the registers; it leaks only if the future panics when it is dropped.
        let mut poll = ManuallyDrop::new(Poll::Pending);
        if alert.kept_error().is_some() {
            poll = ManuallyDrop::new(
                end_after_hooks(polled, alert, future, cx).map(|error| Err(E::from(error))),
            );
        } else if !polled.is_entered()
            && let Err(refused) = polled.enter(thread)
        {
            let error = stay_out(thread, polled, alert, refused, cx);
            if error.is_ready() {
                future.set(None);
            }
            poll = ManuallyDrop::new(error.map(|error| Err(E::from(error))));
        } else {
            let (own, location) = (polled.own(), polled.location());
            let has_timer = alert.is_set_for(own);
            let opened = polled.open(thread, ptr::from_ref(cx.waker()), has_timer, |scope| {
                // The future first: a value that is ready wins.
                let Some(inner) = future.as_mut().as_pin_mut() else { return };
                match inner.poll(cx) {
                    Poll::Ready(output) => {
                        poll = ManuallyDrop::new(Poll::Ready(in_time(scope, location, done(output))));
                    }
                    Poll::Pending => match wait(thread, scope, alert, own, location, cx) {
                        Poll::Ready(error) => poll = ManuallyDrop::new(Poll::Ready(Err(E::from(error)))),
                        Poll::Pending => return,
                    },
                }
                alert.clear();
                // Inside its scope.
                future.set(None);
            });
            if let Err(unwound) = opened {
                drop_inside(polled, alert, future);
                // One that came from the drop of the future is too late to be the result.
                if poll.is_pending() {
                    poll = ManuallyDrop::new(Poll::Ready(Err(E::from(unwound))));
                }
            }
        }
        if poll.is_ready() {
            leaving(polled);
            polled.leave();
        }
        ManuallyDrop::into_inner(poll)
    }
}

/// What the future has come to, unless that is late and late values are refused.
#[cfg_attr(not(debug_assertions), inline(always))]
fn in_time<T, E: From<TimeoutError>>(
    scope: &Scope,
    location: &'static Location<'static>,
    result: Result<T, E>,
) -> Result<T, E> {
    match scope.extras() {
        None => result,
        Some(extras) => extras.in_time(scope, location, result),
    }
}

/// The future is pending: has its task woken in time; or, if that is over, the error with which to drop it.
#[cfg_attr(not(debug_assertions), inline(always))]
fn wait(
    thread: &Thread,
    scope: &Scope,
    alert: &mut Alert,
    own: u64,
    location: &'static Location<'static>,
    cx: &Context<'_>,
) -> Poll<TimeoutError> {
    point(thread, location);
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
            begin_wait(location, true);
            return Poll::Pending;
        }
    }
    wait_on(scope, alert, own, location, cx)
}

/// It is over: it may be polled on for a grace, or until a shield in it is done.
#[cold]
fn wait_on(
    scope: &Scope,
    alert: &mut Alert,
    own: u64,
    location: &'static Location<'static>,
    cx: &Context<'_>,
) -> Poll<TimeoutError> {
    let known = alert.was_over();
    // Before it is looked at: what ends later wakes the task.
    let outer = scope.visible_outer().and_then(|outer| outer.visible().find_map(Scope::existing_node));
    alert.wake_by(outer, cx.waker());
    let now = clock::now();
    let shielded = |scope: &Scope| scope.existing_node().map_or(0, |node| node.shielded_until(cx.waker()));
    let mut until = scope.polled_until(now).max(shielded(scope));
    // If only a future around it is over, that drops both, or waits for a shield; so `&mut future` survives the limit it is
    // polled under.
    if scope.is_dropped_by_outer(now) {
        until = scope.polled().map(shielded).fold(until, u64::max);
        if until <= now {
            until = alert.patience(now, until);
        }
    }
    if now < until {
        // Its own deadline, or that of a scope around it, may come before and give it less.
        let next = [own, scope.around()].into_iter().filter(|&deadline| deadline > now).fold(until, u64::min);
        alert.wake_at(next, cx.waker());
        alert.set_over();
        if !known {
            // What was polled before it was over counts on being polled again.
            cx.waker().wake_by_ref();
        }
        begin_wait(location, true);
        return Poll::Pending;
    }
    let error = scope.error(Circumstances { settled: false, ..Circumstances::at(location, now) });
    // Dropped with the future, hooks would be ended before they had run.
    if let Some(node) = scope.existing_node()
        && node.poll_hooks(cx.waker()).is_pending()
    {
        alert.clear();
        alert.keep_error(error);
        return Poll::Pending;
    }
    Poll::Ready(error)
}

/// It is over and not polled any more: it is dropped when the hooks in it have run.
#[cold]
#[inline(never)]
fn end_after_hooks<F>(
    polled: &mut Polled,
    alert: &mut Alert,
    future: Pin<&mut Option<F>>,
    cx: &Context<'_>,
) -> Poll<TimeoutError> {
    if polled.node().is_some_and(|node| node.poll_hooks(cx.waker()).is_pending()) {
        return Poll::Pending;
    }
    let Some(error) = alert.kept_error().cloned() else { return Poll::Pending };
    drop_inside(polled, alert, future);
    Poll::Ready(error)
}

/// It is not entered: the error; or it stays pending, where the future around it is about to be dropped.
#[cold]
#[inline(never)]
fn stay_out(
    thread: &Thread,
    polled: &mut Polled,
    alert: &mut Alert,
    refused: Refused,
    cx: &Context<'_>,
) -> Poll<TimeoutError> {
    if refused.is_by_surroundings()
        && let Stand::Stay { until } = alert.standing().look(thread)
    {
        alert.wake_at(until, cx.waker());
        return Poll::Pending;
    }
    alert.clear();
    Poll::Ready(polled.refusal(thread, refused))
}

#[pinned_drop]
impl<F> PinnedDrop for Scoped<F> {
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn drop(self: Pin<&mut Self>) {
        let mut this = self.project();
        if !this.polled.is_entered() {
            this.alert.clear();
        } else if this.future.as_mut().as_pin_mut().is_some() {
            drop_inside(this.polled, this.alert, this.future);
        }
    }
}

/// Drops a future that is not done inside its scope.
#[cold]
fn drop_inside<F>(polled: &mut Polled, alert: &mut Alert, mut future: Pin<&mut Option<F>>) {
    // First, since the drop may panic.
    alert.clear();
    if !needs_drop::<F>() {
        // As `&mut` another: nothing would see the scope.
        return future.set(None);
    }
    // An unwinding in there that ends here has nobody to tell any more.
    let _ = Thread::with(|thread| polled.open(thread, ptr::null(), true, |_| future.set(None)));
}

impl<F> fmt::Debug for Scoped<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scoped").field("polled", &self.polled).finish_non_exhaustive()
    }
}
