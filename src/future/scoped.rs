//! The future behind [`timeout`](super::timeout): an inner future and its scope.

use std::fmt;
use std::future::Future;
use std::mem::{self, ManuallyDrop, needs_drop};
use std::pin::Pin;
use std::ptr;
use std::task::{Context, Poll, Waker};
use std::thread;

use pin_project::{pin_project, pinned_drop};

use super::task_wakeup::{TaskWakeup, task_waker};
use crate::error::{RaiseContext, TimeoutError};
use crate::scope::SuspendedScope;
use crate::scope::await_over::{AwaitAction, takes_a_break};
use crate::scope::checkpoint::is_over;
#[cfg(feature = "report")]
use crate::scope::is_watched;
use crate::scope::test_hooks::{mark_wait, point};
use crate::scope::{Entered, Extras, Rejected, Scope, run_entered};
use crate::thread::Thread;
use crate::time::{NEVER, clock};

/// A future in a scope. Once the future is done or its time is up, the future is dropped and the scope is left.
///
/// With `KEEP`, the future and its scope stay after each result, for further polls: see `leave`, `end` and
/// `into_future`.
#[pin_project(PinnedDrop, project = ScopedProjection)]
pub(crate) struct Scoped<F, const KEEP: bool = false> {
    polled: SuspendedScope,
    /// Not dropped with this value, because it is always cleared before.
    wakeup: ManuallyDrop<TaskWakeup>,
    #[pin]
    future: Option<F>,
}

impl<F: Future, const KEEP: bool> Scoped<F, KEEP> {
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn new(polled: SuspendedScope, future: F) -> Self {
        Self { polled, wakeup: ManuallyDrop::new(TaskWakeup::default()), future: Some(future) }
    }

    /// Polls the future in its scope. `done` turns the future's output into the result. If there is a result, calls
    /// `leaving` with the scope, and then leaves the scope (unless `KEEP`).
    // Always inlined, for the same reason as `poll_as`.
    #[inline(always)]
    pub(crate) fn poll<T, E>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        done: impl Fn(F::Output) -> Result<T, E>,
        leaving: impl FnOnce(&mut SuspendedScope),
    ) -> Poll<Result<T, E>>
    where
        E: From<TimeoutError>,
    {
        #[cfg(feature = "report")]
        if self.wakeup.is_report_due() {
            return self.poll_traced(cx, done, leaving);
        }
        self.poll_as::<false, T, E>(cx, done, leaving)
    }

    /// As [`poll`](Self::poll), for a future that is due for a report. This is a function of its own, so that other
    /// polls keep the output in registers.
    #[cfg(feature = "report")]
    #[cold]
    #[inline(never)]
    fn poll_traced<T, E>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        done: impl Fn(F::Output) -> Result<T, E>,
        leaving: impl FnOnce(&mut SuspendedScope),
    ) -> Poll<Result<T, E>>
    where
        E: From<TimeoutError>,
    {
        self.poll_as::<true, T, E>(cx, done, leaving)
    }

    // Always inlined: otherwise a build without optimisations would need one more stack frame for each level of nested
    // scopes.
    #[inline(always)]
    fn poll_as<const TRACED: bool, T, E>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        done: impl Fn(F::Output) -> Result<T, E>,
        leaving: impl FnOnce(&mut SuspendedScope),
    ) -> Poll<Result<T, E>>
    where
        E: From<TimeoutError>,
    {
        // The result is written to this place. If it were returned through the scope, it would be copied twice. The
        // place is a `ManuallyDrop`: otherwise its drop would need an address, and the result could not stay in
        // registers. The result leaks only if the drop of the future panics.
        let mut poll = ManuallyDrop::new(Poll::Pending);
        let this = self.project();
        let mut call = Call::<_, _, _, KEEP> {
            wakeup: this.wakeup,
            shared: None,
            future: this.future,
            cx,
            done,
            poll: &mut poll,
        };
        call.run::<TRACED>(this.polled);
        if poll.is_ready() {
            leaving(this.polled);
            if !KEEP {
                this.polled.leave();
            }
        }
        ManuallyDrop::into_inner(poll)
    }
}

#[cfg(any(feature = "stream", feature = "tokio"))]
impl<F> Scoped<F, true> {
    #[cfg(feature = "stream")]
    pub(crate) fn is_entered(&self) -> bool {
        self.polled.is_entered()
    }

    pub(crate) fn future(&self) -> Option<&F> {
        self.future.as_ref()
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn future_mut(&mut self) -> Option<&mut F> {
        self.future.as_mut()
    }

    /// Leaves the scope, but keeps the future. After this, a drop of the future runs outside of the scope, and a poll
    /// of the future gets a new scope.
    #[cfg(feature = "tokio")]
    pub(crate) fn leave(self: Pin<&mut Self>) {
        let this = self.project();
        this.wakeup.clear();
        this.polled.forget();
    }

    #[cfg(feature = "stream")]
    pub(crate) fn end(self: Pin<&mut Self>) {
        let this = self.project();
        drop_scoped(this.polled, this.wakeup, this.future);
        this.polled.leave();
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn into_future(mut self) -> Option<F> {
        self.wakeup.clear();
        self.future.take()
    }

    /// Ends the scope now, as if its limit had been `asked` and had just passed. The next poll sees the end.
    pub(crate) fn expire(self: Pin<&mut Self>, asked: u64, now: u64) {
        self.project().polled.expire(asked, now);
        Thread::with(Thread::look_again);
    }
}

/// One poll of a limited future.
///
/// The steps before the future's poll are functions of their own, and have returned when the poll begins. So even in a
/// build without optimisations they take no stack during the poll, in which other futures may be nested.
///
/// With `KEEP` the scope and the timer stay after the future has given a value, for further polls.
pub(super) struct Call<'a, 'cx, F, D, O, const KEEP: bool> {
    pub(super) wakeup: &'a mut TaskWakeup,
    /// The configuration of the scope, if the scope does not keep it by itself.
    pub(super) shared: Option<&'a Extras>,
    pub(super) future: Pin<&'a mut Option<F>>,
    pub(super) cx: &'a mut Context<'cx>,
    pub(super) done: D,
    /// The result. Pending before the poll.
    pub(super) poll: &'a mut Poll<O>,
}

impl<F, D, T, E, const KEEP: bool> Call<'_, '_, F, D, Result<T, E>, KEEP>
where
    F: Future,
    D: Fn(F::Output) -> Result<T, E>,
    E: From<TimeoutError>,
{
    // Always inlined: otherwise a build without optimisations would need one more stack frame for each level of nested
    // scopes.
    #[inline(always)]
    pub(super) fn run<const TRACED: bool>(&mut self, polled: &mut SuspendedScope) {
        let thread = Thread::current();
        if self.is_to_be_polled(&thread, polled) {
            let mut frame = polled.frame(&thread);
            let entered = self.resume(&thread, polled, &mut frame);
            let result = run_entered(&thread, &mut frame, entered, |scope| self.poll_in::<TRACED>(scope));
            self.suspend(polled, &mut frame, result);
        }
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn resume(&self, thread: &Thread, polled: &mut SuspendedScope, frame: &mut Scope) -> Entered {
        let has_timer = self.wakeup.is_set_for(polled.own());
        polled.resume(thread, frame, self.shared, ptr::from_ref(task_waker(self.cx)), has_timer)
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn suspend(&mut self, polled: &mut SuspendedScope, frame: &mut Scope, result: thread::Result<()>) {
        if let Err(unwound) = polled.suspend(frame, result) {
            self.wakeup.clear();
            if !KEEP {
                drop_inside(polled, self.future.as_mut());
            }
            // If `poll` is `Ready`, the future has returned, and then the drop of the future has unwound. The result
            // stays.
            if self.poll.is_pending() {
                self.set(Poll::Ready(Err(E::from(unwound))));
            }
        }
    }

    /// Enters the scope if it is not entered yet. Returns whether to poll the future. If this returns `false`,
    /// `self.poll` is what the poll returns: the error, or `Pending`.
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn is_to_be_polled(&mut self, thread: &Thread, polled: &mut SuspendedScope) -> bool {
        // A finished future is not polled again. This check goes through the pin, because a plain reference to the
        // future would alias the references that the future has to itself.
        if self.future.as_mut().as_pin_mut().is_none() {
            return false;
        }
        if !polled.is_entered() {
            if let Err(refused) = polled.enter(thread, self.shared) {
                let error = stay_out(thread, polled, self.shared, self.wakeup, refused, task_waker(self.cx));
                if !KEEP && error.is_ready() {
                    self.future.set(None);
                }
                self.set(error.map(|error| Err(E::from(error))));
                return false;
            }
        } else if self.wakeup.kept_error().is_some() {
            let error = end_after_hooks(polled, self.wakeup, task_waker(self.cx));
            if !KEEP && error.is_ready() {
                drop_inside(polled, self.future.as_mut());
            }
            self.set(error.map(|error| Err(E::from(error))));
            return false;
        }
        true
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn poll_in<const TRACED: bool>(&mut self, scope: &Scope) {
        // The future is polled before the deadline is checked, so a value that is ready wins over the deadline.
        #[cfg_attr(not(feature = "report"), expect(unused_mut))]
        let Some(mut future) = self.future.as_mut().as_pin_mut() else { return };
        #[cfg(feature = "report")]
        let output = if TRACED {
            self.wakeup.traced(scope, self.cx, |cx| future.as_mut().poll(cx))
        } else {
            future.poll(self.cx)
        };
        #[cfg(not(feature = "report"))]
        let output = future.poll(self.cx);
        self.look_at(&Thread::current(), scope, output);
    }

    /// For a pending future: when its task must be woken for a report. [`NEVER`] if reports are off.
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn next_look(&mut self, thread: &Thread, scope: &Scope) -> u64 {
        #[cfg(feature = "report")]
        return if is_watched() { self.wakeup.count_poll(thread, scope) } else { NEVER };
        #[cfg(not(feature = "report"))]
        {
            let _ = (self, thread, scope);
            NEVER
        }
    }

    /// If the future is done, sets the result. If the future's time is up, sets the error. In both cases drops the
    /// future inside its scope, unless `KEEP` is `true`.
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn look_at(&mut self, thread: &Thread, scope: &Scope, output: Poll<F::Output>) {
        let poll = match output {
            Poll::Ready(output) => Poll::Ready(scope.in_time(scope.location(), (self.done)(output))),
            Poll::Pending => {
                let look = self.next_look(thread, scope);
                match wait(thread, scope, look, self.wakeup, task_waker(self.cx)) {
                    Poll::Ready(error) => Poll::Ready(Err(E::from(error))),
                    Poll::Pending => return,
                }
            }
        };
        let lasts = KEEP && matches!(poll, Poll::Ready(Ok(_)));
        self.set(poll);
        if !lasts {
            self.wakeup.clear();
        }
        if !KEEP {
            self.future.set(None);
        }
    }

    /// Sets the result. The old value is `Pending`, which needs no drop, so no code for a drop is generated.
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn set(&mut self, poll: Poll<Result<T, E>>) {
        mem::forget(mem::replace(self.poll, poll));
    }
}

/// Called for a future whose time is up, while `wakeup` keeps its error. Pending until the hooks of the future have
/// run, then gives the error. Does not poll the user's future.
#[cold]
#[inline(never)]
fn end_after_hooks(
    polled: &mut SuspendedScope,
    wakeup: &mut TaskWakeup,
    waker: &Waker,
) -> Poll<TimeoutError> {
    if polled.node().is_some_and(|node| node.poll_hooks(waker).is_pending()) {
        return Poll::Pending;
    }
    let Some(error) = wakeup.kept_error().cloned() else { return Poll::Pending };
    wakeup.clear();
    Poll::Ready(error)
}

/// The scope of the future could not be entered, so this gives the error or stays pending. If a scope around the future
/// is over, this acts as an await does ([`AwaitAction`]). If only the future's own scope is over, one call in many
/// stays pending, so that other tasks run.
#[cold]
#[inline(never)]
fn stay_out(
    thread: &Thread,
    polled: &mut SuspendedScope,
    shared: Option<&Extras>,
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
    Poll::Ready(polled.refusal(thread, shared, refused))
}

/// Called after a poll that left the future pending. If the future's time is up, gives the error. Otherwise the task
/// will be woken when the scope is over, and at the time `look`.
#[cfg_attr(not(debug_assertions), inline(always))]
fn wait(
    thread: &Thread,
    scope: &Scope,
    look: u64,
    wakeup: &mut TaskWakeup,
    waker: &Waker,
) -> Poll<TimeoutError> {
    let (own, location) = (scope.own(), scope.location());
    point(thread, location);
    if !is_over(thread) {
        let woken = match scope.existing_node() {
            // If an outer scope ends, the node of this scope ends too. So the task need not wait for any other node.
            Some(node) => {
                wakeup.wake_at(thread.deadline.get().min(look), waker);
                wakeup.wake_by(Some(node), waker)
            }
            None => wakeup.wake_with(scope.visible_outer(), scope.around(), own.min(look), waker),
        };
        if woken {
            mark_wait(location, true);
            return Poll::Pending;
        }
    }
    wait_on(scope, look, wakeup, waker)
}

/// Gives the error of a future whose scope is over. Stays pending until the grace has passed, the shields inside the
/// future have closed, and the hooks have run. Also stays pending while an outer future is about to drop this future.
#[cold]
fn wait_on(scope: &Scope, look: u64, wakeup: &mut TaskWakeup, waker: &Waker) -> Poll<TimeoutError> {
    let (own, location) = (scope.own(), scope.location());
    let known = wakeup.was_over();
    // The waker is registered before the scopes are read below. So a scope that ends after the read wakes the task.
    let outer = scope.visible_outer().and_then(|outer| outer.visible().find_map(Scope::existing_node));
    wakeup.wake_by(outer, waker);
    let now = clock::now();
    let shielded = |scope: &Scope| scope.existing_node().map_or(0, |node| node.shielded_until(waker));
    let mut until = scope.polled_until(now).max(shielded(scope));
    // If this scope is over only because the scope of an outer future is over, the outer future will drop its body,
    // perhaps after a shield. The drop of the body mostly drops this future too, so this future stays pending. But if
    // the body has only a `&mut` of this future, this future outlives the body. So after some time it gives the error.
    if scope.is_dropped_by_outer(now) {
        until = scope.polled().map(shielded).fold(until, u64::max);
        if until <= now {
            until = wakeup.patience(now, until);
        }
    }
    if now < until {
        // The earliest of these times that has not passed yet.
        let next =
            [own, scope.around(), look].into_iter().filter(|&deadline| deadline > now).fold(until, u64::min);
        wakeup.wake_at(next, waker);
        wakeup.set_over();
        if !known {
            // An await inside may not have been polled since the scope ended. It gives the error only when it is
            // polled. So the task is woken for one more poll.
            waker.wake_by_ref();
        }
        mark_wait(location, true);
        return Poll::Pending;
    }
    let error = scope.error(RaiseContext { settled: false, ..RaiseContext::at(location, now) });
    // A drop of the future would end its hooks, so the future is dropped only after its hooks have run.
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
impl<F, const KEEP: bool> PinnedDrop for Scoped<F, KEEP> {
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn drop(self: Pin<&mut Self>) {
        let this = self.project();
        drop_scoped(this.polled, this.wakeup, this.future);
    }
}

/// Drops a future that is not done. If its scope was entered, the drop runs inside the scope.
#[cfg_attr(not(debug_assertions), inline(always))]
fn drop_scoped<F>(polled: &mut SuspendedScope, wakeup: &mut TaskWakeup, mut future: Pin<&mut Option<F>>) {
    if !polled.is_entered() {
        wakeup.clear();
        future.set(None);
    } else if future.as_mut().as_pin_mut().is_some() {
        // Cleared before the drop of the future, because the drop may panic.
        wakeup.clear();
        drop_inside(polled, future);
    }
}

#[cold]
fn drop_inside<F>(polled: &mut SuspendedScope, mut future: Pin<&mut Option<F>>) {
    if !needs_drop::<F>() {
        // A future that needs no drop, for example a `&mut future`, runs no code that could see the scope.
        return future.set(None);
    }
    // If the future's drop unwinds with the scope's error, `open` returns that error. Nobody is left to receive it.
    let _ = Thread::with(|thread| polled.open(thread, None, ptr::null(), true, |_| future.set(None)));
}

impl<F, const KEEP: bool> fmt::Debug for Scoped<F, KEEP> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scoped").field("polled", &self.polled).finish_non_exhaustive()
    }
}
