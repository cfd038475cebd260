//! Threads for work that may block: hooks that talk to a server, and what [`abandon`](crate::abandon()) is given.
//!
//! There are as many as there is work at one time, up to a bound: below it, one that is stuck never delays another's. A
//! runner with nothing to do waits a while for more, then ends.
//!
//! Work that waits for other work would wait for ever if the other were not begun for want of its place. So each task has a
//! *depth*, and each depth has places of its own: work waits only for what is deeper. The deepest waits for nobody, so
//! it comes to its end; hence so does what waits for it, and so on outwards.

use std::collections::VecDeque;
#[cfg(not(timebox_loom))]
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[cfg(not(timebox_loom))]
use crate::sync::callback::drop_quietly;
use crate::sync::{Condvar, Mutex, lock};

/// Work for a runner.
pub(crate) trait Task: Send + Sync {
    fn run(self: Arc<Self>);
}

#[derive(Debug)]
pub(crate) struct BlockingPool {
    /// Of each thread.
    #[cfg_attr(timebox_loom, allow(dead_code))]
    name: &'static str,
    /// How many tasks of one depth run at one time. That of the process, so that a forked child keeps it.
    most: &'static AtomicUsize,
    state: Mutex<State>,
    /// Notified for each task that an idle runner should take.
    work: Condvar,
}

struct State {
    /// By depth.
    levels: Vec<Level>,
    /// Threads with nothing to do.
    idle: usize,
    /// All threads, those included that are being started.
    threads: usize,
}

/// The tasks of one depth.
#[derive(Default)]
struct Level {
    waiting: VecDeque<Arc<dyn Task>>,
    running: usize,
    /// How many of those that run nobody waits for any more.
    stuck: usize,
}

impl Level {
    /// How many tasks may begin.
    fn ready(&self, most: usize) -> usize {
        self.waiting.len().min(most.saturating_sub(self.running))
    }
}

impl State {
    fn level(&mut self, depth: usize) -> &mut Level {
        if self.levels.len() <= depth {
            self.levels.resize_with(depth.saturating_add(1), Level::default);
        }
        &mut self.levels[depth]
    }

    /// How many tasks may begin for which no thread is on its way.
    fn lacking(&self, most: usize) -> usize {
        let ready: usize = self.levels.iter().map(|level| level.ready(most)).sum();
        ready.saturating_sub(self.idle + self.starting())
    }

    fn starting(&self) -> usize {
        let running: usize = self.levels.iter().map(|level| level.running).sum();
        self.threads.saturating_sub(self.idle + running)
    }

    /// The task to begin next. The deepest first: others wait for it.
    #[cfg_attr(timebox_loom, allow(dead_code))]
    fn next(&mut self, most: usize) -> Option<(usize, Arc<dyn Task>)> {
        let depth = self.levels.iter().rposition(|level| level.ready(most) > 0)?;
        let level = &mut self.levels[depth];
        let task = level.waiting.pop_front()?;
        level.running += 1;
        Some((depth, task))
    }

    /// Takes the tasks that no thread would ever come to. One that runs a task of less depth may wait for them.
    fn take_stranded(&mut self) -> VecDeque<Arc<dyn Task>> {
        let mut stranded = VecDeque::new();
        if self.idle + self.starting() > 0 {
            return stranded;
        }
        for level in self.levels.iter_mut().rev() {
            if level.running > 0 {
                break;
            }
            stranded.append(&mut level.waiting);
        }
        stranded
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let waiting: usize = self.levels.iter().map(|level| level.waiting.len()).sum();
        f.debug_struct("State")
            .field("waiting", &waiting)
            .field("idle", &self.idle)
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

#[cfg(not(timebox_loom))]
const IDLE: std::time::Duration = std::time::Duration::from_secs(10);

static NO_BOUND: AtomicUsize = AtomicUsize::new(usize::MAX);
static MOST_ABANDONED: AtomicUsize = AtomicUsize::new(8);

#[cfg(not(timebox_loom))]
thread_local! {
    static FOR_HOOKS: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Whether the calling thread is a runner for hooks.
#[cfg(not(timebox_loom))]
pub(super) fn is_for_hooks() -> bool {
    FOR_HOOKS.get()
}

impl BlockingPool {
    crate::sync::const_fn! {
        /// For hooks that may block.
        pub(super) fn for_hooks() -> Self {
            Self::new("timebox-hook", &NO_BOUND)
        }
    }

    crate::sync::const_fn! {
        /// For work that may be left behind.
        pub(super) fn for_abandoned() -> Self {
            Self::new("timebox-abandon", &MOST_ABANDONED)
        }
    }

    crate::sync::const_fn! {
        fn new(name: &'static str, most: &'static AtomicUsize) -> Self {
            let state = State { levels: Vec::new(), idle: 0, threads: 0 };
            Self { name, most, state: Mutex::new(state), work: Condvar::new() }
        }
    }

    /// Has a hook run soon. Where no thread can be had at all it runs here, rather than never.
    pub(super) fn submit(&'static self, hook: Arc<dyn Task>) {
        if let Err(stranded) = self.try_submit(0, hook) {
            stranded.into_iter().for_each(Task::run);
        }
    }

    /// Has the task run soon, when there is a place at this depth. Where no thread can be had at all the tasks that wait for
    /// one come back.
    pub(crate) fn try_submit(
        &'static self,
        depth: usize,
        task: Arc<dyn Task>,
    ) -> Result<(), VecDeque<Arc<dyn Task>>> {
        let mut state = lock(&self.state);
        state.level(depth).waiting.push_back(task);
        if state.idle > 0 {
            self.work.notify_one();
        }
        if state.lacking(self.most()) == 0 {
            return Ok(());
        }
        state.threads += 1;
        drop(state);
        if self.start() {
            return Ok(());
        }
        let mut state = lock(&self.state);
        state.threads -= 1;
        let stranded = state.take_stranded();
        if stranded.is_empty() { Ok(()) } else { Err(stranded) }
    }

    /// Has one with nothing to do see whether the watchdog is missing.
    #[cfg(not(timebox_loom))]
    pub(super) fn rouse(&self) {
        let state = lock(&self.state);
        if state.idle > 0 {
            self.work.notify_one();
        }
    }

    /// How many tasks of one depth run at one time.
    pub(crate) fn most(&self) -> usize {
        // Relaxed: `set_most` looks at what waits after the store, under the lock that a task is put in by.
        self.most.load(Ordering::Relaxed)
    }

    /// Sets how many tasks of one depth run at one time. What runs above that runs on.
    pub(crate) fn set_most(&'static self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
        loop {
            let mut state = lock(&self.state);
            self.work.notify_all();
            if state.lacking(self.most()) == 0 {
                return;
            }
            state.threads += 1;
            drop(state);
            if !self.start() {
                // Those that run get to it.
                lock(&self.state).threads -= 1;
                return;
            }
        }
    }

    /// How many are stuck in work that nobody waits for any more.
    pub(crate) fn stuck(&self) -> usize {
        lock(&self.state).levels.iter().map(|level| level.stuck).sum()
    }

    /// Whether all places at this depth are taken by work that nobody waits for any more.
    pub(crate) fn is_saturated(&self, depth: usize) -> bool {
        let stuck = lock(&self.state).levels.get(depth).map_or(0, |level| level.stuck);
        stuck >= self.most()
    }

    /// Nobody waits any more for what a runner is at.
    pub(crate) fn mark_abandoned(&self, depth: usize) {
        lock(&self.state).level(depth).stuck += 1;
    }

    /// What was left behind has ended.
    pub(crate) fn mark_returned(&self, depth: usize) {
        let mut state = lock(&self.state);
        let stuck = &mut state.level(depth).stuck;
        // In a child forked from within it there was none.
        *stuck = stuck.saturating_sub(1);
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
        FOR_HOOKS.set(std::ptr::eq(self.most, &raw const NO_BOUND));
        let mut state = lock(&self.state);
        loop {
            if let Some((depth, task)) = state.next(self.most()) {
                drop(state);
                // Each task sees to panics itself; one that does not must not take the place along.
                let result = catch_unwind(AssertUnwindSafe(|| task.run()));
                result.err().into_iter().for_each(drop_quietly);
                state = lock(&self.state);
                state.level(depth).running -= 1;
                continue;
            }
            if super::global().needs_this_thread() {
                state.threads -= 1;
                drop(state);
                return super::global().step_in();
            }
            state.idle += 1;
            let (woken, timeout) =
                self.work.wait_timeout(state, IDLE).unwrap_or_else(std::sync::PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            let nothing_ready = state.levels.iter().all(|level| level.ready(self.most()) == 0);
            if timeout.timed_out() && nothing_ready {
                state.threads -= 1;
                return;
            }
        }
    }
}
