//! Tracked work. The thread that moves a mock clock waits for all work that the move sets off, even for work on other
//! threads.

use std::cell::RefCell;
use std::sync::{Arc, PoisonError};
use std::task::{Wake, Waker};
use std::time::Duration;

use crate::sync::{AtomicBool, Condvar, Mutex, Ordering, lock, wait};

/// If no piece of the awaited work ends for this long, in real time, a move of the clock may go on: the work may wait
/// for a later timer.
const GIVE_UP_AFTER: Duration = Duration::from_secs(1);

thread_local!(static TRACKING: RefCell<Option<Arc<WaitGroup>>> = const { RefCell::new(None) });

/// The group that counts the work that this thread runs now; `None` if that work is not tracked.
pub(crate) fn tracking() -> Option<Arc<WaitGroup>> {
    TRACKING.try_with(|tracking| tracking.borrow().clone()).ok().flatten()
}

/// Counts tracked work that is not done yet.
#[derive(Default)]
pub(crate) struct WaitGroup {
    left: Mutex<usize>,
    done: Condvar,
}

impl WaitGroup {
    pub(super) fn wait(&self) {
        let mut left = lock(&self.left);
        while *left > 0 {
            left = wait(&self.done, left);
        }
    }

    /// Waits until all work is done, or until no piece of work has ended for [`GIVE_UP_AFTER`]. `true` if all work is
    /// done.
    pub(super) fn is_done_soon(&self) -> bool {
        let mut left = lock(&self.left);
        while *left > 0 {
            let waited = self.done.wait_timeout(left, GIVE_UP_AFTER).unwrap_or_else(PoisonError::into_inner);
            left = waited.0;
            if waited.1.timed_out() {
                break;
            }
        }
        *left == 0
    }
}

/// A piece of work. The group counts it until it is done, or dropped.
pub(crate) struct Tracked<T> {
    work: T,
    group: Arc<WaitGroup>,
    begun: AtomicBool,
    done: AtomicBool,
}

impl<T> Tracked<T> {
    pub(crate) fn new(work: T, group: &Arc<WaitGroup>) -> Self {
        *lock(&group.left) += 1;
        let (begun, done) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { work, group: Arc::clone(group), begun, done }
    }

    /// The first call runs the work. Later calls do nothing. The group also counts all work that this work sets off.
    pub(crate) fn begin(&self, run: impl FnOnce(&T)) {
        // Relaxed, here and for `done`: the flag publishes nothing. The swap lets only one caller find `false`.
        if self.begun.swap(true, Ordering::Relaxed) {
            return;
        }
        let _finish = Finish(self, TRACKING.replace(Some(Arc::clone(&self.group))));
        run(&self.work);
    }

    fn finish(&self) {
        if !self.done.swap(true, Ordering::Relaxed) {
            *lock(&self.group.left) -= 1;
            self.group.done.notify_all();
        }
    }
}

/// Dropped at the end of a run, even if the work panics. The drop counts the work as done, and gives the thread the
/// group back that it had before the run.
struct Finish<'a, T>(&'a Tracked<T>, Option<Arc<WaitGroup>>);

impl<T> Drop for Finish<'_, T> {
    fn drop(&mut self) {
        TRACKING.set(self.1.take());
        self.0.finish();
    }
}

impl<T> Drop for Tracked<T> {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Wake for Tracked<Waker> {
    fn wake(self: Arc<Self>) {
        self.begin(Waker::wake_by_ref);
    }
}
