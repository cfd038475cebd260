//! A closure that others may call until its owner revokes it.
//!
//! Invariants:
//! 1. The closure runs on one thread at a time, with no lock held.
//! 2. When [`Callback::revoke`] has returned, the closure is not running and never will; it has been dropped on the
//!    revoking thread. The exception is a revocation from inside the closure: it is dropped when it has returned.
//! 3. While it is suspended it is not started, and when [`Callback::suspend`] has returned it is not running
//!    (unless on that very thread).
//! 4. In a forked child a closure from before the fork is never started, nor waited for.
//!
//! Invariant 2 is the promise of C++20's `stop_callback`; it is what lets [`lend`] take closures that borrow.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Poll, Waker};

use super::{Condvar, ForkMutex, MutexGuard, ThreadKey, fork, mutant, wait};

type Closure<'a> = Box<dyn FnMut() + Send + 'a>;

pub(crate) struct Callback {
    state: ForkMutex<State>,
    /// Notified when a run ends.
    idle: Condvar,
    generation: u32,
}

#[allow(clippy::struct_excessive_bools)] // independent facts
struct State {
    /// Absent while it runs and after the end.
    closure: Option<Closure<'static>>,
    running: Option<ThreadKey>,
    revoked: bool,
    /// Revoked from inside: nobody waits to drop the closure.
    orphaned: bool,
    suspensions: u32,
    /// Who called while it was suspended, or ran for another, and is to be woken after that.
    due: Option<Waker>,
    fires: u32,
    panicked: bool,
    /// Woken when a run ends after a revocation.
    waker: Option<Waker>,
}

/// How a call went.
#[derive(Debug)]
pub(crate) enum Call {
    /// It ran, for the n-th time; and who came for it meanwhile and is to be woken.
    Ran(u32, Option<Waker>),
    /// It is suspended, or else runs: the caller will be woken.
    Later { runs: bool },
    /// The caller may not, it was revoked, or it panicked before.
    Refused,
}

impl Callback {
    pub(crate) fn new(closure: Closure<'static>) -> Self {
        let state = State {
            closure: Some(closure),
            running: None,
            revoked: false,
            orphaned: false,
            suspensions: 0,
            due: None,
            fires: 0,
            panicked: false,
            waker: None,
        };
        Self { state: ForkMutex::new(state), idle: Condvar::new(), generation: fork::generation() }
    }

    /// Runs the closure, if `may` allows that after so many runs, and `before` just before; a panic in it is caught, and its
    /// last. `may` and `caller` are asked with the lock held that [`suspend`](Self::suspend) and
    /// [`hold_back`](Self::hold_back) take.
    pub(crate) fn call(
        &self,
        may: impl FnOnce(u32) -> bool,
        caller: impl FnOnce() -> Waker,
        before: impl FnOnce(),
    ) -> Call {
        if self.generation != fork::generation() {
            return Call::Refused;
        }
        let Some(mut state) = self.state.lock() else { return Call::Refused };
        if state.revoked || state.panicked || !may(state.fires) {
            return Call::Refused;
        }
        if state.suspensions > 0 || state.running.is_some() {
            // The one before is a weak waker of ours, whose drop runs nothing.
            state.due = Some(caller());
            return Call::Later { runs: state.suspensions == 0 };
        }
        let Some(mut closure) = state.closure.take() else { return Call::Refused };
        state.running = Some(ThreadKey::current());
        state.fires = state.fires.saturating_add(1);
        let fires = state.fires;
        drop(state);

        before();
        let outcome = catch_unwind(AssertUnwindSafe(&mut closure));
        let panicked = outcome.is_err();
        // The payload's own drop may panic.
        drop_quietly(outcome);

        let Some(mut state) = self.state.lock() else {
            std::mem::forget(closure);
            return Call::Refused;
        };
        state.running = None;
        state.panicked |= panicked;
        let orphan = if state.orphaned {
            Some(closure)
        } else {
            // Invariant 2: whoever waits drops it, after this thread is done with it.
            state.closure = Some(closure);
            None
        };
        let waker = state.waker.take();
        let due = if state.suspensions == 0 { state.due.take() } else { None };
        drop(state);
        self.idle.notify_all();
        drop_quietly(orphan);
        if let Some(waker) = waker {
            wake_quietly(waker);
        }
        Call::Ran(fires, due)
    }

    /// Ends the callback: invariant 2.
    pub(crate) fn revoke(self: &Arc<Self>) {
        if mutant!(NoRevoke) {
            return;
        }
        let Some(mut state) = self.state.lock() else {
            // Lost in a fork: the closure must not be dropped later, when what it borrows is gone.
            std::mem::forget(Arc::clone(self));
            return;
        };
        state.revoked = true;
        state = self.wait_for_run(state);
        if state.running.is_some() {
            state.orphaned = true;
        }
        let closure = state.closure.take();
        drop(state);
        drop_quietly(closure);
    }

    /// Ends the callback as [`revoke`](Self::revoke) does, without blocking: pending while it runs.
    pub(crate) fn poll_revoke(self: &Arc<Self>, waker: &Waker) -> Poll<()> {
        // To clone and to drop a waker is foreign code: not under the lock.
        let mut waker = Some(waker.clone());
        let running = {
            let Some(mut state) = self.state.lock() else { return Poll::Ready(()) };
            state.revoked = true;
            let running = self.is_running_elsewhere(&state);
            if running {
                std::mem::swap(&mut state.waker, &mut waker);
            }
            running
        };
        drop(waker);
        if running {
            return Poll::Pending;
        }
        self.revoke();
        Poll::Ready(())
    }

    /// Waits as long as `waits` says so, unless a run is not to be expected: it was revoked, or is suspended.
    #[cfg(not(timebox_loom))]
    pub(crate) fn wait_while(&self, waits: impl Fn() -> bool) {
        // Only the end of a run, and what holds it back, is told; the rest is looked at now and then.
        const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(20);
        if self.generation != fork::generation() {
            return;
        }
        let Some(mut state) = self.state.lock() else { return };
        while state.suspensions == 0 && !state.revoked && waits() {
            let waited = self.idle.wait_timeout(state, LOOK_EVERY);
            state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// Keeps it from being started until [`resume`](Self::resume).
    pub(crate) fn suspend(&self) {
        if let Some(mut state) = self.state.lock() {
            state.suspensions += 1;
        }
    }

    /// Waits for it if it runs; after [`suspend`](Self::suspend): invariant 3.
    pub(crate) fn wait_until_idle(&self) {
        if let Some(state) = self.state.lock()
            && !mutant!(NoShieldWait)
        {
            drop(self.wait_for_run(state));
        }
    }

    /// Ends one suspension; who called meanwhile, and is to be woken now.
    pub(crate) fn resume(&self) -> Option<Waker> {
        let mut state = self.state.lock()?;
        state.suspensions = state.suspensions.saturating_sub(1);
        if state.suspensions == 0 && state.running.is_none() { state.due.take() } else { None }
    }

    /// Keeps one caller from calling, by what `change` changes: when this returns a run that it has begun goes on, but it
    /// begins no other. With `wait` that run has ended.
    pub(crate) fn hold_back(&self, wait: bool, change: impl FnOnce()) {
        let state = self.state.lock();
        change();
        self.idle.notify_all();
        if let Some(state) = state.filter(|_| wait) {
            drop(self.wait_for_run(state));
        }
    }

    /// How often it has been started.
    pub(crate) fn fires(&self) -> u32 {
        self.state.lock().map_or(0, |state| state.fires)
    }

    /// Whether it runs now, as it may after a revocation from inside.
    pub(crate) fn is_running(&self) -> bool {
        self.state.lock().is_some_and(|state| state.running.is_some())
    }

    /// Whether it may be started again.
    pub(crate) fn is_live(&self) -> bool {
        self.state.lock().is_some_and(|state| !state.revoked && !state.panicked)
    }

    /// Whether a thread runs it that exists and is not this one.
    fn is_running_elsewhere(&self, state: &State) -> bool {
        self.generation == fork::generation() && state.running.is_some_and(|key| key != ThreadKey::current())
    }

    fn wait_for_run<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        while self.is_running_elsewhere(&state) {
            state = wait(&self.idle, state);
        }
        state
    }
}

/// Drops a value of the user's, whose drop may panic, without letting the panic out: nothing here could act on it,
/// and the panic hook has reported it.
pub(crate) fn drop_quietly<T>(value: T) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
        // A payload whose drop panics in turn is leaked.
        std::mem::forget(payload);
    }
}

/// Wakes a task of the user's, likewise.
pub(crate) fn wake_quietly(waker: Waker) {
    drop_quietly(catch_unwind(AssertUnwindSafe(|| waker.wake())));
}

/// Lends closures that may borrow from the caller's stack to whoever gets the callbacks, for as long as `body` runs.
pub(crate) fn lend<'a, R>(closures: Vec<Closure<'a>>, body: impl FnOnce(&[Arc<Callback>]) -> R) -> R {
    struct Revoke(Vec<Arc<Callback>>);
    impl Drop for Revoke {
        fn drop(&mut self) {
            for callback in &self.0 {
                callback.revoke();
            }
        }
    }
    let lent = closures.into_iter().map(|closure| {
        // SAFETY: only the lifetime changes. `lent` revokes every callback before this function returns or unwinds,
        // and after that the closure does not run and has been dropped (invariant 2), so it is not used after 'a. The
        // exception, a revocation from inside the closure, cannot happen: `lent` is dropped on this thread, and a
        // closure that runs on this thread was called within `body` and has returned. A callback that a fork put
        // beyond reach is leaked.
        let closure = unsafe { std::mem::transmute::<Closure<'a>, Closure<'static>>(closure) };
        Arc::new(Callback::new(closure))
    });
    let lent = Revoke(lent.collect());
    body(&lent.0)
}

#[cfg(all(test, not(timebox_loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn a_lent_closure_is_dropped_when_the_loan_ends() {
        struct SetOnDrop<'a>(&'a AtomicU32);
        impl Drop for SetOnDrop<'_> {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let (runs, drops) = (AtomicU32::new(0), AtomicU32::new(0));
        let captured = SetOnDrop(&drops);
        let closure = Box::new(|| {
            let _ = &captured;
            runs.fetch_add(1, Ordering::SeqCst);
        });
        let kept = lend(vec![closure], |lent| {
            assert!(matches!(call(&lent[0]), Call::Ran(1, None)));
            lent[0].clone()
        });
        assert!(matches!(call(&kept), Call::Refused));
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        drop(captured);
        assert_eq!(drops.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn who_calls_a_suspended_callback_is_woken_after_that() {
        let callback = Arc::new(Callback::new(Box::new(|| ())));
        callback.suspend();
        callback.suspend();
        callback.wait_until_idle();
        assert!(matches!(call(&callback), Call::Later { runs: false }));
        assert!(callback.resume().is_none());
        assert!(callback.resume().is_some());
        assert!(matches!(call(&callback), Call::Ran(1, None)));
    }

    #[test]
    fn who_calls_a_callback_that_runs_is_woken_after_that() {
        let callback = Arc::new(std::sync::OnceLock::<Arc<Callback>>::new());
        let inner = Arc::clone(&callback);
        let closure =
            Box::new(move || assert!(matches!(call(inner.get().unwrap()), Call::Later { runs: true })));
        let callback = callback.get_or_init(|| Arc::new(Callback::new(closure)));
        assert!(matches!(call(callback), Call::Ran(1, Some(_))));
        callback.revoke();
    }

    #[test]
    fn who_may_not_call_is_refused() {
        let callback = Callback::new(Box::new(|| ()));
        let once = |fires: u32| fires == 0;
        assert!(matches!(callback.call(once, || Waker::noop().clone(), || ()), Call::Ran(1, None)));
        assert!(matches!(callback.call(once, || Waker::noop().clone(), || ()), Call::Refused));
    }

    #[test]
    fn a_panic_is_the_last_run() {
        let callback = Callback::new(Box::new(|| std::panic::resume_unwind(Box::new(()))));
        assert!(matches!(call(&callback), Call::Ran(1, None)));
        assert!(matches!(call(&callback), Call::Refused));
    }

    fn call(callback: &Callback) -> Call {
        callback.call(|_| true, || Waker::noop().clone(), || ())
    }
}
