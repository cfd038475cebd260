use std::error::Error;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::panic::Location;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project::pin_project;

use super::shield::Announced;
use super::task_wakeup::{TaskWakeup, rely_on};
use crate::error::TimeoutError;
use crate::scope::Scope;
use crate::scope::interrupted::result_of_call;
use crate::scope::over::{AwaitAction, AwaitState};
use crate::scope::test_hooks::point;
use crate::scope::{error_at, innermost};
use crate::sync::waits::Ending;
use crate::time::NEVER;
use crate::token::Hook;
use crate::token::chain::{Chain, Step};
use crate::token::hook::{Entry, Unsaid};
use crate::token::node::{Node, Tie};
use crate::watchdog::slots::Thread;

/// Polls a future that looks at no scope, with a hook that interrupts it once the scope around it is over.
///
/// When the scope is over the hook fires, and the same future is polled on to its end: that needs a
/// [grace](crate::Timebox::grace) of the scope. So a query is cancelled at the server and then answered, and its
/// connection is clean. The results are those of [`interruptible`](crate::interruptible()). The future's output must be a
/// `Result` (E0271 says where it is not).
///
/// Without a grace the hook is run, and awaited, before the future is dropped: the server is told, but nobody hears its
/// answer.
///
/// At its end it awaits a hook that runs. No poll blocks for that: the hook may use the executor that polls the future.
///
/// # Errors
///
/// As [`interruptible`](crate::interruptible()). In a scope that is over already the call is not made: this fails where the
/// body may clean up, and stays pending where the future around it is about to be dropped (see [the module](super)).
///
/// Polled after its end it stays pending.
///
/// # Cancellation safety
///
/// That of the future; dropping it in the middle blocks while its hook runs.
///
/// # Examples
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use std::time::Duration;
/// use timebox::{Hook, Timebox, future};
///
/// type AnyError = Box<dyn std::error::Error + Send + Sync>;
///
/// // A channel stands for a query, and sending on it for asking the server to cancel it.
/// let (cancel, mut cancelled) = tokio::sync::mpsc::channel(1);
/// let query = async move { Err::<(), _>(cancelled.recv().await.unwrap_or("closed")) };
/// let result = Timebox::new(Duration::from_millis(10))
///     .grace(Duration::from_secs(1))
///     .run_future(async move {
///         let hook = Hook::inline(move || cancel.try_send("cancelled by user"));
///         future::interruptible(hook, query).await?.map_err(AnyError::from)
///     })
///     .await;
/// let error = result.unwrap_err().downcast::<timebox::TimeoutError>().unwrap();
/// assert!(error.settled());
/// # });
/// ```
#[track_caller]
pub fn interruptible<F, T, X>(hook: impl Into<Hook<'static>>, future: F) -> Interruptible<F::IntoFuture>
where
    F: IntoFuture<Output = Result<T, X>>,
    X: Into<Box<dyn Error + Send + Sync>>,
{
    let hook = Entry::of(hook.into(), Unsaid::Backoff);
    let future = Phase::Polling(future.into_future());
    Interruptible {
        location: Location::caller(),
        guard: Guard { hook, place: None, last: None, wakeup: TaskWakeup::default() },
        started: false,
        await_state: AwaitState::default(),
        future,
        done: None,
        announced: None,
    }
}

/// The future of [`interruptible`].
#[must_use = "futures do nothing unless polled"]
#[pin_project]
pub struct Interruptible<F: Future> {
    location: &'static Location<'static>,
    started: bool,
    /// Until it has started.
    await_state: AwaitState,
    /// The future's result, while a running hook is awaited.
    done: Option<F::Output>,
    /// Meanwhile the scopes around it do not drop it: a value that is ready wins.
    announced: Option<Announced>,
    // Before the guard: dropped while its hook can still be fired, as a block's call ends before its hook does.
    #[pin]
    future: Phase<F>,
    guard: Guard,
}

#[pin_project(project = PhaseProjection)]
enum Phase<F> {
    Polling(#[pin] F),
    Over,
}

/// The hook, and where it is registered. Dropping it ends the hook.
struct Guard {
    /// For the place where it is, or where it will be next.
    hook: Arc<Entry>,
    place: Option<Place>,
    /// The scope it was registered with last.
    last: Option<Arc<Node>>,
    /// Wakes the task while the call is not made.
    wakeup: TaskWakeup,
}

struct Place {
    node: Arc<Node>,
    /// There is none where the node was lost in a fork.
    key: Option<usize>,
}

impl Guard {
    /// Registers the hook with the scope in which the future is polled now; `false` if that is over, and the hook is to
    /// be fired for it.
    fn follow(&mut self, thread: &Thread) -> bool {
        let place = self.place.as_ref().map(|place| &place.node);
        let moved = innermost(thread, |scope| {
            let node = scope.map(Scope::node);
            (node.map(Arc::as_ptr) != place.map(Arc::as_ptr)).then(|| node.cloned())
        });
        // Registering and leaving may run foreign code: with a node of its own, not that of a frame.
        moved.is_none_or(|node| self.move_to(node))
    }

    fn move_to(&mut self, node: Option<Arc<Node>>) -> bool {
        if self.place.is_some() {
            self.hook.retire(false);
            self.leave();
            self.hook = self.hook.again();
        }
        let Some(node) = node else { return true };
        // Once it has fired, errors name the scope that made it.
        if self.hook.fires() == 0 {
            self.last = Some(Arc::clone(&node));
        }
        let key = node.add_hook(&self.hook, Tie::Future);
        let over = key.is_none() && node.is_over();
        // In one that is over it is listed too: who drops the future there awaits the hook.
        let key = if over { node.add_fired_hook(&self.hook, Tie::Future) } else { key };
        self.place = Some(Place { node, key });
        !over
    }

    fn leave(&mut self) {
        if let Some(Place { node, key: Some(key) }) = self.place.take() {
            node.remove_hook(key, &self.hook);
        }
    }
}

/// A call that panics is over, and its hook with it.
struct EndOnPanic<'a>(&'a Entry);

impl Drop for EndOnPanic<'_> {
    fn drop(&mut self) {
        self.0.revoke(Ending::Scope);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.wakeup.clear();
        self.hook.revoke(Ending::Scope);
        self.leave();
    }
}

impl<F, T, X> Future for Interruptible<F>
where
    F: Future<Output = Result<T, X>>,
    X: Into<Box<dyn Error + Send + Sync>>,
{
    type Output = Result<Result<T, X>, TimeoutError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let location = *this.location;
        Thread::with(|thread| {
            if let PhaseProjection::Polling(future) = this.future.as_mut().project() {
                if !*this.started {
                    point(thread, location);
                    match this.await_state.look(thread) {
                        AwaitAction::GoOn => *this.started = true,
                        AwaitAction::Fail => {
                            let Some(error) = error_at(thread, location) else { return Poll::Pending };
                            this.guard.wakeup.clear();
                            this.future.set(Phase::Over);
                            return Poll::Ready(Err(error));
                        }
                        AwaitAction::Stay { until } | AwaitAction::AwaitDrop { until, .. } => {
                            this.guard.wakeup.wake_at(until, cx.waker());
                            return Poll::Pending;
                        }
                    }
                    this.guard.wakeup.clear();
                }
                // In surroundings that are over already it fires at once, on a thread of ours.
                if !this.guard.follow(thread) {
                    crate::token::node::post(Arc::clone(&this.guard.hook));
                }
                let ends = EndOnPanic(&this.guard.hook);
                let poll = future.poll(cx);
                std::mem::forget(ends);
                let Poll::Ready(output) = poll else {
                    this.guard.place.iter().for_each(|place| rely_on(&place.node, cx.waker()));
                    return Poll::Pending;
                };
                *this.done = Some(output);
                this.future.set(Phase::Over);
            }
            if this.done.is_none() {
                return Poll::Pending;
            }
            if this.guard.hook.poll_revoke(cx.waker()).is_pending() {
                match this.announced {
                    Some(announced) => announced.follow(thread, NEVER, NEVER),
                    None => *this.announced = Some(Announced::to_scopes_around(thread, NEVER, NEVER)),
                }
                return Poll::Pending;
            }
            *this.announced = None;
            let hook = &this.guard.hook;
            let Some(result) = this.done.take() else { return Poll::Pending };
            // Without a scope the hook never fires.
            let Some(last) = &this.guard.last else { return Poll::Ready(Ok(result)) };
            let how = match result_of_call(result, hook, location) {
                Ok(result) => return Poll::Ready(Ok(result)),
                Err(how) => how,
            };
            let now = how.now;
            Poll::Ready(Err(innermost(thread, |scope| match scope {
                Some(scope) if Arc::ptr_eq(scope.node(), last) => scope.error(how),
                // It has been carried out of the surroundings that made it fire.
                _ => {
                    let mut trail = Chain::from(Step::of(last, now));
                    last.parent().iter().for_each(|parent| trail.add_nodes(parent, now));
                    trail.into_error(how)
                }
            })))
        })
    }
}

impl<F: Future> fmt::Debug for Interruptible<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interruptible").field("fires", &self.guard.hook.fires()).finish_non_exhaustive()
    }
}
