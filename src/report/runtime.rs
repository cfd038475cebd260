//! Workers of a tokio runtime that are stuck in one poll.
//!
//! A worker that is stuck neither parks nor adds up its busy time, so two numbers that tokio publishes for each worker
//! stand still. The watchdog looks at these numbers. Tokio does not say on which thread a worker runs. So the reporter
//! looks for threads whose stack is inside a poll.
//!
//! If a worker has stood still for half of the duration that the user gave, the reporter notes the processor times of
//! all threads. If it has stood still for the whole duration, the reporter searches for its thread:
//!
//! 1. A thread that has not run since its times were noted is stuck, and is reported.
//! 2. A thread that has run may have made many polls. It is reported only if the threads in a poll are not more than
//!    the workers that stand still.
//! 3. A thread that mostly waited for a processor is not reported, unless it has used as much processor time as the
//!    duration. But it counts for rule 2, since its worker stands still too.
//!
//! If a search does not find a stuck thread for each worker that stands still, the next search comes once the worker
//! has stood still for three times as long.

use std::collections::HashMap;
use std::future::pending;
use std::panic::Location;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, RuntimeFlavor, RuntimeMetrics};

use super::contents::{Kind, Report, Stack};
use super::foreign::crate_of;
use super::recent::ScopeKey;
use super::reporter::{self, Job, Make, MakesReport};
use super::stack::{self, Begun, Copy, CpuTimes, Target};
use super::tools::Tools;
use super::{look, state};
use crate::error::{Fields, ScopeId, ScopeInfo};
use crate::sync::{AtomicBool, Mutex, Ordering, lock};
use crate::thread;
use crate::time::{clock, nanos};

/// How many times the workers are looked at during `Watch::duration` (the time after which a poll counts as stuck). But
/// the interval between two looks is at least `LEAST_INTERVAL` and at most `MOST_INTERVAL`, in nanoseconds.
const LOOKS: u64 = 4;
const LEAST_INTERVAL: u64 = 1_000_000;
const MOST_INTERVAL: u64 = 1_000_000_000;

const MOST_THREADS: usize = 512;

/// How long the reporter waits for the copy of a running thread.
const WAIT: Duration = Duration::from_millis(100);

/// Watches the workers of the runtime that `builder` builds. If a worker is stuck in one poll for this long, it is
/// reported as [`Kind::Stalled`] while it is stuck, with its stack.
///
/// This works for both flavours. A worker that waits for a processor is not reported. A worker that makes many short
/// polls is not reported either, unless 61 polls in a row take that long: tokio tells how busy a worker was only after
/// so many polls. Threads of `spawn_blocking` may block, and so may code in `block_in_place`. The future of `block_on`
/// is watched only on a runtime of one thread, because on other runtimes no worker polls it.
///
/// This sets the builder's `on_thread_start` and `on_thread_park`. Tokio keeps only one callback of each kind. If you
/// need them yourself, call [`watch_current_runtime`] in the runtime instead. If the builder builds several runtimes,
/// only the first one is watched. The runtime gets one more task, which ends with the runtime.
///
/// ```
/// use std::time::Duration;
/// use timebox::report;
///
/// let mut builder = tokio::runtime::Builder::new_multi_thread();
/// report::watch_runtime(&mut builder, Duration::from_millis(500));
/// let runtime = builder.build()?;
/// # runtime.block_on(async {});
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn watch_runtime(builder: &mut Builder, duration: Duration) {
    let location = Location::caller();
    let is_watched = Arc::new(AtomicBool::new(false));
    let watch_it = move || {
        // Relaxed: the swap only makes sure that one thread starts the watch. It publishes nothing.
        if !is_watched.load(Ordering::Relaxed)
            && let Ok(handle) = Handle::try_current()
            && !is_watched.swap(true, Ordering::Relaxed)
        {
            Watch::start(&handle, duration, location);
        }
    };
    // A `current_thread` runtime starts no worker thread. There the watch starts when the runtime first parks.
    builder.on_thread_start(watch_it.clone()).on_thread_park(watch_it);
}

/// Like [`watch_runtime`], for the runtime in which this is called, such as that of `#[tokio::main]`.
///
/// Call it once: a second call makes each report twice.
///
/// # Panics
///
/// If it is called outside of a tokio runtime.
///
/// ```
/// use std::time::Duration;
/// use timebox::report;
///
/// #[tokio::main]
/// async fn main() {
///     report::watch_current_runtime(Duration::from_millis(500));
/// }
/// ```
#[track_caller]
pub fn watch_current_runtime(duration: Duration) {
    Watch::start(&Handle::current(), duration, Location::caller());
}

/// The watch over one runtime. The watchdog wakes it like a task. Then it looks at the workers.
struct Watch {
    metrics: RuntimeMetrics,
    has_one_thread: bool,
    /// In nanoseconds.
    duration: u64,
    location: &'static Location<'static>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    workers: Vec<Worker>,
    next: u64,
    /// Whether the runtime has been shut down.
    is_over: bool,
    must_read_times: bool,
    /// For each thread, by its id: when its processor times were read, and the times. They are read when a worker has
    /// made no progress for half of the duration.
    before: Arc<HashMap<u32, (u64, CpuTimes)>>,
}

#[derive(Clone, Copy, Default)]
struct Worker {
    /// How often the worker has parked, plus how often it has unparked. So the number is odd while the worker is
    /// parked.
    parks: u64,
    busy: Duration,
    /// Since when `parks` and `busy` have not changed.
    since: u64,
    /// Whether the reporter was asked to read the times of the threads, because `parks` and `busy` have not changed for
    /// half of the duration.
    is_suspect: bool,
    /// When to search for the worker's thread. [`u64::MAX`] if a search has found the threads of all workers that stand
    /// still: then there is no other search until the worker moves.
    search_at: u64,
    /// Whether the reporter is to search for the worker's thread.
    is_missing: bool,
}

/// Ends the watch when dropped. A task of the runtime owns this value, so the watch ends with the runtime.
struct EndsWith(Arc<Watch>);

impl Drop for EndsWith {
    fn drop(&mut self) {
        lock(&self.0.state).is_over = true;
        reporter::release();
    }
}

impl MakesReport for Watch {
    fn make(self: Arc<Self>, tools: &mut Tools) -> Option<Report> {
        let mut state = lock(&self.state);
        let must_read_times = std::mem::take(&mut state.must_read_times);
        drop(state);
        if must_read_times {
            self.remember_times();
        }
        let missing = self.take_missing();
        if missing.is_empty() { None } else { self.search(&missing, tools) }
    }
}

impl Wake for Watch {
    fn wake(self: Arc<Self>) {
        self.look();
    }
}

impl Watch {
    fn start(handle: &Handle, duration: Duration, location: &'static Location<'static>) {
        stack::prepare(0);
        reporter::hold();
        let metrics = handle.metrics();
        let duration = nanos(duration).max(LEAST_INTERVAL);
        let now = clock::real_now();
        // A worker may be stuck already, and never have parked.
        let worker = Worker { since: now, search_at: now.saturating_add(duration), ..Worker::default() };
        let state = State { workers: vec![worker; metrics.num_workers()], ..State::default() };
        let watch = Arc::new(Self {
            metrics,
            has_one_thread: handle.runtime_flavor() == RuntimeFlavor::CurrentThread,
            duration,
            location,
            state: Mutex::new(state),
        });
        let ends = EndsWith(Arc::clone(&watch));
        handle.spawn(async move {
            let _ends = ends;
            pending::<()>().await;
        });
        watch.plan(now);
        thread::ensure_watchdog();
    }

    fn interval(&self) -> u64 {
        (self.duration / LOOKS).clamp(LEAST_INTERVAL, MOST_INTERVAL)
    }

    fn plan(self: Arc<Self>, now: u64) {
        let next = now.saturating_add(self.interval());
        lock(&self.state).next = next;
        thread::schedule(next, Waker::from(self));
    }

    /// Runs on the watchdog thread.
    fn look(self: Arc<Self>) {
        let now = clock::real_now();
        let mut state = lock(&self.state);
        if state.is_over {
            return;
        }
        // If this look is late, the whole process was stopped or got no processor, so the workers could not move. Then
        // every worker counts as moved.
        let is_late = now.saturating_sub(state.next) > self.interval();
        let State { workers, must_read_times, .. } = &mut *state;
        let mut has_work = false;
        for (index, worker) in workers.iter_mut().enumerate() {
            let parks = self.metrics.worker_park_unpark_count(index);
            let busy = self.metrics.worker_total_busy_duration(index);
            let is_parked = parks % 2 == 1;
            if is_late || is_parked || (parks, busy) != (worker.parks, worker.busy) {
                let search_at = now.saturating_add(self.duration);
                *worker = Worker { parks, busy, since: now, is_suspect: false, search_at, is_missing: false };
            } else if worker.search_at <= now {
                worker.search_at = now.saturating_add(2 * (now - worker.since));
                worker.is_missing = true;
                has_work = true;
            } else if !worker.is_suspect && now - worker.since >= self.duration / 2 {
                worker.is_suspect = true;
                *must_read_times = true;
                has_work = true;
            }
        }
        drop(state);
        if has_work {
            self.submit(now, Make::Shared(Arc::<Self>::clone(&self)));
        }
        self.plan(now);
    }

    fn submit(&self, now: u64, make: Make) {
        let scope = ScopeKey { location: std::ptr::from_ref(self.location).addr() as u64, entered: now };
        reporter::submit(Job { scope, make });
    }

    /// Runs on the reporter thread.
    fn remember_times(&self) {
        let times = |tid: u32| Some((tid, (clock::real_now(), Target::new(tid, 0).times()?)));
        let before: HashMap<_, _> = state::threads(MOST_THREADS).into_iter().filter_map(times).collect();
        let before = Arc::new(before);
        let before = std::mem::replace(&mut lock(&self.state).before, before);
        drop(before);
    }

    /// The numbers of the workers whose threads are to be searched for. The list is allocated without the lock, because
    /// the watchdog may wait for the lock.
    fn take_missing(&self) -> Vec<usize> {
        let mut missing = Vec::with_capacity(self.metrics.num_workers());
        let mut state = lock(&self.state);
        let workers = state.workers.iter_mut().enumerate();
        missing.extend(
            workers.filter_map(|(index, worker)| std::mem::take(&mut worker.is_missing).then_some(index)),
        );
        missing
    }

    /// Runs on the reporter thread. Looks for the threads of the workers that stand still (`missing`), and makes
    /// reports of the stuck ones. Returns the first of these reports, and submits the others.
    fn search(&self, missing: &[usize], tools: &mut Tools) -> Option<Report> {
        if state::is_traced() {
            return None;
        }
        let before = Arc::clone(&lock(&self.state).before);
        let mut in_poll: Vec<InPoll> = Vec::new();
        for tid in state::threads(MOST_THREADS) {
            in_poll.extend(self.look_at(tid, before.get(&tid).copied(), tools));
        }
        // A worker may have moved on while this function looked at the threads.
        let still = missing.iter().filter_map(|&index| Some((index, self.still_since(index)?)));
        let still: Vec<(usize, u64)> = still.collect();
        let since = still.iter().map(|&(_, since)| since).min()?;
        let are_all_stuck = in_poll.len() <= still.len();
        in_poll.retain(|thread| match thread.was {
            Was::Blocked => true,
            Was::Running => are_all_stuck,
            Was::Starved => false,
        });
        in_poll.sort_by_key(|thread| thread.was != Was::Blocked);
        in_poll.truncate(still.len());
        if in_poll.is_empty() {
            return None;
        }
        if in_poll.len() == still.len() {
            // The thread of each worker is found, so no further search is needed. Otherwise a later search looks for
            // the missing threads.
            let mut state = lock(&self.state);
            for (index, since) in still {
                let worker = &mut state.workers[index];
                if worker.since == since {
                    worker.search_at = u64::MAX;
                }
            }
        }
        let mut reports: Vec<Report> = in_poll.into_iter().map(|thread| self.report(thread, since)).collect();
        let first = reports.remove(0);
        for report in reports {
            self.submit(since, Make::Once(Box::new(move |_| Some(report))));
        }
        Some(first)
    }

    /// Since when the worker has stood still. `None` if it has moved on since the last look.
    fn still_since(&self, index: usize) -> Option<u64> {
        let worker = lock(&self.state).workers[index];
        let parks = self.metrics.worker_park_unpark_count(index);
        let busy = self.metrics.worker_total_busy_duration(index);
        ((parks, busy) == (worker.parks, worker.busy)).then_some(worker.since)
    }

    /// Copies the thread, and finds out what it has done since `before`. `None` if the thread is not inside a poll.
    fn look_at(&self, tid: u32, before: Option<(u64, CpuTimes)>, tools: &mut Tools) -> Option<InPoll> {
        let target = Target::new(tid, 0);
        let copy = match stack::begin(&target) {
            Begun::Copied(copy) => copy,
            Begun::Asked(request) => request.wait(WAIT),
        };
        let (stack, mut notes) = tools.stack_of(&copy.stack, None);
        let mut stack = stack?;
        let poll = end_of_poll(&stack, self.has_one_thread)?;
        stack.frames.truncate(poll);
        stack.truncated = false;
        notes.extend(copy.notes());
        let was = before.as_ref().zip(target.times()).map_or(Was::Starved, |((at, before), after)| {
            let window = Duration::from_nanos(copy.at.saturating_sub(*at));
            let run = after.run.saturating_sub(before.run);
            let waited = after.waited.saturating_sub(before.waited);
            let is_starved = waited > window / 2 && nanos(run) < self.duration;
            if nanos(window) < self.duration / 4 || is_starved {
                Was::Starved
            } else if run.is_zero() && waited.is_zero() {
                Was::Blocked
            } else {
                Was::Running
            }
        });
        Some(InPoll { was, copy, stack, notes, before })
    }

    fn report(&self, thread: InPoll, since: u64) -> Report {
        let InPoll { was, copy, stack, mut notes, before } = thread;
        if was == Was::Running {
            notes.push("The thread computes: this is one poll, or a row of polls without a rest.".to_owned());
        }
        let scope = ScopeInfo {
            id: ScopeId::next(),
            label: Some("tokio worker".into()),
            location: self.location,
            limit: None,
            fields: Fields::default(),
        };
        Report {
            kind: Kind::Stalled,
            chain: vec![scope.clone()],
            scope,
            began: look::time_of(since),
            elapsed: Duration::from_nanos(copy.at.saturating_sub(since)),
            ended_before: None,
            limit: None,
            process: state::this_process(),
            thread: Some(look::thread(&copy, before)),
            stacks: vec![stack],
            awaits: Vec::new(),
            polls: None,
            watchdog_late: Duration::ZERO,
            suppressed: 0,
            notes,
        }
    }
}

struct InPoll {
    was: Was,
    copy: Copy,
    /// The frames from the innermost one to the poll.
    stack: Stack,
    notes: Vec<String>,
    before: Option<(u64, CpuTimes)>,
}

/// What a thread did since its times were read for `State::before`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Was {
    /// The thread has not run.
    Blocked,
    Running,
    /// The thread mostly waited for a processor. Or nothing can be said, because its times are not known, or were read
    /// only a short while ago.
    Starved,
}

/// How many of the innermost frames belong to the poll that the worker makes. `None` if the thread is no worker, or
/// makes no poll.
fn end_of_poll(stack: &Stack, has_one_thread: bool) -> Option<usize> {
    let scheduler = if has_one_thread { "scheduler::current_thread::" } else { "scheduler::multi_thread::" };
    let of_tokio = |function: &str| crate_of(function) == Some("tokio");
    let frames = &stack.frames;
    let is_of_scheduler = |function: &str| of_tokio(function) && function.contains(scheduler);
    let end = frames.iter().position(|frame| is_of_scheduler(&frame.function))?;
    let mut inside = frames[..end].iter().map(|frame| &*frame.function);
    if frames[end].function.contains("park")
        || inside.clone().any(|function| function.contains("block_in_place"))
    {
        return None;
    }
    // A task is polled by a function of `runtime::task`.
    let is_poll = |function: &str| of_tokio(function) && function.contains("runtime::task::");
    // In a runtime with one thread, the scheduler polls the future of `block_on` without any function of
    // `runtime::task`. So there, a function of the user on the stack shows that a poll is under way.
    let has_own = frames[..end].iter().any(|frame| !frame.foreign);
    ((has_one_thread && has_own) || inside.any(is_poll)).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::contents::Frame;

    fn end(functions: &[&str], has_one_thread: bool) -> Option<usize> {
        let frame =
            |function: &&str| Frame { foreign: !function.starts_with("app"), ..Frame::with_name(*function) };
        let frames = functions.iter().map(frame).collect();
        end_of_poll(&Stack { frames, truncated: false, approximate: false }, has_one_thread)
    }

    #[test]
    fn a_worker_in_a_poll_is_told_from_others() {
        let run = "tokio::runtime::scheduler::multi_thread::worker::Context::run_task";
        let park = "tokio::runtime::scheduler::multi_thread::worker::Context::park_internal";
        let poll = "tokio::runtime::task::harness::Harness<T,S>::poll";
        let block_on = "tokio::runtime::scheduler::current_thread::CoreGuard::block_on::{{closure}}";
        assert_eq!(end(&["nanosleep", "app::slow::{{closure}}", poll, run], false), Some(3));
        assert_eq!(end(&["epoll_wait", "tokio::runtime::io::driver::Driver::turn", park, run], false), None);
        assert_eq!(end(&["app::f", "tokio::runtime::blocking::pool::Inner::run"], false), None);
        let blocking = "tokio::runtime::scheduler::multi_thread::worker::block_in_place";
        assert_eq!(end(&["app::f", blocking, "app::g", poll, run], false), None);
        let blocking = "tokio::task::blocking::block_in_place";
        assert_eq!(end(&["app::f", blocking, "app::g", poll, run], false), None);
        assert_eq!(end(&["app::main::{{closure}}", block_on], true), Some(1));
        assert_eq!(end(&["app::main::{{closure}}", block_on], false), None);
        assert_eq!(end(&["app::main"], true), None);
    }
}
