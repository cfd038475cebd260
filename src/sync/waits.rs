//! The list of waits for runs of callbacks. It prevents that runs wait for each other in a circle for ever.
//!
//! While a thread inside a run waits for another run, the thread's own run cannot end. So waits in a circle would never
//! end. To prevent that, one wait of the circle *lets go*: it returns early, as a wait from inside the awaited run
//! does.
//!
//! Invariants:
//! 1. A wait is listed, with all runs that its thread is in, from before it begins until it has ended. Those runs
//!    cannot end meanwhile, so the list stays true.
//! 2. The thread that lists the last wait of a circle finds all other waits of the circle, under the lock. So no circle
//!    is missed. In each circle that is found, all runs are still in progress.
//!
//! A wait on a thread that is in no run is part of no circle, and is not listed.

use std::cell::RefCell;
use std::panic::Location;
use std::sync::Arc;

use super::abort::abort;
use super::fork::PerProcess;
use super::primitive::{AtomicBool, Mutex, Ordering, lock, mutant};

/// The number of one run of a callback. No other run has the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run(u64);

/// Why a thread ends a callback, and waits for its run. If threads wait for each other in a circle, the wait whose
/// reason comes first in this list ends at once. After that the other waits can end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ending {
    /// The registration of the callback is dropped.
    Registration,
    /// The scope that the callback belongs to is left, or shielded.
    Scope,
    /// The call that lent the callback returns. The callback borrows from that call, so this wait never ends before the
    /// run. If all waits of a circle are of this kind, the process aborts.
    Call(&'static Location<'static>),
}

impl Ending {
    fn firmness(self) -> u8 {
        match self {
            Ending::Registration => 0,
            Ending::Scope => 1,
            Ending::Call(_) => 2,
        }
    }
}

/// Wakes a thread whose wait is to return early.
pub(crate) trait Notify: Send + Sync {
    fn notify(&self);
}

struct Listed {
    inside: Vec<Run>,
    awaited: Run,
    ending: Ending,
    on: Arc<dyn Notify>,
    lets_go: Arc<AtomicBool>,
}

type List = PerProcess<Mutex<Vec<Listed>>>;

#[cfg(not(timebox_loom))]
static LIST: List = PerProcess::new(Mutex::new(Vec::new()), Mutex::default);
#[cfg(timebox_loom)]
loom::lazy_static! {
    static ref LIST: List = PerProcess::new(Mutex::new(Vec::new()), Mutex::default);
}

#[cfg(not(timebox_loom))]
thread_local!(static RUNS: RefCell<Vec<Run>> = const { RefCell::new(Vec::new()) });
#[cfg(timebox_loom)]
loom::thread_local!(static RUNS: RefCell<Vec<Run>> = RefCell::new(Vec::new()));

/// Makes room for the runs of this thread, so that [`InRun::begin`] need not allocate.
#[cfg(not(timebox_loom))]
pub(crate) fn prepare_this_thread() {
    let _ = RUNS.try_with(|runs| runs.borrow_mut().reserve(4));
}

pub(crate) struct InRun(pub(crate) Run);

impl InRun {
    pub(crate) fn begin() -> Self {
        // This is an atomic of std even under loom: it makes the numbers unique, and orders nothing.
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        let run = Run(NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        // A thread whose thread-locals are gone counts as being in no run.
        let _ = RUNS.try_with(|runs| runs.borrow_mut().push(run));
        Self(run)
    }
}

impl Drop for InRun {
    fn drop(&mut self) {
        // The run is not always the last in the list: a run in a coroutine may end before a run that began later.
        let _ = RUNS.try_with(|runs| runs.borrow_mut().retain(|run| *run != self.0));
    }
}

/// A wait, inside a run, for the end of another run. The wait is listed until this value is dropped.
pub(crate) struct Wait(Arc<AtomicBool>);

impl Wait {
    /// Lists a wait that is about to begin. `None` if this thread is in no run: its wait is part of no circle.
    ///
    /// If the wait closes a circle, this calls `notify` for one wait of the circle: this one, or that of another
    /// thread. So call this without any lock that a `notify` takes.
    pub(crate) fn begin(awaited: Run, ending: Ending, on: Arc<dyn Notify>) -> Option<Self> {
        let inside = RUNS.try_with(|runs| runs.borrow().clone()).unwrap_or_default();
        if inside.is_empty() || mutant!(NoCircle) {
            return None;
        }
        let lets_go = Arc::new(AtomicBool::new(false));
        let mut list = lock(LIST.get());
        list.push(Listed { inside, awaited, ending, on, lets_go: Arc::clone(&lets_go) });
        let circle = circle_of_last(&list);
        // The new wait is first in the circle, and `min_by_key` returns the first of equal waits. So if the new wait is
        // one of the weakest, it lets go itself.
        let weakest = circle.into_iter().min_by_key(|&index| list[index].ending.firmness());
        let told = weakest.map(|index| {
            let Listed { ending, on, lets_go, .. } = &list[index];
            if let Ending::Call(location) = ending {
                ended_inside(location);
            }
            // Relaxed: `notify` below takes the lock under which the waiting thread reads `lets_go`. So that thread
            // sees this store, or is notified.
            lets_go.store(true, Ordering::Relaxed);
            Arc::clone(on)
        });
        drop(list);
        told.iter().for_each(|on| on.notify());
        Some(Self(lets_go))
    }

    /// Whether this wait must end early, because it is the weakest in a circle of waits. Call this under the lock that
    /// `notify` takes.
    pub(crate) fn lets_go(&self) -> bool {
        // Relaxed: see the store in `begin`.
        self.0.load(Ordering::Relaxed)
    }
}

/// The circle of waits that the last wait on the list closes, with the last wait first; empty if it closes no circle.
fn circle_of_last(list: &[Listed]) -> Vec<usize> {
    let Some((own, before)) = list.split_last() else { return Vec::new() };
    let mut circle = vec![before.len()];
    let mut awaited = own.awaited;
    while !own.inside.contains(&awaited) {
        // Relaxed: this thread holds the lock of the list, under which `lets_go` is set.
        let holds_up =
            |wait: &Listed| wait.inside.contains(&awaited) && !wait.lets_go.load(Ordering::Relaxed);
        let Some(index) = before.iter().position(holds_up) else { return Vec::new() };
        awaited = before[index].awaited;
        circle.push(index);
    }
    circle
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut list = lock(LIST.get());
        let index = list.iter().position(|wait| Arc::ptr_eq(&wait.lets_go, &self.0));
        let gone = index.map(|index| list.swap_remove(index));
        drop(list);
        drop(gone);
    }
}

/// Aborts. The call at `location` has lent a callback, and is about to return while the callback runs. It cannot wait
/// for the end of the run, because it is inside the run itself.
#[cold]
pub(crate) fn ended_inside(location: &'static Location<'static>) -> ! {
    abort(format_args!(
        "the call made at {location} ended inside its own hook (a coroutine switched inside it)"
    ))
}
