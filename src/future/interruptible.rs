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

/// Polls a future that knows nothing of scopes. A hook interrupts the future once the scope around it is over.
///
/// When the scope is over, the hook fires. If the scope has a [grace](crate::Timebox::grace), the future is then polled
/// on to its end. For example, a database server cancels the query and answers it, so the connection stays usable. The
/// results are those of [`interruptible`](crate::interruptible()). The output of the future must be a `Result` (E0271
/// if it is not).
///
/// Without a grace the hook runs to its end, and then the future is dropped: the server is told to cancel, but its
/// answer is not read.
///
/// If the future is done while the hook is running, the result stays pending until the hook has run. No poll blocks for
/// that, since the hook may use the executor that polls the future.
///
/// # Errors
///
/// As [`interruptible`](crate::interruptible()). In a scope that is already over the future is not polled. Then the
/// call fails if the body around it may clean up, and stays pending if the future around it is about to be dropped (see
/// [the module](super)).
///
/// If the returned future is polled after its end, it stays pending.
///
/// # Cancellation safety
///
/// The same as that of the future. A drop in the middle of the call blocks while the hook runs.
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
    /// Decides what this await does in a scope that is already over. Used until `started`.
    await_state: AwaitState,
    /// The future's result. It is kept here while a hook is still running.
    done: Option<F::Output>,
    /// While `done` waits for the hook: shields at the scopes around this future. Without them the scopes would drop
    /// this future at their deadlines, and the result would be lost.
    announced: Option<Announced>,
    // `future` is declared before `guard`, so it is dropped first. The hook in `guard` can still fire during that drop.
    #[pin]
    future: Phase<F>,
    guard: Guard,
}

#[pin_project(project = PhaseProjection)]
enum Phase<F> {
    Polling(#[pin] F),
    Over,
}

/// The hook and its registration. Dropping the guard ends the hook.
struct Guard {
    /// The entry that is registered at `place`. If `place` is `None`, the entry that will be registered next.
    hook: Arc<Entry>,
    place: Option<Place>,
    /// The scope that an error names: the last scope that the hook was registered with before it first fired. `None` if
    /// the hook was never registered with a scope.
    last: Option<Arc<Node>>,
    /// If the scope is over before the first poll of `future`, the await may stay pending for a time, without an error.
    /// This wakes the task at the end of that time.
    wakeup: TaskWakeup,
}

struct Place {
    node: Arc<Node>,
    /// `None` if the hook could not be registered: the node's lock was lost in a fork.
    key: Option<usize>,
}

impl Guard {
    /// Registers the hook with the scope in which the future is polled now. `false` if that scope is over: then the
    /// caller must fire the hook.
    fn follow(&mut self, thread: &Thread) -> bool {
        let place = self.place.as_ref().map(|place| &place.node);
        let moved = innermost(thread, |scope| {
            let node = scope.map(Scope::node);
            (node.map(Arc::as_ptr) != place.map(Arc::as_ptr)).then(|| node.cloned())
        });
        // `move_to` may run foreign code, which could leave the scope while `innermost` still uses its frame. So
        // `move_to` is called after `innermost`, with a reference of its own to the node.
        moved.is_none_or(|node| self.move_to(node))
    }

    fn move_to(&mut self, node: Option<Arc<Node>>) -> bool {
        if self.place.is_some() {
            self.hook.retire(false);
            self.leave();
            self.hook = self.hook.again();
        }
        let Some(node) = node else { return true };
        // Once the hook has fired, `last` does not change: an error names the scope that made the hook fire.
        if self.hook.fires() == 0 {
            self.last = Some(Arc::clone(&node));
        }
        let key = node.add_hook(&self.hook, HookOwner::Future);
        let over = key.is_none() && node.is_over();
        // If the scope is over, `add_hook` refuses the hook, and our caller fires it. `add_fired_hook` registers the
        // hook nevertheless, so that a future around this future waits for the hook before it drops this future.
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
                // If the scope around is already over, the hook fires at once, on a thread of this crate.
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
            // Without `last`, the hook was never registered with a scope. So it has not fired, and the result stays as
            // it is.
            let Some(last) = &this.guard.last else { return Poll::Ready(Ok(result)) };
            let how = match result_of_call(result, hook, location) {
                Ok(result) => return Poll::Ready(Ok(result)),
                Err(how) => how,
            };
            let now = how.now;
            Poll::Ready(Err(innermost(thread, |scope| match scope {
                Some(scope) if Arc::ptr_eq(scope.node(), last) => scope.error(how),
                // The hook fired in the scope of `last`, and the future has left that scope since. So the error is made
                // from `last`.
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
