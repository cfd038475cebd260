//! Threads for work that may block, such as hooks that talk to a server.
//!
//! There are as many as there is work at one time: one that is stuck never delays another's. A runner with nothing
//! to do waits a while for more, then ends.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::sync::{Condvar, Mutex, lock};

/// Work for a runner.
pub(crate) trait Task: Send + Sync {
    fn run(self: Arc<Self>);
}

#[derive(Debug)]
pub(crate) struct Runners {
    state: Mutex<State>,
    /// Notified for each task that an idle runner should take.
    work: Condvar,
}

struct State {
    tasks: VecDeque<Arc<dyn Task>>,
    idle: usize,
    running: usize,
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
        pub(super) fn new() -> Self {
            Self { state: Mutex::new(State { tasks: VecDeque::new(), idle: 0, running: 0 }), work: Condvar::new() }
        }
    }

    /// Has the task run soon. Where no thread can be had at all it runs here, rather than never.
    pub(crate) fn submit(&'static self, task: Arc<dyn Task>) {
        #[cfg(feature = "testing")]
        let task = super::mock::tracked_task(task);
        let mut state = lock(&self.state);
        state.tasks.push_back(task);
        if state.idle >= state.tasks.len() {
            self.work.notify_one();
            return;
        }
        state.running += 1;
        drop(state);
        if self.start() {
            return;
        }
        let mut state = lock(&self.state);
        state.running -= 1;
        // With others at work, one of them gets to it.
        let stranded = if state.running == 0 { std::mem::take(&mut state.tasks) } else { VecDeque::new() };
        drop(state);
        stranded.into_iter().for_each(Task::run);
    }

    #[cfg(not(timebox_loom))]
    fn start(&'static self) -> bool {
        crate::sync::os::spawn("timebox-hook", move || {
            // Started by the watchdog, whose slack is inherited.
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
