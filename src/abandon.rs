//! Abandons work at its deadline: a last resort.
//!
//! [`abandon`](crate::abandon()) runs work on threads named `timebox-abandon`, which end after ten idle seconds. The
//! number of threads is bounded, so that a dead disk does not fill the memory with threads that wait for it.
//! [`set_max_threads`] sets the bound.
//!
//! # Nested work
//!
//! Work may itself call `abandon`: a page load, for example, that looks up names. Then the outer work waits for the
//! inner work, and must not occupy the thread that the inner work needs. So the bound holds for each *depth*
//! separately: for work that was called from outside, for work that was called from that work, and so on. A thread
//! that the work starts belongs to the work once the thread has entered a [`Handle`] that was made in the work. Work
//! that a hook starts counts as nested in all running work, since any running work may wait for the hook.

use std::cell::Cell;
use std::collections::HashMap;
use std::error::Error;
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::task::Waker;
use std::thread;

use crate::error::{RaiseContext, ScopeId, TimeoutError};
use crate::pool::{self, Task};
use crate::scope::test_hooks::{Held, hold};
use crate::scope::{Handle, Scope, run_any};
use crate::sync::callback::drop_quietly;
use crate::sync::{ForkMutex, Mutex, MutexGuard, SetOnce, lock};
use crate::time::{Limit, clock};

/// Runs work on another thread, and returns without its result at the deadline. A last resort.
///
/// For code that has no checkpoint and cannot be interrupted: a name resolution, a read from a dead disk, a library
/// in an endless loop. Abandoned work runs on. It **keeps its core, its memory, its locks and its connections** until
/// it ends, and its later effects still happen. So it must own all its data (`'static`).
///
/// At most eight threads run such work, abandoned work included, unless [`set_max_threads`] sets another bound. More
/// work waits for a free thread. Nested work has threads of its own: see the [module](mod@crate::abandon).
///
/// The work runs in a scope of its own, inside the scopes of the caller. So a checkpoint in the work can end it early.
///
/// # Errors
///
/// A [`TimeoutError`] at the deadline, or if the work did not start. It does not start if no time is left, no thread
/// is free in time, no thread can be started, or abandoned work occupies all threads. In the last case the call does
/// not wait, and the error's [source](std::error::Error::source) is [`Saturated`].
///
/// # Panics
///
/// If the work panics before the deadline.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicBool, Ordering};
/// use std::time::Duration;
///
/// let stop = Arc::new(AtomicBool::new(false));
/// let flag = stop.clone();
/// let result = timebox::abandon(Duration::from_millis(10), move || {
///     while !flag.load(Ordering::Relaxed) {} // has no checkpoint
/// });
/// assert!(result.unwrap_err().is_timeout());
/// assert!(timebox::abandoned() <= 1); // 0 if no thread has started the work
/// # stop.store(true, Ordering::Relaxed);
/// ```
#[track_caller]
pub fn abandon<T: Send + 'static>(
    limit: impl Into<Limit>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, TimeoutError> {
    let location = Location::caller();
    let outcome = run_any(&limit.into(), None, location, |scope| {
        let state = State::New(Box::new(work), scope.handle(), hold());
        let job = Arc::new(Job { depth: depth_of(scope), state: Mutex::new(state), waker: Mutex::new(None) });
        scope
            .wait_with(location, |waker| {
                *lock(&job.waker) = Some(waker);
                submit(job.depth, Arc::new(Submitted(Arc::clone(&job))))
            })
            .map_err(|saturated: Saturated| given_up(scope, location, Box::new(saturated)))?;
        job.take_or_abandon(scope, location)
    })?;
    outcome?.unwrap_or_else(|payload| resume_unwind(payload))
}

/// The number of abandoned pieces of work that still run: see [`abandon`](crate::abandon()).
pub fn abandoned() -> usize {
    pool::abandoned().stuck()
}

/// Sets the greatest number of threads that run the work of [`abandon`](crate::abandon()). The default is 8.
///
/// The bound takes effect at once. A higher bound starts work that waits for a thread; a lower bound does not disturb
/// running work. With 0 every call fails as [`Saturated`]. A program may set the bound; a library should not.
///
/// # Examples
///
/// Name resolution is a typical case: nothing can interrupt it, it takes long if a server does not answer, and
/// programs look up many names at the same time.
///
/// ```
/// use std::net::{SocketAddr, ToSocketAddrs};
/// use std::thread;
/// use std::time::Duration;
///
/// timebox::abandon::set_max_threads(100);
///
/// let look_up = |name: &'static str| {
///     timebox::abandon(Duration::from_secs(5), move || -> std::io::Result<Vec<SocketAddr>> {
///         Ok(name.to_socket_addrs()?.collect())
///     })
/// };
/// let found = thread::scope(|threads| {
///     let lookups: Vec<_> = (0..100).map(|_| threads.spawn(|| look_up("127.0.0.1:80"))).collect();
///     lookups.into_iter().map(|lookup| lookup.join().unwrap().unwrap().unwrap()).collect::<Vec<_>>()
/// });
/// assert_eq!(found.len(), 100);
/// ```
pub fn set_max_threads(most: usize) {
    // The drop of work that no thread will run wakes its caller, which then gets an error.
    drop(pool::abandoned().set_most(most));
}

/// Abandoned work occupies all threads: the source of an error of [`abandon`](crate::abandon()).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all {threads} threads are stuck in work that was left behind")]
#[non_exhaustive]
pub struct Saturated {
    /// The number of threads.
    pub threads: usize,
}

fn given_up(
    scope: &Scope,
    location: &'static Location<'static>,
    source: Box<dyn Error + Send + Sync>,
) -> TimeoutError {
    let context = RaiseContext { started: false, ..RaiseContext::at(location, clock::now()) };
    TimeoutError::given_up(scope.info(), context, source)
}

fn submit(depth: usize, job: Arc<dyn Task>) -> Result<(), Saturated> {
    let threads = pool::abandoned();
    if threads.is_saturated(depth) {
        return Err(Saturated { threads: threads.most() });
    }
    // If no thread can be started, `try_submit` returns the jobs that no thread will run: this job or others. The drop
    // of such a job wakes its caller, which then gets an error.
    drop(threads.try_submit(depth, job));
    Ok(())
}

// ===== Depth =====

thread_local! {
    /// One more than the depth of the work that runs on this thread; 0 if no work runs. Work that this thread submits
    /// gets at least this depth.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// Maps the scope of each running work to the work's depth. `None` if the lock was lost in a fork.
fn running() -> Option<MutexGuard<'static, HashMap<ScopeId, usize>>> {
    static RUNNING: SetOnce<ForkMutex<HashMap<ScopeId, usize>>> = SetOnce::new();
    RUNNING.get_or_init(|| ForkMutex::new(HashMap::new())).lock()
}

/// The depth of work that is submitted in this scope: greater than the depth of any work that may wait for the new
/// work.
fn depth_of(scope: &Scope) -> usize {
    let mut ancestors = Vec::new();
    // `DEPTH` counts only the work on this thread. But if a handle was entered here, an ancestor may be the scope of
    // work on another thread. That work may wait for the new work, so its depth counts too.
    scope.node().walk(|node| ancestors.push(node.id));
    let Some(running) = running() else { return DEPTH.get() };
    // If this thread runs hooks, the new work may be part of a hook. Any running work may wait for that hook. So all
    // running work counts.
    let all = pool::is_for_hooks().then(|| running.values()).into_iter().flatten();
    let depths = ancestors.iter().filter_map(|scope| running.get(scope)).chain(all);
    depths.map(|depth| depth.saturating_add(1)).fold(DEPTH.get(), usize::max)
}

/// While this guard exists, the work that this thread runs is listed in `running`.
struct RunningGuard {
    scope: ScopeId,
    outer_depth: usize,
}

impl RunningGuard {
    fn enter(scope: ScopeId, depth: usize) -> Self {
        if let Some(mut running) = running() {
            running.insert(scope, depth);
        }
        Self { scope, outer_depth: DEPTH.replace(depth.saturating_add(1)) }
    }
}

impl Drop for RunningGuard {
    fn drop(&mut self) {
        DEPTH.set(self.outer_depth);
        if let Some(mut running) = running() {
            running.remove(&self.scope);
        }
    }
}

// ===== One piece of work =====

#[derive(Debug, thiserror::Error)]
#[error("no thread could be started")]
struct NoThread;

struct Job<T> {
    depth: usize,
    state: Mutex<State<T>>,
    /// The waker of the thread that waits for the result.
    waker: Mutex<Option<Waker>>,
}

type Ended<T> = thread::Result<Result<T, TimeoutError>>;

enum State<T> {
    New(Box<dyn FnOnce() -> T + Send>, Handle, Held),
    Running,
    Ended(Ended<T>),
    NoThread,
    /// The caller has returned without the result.
    Abandoned,
}

impl<T: Send + 'static> Job<T> {
    /// Takes the result. If there is none yet, abandons the work and gives the error.
    fn take_or_abandon(
        &self,
        scope: &Scope,
        location: &'static Location<'static>,
    ) -> Result<Ended<T>, TimeoutError> {
        let before = {
            let mut state = lock(&self.state);
            let before = std::mem::replace(&mut *state, State::Abandoned);
            if matches!(before, State::Running) {
                // Called under the job's lock, so that this comes before `mark_returned`. `run` calls `mark_returned`
                // only after it has found `Abandoned` under the same lock.
                pool::abandoned().mark_abandoned(self.depth);
            }
            before
        };
        let started = match before {
            State::Ended(ended) => return Ok(ended),
            State::Running | State::Abandoned => true,
            State::New(..) => false,
            State::NoThread => return Err(given_up(scope, location, Box::new(NoThread))),
        };
        Err(scope.error(RaiseContext { started, ..RaiseContext::at(location, clock::now()) }))
    }
}

/// A job in the pool's queue. If it is dropped before it has run, it sets [`State::NoThread`] and wakes the caller.
struct Submitted<T: Send + 'static>(Arc<Job<T>>);

impl<T: Send + 'static> Task for Submitted<T> {
    fn run(self: Arc<Self>) {
        Arc::clone(&self.0).run();
        drop_quietly(self);
    }
}

impl<T: Send + 'static> Drop for Submitted<T> {
    fn drop(&mut self) {
        let unstarted = {
            let mut state = lock(&self.0.state);
            matches!(*state, State::New(..)).then(|| std::mem::replace(&mut *state, State::NoThread))
        };
        if unstarted.is_some() {
            drop_quietly(unstarted);
            let waker = lock(&self.0.waker).take();
            waker.into_iter().for_each(Waker::wake);
        }
    }
}

/// Stops a test's clock on drop. So the clock stands still after the work, even if the work panics.
struct HoldAgain<'a>(&'a Cell<Option<Held>>);

impl Drop for HoldAgain<'_> {
    fn drop(&mut self) {
        self.0.set(Some(hold()));
    }
}

impl<T: Send + 'static> Job<T> {
    fn run(self: Arc<Self>) {
        let Some(handle) = self.handle() else { return };
        let running = RunningGuard::enter(handle.node().id, self.depth);
        // A `Held` stops a test's clock: until the work has begun, and again from the work's end until the caller has
        // been woken. Otherwise the caller could time out while this thread is about to act.
        let (begun, held) = (Cell::new(false), Cell::new(None));
        let run = AssertUnwindSafe(|| {
            handle.enter(Limit::NONE, |_| {
                // The work begins only inside `enter`: if the caller's scope is over, `enter` fails, and the work must
                // not have begun. The test `work_has_begun_if_and_only_if_the_error_says_so` guards this.
                let Some((work, until_begun)) = self.begin() else { return Ok(None) };
                begun.set(true);
                drop(until_begun);
                let _again = HoldAgain(&held);
                Ok(Some(work()))
            })
        });
        let mut ended = catch_unwind(run).map(Result::transpose).transpose();
        let (abandoned, before) = {
            let mut state = lock(&self.state);
            let abandoned = matches!(*state, State::Abandoned);
            let ended = ended.take_if(|_| !abandoned);
            (abandoned, ended.map(|ended| std::mem::replace(&mut *state, State::Ended(ended))))
        };
        // If the caller still waits, the result has been moved into the state. Otherwise nobody takes it, so it is
        // dropped here.
        drop_quietly(ended);
        if let Some(State::New(work, _, until_woken)) = before {
            held.set(Some(until_woken));
            drop_quietly(work);
        }
        drop(running);
        let waker = lock(&self.waker).take();
        waker.into_iter().for_each(Waker::wake);
        if abandoned && begun.get() {
            pool::abandoned().mark_returned(self.depth);
        }
        drop_quietly(self);
    }

    /// A handle of the work's scope; `None` if the caller has returned.
    fn handle(&self) -> Option<Handle> {
        match &*lock(&self.state) {
            State::New(_, handle, _) => Some(handle.clone()),
            _ => None,
        }
    }

    /// Takes the work, to begin it; `None` if the caller has returned.
    fn begin(&self) -> Option<(Box<dyn FnOnce() -> T + Send>, Held)> {
        let mut state = lock(&self.state);
        match std::mem::replace(&mut *state, State::Running) {
            State::New(work, _, held) => Some((work, held)),
            other => {
                *state = other;
                None
            }
        }
    }
}

#[cfg(all(test, not(timebox_loom)))]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_for_work_that_finds_no_thread_is_told() {
        let error = run_any(&Limit::NONE, None, Location::caller(), |scope| {
            let work = || unreachable!("there is no thread for it");
            let state = Mutex::new(State::<()>::New(Box::new(work), scope.handle(), hold()));
            let job = Arc::new(Job { depth: 0, state, waker: Mutex::new(None) });
            scope.wait_with(Location::caller(), |waker| {
                *lock(&job.waker) = Some(waker);
                let submitted = Submitted(Arc::clone(&job));
                crate::sync::os::spawn("drops", || drop(submitted))
            })?;
            std::io::Result::Ok(job.take_or_abandon(scope, Location::caller()).err())
        });
        let error = error.unwrap().unwrap().expect("it did not run");
        let source = std::error::Error::source(&error).map(ToString::to_string);
        assert_eq!(source.as_deref(), Some("no thread could be started"));
    }
}
