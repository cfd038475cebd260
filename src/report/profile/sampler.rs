//! The thread that takes the samples. There is one for all profiles that run, and none if no profile runs.
//!
//! Each period of a profile has one sample, at a random point. So the samples do not follow the rhythm of the program.
//! A sample stands for its period, and for the periods before it that had no sample. A thread is copied as for a
//! report: from outside if the thread is blocked, by a signal if it runs. The copy also has the thread's visits to
//! profiles (`thread/visit.rs`). They tell to which profiles the stack belongs.
//!
//! The sampling thread asks the system to wake it promptly. Otherwise, if all processors are busy, it would run mostly
//! when the profiled thread has just blocked, and so would see too many waits.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::task::Waker;
use std::time::Duration;

use super::random::Random;
use super::recording::{Count, Doing, Place, Seen, kept};
use super::shared::Shared;
use super::waiting::{Found, Waiting, pending, place_of};
use crate::report::awaits::AwaitCopies;
use crate::report::stack::raw::RawStack;
use crate::report::stack::{self, Begun, Copy, Memory, State, Target, Unwinder, Visits};
use crate::sync::callback::drop_quietly;
use crate::sync::fork::{PerProcess, count_forks};
use crate::sync::{Condvar, Mutex, lock, os};
use crate::thread::ProfileId;
use crate::thread::visit::{Visit, VisitCopy};
use crate::time::clock;
use crate::watchdog;

const MOST_THREADS: usize = 64;

/// How long a sample waits until a running thread has copied its own stack.
const PATIENCE: Duration = Duration::from_millis(50);

/// How many times one sample tries to find the profile's own code. Each try looks first at the threads, then at the
/// pending futures. It may miss a future that begins a poll between these two looks. Then the sample tries again.
const ATTEMPTS: usize = 12;

/// If a thread is not looked at for this many nanoseconds, its files in `/proc` are closed.
const UNUSED: u64 = 1_000_000_000;

#[derive(Debug)]
struct Profiler {
    running: Mutex<Running>,
    changed: Condvar,
}

static PROFILER: PerProcess<Profiler> = PerProcess::new(Profiler::new(), Profiler::new);

#[derive(Debug)]
struct Running {
    profiles: Vec<Entry>,
    has_thread: bool,
}

#[derive(Debug)]
struct Entry {
    shared: Arc<Shared>,
    /// The profiles inside which this profile was begun.
    outer: Vec<ProfileId>,
    periods: Periods,
    next: u64,
}

/// A profile takes one sample in each period. Times are in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Periods {
    began: u64,
    length: u64,
    /// How many periods are over: their samples were taken, or missed.
    done: u64,
}

impl Profiler {
    const fn new() -> Self {
        let running = Running { profiles: Vec::new(), has_thread: false };
        Self { running: Mutex::new(running), changed: Condvar::new() }
    }

    /// Runs on the sampling thread, until no profile runs.
    fn serve(&self) {
        os::be_prompt();
        let mut sampler = Sampler::new();
        let mut running = lock(&self.running);
        while let Some(next) = running.profiles.iter().map(|entry| entry.next).min() {
            let now = clock::real_now();
            if next > now {
                let left = Duration::from_nanos(next - now);
                running = self.changed.wait_timeout(running, left).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            let mut due = running.due(now);
            let lineage = running.lineage();
            drop(running);
            // A panic must not end the thread, because the thread also serves other profiles.
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| sampler.sample(&mut due, &lineage))) {
                drop_quietly(payload);
                sampler = Sampler::new();
            }
            running = lock(&self.running);
            running.plan_next(due, &mut sampler.random);
        }
        running.has_thread = false;
    }
}

impl Running {
    fn due(&self, now: u64) -> Vec<Due> {
        let due = self.profiles.iter().filter(|entry| entry.next <= now);
        due.map(|entry| Due { shared: Arc::clone(&entry.shared), periods: entry.periods, done: None })
            .collect()
    }

    fn lineage(&self) -> Lineage {
        Lineage(self.profiles.iter().map(|entry| (entry.shared.id, entry.outer.clone())).collect())
    }

    fn plan_next(&mut self, had: Vec<Due>, random: &mut Random) {
        for due in had {
            if let Some(entry) = self.profiles.iter_mut().find(|entry| entry.shared.id == due.shared.id) {
                entry.periods.done = due.done.unwrap_or(entry.periods.done + 1);
                entry.next = entry.periods.start() + random.below(entry.periods.length);
            }
        }
    }
}

impl Periods {
    /// The beginning of the first period that is not over.
    fn start(&self) -> u64 {
        self.began + self.done * self.length
    }

    /// How many nanoseconds a sample at `now` stands for: the current period, and the periods before it that have no
    /// sample.
    fn without_sample(&self, now: u64) -> u64 {
        let current = now.saturating_sub(self.began) / self.length;
        (current + 1).saturating_sub(self.done).max(1) * self.length
    }
}

/// Begins to sample a profile. Returns `false` if the system has no thread for it.
pub(super) fn add(shared: &Arc<Shared>, began: u64, length: u64) -> bool {
    count_forks();
    stack::prepare(0);
    let profiler = PROFILER.get();
    let around = Visit::current();
    let mut running = lock(&profiler.running);
    let mut outer = Vec::new();
    if around != ProfileId::NONE {
        let around_it = running.profiles.iter().find(|entry| entry.shared.id == around);
        outer = around_it.map(|entry| entry.outer.clone()).unwrap_or_default();
        outer.push(around);
    }
    let periods = Periods { began, length, done: 0 };
    let next = began + Random::new().below(length);
    running.profiles.push(Entry { shared: Arc::clone(shared), outer, periods, next });
    let must_start = !std::mem::replace(&mut running.has_thread, true);
    drop(running);
    if !must_start {
        profiler.changed.notify_one();
        return true;
    }
    let has_thread = os::spawn("timebox-profiler", || PROFILER.get().serve()).is_ok();
    if !has_thread {
        lock(&profiler.running).has_thread = false;
    }
    has_thread
}

/// Ends the sampling of a profile. A sample that is being taken at this moment does not count.
pub(super) fn remove(profile: ProfileId) {
    let profiler = PROFILER.get();
    let mut running = lock(&profiler.running);
    let is_it = |entry: &Entry| entry.shared.id == profile;
    let removed = running.profiles.iter().position(is_it).map(|at| running.profiles.swap_remove(at));
    let is_last = running.profiles.is_empty();
    drop(running);
    drop(removed);
    if is_last {
        profiler.changed.notify_one();
    }
}

struct Due {
    shared: Arc<Shared>,
    /// The state of the periods before this sample.
    periods: Periods,
    /// `periods.done` after this sample. `None` until the profile's own code is found.
    done: Option<u64>,
}

impl Due {
    /// The nanoseconds that a sample at this moment stands for. Call this after the thread was copied. A thread that
    /// waits for a processor copies its stack late, and stays at the same place meanwhile. So the sample stands for
    /// that wait too.
    fn time(&self) -> u64 {
        self.periods.without_sample(clock::real_now())
    }

    /// Returns [`time`](Self::time), and records that this sample has found the profile's own code.
    fn take_time(&mut self) -> u64 {
        let time = self.time();
        self.take(time);
        time
    }

    fn take(&mut self, time: u64) {
        self.done = Some(self.periods.done + time / self.periods.length);
    }

    fn is_done(&self) -> bool {
        self.done.is_some()
    }
}

/// Maps each running profile to the profiles inside which it was begun.
struct Lineage(HashMap<ProfileId, Vec<ProfileId>>);

impl Lineage {
    /// The outermost of the thread's visits to the profile. If there is none: its outermost visit to a profile that was
    /// begun inside this profile. `None` if the thread is in neither.
    fn visit_of<'a>(&self, profile: ProfileId, visits: &'a Visits) -> Option<&'a VisitCopy> {
        let is_within =
            |visit: &&VisitCopy| self.0.get(&visit.profile).is_some_and(|outer| outer.contains(&profile));
        let mut inwards = visits.iter().rev();
        inwards.clone().find(|visit| visit.profile == profile).or_else(|| inwards.find(is_within))
    }
}

fn is_own(visit: &VisitCopy, profile: ProfileId) -> bool {
    visit.is_own && visit.profile == profile
}

struct Sampler {
    unwinder: Unwinder,
    /// The threads whose files in `/proc` are open. The key is the number of the thread's slot.
    targets: HashMap<usize, Open>,
    random: Random,
}

struct Open {
    tid: u32,
    target: Target,
    used: u64,
}

/// A thread whose stack is being copied for a sample.
struct Look {
    begun: Begun,
    /// The thread's visits, read before the copy was begun. The thread may have ended some of them since.
    before: Visits,
}

impl Sampler {
    fn new() -> Self {
        Self { unwinder: Unwinder::new(), targets: HashMap::new(), random: Random::new() }
    }

    fn sample(&mut self, due: &mut [Due], lineage: &Lineage) {
        for attempt in 0..ATTEMPTS {
            let looks = self.look_at_threads(due, lineage, attempt == 0);
            for Look { begun, before } in looks {
                let copy = match begun {
                    Begun::Copied(copy) => copy,
                    Begun::Asked(request) => request.wait(PATIENCE),
                };
                self.count_thread(&copy, &before, due, lineage, attempt == 0);
            }
            due.iter_mut().filter(|due| !due.is_done()).for_each(|due| self.count_wait(due));
            if due.iter().all(Due::is_done) {
                break;
            }
        }
        for due in due.iter_mut().filter(|due| !due.is_done()) {
            let time = due.take_time();
            due.shared.record(|recording| recording.miss(time, ["The code was on no thread.".to_owned()]));
        }
        let now = clock::real_now();
        self.targets.retain(|_, open| now.saturating_sub(open.used) < UNUSED);
    }

    /// Begins to copy each thread that seems to run a profiled closure or future. The first attempt of a sample
    /// (`is_first`) also copies threads whose work entered a profile by a handle.
    fn look_at_threads(&mut self, due: &[Due], lineage: &Lineage, is_first: bool) -> Vec<Look> {
        let mut looks = Vec::new();
        let now = clock::real_now();
        for (index, slot) in watchdog::global().slots.iter_indexed() {
            if slot.visit() == 0 || looks.len() == MOST_THREADS {
                continue;
            }
            let Some((tid, _)) = slot.thread() else { continue };
            let word = slot.visit_word() as u64;
            let mut before = Visits::default();
            before.fill(word, &Memory);
            let is_wanted = |due: &Due| {
                let profile = due.shared.id;
                let visit = lineage.visit_of(profile, &before);
                !due.is_done() && visit.is_some_and(|visit| is_first || is_own(visit, profile))
            };
            if !due.iter().any(is_wanted) {
                continue;
            }
            let open = self.targets.entry(index).and_modify(|open| open.used = now);
            let open = open.or_insert_with(|| Open::new(tid, word, now));
            if open.tid != tid {
                *open = Open::new(tid, word, now);
            }
            looks.push(Look { begun: stack::begin(&open.target), before });
        }
        looks
    }

    /// Counts one sample of a thread in each profile whose code the thread runs.
    fn count_thread(
        &mut self,
        copy: &Copy,
        before: &Visits,
        due: &mut [Due],
        lineage: &Lineage,
        is_first: bool,
    ) {
        let mut raw = None;
        for due in due {
            let profile = due.shared.id;
            if copy.is_consistent && copy.stack.is_there() {
                let Some(visit) = lineage.visit_of(profile, &copy.visits) else { continue };
                let is_own = is_own(visit, profile);
                let is_counted = if is_own { !due.is_done() } else { is_first };
                if !is_counted {
                    continue;
                }
                let raw = raw.get_or_insert_with(|| self.unwinder.unwind(&copy.stack));
                let seen = seen(copy, raw, visit, is_own);
                let modules = raw.with_addresses(&[]);
                let is_approximate = raw.approximate;
                let time = if is_own { due.take_time() } else { due.time() };
                due.shared.record(|recording| {
                    recording.modules = modules;
                    recording.approximate += u64::from(is_approximate);
                    recording.count(seen, Count::one(time));
                });
            } else if !due.is_done()
                && copy.state != State::Gone
                && !copy.is_consistent | !copy.visits.is_empty()
                && lineage.visit_of(profile, before).is_some_and(|visit| is_own(visit, profile))
            {
                let time = due.take_time();
                due.shared.record(|recording| recording.miss(time, copy.notes()));
            }
        }
    }

    /// Counts the sample if the profiled future is between two polls. Also counts the samples of an earlier wait that
    /// has ended: until now it was not known where the future waited.
    fn count_wait(&mut self, due: &mut Due) {
        let shared = Arc::clone(&due.shared);
        if let Some((copies, owed)) = shared.wait(Waiting::settle).flatten() {
            self.count_place(&shared, copies, owed);
        }
        let time = due.time();
        let Some(found) = shared.wait(|waiting| waiting.look(time)) else { return };
        if let Found::Polled = found {
            return;
        }
        due.take(time);
        match found {
            Found::Polled => {}
            Found::Pending(place) => {
                shared.record(|recording| recording.count(pending(place), Count::one(time)));
            }
            Found::Copied { copies, poll, mut owed } => {
                owed.add(Count::one(time));
                let place = self.count_place(&shared, copies, owed);
                shared.wait(|waiting| waiting.know(poll, &place));
            }
            Found::Later(waker) => wake(waker),
        }
    }

    fn count_place(&mut self, shared: &Shared, copies: AwaitCopies, count: Count) -> Place {
        let (place, raw) = place_of(copies, &mut self.unwinder);
        shared.record(|recording| {
            if let Some(raw) = raw {
                recording.modules = raw.with_addresses(&[]);
            }
            recording.count(pending(place.clone()), count);
        });
        place
    }
}

impl Open {
    fn new(tid: u32, word: u64, now: u64) -> Self {
        Self { tid, target: Target::with_visits(tid, word), used: now }
    }
}

fn seen(copy: &Copy, raw: &RawStack, visit: &VisitCopy, is_own: bool) -> Seen {
    let frames = &raw.frames;
    let sp = copy.stack.registers.map_or(0, |registers| registers.sp);
    let is_outside = |cfa: u64| cfa > visit.stack && cfa != u64::MAX && visit.stack >= sp;
    let inside = frames.iter().position(|frame| is_outside(frame.cfa)).unwrap_or(frames.len());
    // Code that runs by a handle may be inlined into the function whose frame has `visit.stack`. So for a visit by a
    // handle, the frame of that function is kept too.
    let inside = if is_own { inside } else { (inside + 1).min(frames.len()) };
    let doing = match (copy.state, copy.call) {
        (State::Blocked, call) => Doing::Blocked(call.map(|call| call.number)),
        _ => Doing::Running,
    };
    let place = Place::Stack(kept(frames[..inside].iter().map(|frame| frame.address)));
    Seen { by_handle: !is_own, doing, place }
}

/// The user's waker may run any code, so a panic is caught.
fn wake(waker: Option<Waker>) {
    let wake = AssertUnwindSafe(|| waker.into_iter().for_each(Waker::wake));
    catch_unwind(wake).err().into_iter().for_each(drop_quietly);
}
