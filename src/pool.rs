//! Threads for work that may block: hooks, and the work of [`abandon`](crate::abandon()).
//!
//! Here a *task* is a piece of such work, not an async task. A pool has as many threads as there are tasks at one time,
//! up to a bound. Below the bound, a stuck task delays no other task. A thread with nothing to do waits a while for
//! another task, then ends.
//!
//! A task (the outer) may wait for another task (the inner). If the outer task held the last place, the inner task
//! could not begin, and both would wait for ever. So each task has a *depth*, each depth has places of its own, and a
//! task waits only for deeper tasks. The deepest tasks wait for no other task, so they end. Then the tasks that wait
//! for them end, and so on.

use std::collections::VecDeque;
#[cfg(not(timebox_loom))]
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
// std's atomics even in a loom model, because a model does not change the bounds that they hold.
use std::sync::atomic::{AtomicUsize, Ordering};

#[cfg(not(timebox_loom))]
use crate::sync::callback::drop_quietly;
use crate::sync::fork::PerProcess;
use crate::sync::{Condvar, Mutex, const_fn, lock};
#[cfg(not(timebox_loom))]
use crate::watchdog;
#[cfg(feature = "testing")]
use crate::watchdog::mock::tracking::{Tracked, tracking};

pub(crate) trait Task: Send + Sync {
    fn run(self: Arc<Self>);
}

#[derive(Debug)]
pub(crate) struct BlockingPool {
    #[cfg_attr(timebox_loom, allow(dead_code))]
    name: &'static str,
    /// The bound: how many tasks of one depth may run at one time. It is a static outside the pool. So a forked child,
    /// which has a new pool, keeps the bound that was set.
    most: &'static AtomicUsize,
    state: Mutex<State>,
    /// Idle threads wait here for a task.
    work: Condvar,
}

struct State {
    /// The tasks of each depth. The index is the depth.
    levels: Vec<Level>,
    idle: usize,
    /// All threads, also those that are being started.
    threads: usize,
}

#[derive(Default)]
struct Level {
    waiting: VecDeque<Arc<dyn Task>>,
    running: usize,
    /// How many running tasks were abandoned: nobody waits for them any more.
    stuck: usize,
}

impl Level {
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

    fn lacking(&self, most: usize) -> usize {
        let ready: usize = self.levels.iter().map(|level| level.ready(most)).sum();
        ready.saturating_sub(self.idle + self.starting())
    }

    fn starting(&self) -> usize {
        let running: usize = self.levels.iter().map(|level| level.running).sum();
        self.threads.saturating_sub(self.idle + running)
    }

    /// Takes a task that may begin, and its depth. The deepest tasks go first, since other tasks may wait for them.
    #[cfg_attr(timebox_loom, allow(dead_code))]
    fn next(&mut self, most: usize) -> Option<(usize, Arc<dyn Task>)> {
        let depth = self.levels.iter().rposition(|level| level.ready(most) > 0)?;
        let level = &mut self.levels[depth];
        let task = level.waiting.pop_front()?;
        level.running += 1;
        Some((depth, task))
    }

    /// Takes the tasks that perhaps no thread will ever run. There are none if a thread is idle or being started.
    /// Otherwise they are the tasks that are deeper than every running task. A running task may wait for a deeper task,
    /// so the threads of the running tasks may never become free.
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
const KEEP_ALIVE: std::time::Duration = std::time::Duration::from_secs(10);

struct Pools {
    hooks: BlockingPool,
    abandoned: BlockingPool,
}

impl Pools {
    const_fn! {
        fn new() -> Self {
            Self {
                hooks: BlockingPool::new("timebox-hook", &UNBOUNDED),
                abandoned: BlockingPool::new("timebox-abandon", &MAX_ABANDONED),
            }
        }
    }
}

static UNBOUNDED: AtomicUsize = AtomicUsize::new(usize::MAX);
static MAX_ABANDONED: AtomicUsize = AtomicUsize::new(8);

#[cfg(not(timebox_loom))]
static POOLS: PerProcess<Pools> = PerProcess::new(Pools::new(), Pools::new);
#[cfg(timebox_loom)]
loom::lazy_static! {
    static ref POOLS: PerProcess<Pools> = PerProcess::new(Pools::new(), Pools::new);
}

/// Threads for hooks, and for other short work that may block: one for each piece of work, without a bound.
pub(crate) fn hooks() -> &'static BlockingPool {
    &POOLS.get().hooks
}

/// Threads for the work of [`abandon`](crate::abandon()), which may be left behind.
pub(crate) fn abandoned() -> &'static BlockingPool {
    &POOLS.get().abandoned
}

/// Runs a hook on a thread of the pool, where the hook may block. If a test waits for this thread's work, the test also
/// waits for the hook.
pub(crate) fn run_hook(hook: Arc<dyn Task>) {
    #[cfg(feature = "testing")]
    let hook = match tracking() {
        Some(group) => Arc::new(Tracked::new(hook, &group)),
        None => hook,
    };
    hooks().submit(hook);
}

#[cfg(feature = "testing")]
impl Task for Tracked<Arc<dyn Task>> {
    fn run(self: Arc<Self>) {
        self.begin(|task| Arc::clone(task).run());
    }
}

#[cfg(not(timebox_loom))]
thread_local! {
    static IS_FOR_HOOKS: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

#[cfg(not(timebox_loom))]
pub(crate) fn is_for_hooks() -> bool {
    IS_FOR_HOOKS.get() || watchdog::is_this_thread()
}

/// Called if no new thread can be had for the watchdog. Wakes an idle thread of each pool, and one of these threads
/// becomes the watchdog.
#[cfg(not(timebox_loom))]
fn rouse() {
    let pools = POOLS.get();
    pools.hooks.rouse();
    pools.abandoned.rouse();
}

impl BlockingPool {
    const_fn! {
        fn new(name: &'static str, most: &'static AtomicUsize) -> Self {
            let state = State { levels: Vec::new(), idle: 0, threads: 0 };
            Self { name, most, state: Mutex::new(state), work: Condvar::new() }
        }
    }

    /// Queues the task for a thread of the pool. If no thread can be started, the tasks that would wait for ever run on
    /// the calling thread.
    pub(crate) fn submit(&'static self, task: Arc<dyn Task>) {
        if let Err(stranded) = self.try_submit(0, task) {
            stranded.into_iter().for_each(Task::run);
        }
    }

    /// Queues the task. At each depth, at most [`most`](Self::most) tasks run at one time. `Err`: no thread can be
    /// started, and the tasks in the error would wait for ever. They may include tasks of other callers. The caller
    /// must run or drop them.
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

    #[cfg(not(timebox_loom))]
    fn rouse(&self) {
        let state = lock(&self.state);
        if state.idle > 0 {
            self.work.notify_one();
        }
    }

    pub(crate) fn most(&self) -> usize {
        // Relaxed: a stale value loses no task. `set_most` takes the lock after its store, so it finds each task that
        // was queued with the old value. `is_saturated` reads the value without the lock. If it reads the old value,
        // its answer is that of a call before `set_most`.
        self.most.load(Ordering::Relaxed)
    }

    /// Sets how many tasks of one depth run at one time. Tasks that run already go on, even if there are more of them.
    ///
    /// Returns the tasks that would wait for ever, because no thread can be started. The caller must run or drop them.
    pub(crate) fn set_most(&'static self, most: usize) -> VecDeque<Arc<dyn Task>> {
        self.most.store(most, Ordering::Relaxed);
        loop {
            let mut state = lock(&self.state);
            self.work.notify_all();
            if state.lacking(self.most()) == 0 {
                return VecDeque::new();
            }
            state.threads += 1;
            drop(state);
            if !self.start() {
                let mut state = lock(&self.state);
                state.threads -= 1;
                return state.take_stranded();
            }
        }
    }

    /// How many running tasks were abandoned.
    pub(crate) fn stuck(&self) -> usize {
        lock(&self.state).levels.iter().map(|level| level.stuck).sum()
    }

    /// Whether abandoned tasks take all places at this depth. Then no other task of this depth can begin.
    pub(crate) fn is_saturated(&self, depth: usize) -> bool {
        let stuck = lock(&self.state).levels.get(depth).map_or(0, |level| level.stuck);
        stuck >= self.most()
    }

    pub(crate) fn mark_abandoned(&self, depth: usize) {
        lock(&self.state).level(depth).stuck += 1;
    }

    /// Counts an abandoned task of this depth as ended.
    pub(crate) fn mark_returned(&self, depth: usize) {
        let mut state = lock(&self.state);
        let stuck = &mut state.level(depth).stuck;
        // `stuck` is 0 if the task has forked and this is the child: the child has a new pool, which has not counted
        // the task.
        *stuck = stuck.saturating_sub(1);
    }

    #[cfg(not(timebox_loom))]
    fn start(&'static self) -> bool {
        watchdog::global().when_missing(rouse);
        crate::sync::os::spawn(self.name, move || {
            // This thread inherits the timer slack of the thread that starts it. The starting thread may be the
            // watchdog, whose slack is small. So this sets the default.
            crate::sync::os::set_timer_slack(50_000);
            self.run();
        })
        .is_ok()
    }

    /// Starts no thread: a loom model runs the tasks on the model's threads.
    #[cfg(timebox_loom)]
    #[allow(clippy::unused_self)]
    fn start(&'static self) -> bool {
        false
    }

    #[cfg(not(timebox_loom))]
    fn run(&self) {
        IS_FOR_HOOKS.set(std::ptr::eq(self.most, &raw const UNBOUNDED));
        let mut state = lock(&self.state);
        loop {
            if let Some((depth, task)) = state.next(self.most()) {
                drop(state);
                // If a task panics, the panic ends here. Otherwise the task's place would be lost.
                let result = catch_unwind(AssertUnwindSafe(|| task.run()));
                result.err().into_iter().for_each(drop_quietly);
                state = lock(&self.state);
                state.level(depth).running -= 1;
                continue;
            }
            if watchdog::global().needs_this_thread() {
                state.threads -= 1;
                drop(state);
                return watchdog::global().step_in();
            }
            state.idle += 1;
            let (woken, timeout) =
                self.work.wait_timeout(state, KEEP_ALIVE).unwrap_or_else(std::sync::PoisonError::into_inner);
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

/// In a loom model no thread can be started.
#[cfg(all(test, timebox_loom))]
mod tests {
    use super::*;

    static MOST: AtomicUsize = AtomicUsize::new(0);

    struct Nothing;

    impl Task for Nothing {
        fn run(self: Arc<Self>) {}
    }

    fn model() {
        MOST.store(0, Ordering::Relaxed);
        let pool: &'static BlockingPool = Box::leak(Box::new(BlockingPool::new("of a test", &MOST)));
        assert!(pool.try_submit(0, Arc::new(Nothing)).is_ok(), "it waits for a higher bound");
        assert_eq!(pool.set_most(1).len(), 1);
        assert_eq!(pool.set_most(2).len(), 0);
    }

    crate::sync::model::models! { tasks_that_no_thread_will_run_come_back_when_the_bound_is_raised: model; }
}
