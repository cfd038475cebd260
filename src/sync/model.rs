use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use loom::thread::{self, JoinHandle};

use super::mutants::{self, Mutant};

// An atomic of std: loom does not see the accesses to it, and does not try their orders. While the model's threads run,
// only `Alarm::model_advance` stores the time. It holds the lock of the alarm's futex. A sleeper reads the time under
// that same lock, so loom tries the store before and after that read.
static NOW: AtomicU64 = AtomicU64::new(0);

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

/// Explores `body`, with the fault `mutant` if one is given. The fault is switched on for the whole process, so one
/// model runs at a time.
pub(crate) fn explore(mutant: Option<Mutant>, body: fn()) {
    explore_within(None, mutant, body);
}

pub(crate) fn explore_within(bound: Option<usize>, mutant: Option<Mutant>, body: fn()) {
    static ONE: Mutex<()> = Mutex::new(());
    struct Off(Option<Mutant>);
    impl Drop for Off {
        fn drop(&mut self) {
            self.0.into_iter().for_each(|mutant| mutants::set(mutant, false));
        }
    }
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let _off = Off(mutant);
    mutant.into_iter().for_each(|mutant| mutants::set(mutant, true));
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = bound.or(builder.preemption_bound).or(Some(2));
    builder.check(move || {
        reset(1);
        body();
    });
}

/// Makes a test of each model. If a mutant is given, the test runs the model with this fault. Such a test needs
/// `#[should_panic]`, because the model must find the fault.
macro_rules! models {
    ($($(#[$meta:meta])* $name:ident: $body:ident $(, $mutant:ident)?;)*) => {$(
        #[test]
        $(#[$meta])*
        fn $name() {
            let mutant = None $(.or(Some($crate::sync::mutants::Mutant::$mutant)))?;
            $crate::sync::model::explore(mutant, $body);
        }
    )*};
}

pub(crate) use models;
