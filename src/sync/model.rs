//! The clock and the threads of a loom model.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use loom::thread::{self, JoinHandle};

// An atomic of std: loom does not see the accesses to it, and does not try their orders. While the model's threads run,
// only `Alarm::model_advance` stores the time. It holds the lock of the alarm's futex. A sleeper reads the time under
// that same lock, so loom tries the store before and after that read.
static NOW: AtomicU64 = AtomicU64::new(0);

/// The time, which stands still unless the model moves it.
pub(crate) fn now() -> u64 {
    NOW.load(Ordering::SeqCst)
}

pub(super) fn set_now(time: u64) {
    NOW.store(time, Ordering::SeqCst);
}

static SPAWNED: Mutex<Vec<JoinHandle<()>>> = Mutex::new(Vec::new());

pub(crate) fn spawn(body: impl FnOnce() + 'static) {
    let thread = thread::spawn(body);
    SPAWNED.lock().unwrap().push(thread);
}

pub(crate) fn join_all() {
    let threads = std::mem::take(&mut *SPAWNED.lock().unwrap());
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Begins an execution of a model.
pub(crate) fn reset(time: u64) {
    set_now(time);
    // If the execution before failed, the handles of its threads are still here.
    SPAWNED.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
}
