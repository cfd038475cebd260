//! Work that is left behind at its deadline: a last resort.
//!
//! [`abandon`](crate::abandon()) runs work on threads named `timebox-abandon`, which end after ten idle seconds. How many
//! pieces of work run at one time is bounded, so that a dead disk does not take all the memory there is in threads that wait
//! for it. [`set_max_threads`] sets the bound.
//!
//! # Work within work
//!
//! Work may itself call `abandon`, however deep and however often: a load of a page, say, that looks up names. Then the
//! outer waits for the inner, and must not keep its place from it. So the bound holds for each *depth* on its own: of work
//! called from outside, of work called from within that, and so on. A thread that the work starts counts as within once
//! it has entered a [`Handle`] from there; a hook counts as within all work that runs, since any may wait
//! for it.

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

/// Runs work on a thread of ours, and at the deadline returns without it. A last resort.
///
/// For code that looks at no scope and has no interrupt: a name resolution, a read from a dead disk, a library in an
/// endless loop. What is left behind **keeps its core, its memory, its locks and its connections**, for as long as it
/// runs; and whatever it does later, it does behind your back. So it must own all that it touches (`'static`). At most
/// eight pieces of work run at one time, those included that were left behind, unless
/// [`set_max_threads`] says otherwise; more wait for a place. Work that is called from
/// within other work has places of its own: see the [module](mod@crate::abandon).
///
/// The work runs in a scope within this one: it may look at it all the same, and then ends by itself.
///
/// # Errors
///
/// A [`TimeoutError`] at the deadline, or if the work was not begun: because there was no time left, no place was free in
/// time, no thread could be started, or all places are taken by work that was left behind. In the last case there is no
/// wait, and the error's [source](std::error::Error::source) is [`Saturated`].
///
/// # Panics
///
/// A panic of the work passes through, unless it was left behind before.
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
///     while !flag.load(Ordering::Relaxed) {} // looks at no scope
/// });
/// assert!(result.unwrap_err().is_timeout());
/// assert!(timebox::abandoned() <= 1); // none, if no thread came to begin it
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
        job.take(scope, location)
    })?;
    outcome?.unwrap_or_else(|payload| resume_unwind(payload))
}

/// How much work has been left behind by [`abandon`](crate::abandon()) and still runs.
pub fn abandoned() -> usize {
    pool::abandoned().stuck()
}

/// Sets how many pieces of work [`abandon`](crate::abandon()) runs at one time in this process, each on a thread of its own;
/// 8 until it is set.
///
/// It counts at once: more of those that wait for a place get one, and where the bound is lower than before, what runs is
/// not disturbed. With 0 every call is refused as [`Saturated`]. The bound is for the program to set, not for a library.
///
/// # Examples
///
/// Name resolution is a typical case: it cannot be interrupted, takes long where a server does not answer, and many names are
/// looked up at the same time.
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
    pool::abandoned().set_most(most);
}

/// All places are taken by work that was left behind: the source of the error of [`abandon`](crate::abandon()).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all {threads} threads are stuck in work that was left behind")]
#[non_exhaustive]
pub struct Saturated {
    /// How many there are.
    pub threads: usize,
}

/// The error of work that was not begun.
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
    // What comes back, of others too, is told so as it is dropped.
    drop(threads.try_submit(depth, job));
    Ok(())
}

// ===== Depth =====

thread_local! {
    /// How deep work is that is called from this thread.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// The scopes of the work that runs, and how deep it is.
fn running() -> Option<MutexGuard<'static, HashMap<ScopeId, usize>>> {
    static RUNNING: SetOnce<ForkMutex<HashMap<ScopeId, usize>>> = SetOnce::new();
    RUNNING.get_or_init(|| ForkMutex::new(HashMap::new())).lock()
}

/// How deep work is that is called in this scope: deeper than all work that waits for it.
fn depth_of(scope: &Scope) -> usize {
    let mut around = Vec::new();
    // Another thread may have brought it here, by a handle.
    scope.node().walk(|node| around.push(node.id));
    let Some(running) = running() else { return DEPTH.get() };
    // Any work may wait for a hook.
    let all = pool::is_for_hooks().then(|| running.values()).into_iter().flatten();
    let depths = around.iter().filter_map(|scope| running.get(scope)).chain(all);
    depths.map(|depth| depth.saturating_add(1)).fold(DEPTH.get(), usize::max)
}

/// While it is there, the work of this scope runs on this thread.
struct Within {
    scope: ScopeId,
    before: usize,
}

impl Within {
    fn enter(scope: ScopeId, depth: usize) -> Self {
        if let Some(mut running) = running() {
            running.insert(scope, depth);
        }
        Self { scope, before: DEPTH.replace(depth.saturating_add(1)) }
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        DEPTH.set(self.before);
        if let Some(mut running) = running() {
            running.remove(&self.scope);
        }
    }
}

// ===== One piece of work =====

/// Why work that was submitted is not begun.
#[derive(Debug, thiserror::Error)]
#[error("no thread could be started")]
struct NoThread;

struct Job<T> {
    depth: usize,
    state: Mutex<State<T>>,
    /// Of who waits for it.
    waker: Mutex<Option<Waker>>,
}

type Ended<T> = thread::Result<Result<T, TimeoutError>>;

enum State<T> {
    New(Box<dyn FnOnce() -> T + Send>, Handle, Held),
    Running,
    Ended(Ended<T>),
    /// There is no thread for it.
    Stranded,
    /// Nobody waits for it.
    Left,
}

impl<T: Send + 'static> Job<T> {
    /// What it came to; or it is left behind.
    fn take(&self, scope: &Scope, location: &'static Location<'static>) -> Result<Ended<T>, TimeoutError> {
        let before = {
            let mut state = lock(&self.state);
            let before = std::mem::replace(&mut *state, State::Left);
            if matches!(before, State::Running) {
                // With the job locked: its end comes after.
                pool::abandoned().mark_abandoned(self.depth);
            }
            before
        };
        let started = match before {
            State::Ended(ended) => return Ok(ended),
            State::Running | State::Left => true,
            State::New(..) => false,
            State::Stranded => return Err(given_up(scope, location, Box::new(NoThread))),
        };
        Err(scope.error(RaiseContext { started, ..RaiseContext::at(location, clock::now()) }))
    }
}

/// A job on its way to a thread.
struct Submitted<T: Send + 'static>(Arc<Job<T>>);

impl<T: Send + 'static> Task for Submitted<T> {
    fn run(self: Arc<Self>) {
        Arc::clone(&self.0).run();
        drop_quietly(self);
    }
}

impl<T: Send + 'static> Drop for Submitted<T> {
    /// If it was not run nobody else tells the one who waits.
    fn drop(&mut self) {
        let stranded = {
            let mut state = lock(&self.0.state);
            matches!(*state, State::New(..)).then(|| std::mem::replace(&mut *state, State::Stranded))
        };
        if stranded.is_some() {
            drop_quietly(stranded);
            let waker = lock(&self.0.waker).take();
            waker.into_iter().for_each(Waker::wake);
        }
    }
}

/// Holds the clock of a test again, however the work ends.
struct HoldAgain<'a>(&'a Cell<Option<Held>>);

impl Drop for HoldAgain<'_> {
    fn drop(&mut self) {
        self.0.set(Some(hold()));
    }
}

impl<T: Send + 'static> Job<T> {
    fn run(self: Arc<Self>) {
        let (work, handle, held) = {
            let mut state = lock(&self.state);
            match std::mem::replace(&mut *state, State::Running) {
                State::New(work, handle, held) => (work, handle, held),
                other => {
                    *state = other;
                    return;
                }
            }
        };
        let within = Within::enter(handle.node().id, self.depth);
        // Until the work has begun; and from its end on, until whoever waits for it has been woken.
        let held = Cell::new(Some(held));
        let run = AssertUnwindSafe(|| {
            handle.enter(Limit::NONE, |_| {
                held.take();
                let _again = HoldAgain(&held);
                Ok(work())
            })
        });
        let mut ended = Some(catch_unwind(run));
        let left = {
            let mut state = lock(&self.state);
            let left = matches!(*state, State::Left);
            if let Some(ended) = ended.take_if(|_| !left) {
                *state = State::Ended(ended);
            }
            left
        };
        // Nobody wants it any more.
        drop_quietly(ended);
        drop(within);
        let waker = lock(&self.waker).take();
        waker.into_iter().for_each(Waker::wake);
        if left {
            pool::abandoned().mark_returned(self.depth);
        }
        drop_quietly(self);
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
            std::io::Result::Ok(job.take(scope, Location::caller()).err())
        });
        let error = error.unwrap().unwrap().expect("it did not run");
        let source = std::error::Error::source(&error).map(ToString::to_string);
        assert_eq!(source.as_deref(), Some("no thread could be started"));
    }
}
