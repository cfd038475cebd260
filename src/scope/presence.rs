//! A mock clock that moves by itself, once all threads under it wait.
//!
//! A thread is *present* under a clock while it is in [`run`](crate::testing::MockClock::run), or in the scope of a
//! handle that was made in `run`. A present thread counts as awake, except while it sleeps in a [`Wait`]. A thread in
//! any other wait counts as awake, and so keeps the clock from moving: it may wait for work that the clock does not
//! see. So a test may hang, but no limit expires while such work goes on.
//!
//! Invariants:
//! 1. The thread that wakes a sleeping thread counts the sleeper as awake; the woken thread does not count itself. So
//!    when a move of the clock is done, all threads that the move has woken are counted.
//! 2. The last awake thread, when it falls asleep, makes a [`Move`] move the clock. Only one [`Move`] runs at a time.
//!    It looks again for awake threads before it stops.

use std::cell::RefCell;
use std::sync::Arc;
use std::task::Wake;

use crate::pool::{self, Task};
use crate::sync::{Condvar, Mutex, lock, wait};
use crate::test_env::{Mock, TestEnv};
use crate::time::NEVER;
use crate::watchdog::mock::advance_to_next;
use crate::watchdog::mock::tracking::tracking;

thread_local! {
    static PRESENT: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

fn is_present(mock: &Mock) -> bool {
    PRESENT.try_with(|clocks| clocks.borrow().contains(&mock.id)).unwrap_or(false)
}

fn set_present(mock: &Mock, present: bool) {
    let _gone = PRESENT.try_with(|clocks| {
        let mut clocks = clocks.borrow_mut();
        clocks.retain(|clock| *clock != mock.id);
        if present {
            clocks.push(mock.id);
        }
    });
}

fn wake_up(mock: &Mock) {
    let mut presence = lock(&mock.presence);
    presence.awake += 1;
    presence.woken += 1;
}

fn fall_asleep(mock: &Arc<Mock>) {
    lock(&mock.presence).awake -= 1;
    look(mock);
}

/// If no thread is awake and the clock moves by itself, submits a [`Move`]. If a [`Move`] is running already, makes it
/// try once more.
fn look(mock: &Arc<Mock>) {
    {
        let mut presence = lock(&mock.presence);
        if presence.awake > 0 || presence.movers == 0 {
            return;
        }
        if presence.moves {
            presence.look_again = true;
            return;
        }
        presence.moves = true;
    }
    pool::hooks().submit(Arc::new(Move(Arc::clone(mock))));
}

struct Move(Arc<Mock>);

impl Task for Move {
    fn run(self: Arc<Self>) {
        let mut moved = true;
        loop {
            let mut woken = {
                let mut presence = lock(&self.0.presence);
                let look_again = std::mem::take(&mut presence.look_again);
                if presence.awake > 0 || presence.movers == 0 || !(moved || look_again) {
                    presence.moves = false;
                    return;
                }
                presence.woken
            };
            // Perhaps no thread is awake now, but a thread was woken since `woken` was read. This thread may have set a
            // timer that was due at once, and fallen asleep again. Such a timer may be out of its queue without having
            // fired, so the move would miss it. So the clock does not move if a thread was woken.
            moved = advance_to_next(&self.0, || {
                let presence = lock(&self.0.presence);
                let woken_before = std::mem::replace(&mut woken, presence.woken);
                presence.awake == 0 && presence.woken == woken_before
            });
        }
    }
}

/// A guard: while it exists, the clock counts one more thread (or other holder) as awake.
pub(crate) struct Hold(Arc<Mock>);

impl Hold {
    pub(crate) fn new(mock: &Arc<Mock>) -> Self {
        wake_up(mock);
        Self(Arc::clone(mock))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        fall_asleep(&self.0);
    }
}

/// A guard: while it exists, the mock clock of an environment counts this thread as present. The guard is empty if the
/// clock does so already, or if the environment has no mock clock.
#[must_use]
pub(crate) struct Present(Option<Hold>);

impl Present {
    pub(crate) fn under(env: &TestEnv) -> Self {
        let mock = env.mock().filter(|mock| !is_present(mock));
        mock.into_iter().for_each(|mock| set_present(mock, true));
        Self(mock.map(Hold::new))
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.iter().for_each(|hold| set_present(&hold.0, false));
    }
}

/// A guard: while it exists, the clock moves by itself.
#[must_use]
pub(crate) struct Mover(Arc<Mock>);

impl Mover {
    pub(crate) fn of(mock: &Arc<Mock>) -> Self {
        lock(&mock.presence).movers += 1;
        Self(Arc::clone(mock))
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        lock(&self.0.presence).movers -= 1;
    }
}

/// Lets a thread wait under a mock clock, any number of times in succession.
pub(crate) struct Wait {
    mock: Arc<Mock>,
    stage: Mutex<Stage>,
    woken: Condvar,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Awake,
    Asleep { is_present: bool },
    Woken,
}

impl Wait {
    pub(crate) fn new(mock: &Arc<Mock>) -> Self {
        Self { mock: Arc::clone(mock), stage: Mutex::new(Stage::Awake), woken: Condvar::new() }
    }

    /// Sleeps until [`wake_up`](Self::wake_up) is called; returns at once if `wake_up` was called since the last sleep.
    /// `until` is the time at which a timer of the caller calls `wake_up`; `NEVER` if there is no timer.
    pub(crate) fn sleep(&self, until: u64) {
        let mut stage = lock(&self.stage);
        if *stage == Stage::Awake {
            let is_present = is_present(&self.mock);
            *stage = Stage::Asleep { is_present };
            if is_present {
                // `stage` is still locked here. So a thread that wakes this one adds to `awake` only after this
                // subtraction.
                lock(&self.mock.presence).awake -= 1;
                drop(stage);
                self.see_to_the_clock(until);
                stage = lock(&self.stage);
            }
        }
        while *stage != Stage::Woken {
            stage = wait(&self.woken, stage);
        }
        *stage = Stage::Awake;
    }

    fn see_to_the_clock(&self, until: u64) {
        // A move of the clock may be waiting for this thread's work (`tracking`), and now this work waits for the
        // clock. So the move is asked to go on to `until`: otherwise both would wait for ever.
        if until != NEVER && tracking().is_some() && lock(&self.mock.presence).movers > 0 {
            self.mock.ask(until);
        }
        look(&self.mock);
    }

    pub(crate) fn wake_up(&self) {
        let mut stage = lock(&self.stage);
        if *stage == (Stage::Asleep { is_present: true }) {
            wake_up(&self.mock);
        }
        *stage = Stage::Woken;
        self.woken.notify_one();
    }
}

impl Wake for Wait {
    fn wake(self: Arc<Self>) {
        self.wake_up();
    }
}
