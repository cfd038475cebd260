//! A closure that other threads may call until its owner revokes it.
//!
//! Invariants:
//! 1. The closure runs on one thread at a time, with no lock held.
//! 2. When [`Callback::revoke`] has returned, the closure is not running, never runs again, and has been dropped on the
//!    revoking thread. There are two exceptions: `revoke` was called inside the closure, or inside another closure that
//!    this closure waits for. Then the closure is dropped at the end of its run. For a closure that [`lend`] has lent
//!    there is no exception: if `revoke` cannot wait for the run, the process aborts.
//! 3. While the callback is suspended, the closure is not started. When [`Callback::wait_until_idle`] has returned
//!    during a suspension, the closure is not running, except in the two cases of invariant 2.
//!
//! Because of invariant 2, [`lend`] can take closures that borrow.

use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::sync::Arc;
use std::task::{Poll, Waker};

use super::fork::{ForkMutex, Process};
use super::panic_message;
use super::primitive::{Condvar, MutexGuard, mutant, wait};
use super::thread_key::ThreadKey;
use super::waits::{Ending, InRun, Notify, Run, Wait, ended_inside};

/// The output describes a failure. `None`: the closure succeeded.
pub(crate) type Closure<'a> = Box<dyn FnMut() -> Option<String> + Send + 'a>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) text: Arc<str>,
    pub(crate) is_panic: bool,
}

pub(crate) struct Callback {
    state: ForkMutex<State>,
    /// Wakes the threads in `wait_for_run`: a run has ended, or a wait must end early.
    idle: Condvar,
    made_in: Process,
}

#[allow(clippy::struct_excessive_bools)] // independent facts
struct State {
    /// Absent while the closure runs, and after it has been dropped.
    closure: Option<Closure<'static>>,
    running: Option<(ThreadKey, Run)>,
    revoked: bool,
    /// The callback was revoked during a run, by a thread that could not wait for the run. So the run itself drops the
    /// closure at its end.
    orphaned: bool,
    suspensions: u32,
    /// The waker of a caller that found the callback suspended or running. It is woken once the callback is free.
    due: Option<Waker>,
    fires: u32,
    /// How many runs have failed since the last run that succeeded.
    failures: u32,
    /// The failure of the latest run that failed.
    failure: Option<Failure>,
    panicked: bool,
    /// The wakers of the tasks that wait for the callback, each with the number of the waiter. They are woken when a
    /// run has ended, and by `revoke`, `wait_until_idle` and `hold_back`.
    waiters: Vec<(usize, Waker)>,
}

pub(crate) trait Caller {
    /// Whether the caller may run the closure. `fires`: how often the closure has been started before. Called under the
    /// callback's lock, so that a change by [`hold_back`](Callback::hold_back) cannot come between this answer and the
    /// start.
    fn may(&self, fires: u32) -> bool;

    /// A waker that makes the caller try again. Called under the callback's lock, if the closure cannot run now.
    fn waker(&self) -> Waker;

    /// Called when a run begins, with no lock held.
    fn begins(&self);

    /// Called when the run has ended, under the callback's lock.
    fn ended(&self);
}

#[derive(Debug)]
pub(crate) enum Call {
    /// The closure ran. `fires` counts its runs so far, and `failures` counts the failed runs since the last run that
    /// succeeded. The receiver must wake `due` (a caller that could not start the closure meanwhile) and `waiters`
    /// (tasks that waited for the end of the run).
    Ran { fires: u32, failures: u32, due: Option<Waker>, waiters: Waiters },
    /// The closure was not started: it is running already (`runs` is `true`), or the callback is suspended. The
    /// caller's waker will be woken.
    Later { runs: bool },
    /// The closure was not started: the caller may not start it, the callback was revoked, the closure has panicked, or
    /// the callback belongs to the parent of this process.
    Rejected,
}

/// The wakers of waiting tasks. Whoever gets them must wake them, with no lock held, because a waker runs foreign code.
#[must_use]
#[derive(Debug, Default)]
pub(crate) struct Waiters(Vec<(usize, Waker)>);

impl Waiters {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn wake(self) {
        self.0.into_iter().for_each(|(_, waker)| wake_quietly(waker));
    }
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
            failures: 0,
            failure: None,
            panicked: false,
            waiters: Vec::new(),
        };
        Self { state: ForkMutex::new(state), idle: Condvar::new(), made_in: Process::current() }
    }

    /// Runs the closure, unless the caller may not run it, or the callback is revoked, suspended or running. Catches a
    /// panic of the closure. After a panic the closure never runs again.
    pub(crate) fn call(&self, caller: &impl Caller) -> Call {
        if !self.made_in.is_current() {
            return Call::Rejected;
        }
        let Some(mut state) = self.state.lock() else { return Call::Rejected };
        if state.revoked || state.panicked || !caller.may(state.fires) {
            return Call::Rejected;
        }
        if state.suspensions > 0 || state.running.is_some() {
            // This may drop an earlier waker under the lock. It is a weak waker of this crate, so its drop runs no
            // foreign code.
            state.due = Some(caller.waker());
            return Call::Later { runs: state.suspensions == 0 };
        }
        let Some(mut closure) = state.closure.take() else { return Call::Rejected };
        let run = InRun::begin();
        state.running = Some((ThreadKey::current(), run.0));
        state.fires = state.fires.saturating_add(1);
        let fires = state.fires;
        drop(state);

        caller.begins();
        let outcome = catch_unwind(AssertUnwindSafe(&mut closure));
        let failure = match outcome {
            Ok(failure) => failure.map(|text| Failure { text: text.into(), is_panic: false }),
            Err(payload) => {
                let text = panic_message(&*payload).unwrap_or("a panic without a message").into();
                // The payload's own drop may panic.
                drop_quietly(payload);
                Some(Failure { text, is_panic: true })
            }
        };
        drop(run);

        let Some(mut state) = self.state.lock() else {
            std::mem::forget(closure);
            return Call::Rejected;
        };
        state.running = None;
        state.panicked |= failure.as_ref().is_some_and(|failure| failure.is_panic);
        state.failures = if failure.is_some() { state.failures.saturating_add(1) } else { 0 };
        state.failure = failure.or(state.failure.take());
        let failures = state.failures;
        caller.ended();
        let orphan = if state.orphaned {
            Some(closure)
        } else {
            // The thread that revokes the callback will drop the closure (invariant 2).
            state.closure = Some(closure);
            None
        };
        let waiters = state.take_waiters();
        let due = if state.suspensions == 0 { state.due.take() } else { None };
        drop(state);
        self.idle.notify_all();
        drop_quietly(orphan);
        Call::Ran { fires, failures, due, waiters }
    }

    /// Ends the callback: see invariant 2.
    pub(crate) fn revoke(self: &Arc<Self>, ending: Ending) -> Waiters {
        if mutant!(NoRevoke) {
            return Waiters::default();
        }
        let revoked = self.state.lock().and_then(|mut state| {
            state.revoked = true;
            self.wait_for_run(state, ending)
        });
        let Some(mut state) = revoked else {
            // The lock's holder was lost in a fork. The closure is leaked, since a later drop could come when the data
            // that it borrows is gone.
            std::mem::forget(Arc::clone(self));
            return Waiters::default();
        };
        if state.running.is_some() {
            if let Ending::Call(location) = ending
                && self.made_in.is_current()
            {
                ended_inside(location);
            }
            state.orphaned = true;
        }
        let closure = state.closure.take();
        let waiters = state.take_waiters();
        drop(state);
        drop_quietly(closure);
        waiters
    }

    /// Keeps the closure from being started again. Does not wait for a run in progress. [`revoke`](Self::revoke) must
    /// be called later, when no run is in progress.
    pub(crate) fn begin_to_revoke(&self) {
        if let Some(mut state) = self.state.lock() {
            state.revoked = true;
        }
    }

    /// Pending while another thread runs the closure, or while a run is about to come. A run is about to come if
    /// `comes` returns `true`, unless the callback is revoked, suspended or running, or has panicked. `comes` is called
    /// under the callback's lock. If pending, keeps `waker`, and wakes it when the answer may have changed. `waker`
    /// replaces the earlier waker of the same `waiter`.
    pub(crate) fn poll_idle(&self, waiter: usize, waker: &Waker, comes: impl Fn() -> bool) -> Poll<()> {
        if !self.made_in.is_current() {
            return Poll::Ready(());
        }
        // Cloning or dropping a waker runs foreign code, so neither happens under the lock.
        let mut waker = Some(waker.clone());
        let is_pending = |state: &State| {
            let comes = comes();
            let is_kept = state.revoked || state.panicked || state.suspensions > 0 || state.running.is_some();
            self.run_elsewhere(state).is_some() || (comes && !is_kept)
        };
        let Some(mut state) = self.state.lock() else { return Poll::Ready(()) };
        let pending = is_pending(&state);
        if pending && mutant!(LateWaiter) {
            drop(state);
            let Some(again) = self.state.lock() else { return Poll::Ready(()) };
            state = again;
        }
        if pending && let Some(new) = waker.take() {
            match state.waiters.iter_mut().find(|(of, _)| *of == waiter) {
                Some((_, before)) => waker = Some(std::mem::replace(before, new)),
                None => state.waiters.push((waiter, new)),
            }
        }
        drop(state);
        drop(waker);
        if pending { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Keeps the closure from being started until [`resume`](Self::resume).
    pub(crate) fn suspend(&self) {
        if let Some(mut state) = self.state.lock() {
            state.suspensions += 1;
        }
    }

    /// Waits until no run is in progress. Call [`suspend`](Self::suspend) first: otherwise another run may begin at
    /// once.
    pub(crate) fn wait_until_idle(self: &Arc<Self>) -> Waiters {
        if mutant!(NoShieldWait) {
            return Waiters::default();
        }
        let idle = self.state.lock().and_then(|state| self.wait_for_run(state, Ending::Scope));
        idle.map(|mut state| state.take_waiters()).unwrap_or_default()
    }

    /// Ends one suspension. If it was the last, and a caller found the callback suspended, returns the caller's waker:
    /// wake it, so that the caller tries again. (If a run is in progress, its [`call`](Self::call) returns the waker.)
    pub(crate) fn resume(&self) -> Option<Waker> {
        let mut state = self.state.lock()?;
        state.suspensions = state.suspensions.saturating_sub(1);
        if state.suspensions == 0 && state.running.is_none() { state.due.take() } else { None }
    }

    /// Calls `change` under the lock. If `change` makes [`Caller::may`] refuse a caller, that caller begins no run
    /// after this call. If `wait` is `true`, also waits for a run in progress.
    pub(crate) fn hold_back(self: &Arc<Self>, wait: bool, change: impl FnOnce()) -> Waiters {
        let state = self.state.lock();
        change();
        self.idle.notify_all();
        let held =
            state.and_then(|state| if wait { self.wait_for_run(state, Ending::Scope) } else { Some(state) });
        held.map(|mut state| state.take_waiters()).unwrap_or_default()
    }

    pub(crate) fn fires(&self) -> u32 {
        self.state.lock().map_or(0, |state| state.fires)
    }

    pub(crate) fn failure(&self) -> Option<Failure> {
        self.state.lock()?.failure.clone()
    }

    pub(crate) fn is_revoked(&self) -> bool {
        self.state.lock().is_some_and(|state| state.revoked)
    }

    /// A run may revoke its own callback, so a revoked callback may be running.
    pub(crate) fn is_running(&self) -> bool {
        self.state.lock().is_some_and(|state| state.running.is_some())
    }

    /// Whether the closure may still be started, at once or after a suspension.
    pub(crate) fn is_live(&self) -> bool {
        self.state.lock().is_some_and(|state| !state.revoked && !state.panicked)
    }

    /// The run that is in progress on another thread of this process. `None` if there is none.
    fn run_elsewhere(&self, state: &State) -> Option<Run> {
        let (thread, run) = state.running.filter(|_| self.made_in.is_current())?;
        (thread != ThreadKey::current()).then_some(run)
    }

    /// Waits until the present run has ended, unless the run is on this thread. Returns early if this wait must end a
    /// circle of waits (see [`Wait`]). `None`: the lock's holder was lost in a fork.
    fn wait_for_run<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        ending: Ending,
    ) -> Option<MutexGuard<'a, State>> {
        let Some(run) = self.run_elsewhere(&state) else { return Some(state) };
        drop(state);
        let waits = Wait::begin(run, ending, Arc::clone(self) as Arc<dyn Notify>);
        state = self.state.lock()?;
        while self.run_elsewhere(&state) == Some(run) && !waits.as_ref().is_some_and(Wait::lets_go) {
            state = wait(&self.idle, state);
        }
        Some(state)
    }
}

impl Notify for Callback {
    fn notify(&self) {
        // The lock keeps a waiting thread from missing the notification. A thread that found `lets_go` unset sleeps by
        // now, and is notified. A thread that takes the lock later finds `lets_go` set.
        let _state = self.state.lock();
        self.idle.notify_all();
    }
}

impl State {
    fn take_waiters(&mut self) -> Waiters {
        Waiters(std::mem::take(&mut self.waiters))
    }
}

/// Drops a value of the user's, and catches a panic of that drop. Nothing here could act on the panic, and the panic
/// hook has reported it.
pub(crate) fn drop_quietly<T>(value: T) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
        // Leak the payload, since its drop may panic in turn.
        std::mem::forget(payload);
    }
}

pub(crate) fn wake_quietly(waker: Waker) {
    drop_quietly(catch_unwind(AssertUnwindSafe(|| waker.wake())));
}

/// Makes callbacks of closures that may borrow from the caller's stack. Revokes the callbacks when `body` returns or
/// unwinds. `location` is where the user called the public function.
pub(crate) fn lend<'a, R>(
    closures: Vec<Closure<'a>>,
    location: &'static Location<'static>,
    body: impl FnOnce(&[Arc<Callback>]) -> R,
) -> R {
    struct Revoke(Vec<Arc<Callback>>, &'static Location<'static>);
    impl Drop for Revoke {
        fn drop(&mut self) {
            for callback in &self.0 {
                callback.revoke(Ending::Call(self.1)).wake();
            }
        }
    }
    let lent = closures.into_iter().map(|closure| {
        // SAFETY: only the lifetime changes. `lent` revokes every callback before this function returns or unwinds.
        // After that the closure does not run and has been dropped (invariant 2), so it is not used after 'a. If the
        // closure runs on this thread at that time (a coroutine may have switched inside `body`), or waits for this
        // thread, the process aborts. If a fork has lost the lock of a callback, `revoke` leaks the closure.
        let closure = unsafe { std::mem::transmute::<Closure<'a>, Closure<'static>>(closure) };
        Arc::new(Callback::new(closure))
    });
    let lent = Revoke(lent.collect(), location);
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
            None
        });
        let kept = lend(vec![closure], Location::caller(), |lent| {
            assert!(matches!(call(&lent[0]), Call::Ran { fires: 1, due: None, .. }));
            lent[0].clone()
        });
        assert!(matches!(call(&kept), Call::Rejected));
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        drop(captured);
        assert_eq!(drops.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn who_calls_a_suspended_callback_is_woken_after_that() {
        let callback = Arc::new(Callback::new(Box::new(|| None)));
        callback.suspend();
        callback.suspend();
        callback.wait_until_idle().wake();
        assert!(matches!(call(&callback), Call::Later { runs: false }));
        assert!(callback.resume().is_none());
        assert!(callback.resume().is_some());
        assert!(matches!(call(&callback), Call::Ran { fires: 1, due: None, .. }));
    }

    #[test]
    fn who_calls_a_callback_that_runs_is_woken_after_that() {
        let callback = Arc::new(std::sync::OnceLock::<Arc<Callback>>::new());
        let inner = Arc::clone(&callback);
        let closure = Box::new(move || {
            assert!(matches!(call(inner.get().unwrap()), Call::Later { runs: true }));
            None
        });
        let callback = callback.get_or_init(|| Arc::new(Callback::new(closure)));
        assert!(matches!(call(callback), Call::Ran { fires: 1, due: Some(_), .. }));
        callback.revoke(Ending::Registration).wake();
    }

    #[test]
    fn who_may_not_call_is_refused() {
        let callback = Callback::new(Box::new(|| None));
        let once = Times(1);
        assert!(matches!(callback.call(&once), Call::Ran { fires: 1, due: None, .. }));
        assert!(matches!(callback.call(&once), Call::Rejected));
    }

    #[test]
    fn a_panic_is_the_last_run() {
        let callback = Callback::new(Box::new(|| std::panic::resume_unwind(Box::new(()))));
        assert!(matches!(call(&callback), Call::Ran { fires: 1, due: None, .. }));
        assert!(matches!(call(&callback), Call::Rejected));
    }

    struct Times(u32);

    impl Caller for Times {
        fn may(&self, fires: u32) -> bool {
            fires < self.0
        }

        fn waker(&self) -> Waker {
            Waker::noop().clone()
        }

        fn begins(&self) {}

        fn ended(&self) {}
    }

    fn call(callback: &Callback) -> Call {
        callback.call(&Times(u32::MAX))
    }
}
