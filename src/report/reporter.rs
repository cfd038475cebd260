//! The thread that makes reports out of what the watchdog saw, and hands them to the sinks.
//!
//! The thread has a bounded queue, so the watchdog never waits for it. (A report takes long, since names are read from
//! files.) Each sink has a thread and a queue of its own, so this thread does not wait for the sinks.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::contents::{Activity, Frame, Kind, Report};
use super::limiter::{Bounds, Limiter};
use super::look::{self, Look};
use super::policy::{self, Installed};
use super::queue::{CAPACITY, Queue};
use super::recent::{self, ScopeKey};
use super::sink::thread::wait_for_all;
use super::tools::Tools;
use super::{losses, offenders, stack};
use crate::sync::callback::drop_quietly;
use crate::sync::fork::{PerProcess, count_forks};
use crate::sync::{Mutex, lock, os};
use crate::time::clock;

pub(crate) struct Job {
    pub(crate) scope: ScopeKey,
    pub(crate) make: Make,
}

/// How a report is made. Each way returns `None` if there is nothing to report any more. If a way panics, the report is
/// counted as lost.
///
/// The watchdog uses `Look`, `Ended` and `Shared`, for which it need not allocate.
pub(crate) enum Make {
    /// The report of what a look at a thread has seen.
    Look(Look),
    /// The report that a scope has ended. The scope was open at `seen`, and was no longer open at `now`.
    Ended {
        seen: u64,
        now: u64,
    },
    #[cfg(feature = "tokio")]
    Shared(Arc<dyn MakesReport>),
    Once(MakeOnce),
}

type MakeOnce = Box<dyn FnOnce(&mut Tools) -> Option<Report> + Send>;

#[cfg(feature = "tokio")]
pub(crate) trait MakesReport: Send + Sync {
    fn make(self: Arc<Self>, tools: &mut Tools) -> Option<Report>;
}

impl Job {
    fn report(self, tools: &mut Tools) -> Option<Report> {
        match self.make {
            Make::Look(look) => look::make(look, tools),
            Make::Ended { seen, now } => look::ended(self.scope, seen, now),
            #[cfg(feature = "tokio")]
            Make::Shared(shared) => shared.make(tools),
            Make::Once(make) => make(tools),
        }
    }
}

struct Reporter {
    queue: Queue<Job>,
    /// The limiter, and the bounds for which it was made. It is replaced if the policy has other bounds.
    limiter: Mutex<Option<(Bounds, Limiter)>>,
}

impl Reporter {
    const fn new() -> Self {
        Self { queue: Queue::new(CAPACITY), limiter: Mutex::new(None) }
    }
}

static REPORTER: PerProcess<Reporter> = PerProcess::new(Reporter::new(), Reporter::new);

/// The bounds on reports while no policy is in force. Reports are then made only for [`recent`](super::recent()) and
/// for errors.
const NO_POLICY: Bounds = Bounds { per_minute: 60, once_per: 60_000_000_000, quiet_until: 0 };

/// Hands a job to the thread that makes reports. If too many jobs wait already, this report is lost, and counted.
///
/// This does not wait for the report. It allocates nothing while the thread is [held](hold).
pub(crate) fn submit(job: Job) {
    count_forks();
    if let Err(job) = REPORTER.get().queue.submit(job, start) {
        losses::count_one();
        drop(job);
    }
}

/// Starts the reporter thread, and makes the room for its jobs. The thread stays until [`release`].
pub(super) fn hold() {
    count_forks();
    REPORTER.get().queue.hold(start);
}

pub(super) fn release() {
    REPORTER.get().queue.release();
}

fn start() -> bool {
    let body = || {
        let reporter = REPORTER.get();
        let mut tools = Tools::new();
        reporter.queue.serve(|job| reporter.report(&mut tools, job));
    };
    os::spawn("timebox-reporter", body).is_ok()
}

/// Waits until the sinks have written all reports that were begun before this call, but at most for this time. Returns
/// `true` if they have, and `false` if the time was too short.
///
/// Reports that a sink failed to write count as written. Call this before the process exits: otherwise the reports that
/// wait are lost.
///
/// ```
/// use std::time::Duration;
/// use timebox::report;
///
/// assert!(report::flush(Duration::from_secs(10)));
/// ```
pub fn flush(at_most: Duration) -> bool {
    let at_most = u64::try_from(at_most.as_nanos()).unwrap_or(u64::MAX);
    let until = clock::real_now().saturating_add(at_most);
    REPORTER.get().queue.wait(until, start) && wait_for_all(until)
}

impl Reporter {
    fn report(&self, tools: &mut Tools, job: Job) {
        stack::refill();
        let scope = job.scope;
        let report = match catch_unwind(AssertUnwindSafe(|| job.report(tools))) {
            Ok(report) => report,
            Err(payload) => {
                drop_quietly(payload);
                losses::count_one();
                // The panic may have left `tools` in any state.
                *tools = Tools::new();
                return;
            }
        };
        let Some(report) = report else { return };
        let policy = policy::current();
        self.hand_over(policy.as_deref(), scope, report);
        policy.into_iter().for_each(policy::release);
    }

    /// Counts and keeps the report, unless its scope is exempt. Gives it to the sinks if `admit` says that it is
    /// written.
    fn hand_over(&self, policy: Option<&Installed>, scope: ScopeKey, mut report: Report) {
        if policy.is_some_and(|policy| policy.is_exempt(&report.scope)) {
            return;
        }
        offenders::count(scope, &report);
        let admitted = self.admit(policy, scope, &report);
        report.suppressed = admitted.unwrap_or_default();
        let report = Arc::new(report);
        recent::keep(scope, Arc::clone(&report), admitted.is_some());
        if let Some(policy) = policy
            && admitted.is_some()
        {
            for sink in policy.sinks() {
                sink.submit(Arc::clone(&report));
            }
        }
    }

    /// Decides whether the report is written. `None`: it is left out. `Some`: it is written, and this many reports with
    /// the same stack were left out before it.
    fn admit(&self, policy: Option<&Installed>, scope: ScopeKey, report: &Report) -> Option<u64> {
        let bounds = policy.map_or(NO_POLICY, |policy| policy.bounds);
        let mut limiter = lock(&self.limiter);
        // A new policy begins anew: the time of its installation is in its bounds (`quiet_until`).
        if limiter.as_ref().is_none_or(|(of, _)| *of != bounds) {
            *limiter = None;
        }
        let (_, limiter) = limiter.get_or_insert_with(|| (bounds, Limiter::new(bounds)));
        let scope = hash(&scope);
        match report.kind {
            Kind::Ended => limiter.admit_end(scope).then_some(0),
            _ => limiter.admit(stack_of(report), scope, clock::real_now()),
        }
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("scope", &self.scope).finish_non_exhaustive()
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A hash of the report's stacks, by which the limiter recognises a repeated report. A running thread is at another
/// line in each report, so its lines are left out.
fn stack_of(report: &Report) -> u64 {
    let is_running = report.thread.as_ref().is_some_and(|thread| thread.activity == Activity::Running);
    let stacks = || report.stacks.iter().chain(&report.awaits);
    let has_own = stacks().any(|stack| stack.frames.iter().any(|frame| !frame.foreign));
    let part = |frame: &Frame| {
        let line = frame.line.filter(|_| !is_running);
        let offset = if has_own { 0 } else { frame.offset };
        hash(&(&frame.function, line, offset))
    };
    let with_frames = stacks().filter(|stack| !stack.frames.is_empty());
    let mut parts: Vec<u64> = with_frames
        .map(|stack| {
            let frames = stack.frames.iter().filter(|frame| !(has_own && frame.foreign));
            hash(&frames.map(part).collect::<Vec<u64>>())
        })
        .collect();
    // The branches of a future are polled in any order, so the order of the stacks does not count.
    parts.sort_unstable();
    let place = if parts.is_empty() { Some(report.scope.location()) } else { None };
    hash(&(report.kind, place, parts))
}
