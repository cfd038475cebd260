use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Waker;

use super::tracking::{Tracked, WaitGroup, tracking};
use crate::sync::{ForkMutex, SetOnce};
use crate::test_env::{Mock, TestEnv};
use crate::time::NEVER;

/// All mock clocks, by number. A clock that nobody can move any more is removed, so its timers never fire.
type Clocks = BTreeMap<u32, Clock>;

#[derive(Default)]
struct Clock {
    queue: Queue,
    /// Counts the work that threads under the clock have started, for example a hook that a cancel fires. Other groups
    /// count the work that moves of the clock start.
    set_off: Arc<WaitGroup>,
}

#[derive(Default)]
pub(super) struct Queue {
    /// The wakers, by deadline and number: wakers with the same deadline are in the order in which they were put in.
    pub(super) wakers: BTreeMap<(u64, u32), Waker>,
    pub(super) deadlines: BTreeMap<u32, u64>,
    next: u32,
}

impl Queue {
    pub(super) fn put(&mut self, deadline: u64, waker: Waker) -> u32 {
        let number = self.next;
        self.next = number.wrapping_add(1);
        self.wakers.insert((deadline, number), waker);
        self.deadlines.insert(number, deadline);
        number
    }

    pub(super) fn take(&mut self, number: u32) -> Option<Waker> {
        self.wakers.remove(&(self.deadlines.remove(&number)?, number))
    }

    pub(super) fn take_due(&mut self, now: u64) -> Option<Waker> {
        let &(deadline, number) = self.wakers.keys().next()?;
        if deadline <= now { self.take(number) } else { None }
    }

    pub(super) fn earliest(&self) -> u64 {
        self.wakers.keys().next().map_or(NEVER, |&(deadline, _)| deadline)
    }
}

fn clocks() -> &'static ForkMutex<Clocks> {
    static CLOCKS: SetOnce<ForkMutex<Clocks>> = SetOnce::new();
    CLOCKS.get_or_init(|| ForkMutex::new(Clocks::new()))
}

pub(super) fn add(clock: u32) {
    if let Some(mut clocks) = clocks().lock() {
        clocks.insert(clock, Clock::default());
    }
}

pub(super) fn remove(clock: u32) {
    // The drop of a waker is foreign code, so it must not run under the lock.
    let removed = clocks().lock().and_then(|mut clocks| clocks.remove(&clock));
    drop(removed);
}

pub(super) fn with_queue<R>(clock: u32, f: impl FnOnce(&mut Queue) -> R) -> Option<R> {
    clocks().lock()?.get_mut(&clock).map(|clock| f(&mut clock.queue))
}

/// The group that counts the work that threads under the clock have set off. The next move of the clock waits for this
/// work. `None` if the clock is gone.
pub(super) fn set_off_under(clock: &Mock) -> Option<Arc<WaitGroup>> {
    Some(Arc::clone(&clocks().lock()?.get(&clock.id)?.set_off))
}

/// Wraps the waker, so that a move of a mock clock waits until the waker has run. If this thread runs tracked work, the
/// waker counts as part of that work. If the thread runs no tracked work but is under a mock clock, the next move of
/// that clock waits for the waker. On any other thread, returns the waker as it is.
pub(in crate::watchdog) fn tracked(waker: Waker) -> Waker {
    match tracking().or_else(|| TestEnv::current().mock().and_then(|mock| set_off_under(mock))) {
        Some(group) => Arc::new(Tracked::new(waker, &group)).into(),
        None => waker,
    }
}
