//! The future behind [`timeout`](super::timeout): an inner future and its scope.

use std::fmt;
use std::future::Future;
use std::mem::{self, ManuallyDrop, needs_drop};
use std::pin::Pin;
use std::ptr;
use std::task::{Context, Poll, Waker};
use std::thread;

use pin_project::{pin_project, pinned_drop};

use super::task_wakeup::TaskWakeup;
use crate::error::{RaiseContext, TimeoutError};
use crate::scope::SuspendedScope;
use crate::scope::await_over::{AwaitAction, takes_a_break};
use crate::scope::checkpoint::is_over;
use crate::scope::test_hooks::{mark_wait, point};
use crate::scope::{Entered, Rejected, Scope, run_entered};
use crate::thread::Thread;
use crate::time::clock;

#[pin_project(PinnedDrop, project = ScopedProjection)]
pub(super) struct Scoped<F> {
    polled: SuspendedScope,
    /// Cleared before the drop, so that nothing is left to drop.
    wakeup: ManuallyDrop<TaskWakeup>,
    /// The future, until it is done or dropped.
    #[pin]
    future: Option<F>,
}

impl<F: Future> Scoped<F> {
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn new(polled: SuspendedScope, future: F) -> Self {
        Self { polled, wakeup: ManuallyDrop::new(TaskWakeup::default()), future: Some(future) }
    }

    /// Polls the future in its scope. `done` makes the output in place, so that it is not moved again. `leaving` sees the
    /// scope at its end.
    #[inline]
    pub(super) fn poll<T, E>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        done: impl Fn(F::Output) -> Result<T, E>,
        leaving: impl FnOnce(&mut SuspendedScope),
    ) -> Poll<Result<T, E>>
    where
        E: From<TimeoutError>,
    {
        // Written in place: returned through the scope, the output would be copied twice. `ManuallyDrop` since a drop would
        // need the address of the output, which keeps it out of registers. The output leaks only if the drop of the future
        // panics.
        let mut poll = ManuallyDrop::new(Poll::Pending);
        let this = self.project();
        let mut call = Call { wakeup: this.wakeup, future: this.future, cx, done, poll: &mut poll };
        let thread = Thread::current();
        if call.is_to_be_polled(&thread, this.polled) {
            let mut frame = this.polled.frame(&thread);
            let entered = call.resume(&thread, this.polled, &mut frame);
            let result = run_entered(&thread, &mut frame, entered, |scope| call.poll_in(scope));
            call.suspend(this.polled, &mut frame, result);
        }
        if poll.is_ready() {
            leaving(this.polled);
            this.polled.leave();
        }
        ManuallyDrop::into_inner(poll)
    }
}

/// One poll.
///
/// In a build without optimisations each step is a call that returns before the future is polled. So nested scopes do not
/// add up the stack of the steps.
struct Call<'a, 'cx, F, D, O> {
    wakeup: &'a mut TaskWakeup,
    future: Pin<&'a mut Option<F>>,
    cx: &'a mut Context<'cx>,
    done: D,
    poll: &'a mut Poll<O>,
}

impl<F, D, T, E> Call<'_, '_, F, D, Result<T, E>>
where
    F: Future,
    D: Fn(F::Output) -> Result<T, E>,
    E: From<TimeoutError>,
{
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn resume(&self, thread: &Thread, polled: &mut SuspendedScope, frame: &mut Scope) -> Entered {
        let has_timer = self.wakeup.is_set_for(polled.own());
        polled.resume(thread, frame, ptr::from_ref(self.cx.waker()), has_timer)
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn suspend(&mut self, polled: &mut SuspendedScope, frame: &mut Scope, result: thread::Result<()>) {
        if let Err(unwound) = polled.suspend(frame, result) {
            drop_inside(polled, self.wakeup, self.future.as_mut());
            // An unwinding of the drop comes too late to be the result.
            if self.poll.is_pending() {
                self.set(Poll::Ready(Err(E::from(unwound))));
            }
        }
    }

    /// Enters the scope if need be. `false` if the future is not polled: then the output is set, or pending.
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn is_to_be_polled(&mut self, thread: &Thread, polled: &mut SuspendedScope) -> bool {
        // A finished future has no second output. (Asked through the pin: a plain reference to the future would alias the
        // references that the future has to itself.)
        if self.future.as_mut().as_pin_mut().is_none() {
            return false;
        }
        if !polled.is_entered() {
            if let Err(refused) = polled.enter(thread) {
                let error = stay_out(thread, polled, self.wakeup, refused, self.cx.waker());
                if error.is_ready() {
                    self.future.set(None);
                }
                self.set(error.map(|error| Err(E::from(error))));
                return false;
            }
        } else if self.wakeup.kept_error().is_some() {
            let error = end_after_hooks(polled, self.wakeup, self.future.as_mut(), self.cx.waker());
            self.set(error.map(|error| Err(E::from(error))));
            return false;
        }
        true
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn poll_in(&mut self, scope: &Scope) {
        // The future first: a value that is ready wins.
        let output = match self.future.as_mut().as_pin_mut() {
            Some(future) => future.poll(self.cx),
            None => return,
        };
        self.look_at(&Thread::current(), scope, output);
    }

    /// Takes the output of the future, or the error if its time is up. Then the future is dropped, inside its scope.
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn look_at(&mut self, thread: &Thread, scope: &Scope, output: Poll<F::Output>) {
        let poll = match output {
            Poll::Ready(output) => Poll::Ready(scope.in_time(scope.location(), (self.done)(output))),
            Poll::Pending => match wait(thread, scope, self.wakeup, self.cx.waker()) {
                Poll::Ready(error) => Poll::Ready(Err(E::from(error))),
                Poll::Pending => return,
            },
        };
        self.set(poll);
        self.wakeup.clear();
        self.future.set(None);
    }

    /// Sets the output. The old value is pending, so there is nothing to drop.
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn set(&mut self, poll: Poll<Result<T, E>>) {
        mem::forget(mem::replace(self.poll, poll));
    }
}

/// The result of a future that is over: it is not polled any more, and is dropped once its hooks have run.
#[cold]
#[inline(never)]
fn end_after_hooks<F>(
    polled: &mut SuspendedScope,
    wakeup: &mut TaskWakeup,
    future: Pin<&mut Option<F>>,
    waker: &Waker,
) -> Poll<TimeoutError> {
    if polled.node().is_some_and(|node| node.poll_hooks(waker).is_pending()) {
        return Poll::Pending;
    }
    let Some(error) = wakeup.kept_error().cloned() else { return Poll::Pending };
    drop_inside(polled, wakeup, future);
    Poll::Ready(error)
}

/// The result of a future whose scope is not entered: the error, or pending if the future around it is about to be dropped.
#[cold]
#[inline(never)]
fn stay_out(
    thread: &Thread,
    polled: &mut SuspendedScope,
    wakeup: &mut TaskWakeup,
    refused: Rejected,
    waker: &Waker,
) -> Poll<TimeoutError> {
    if refused.is_by_surroundings() {
        if let AwaitAction::Stay { until } | AwaitAction::AwaitDrop { until, .. } =
            wakeup.await_state().look(thread)
        {
            wakeup.wake_at(until, waker);
            return Poll::Pending;
        }
    } else if takes_a_break() {
        waker.wake_by_ref();
        return Poll::Pending;
    }
    wakeup.clear();
    Poll::Ready(polled.refusal(thread, refused))
}

/// The future is pending. Has its task woken in time, or gives the error if its time is up.
#[cfg_attr(not(debug_assertions), inline(always))]
fn wait(thread: &Thread, scope: &Scope, wakeup: &mut TaskWakeup, waker: &Waker) -> Poll<TimeoutError> {
    let (own, location) = (scope.own(), scope.location());
    point(thread, location);
    if !is_over(thread) {
        let woken = match scope.existing_node() {
            // Its own node tells it of every end.
            Some(node) => {
                wakeup.wake_at(thread.deadline.get(), waker);
                wakeup.wake_by(Some(node), waker)
            }
            None => wakeup.wake_with(scope.visible_outer(), scope.around(), own, waker),
        };
        if woken {
            mark_wait(location, true);
            return Poll::Pending;
        }
    }
    wait_on(scope, wakeup, waker)
}

/// The scope is over. The future may be polled on for a grace, or until a shield in it is done.
#[cold]
fn wait_on(scope: &Scope, wakeup: &mut TaskWakeup, waker: &Waker) -> Poll<TimeoutError> {
    let (own, location) = (scope.own(), scope.location());
    let known = wakeup.was_over();
    // Before the look: a scope that ends later then wakes the task.
    let outer = scope.visible_outer().and_then(|outer| outer.visible().find_map(Scope::existing_node));
    wakeup.wake_by(outer, waker);
    let now = clock::now();
    let shielded = |scope: &Scope| scope.existing_node().map_or(0, |node| node.shielded_until(waker));
    let mut until = scope.polled_until(now).max(shielded(scope));
    // If only a future around it is over, that future drops both, or waits for a shield. So `&mut future` survives the limit
    // under which it is polled.
    if scope.is_dropped_by_outer(now) {
        until = scope.polled().map(shielded).fold(until, u64::max);
        if until <= now {
            until = wakeup.patience(now, until);
        }
    }
    if now < until {
        // Its own deadline, or the deadline of a scope around it, may come earlier.
        let next = [own, scope.around()].into_iter().filter(|&deadline| deadline > now).fold(until, u64::min);
        wakeup.wake_at(next, waker);
        wakeup.set_over();
        if !known {
            // Awaits that were polled before the end expect one more poll.
            waker.wake_by_ref();
        }
        mark_wait(location, true);
        return Poll::Pending;
    }
    let error = scope.error(RaiseContext { settled: false, ..RaiseContext::at(location, now) });
    // The drop of the future would end its hooks before they have run.
    if let Some(node) = scope.existing_node()
        && node.poll_hooks(waker).is_pending()
    {
        wakeup.clear();
        wakeup.keep_error(error);
        return Poll::Pending;
    }
    Poll::Ready(error)
}

#[pinned_drop]
impl<F> PinnedDrop for Scoped<F> {
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn drop(self: Pin<&mut Self>) {
        let mut this = self.project();
        if !this.polled.is_entered() {
            this.wakeup.clear();
        } else if this.future.as_mut().as_pin_mut().is_some() {
            drop_inside(this.polled, this.wakeup, this.future);
        }
    }
}

/// Drops a future that is not done inside its scope.
#[cold]
fn drop_inside<F>(polled: &mut SuspendedScope, wakeup: &mut TaskWakeup, mut future: Pin<&mut Option<F>>) {
    // First, since the drop of the future may panic.
    wakeup.clear();
    if !needs_drop::<F>() {
        // As for `&mut future`: the drop runs no code that could see the scope.
        return future.set(None);
    }
    // If an unwinding ends here, nobody is left to receive its error.
    let _ = Thread::with(|thread| polled.open(thread, ptr::null(), true, |_| future.set(None)));
}

impl<F> fmt::Debug for Scoped<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scoped").field("polled", &self.polled).finish_non_exhaustive()
    }
}
