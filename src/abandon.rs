//! Work that is left behind at its deadline: a last resort.

use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::task::Waker;
use std::thread;

use crate::error::TimeoutError;
use crate::scope::{Handle, Scope, run_any};
use crate::sync::callback::drop_quietly;
use crate::sync::{Mutex, lock};
use crate::time::{Limit, clock};
use crate::token::trail::{Circumstances, given_up};
use crate::watchdog;
use crate::watchdog::runners::Task;

/// Runs work on a thread of ours, and at the deadline returns without it. A last resort.
///
/// For code that looks at no scope and has no interrupt: a name resolution, a read from a dead disk, a library in an
/// endless loop. What is left behind **keeps its core, its memory, its locks and its connections**, for as long as it
/// runs; and whatever it does later, it does behind your back. So it must own all that it touches (`'static`), and there
/// are at most eight such threads. Those that come to their end are used again.
///
/// The work runs in a scope within this one: it may look at it all the same, and then ends by itself.
///
/// # Errors
///
/// A [`TimeoutError`] at the deadline, or if the work was not begun: because there was no time left, no thread was free in
/// time, none could be started, or all threads are stuck in work that was left behind. In the last case there is no wait,
/// and the error's [source](std::error::Error::source) is [`Saturated`].
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
        let handle = scope.handle();
        let job =
            Arc::new(Job { state: Mutex::new(State::New(Box::new(work), handle)), waker: Mutex::new(None) });
        scope
            .wait_with(location, |waker| {
                *lock(&job.waker) = Some(waker);
                submit(Arc::new(Submitted(Arc::clone(&job))))
            })
            .map_err(|saturated: Saturated| given_up(scope.info(), location, false, Box::new(saturated)))?;
        job.take(scope, location)
    })?;
    outcome?.unwrap_or_else(|payload| resume_unwind(payload))
}

/// How much work has been left behind by [`abandon`] and still runs.
pub fn abandoned() -> usize {
    watchdog::global().abandoned().stuck()
}

/// All threads are stuck in work that was left behind: the source of the error of [`abandon`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all {threads} threads are stuck in work that was left behind")]
#[non_exhaustive]
pub struct Saturated {
    /// How many there are.
    pub threads: usize,
}

fn submit(job: Arc<dyn Task>) -> Result<(), Saturated> {
    let threads = watchdog::global().abandoned();
    if threads.stuck() >= threads.most() {
        return Err(Saturated { threads: threads.most() });
    }
    // What comes back, of others too, is told so as it is dropped.
    drop(threads.try_submit(job));
    Ok(())
}

/// Why work that was submitted is not begun.
#[derive(Debug, thiserror::Error)]
#[error("no thread could be started")]
struct NoThread;

struct Job<T> {
    state: Mutex<State<T>>,
    /// Of who waits for it.
    waker: Mutex<Option<Waker>>,
}

type Ended<T> = thread::Result<Result<T, TimeoutError>>;

enum State<T> {
    New(Box<dyn FnOnce() -> T + Send>, Handle),
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
                watchdog::global().abandoned().left_behind();
            }
            before
        };
        let started = match before {
            State::Ended(ended) => return Ok(ended),
            State::Running | State::Left => true,
            State::New(..) => false,
            State::Stranded => return Err(given_up(scope.info(), location, false, Box::new(NoThread))),
        };
        Err(scope.error(Circumstances { started, ..Circumstances::at(location, clock::now()) }))
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

impl<T: Send + 'static> Job<T> {
    fn run(self: Arc<Self>) {
        let (work, handle) = {
            let mut state = lock(&self.state);
            match std::mem::replace(&mut *state, State::Running) {
                State::New(work, handle) => (work, handle),
                other => {
                    *state = other;
                    return;
                }
            }
        };
        let run = AssertUnwindSafe(|| handle.enter(Limit::NONE, |_| Ok(work())));
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
        let waker = lock(&self.waker).take();
        waker.into_iter().for_each(Waker::wake);
        if left {
            watchdog::global().abandoned().came_back();
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
            let state = Mutex::new(State::<()>::New(Box::new(work), scope.handle()));
            let job = Arc::new(Job { state, waker: Mutex::new(None) });
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
