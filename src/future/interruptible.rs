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
use crate::error::{Chain, TimeoutError};
use crate::scope::Scope;
use crate::scope::await_over::{AwaitAction, AwaitState};
use crate::scope::interrupted::result_of_call;
use crate::scope::test_hooks::point;
use crate::scope::{error_at, innermost};
use crate::sync::waits::Ending;
use crate::thread::Thread;
use crate::time::NEVER;
use crate::token::Hook;
use crate::token::hook::{DefaultRepeat, Entry};
use crate::token::node::{HookOwner, Node};

/// Polls a future that knows nothing of scopes, with a hook that interrupts it once the scope around it is over.
///
/// When the scope is over the hook fires, and the future is polled on to its end, if the scope has a
/// [grace](crate::Timebox::grace). So the server cancels the query and still answers it, and the connection stays clean.
/// The results are those of [`interruptible`](crate::interruptible()). The output of the future must be a `Result` (E0271 if
/// it is not).
///
/// Without a grace the hook runs to its end before the future is dropped: the server is told, but its answer is not read.
///
/// At its end it awaits a running hook. No poll blocks for that: the hook may use the executor that polls the future.
///
/// # Errors
///
/// As [`interruptible`](crate::interruptible()). In a scope that is already over the future is not polled: this fails if the
/// body may clean up, and stays pending if the future around it is about to be dropped (see [the module](super)).
///
/// Polled after its end it stays pending.
///
/// # Cancellation safety
///
/// That of the future. Dropping it in the middle blocks while its hook runs.
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
    let hook = Entry::from_hook(hook.into(), DefaultRepeat::Backoff);
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
    /// The hook, until the call has started.
    await_state: AwaitState,
    /// The future's result, while a running hook is awaited.
    done: Option<F::Output>,
    /// Keeps the scopes around from dropping it meanwhile: a value that is ready wins.
    announced: Option<Announced>,
    // Before the guard, so that the future is dropped while its hook can still fire: the call of a block also ends before
    // its hook.
    #[pin]
    future: Phase<F>,
    guard: Guard,
}

#[pin_project(project = PhaseProjection)]
enum Phase<F> {
    Polling(#[pin] F),
    Over,
}

/// The hook and its registration. Dropping it ends the hook.
struct Guard {
    /// The hook for its present or next registration.
    hook: Arc<Entry>,
    place: Option<Place>,
    /// The scope with which it was registered last.
    last: Option<Arc<Node>>,
    /// Wakes the task while the call is not made.
    wakeup: TaskWakeup,
}

struct Place {
    node: Arc<Node>,
    /// `None` if the node was lost in a fork.
    key: Option<usize>,
}

impl Guard {
    /// Registers the hook with the scope in which the future is polled now. `false` if that scope is over: then the caller
    /// fires the hook.
    fn follow(&mut self, thread: &Thread) -> bool {
        let place = self.place.as_ref().map(|place| &place.node);
        let moved = innermost(thread, |scope| {
            let node = scope.map(Scope::node);
            (node.map(Arc::as_ptr) != place.map(Arc::as_ptr)).then(|| node.cloned())
        });
        // Registration may run foreign code, so it uses its own reference to the node and not the frame.
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
        let key = node.add_hook(&self.hook, HookOwner::Future);
        let over = key.is_none() && node.is_over();
        // It is listed in a scope that is over too: whoever drops the future there awaits the hook.
        let key = if over { node.add_fired_hook(&self.hook, HookOwner::Future) } else { key };
        self.place = Some(Place { node, key });
        !over
    }

    fn leave(&mut self) {
        if let Some(Place { node, key: Some(key) }) = self.place.take() {
            node.remove_hook(key, &self.hook);
        }
    }
}

/// Ends the hook if the call panics.
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
                // The surroundings are already over: it fires at once, on a thread of this crate.
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
                // The future has been carried out of the scope that made the hook fire.
                _ => {
                    let mut chain = Chain::new(last.chain_link(now));
                    last.parent().iter().for_each(|parent| parent.add_to_chain(&mut chain, now));
                    chain.into_error(how)
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
