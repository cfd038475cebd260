//! Which run of a callback waits for which other, so that they do not wait in a circle.
//!
//! A thread in a run that waits for another run to end holds its own run up. Waits in a circle would never end. So one of
//! them *lets go*: it returns as it would from inside the run that it waits for.
//!
//! Invariants:
//! 1. A wait is listed, with all runs that its thread is in, from before it begins until it has ended. Those runs cannot end
//!    meanwhile, so the list is true.
//! 2. The thread that lists the last wait of a circle finds all the others, under the lock. So no circle is missed, and none is
//!    found in which a run has ended.
//!
//! A wait on a thread that is in no run is part of no circle, and is not listed.

use std::cell::RefCell;
use std::panic::Location;
use std::sync::Arc;

use super::abort::abort;
use super::fork::PerProcess;
use super::primitive::{AtomicBool, Mutex, Ordering, lock, mutant};

/// A run of a callback: no other has its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run(u64);

/// The reason to end a callback, and to wait for its run. In a circle a wait for the first of these reasons lets go.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ending {
    /// Its registration is dropped.
    Registration,
    /// The scope that it belongs to is left, or shielded.
    Scope,
    /// The call that lent it returns, and the callback borrows from that call. Such a wait never lets go.
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

/// Wakes a thread that waits, so that it can let go.
pub(crate) trait Notify: Send + Sync {
    fn notify(&self);
}

struct Listed {
    /// The runs that the waiting thread is in.
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

/// While it is there, this thread is in a run.
pub(crate) struct InRun(pub(crate) Run);

impl InRun {
    pub(crate) fn begin() -> Self {
        // std's in a model too: only uniqueness is asked for.
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        let run = Run(NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        // A thread whose locals are gone counts as being in no run.
        let _ = RUNS.try_with(|runs| runs.borrow_mut().push(run));
        Self(run)
    }
}

impl Drop for InRun {
    fn drop(&mut self) {
        // Not always the last: one in a coroutine may be left before one that began later.
        let _ = RUNS.try_with(|runs| runs.borrow_mut().retain(|run| *run != self.0));
    }
}

/// A wait for the end of a run, inside of another. It ends when this is dropped.
pub(crate) struct Wait(Arc<AtomicBool>);

impl Wait {
    /// Begins to wait; `None` if this thread is in no run. Called with no lock held that `on` takes.
    pub(crate) fn begin(awaited: Run, ending: Ending, on: Arc<dyn Notify>) -> Option<Self> {
        let inside = RUNS.try_with(|runs| runs.borrow().clone()).unwrap_or_default();
        if inside.is_empty() || mutant!(NoCircle) {
            return None;
        }
        let lets_go = Arc::new(AtomicBool::new(false));
        let mut list = lock(LIST.get());
        list.push(Listed { inside, awaited, ending, on, lets_go: Arc::clone(&lets_go) });
        let circle = circle_of_last(&list);
        // Of equal ones the latest, which is this one, and need not be woken.
        let weakest = circle.into_iter().min_by_key(|&index| list[index].ending.firmness());
        let told = weakest.map(|index| {
            let Listed { ending, on, lets_go, .. } = &list[index];
            if let Ending::Call(location) = ending {
                ended_inside(location);
            }
            // Relaxed: read under the lock that `notify` takes after this.
            lets_go.store(true, Ordering::Relaxed);
            Arc::clone(on)
        });
        drop(list);
        told.iter().for_each(|on| on.notify());
        Some(Self(lets_go))
    }

    /// Whether it is not to wait any longer. Asked under the lock of what it waits on.
    pub(crate) fn lets_go(&self) -> bool {
        // Relaxed: as above.
        self.0.load(Ordering::Relaxed)
    }
}

/// The waits that lead from the last on the list back to it, that one first; none if they do not.
fn circle_of_last(list: &[Listed]) -> Vec<usize> {
    let Some((own, before)) = list.split_last() else { return Vec::new() };
    let mut circle = vec![before.len()];
    let mut awaited = own.awaited;
    while !own.inside.contains(&awaited) {
        // Relaxed: under the lock.
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

/// The call that lent a callback is about to return while that runs, and cannot wait for it.
#[cold]
pub(crate) fn ended_inside(location: &'static Location<'static>) -> ! {
    abort(format_args!(
        "the call made at {location} ended inside its own hook (a coroutine switched inside it)"
    ))
}
