//! Threads for work that may block: hooks that talk to a server, and what [`abandon`](crate::abandon()) is given.
//!
//! There are as many as there is work at one time, up to a bound: below it, one that is stuck never delays another's. A
//! runner with nothing to do waits a while for more, then ends.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::sync::{Condvar, Mutex, lock};

/// Work for a runner.
pub(crate) trait Task: Send + Sync {
    fn run(self: Arc<Self>);
}

#[derive(Debug)]
pub(crate) struct Runners {
    /// Of each thread.
    #[cfg_attr(timebox_loom, allow(dead_code))]
    name: &'static str,
    most: usize,
    state: Mutex<State>,
    /// Notified for each task that an idle runner should take.
    work: Condvar,
}

struct State {
    tasks: VecDeque<Arc<dyn Task>>,
    idle: usize,
    running: usize,
    /// In work that nobody waits for any more.
    stuck: usize,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("tasks", &self.tasks.len())
            .field("idle", &self.idle)
            .finish_non_exhaustive()
    }
}

#[cfg(not(timebox_loom))]
const IDLE: std::time::Duration = std::time::Duration::from_secs(10);

impl Runners {
    crate::sync::const_fn! {
        /// For hooks that may block.
        pub(super) fn for_hooks() -> Self {
            Self::new("timebox-hook", usize::MAX)
        }
    }

    crate::sync::const_fn! {
        /// For work that may be left behind.
        pub(super) fn for_abandoned() -> Self {
            Self::new("timebox-abandon", 8)
        }
    }

    crate::sync::const_fn! {
        fn new(name: &'static str, most: usize) -> Self {
            let state = State { tasks: VecDeque::new(), idle: 0, running: 0, stuck: 0 };
            Self { name, most, state: Mutex::new(state), work: Condvar::new() }
        }
    }

    /// Has a hook run soon. Where no thread can be had at all it runs here, rather than never.
    pub(super) fn submit(&'static self, hook: Arc<dyn Task>) {
        if let Err(stranded) = self.try_submit(hook) {
            stranded.into_iter().for_each(Task::run);
        }
    }

    /// Has the task run soon. Where no thread can be had at all the tasks that wait for one come back.
    pub(crate) fn try_submit(&'static self, task: Arc<dyn Task>) -> Result<(), VecDeque<Arc<dyn Task>>> {
        let mut state = lock(&self.state);
        state.tasks.push_back(task);
        if state.idle >= state.tasks.len() {
            self.work.notify_one();
            return Ok(());
        }
        if state.running >= self.most {
            return Ok(());
        }
        state.running += 1;
        drop(state);
        if self.start() {
            return Ok(());
        }
        let mut state = lock(&self.state);
        state.running -= 1;
        // With others at work, one of them gets to it.
        if state.running > 0 { Ok(()) } else { Err(std::mem::take(&mut state.tasks)) }
    }

    /// Has one with nothing to do see whether the watchdog is missing.
    #[cfg(not(timebox_loom))]
    pub(super) fn rouse(&self) {
        let state = lock(&self.state);
        if state.idle > 0 {
            self.work.notify_one();
        }
    }

    /// How many threads there are at most.
    pub(crate) fn most(&self) -> usize {
        self.most
    }

    /// How many are stuck in work that nobody waits for any more.
    pub(crate) fn stuck(&self) -> usize {
        lock(&self.state).stuck
    }

    /// Nobody waits any more for what a runner is at.
    pub(crate) fn left_behind(&self) {
        lock(&self.state).stuck += 1;
    }

    /// What was left behind has ended.
    pub(crate) fn came_back(&self) {
        let mut state = lock(&self.state);
        // In a child forked from within it there was none.
        state.stuck = state.stuck.saturating_sub(1);
    }

    #[cfg(not(timebox_loom))]
    fn start(&'static self) -> bool {
        crate::sync::os::spawn(self.name, move || {
            // It may be the watchdog that starts it, whose slack is inherited.
            crate::sync::os::set_timer_slack(50_000);
            self.run();
        })
        .is_ok()
    }

    /// A model runs its tasks on its own threads.
    #[cfg(timebox_loom)]
    #[allow(clippy::unused_self)]
    fn start(&'static self) -> bool {
        false
    }

    #[cfg(not(timebox_loom))]
    fn run(&self) {
        let mut state = lock(&self.state);
        loop {
            if let Some(task) = state.tasks.pop_front() {
                drop(state);
                task.run();
                state = lock(&self.state);
                continue;
            }
            if super::global().needs_this_thread() {
                state.running -= 1;
                drop(state);
                return super::global().step_in();
            }
            state.idle += 1;
            let (woken, timeout) =
                self.work.wait_timeout(state, IDLE).unwrap_or_else(std::sync::PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if timeout.timed_out() && state.tasks.is_empty() {
                state.running -= 1;
                return;
            }
        }
    }
}
