//! Decides when the watchdog looks at a thread, and which scope of the thread is reported.
//!
//! The watchdog calls [`Watch::pass`] for the threads at which the watchdog must look: a deadline has passed, or a time
//! that was set for a look. A thread is first *peeked* at: its scopes are read while it runs, which takes microseconds
//! but proves nothing. If a scope seems to be due for a report, the thread is copied at one moment, and the reporter
//! makes the report only if that scope is in the copy. So a peek that saw nonsense costs a copy, but does not lead to a
//! wrong report.
//!
//! A pass neither allocates nor frees memory, since the looked-at thread may hold the lock of the program's allocator.
//! All memory is made in advance: by the thread that installs the policy, and by each thread that registers. A report
//! for which there is no memory is lost, and counted.

use std::sync::TryLockError;
use std::time::Duration;

use super::due::{self, times};
use super::look::{Event, Look, key_of};
use super::policy::Installed;
use super::reporter::{self, Job, Make};
use super::seen::{MOST_INTERVAL, Seen};
use super::stack::{self, CpuTimes, Target};
use super::{losses, stuck};
use crate::scope::STUCK_POLL;
use crate::sync::fork::PerProcess;
use crate::sync::{AtomicBool, AtomicUsize, Mutex, Ordering, lock};
use crate::time::{NEVER, clock, nanos};
use crate::watchdog::{self, NO_WARNING, Observer};

/// The files in `/proc` are kept open for at most this many threads with reported scopes.
const MOST_TARGETS: usize = 64;

/// How many threads one pass looks at, at most. After the pass the watchdog serves deadlines, and then at once begins a
/// pass for the other threads.
const LOOKS_PER_PASS: usize = 32;

/// After this time a pass looks at no further thread, because the watchdog serves no deadline meanwhile. In
/// nanoseconds.
const TIME_PER_PASS: u64 = 1_000_000;

/// If another thread has locked the state, the next pass comes after this time. In nanoseconds.
const SOON: u64 = 1_000_000;

/// Whether the next pass looks at all threads. A new policy sets it, because the threads of scopes that are open
/// already do not ask for a look.
static LOOK_AT_ALL: AtomicBool = AtomicBool::new(false);

pub(super) fn policy_changed(policy: Option<&Installed>) {
    let Some(policy) = policy else {
        watchdog::global().watch_no_more();
        lock(STATE.get()).forget_all();
        HOLDS.get().keep(false, false);
        return;
    };
    let or_never = |duration: Option<Duration>| duration.map_or(NEVER, nanos);
    let warn_after = or_never(policy.warn_after).min(NO_WARNING);
    let stuck_after = or_never(policy.stuck_after());
    due::set(warn_after, nanos(policy.overdue_after), stuck_after);
    // Release: pairs with the swap in `pass`. So a pass that sees this also sees the new durations.
    LOOK_AT_ALL.store(true, Ordering::Release);
    watchdog::prepare();
    watchdog::global().observe_with(&Watch);
    prepare();
    watchdog::global().watch_with(warn_after);
}

/// Allocates what passes need, and starts the threads that they need.
fn prepare() {
    stack::prepare(LOOKS_PER_PASS);
    losses::prepare();
    let mut seen = Some(Seen::new());
    let mut state = lock(STATE.get());
    if state.seen.is_none() {
        state.seen = seen.take();
    }
    drop(state);
    drop(seen);
    make_room(watchdog::global().slots.iter_indexed().map(|(index, _)| index + 1).last().unwrap_or(0));
    // Last, because `Watch::prepare` takes the held reporter as the sign that all of this is done.
    HOLDS.get().keep(true, due::has_stuck());
}

/// Makes room for the threads of so many slots.
fn make_room(slots: usize) {
    // Relaxed: the lock below orders it. A stale number is too small, and only leads to a needless try.
    if slots <= ROOM.get().load(Ordering::Relaxed) {
        return;
    }
    let count = slots.next_power_of_two().max(64);
    let mut room = Vec::with_capacity(count);
    let mut state = lock(STATE.get());
    if state.threads.len() < count {
        room.append(&mut state.threads);
        room.extend((room.len()..count).map(Watched::new));
        std::mem::swap(&mut room, &mut state.threads);
    }
    ROOM.get().store(state.threads.len(), Ordering::Relaxed);
    drop(state);
}

/// The length of `State::threads`, to be read without the lock.
static ROOM: PerProcess<AtomicUsize> = PerProcess::new(AtomicUsize::new(0), || AtomicUsize::new(0));

/// The threads that were started in advance and are kept for the watchdog, because the watchdog must not start a
/// thread.
struct Holds {
    reporter: AtomicBool,
    stuck: AtomicBool,
}

static HOLDS: PerProcess<Holds> = PerProcess::new(Holds::NEW, || Holds::NEW);

impl Holds {
    #[allow(clippy::declare_interior_mutable_const)] // the value of a static
    const NEW: Self = Self { reporter: AtomicBool::new(false), stuck: AtomicBool::new(false) };

    // Relaxed: the flags publish nothing.
    fn keep(&self, reporter: bool, stuck: bool) {
        match (self.stuck.swap(stuck, Ordering::Relaxed), stuck) {
            (false, true) => stuck::hold(),
            (true, false) => stuck::release(),
            _ => {}
        }
        match (self.reporter.swap(reporter, Ordering::Relaxed), reporter) {
            (false, true) => reporter::hold(),
            (true, false) => reporter::release(),
            _ => {}
        }
    }
}

struct Watch;

static STATE: PerProcess<Mutex<State>> = PerProcess::new(Mutex::new(State::NEW), || Mutex::new(State::NEW));

/// Nobody allocates or frees memory while the state is locked: a thread that is stuck in the allocator would make the
/// watchdog skip its passes.
struct State {
    /// For each slot, what is known of its thread. There is room for all slots (`make_room`).
    threads: Vec<Watched>,
    /// `None` before `prepare`.
    seen: Option<Seen>,
    has_passed: bool,
}

struct Watched {
    slot: usize,
    /// The number of the thread, and the address of its pointer to its innermost frame. `None` if the thread is not
    /// being looked at.
    thread: Option<(u32, u64)>,
    /// The thread's open files. They are kept from pass to pass only while a scope of the thread is being reported.
    target: Option<Target>,
    /// The thread's times at an earlier look, and the time of that look. `None` if there was no such look.
    before: Option<(u64, CpuTimes)>,
    /// When the watchdog looks at the thread next.
    next: u64,
}

impl State {
    const NEW: Self = Self { threads: Vec::new(), seen: None, has_passed: false };

    fn forget_all(&mut self) {
        self.threads.iter_mut().for_each(|watched| *watched = Watched::new(watched.slot));
        if let Some(seen) = &mut self.seen {
            seen.forget_all();
        }
    }
}

impl Observer for Watch {
    fn pass(&self, due: &mut dyn Iterator<Item = usize>, now: u64, late: u64) -> u64 {
        let mut state = match STATE.get().try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(state)) => state.into_inner(),
            // Another thread changes the policy or makes room. This pass leaves out the threads in `due`, so the next
            // pass looks at all threads.
            Err(TryLockError::WouldBlock) => {
                // Relaxed: this publishes nothing. A swap, because a store would hide the Release in `policy_changed`
                // from the swap below.
                LOOK_AT_ALL.swap(true, Ordering::Relaxed);
                return now + SOON;
            }
        };
        let State { threads, seen, has_passed } = &mut *state;
        let Some(seen) = seen else { return NEVER };
        let slots = &watchdog::global().slots;
        for index in due {
            match threads.get_mut(index) {
                Some(watched) => watched.next = watched.next.min(now),
                None => losses::count_one(),
            }
        }
        // The first pass of a process looks at all slots: a forked child may have scopes that were opened before the
        // fork, and no event tells the watchdog of them.
        let is_first = !std::mem::replace(has_passed, true);
        // Acquire: pairs with the Release in `policy_changed`.
        if LOOK_AT_ALL.swap(false, Ordering::Acquire) || is_first {
            let made = slots.iter_indexed().map(|(index, _)| index);
            made.for_each(|index| threads.get_mut(index).into_iter().for_each(|watched| watched.next = now));
        }
        let mut open = threads.iter().filter(|watched| watched.target.is_some()).count();
        let mut looks = 0;
        for (index, slot) in slots.iter_indexed() {
            let Some(watched) = threads.get_mut(index).filter(|watched| watched.next <= now) else {
                continue;
            };
            let thread = slot.thread().map(|(tid, word)| (tid, word as u64));
            if watched.thread.is_some() && watched.thread != thread {
                seen.end_all(watched.slot, now);
                *watched = Watched::new(watched.slot);
            }
            watched.thread = thread;
            if thread.is_none() {
                watched.next = NEVER;
                continue;
            }
            let passed = clock::real_now().saturating_sub(now);
            if looks >= LOOKS_PER_PASS || (looks > 0 && passed > TIME_PER_PASS) {
                watched.next = now;
                continue;
            }
            looks += 1;
            let was_open = watched.target.is_some();
            watched.look(seen, now, late);
            if watched.next == NEVER {
                seen.forget_polls(watched.slot);
                *watched = Watched::new(watched.slot);
            } else if !seen.has_reported(watched.slot) || (!was_open && open >= MOST_TARGETS) {
                watched.target = None;
            } else if !was_open {
                open += 1;
            }
        }
        threads.iter().map(|watched| watched.next).min().unwrap_or(NEVER)
    }

    fn prepare(&self) {
        // Relaxed: as in `keep`.
        if !HOLDS.get().reporter.load(Ordering::Relaxed) {
            prepare();
        }
    }

    fn make_room(&self, slots: usize) {
        make_room(slots);
    }
}

impl Watched {
    fn new(slot: usize) -> Self {
        Self { slot, thread: None, target: None, before: None, next: NEVER }
    }

    fn target(&mut self) -> &Target {
        let (tid, frame_word) = self.thread.unwrap_or_default();
        self.target.get_or_insert_with(|| Target::new(tid, frame_word))
    }

    fn look(&mut self, seen: &mut Seen, now: u64, late: u64) {
        self.next = NEVER;
        let (_, frame_word) = self.thread.unwrap_or_default();
        seen.peek(self.slot, frame_word, now);
        let (mut due, mut stuck) = (None, None);
        let Seen { peeked, reported, polls } = &mut *seen;
        // With `is_cut`, outer scopes are missing in `peeked`, so none of its scopes is the outermost one.
        let outermost = peeked.scopes().iter().rposition(|scope| !scope.kind.is_only_watched());
        let outermost = outermost.filter(|_| !peeked.is_cut);
        for (depth, scope) in peeked.scopes().iter().enumerate().filter(|(_, scope)| !scope.mocked) {
            let told = reported.iter().find(|one| one.is_of(self.slot, scope)).map_or(0, |one| one.events);
            let has_lasted = !scope.kind.is_polled() || polls.has_lasted(self.slot, scope, now);
            let mut first = NEVER;
            for (event, at) in times(scope, Some(depth) == outermost) {
                // If the watchdog is late, the whole process may have stood still. So the poll gets more time, as much
                // as the watchdog is late, before it counts as stuck.
                let at = if event == Event::Stuck { at.saturating_add(late) } else { at };
                if told & event as u8 != 0 {
                    continue;
                }
                if at > now {
                    first = first.min(at);
                    continue;
                }
                if event != Event::Stuck && !has_lasted {
                    first = first.min(now + STUCK_POLL);
                    continue;
                }
                // The loop goes from the innermost scope to the outermost, and a later scope replaces an earlier one.
                // So the outermost due scope is reported, with its latest event.
                if event == Event::Stuck {
                    stuck = Some((depth, event));
                } else {
                    due = Some((depth, event));
                }
            }
            self.next = self.next.min(first);
        }
        let is_cut = peeked.is_cut;
        if let Some((depth, event)) = due {
            self.report(seen, depth, event, now, late);
        }
        if let Some((depth, event)) = stuck {
            let next = seen.tell(self.slot, depth, event as u8, now);
            self.next = self.next.min(next.unwrap_or(NEVER));
            stuck::tell();
        }
        if is_cut {
            self.next = self.next.min(now + MOST_INTERVAL);
        }
        self.next = self.next.min(seen.next_look_for_ends(self.slot, now));
        // A report compares the thread's times with `before`. All reports of one scope must compare with the same
        // times. So `before` is not replaced while a scope is being reported.
        if self.next != NEVER && !seen.has_reported(self.slot) {
            self.before = self.target().times().map(|times| (now, times));
        }
    }

    fn report(&mut self, seen: &mut Seen, depth: usize, event: Event, now: u64, late: u64) {
        let (scope, frame) = (key_of(&seen.peeked.scopes()[depth]), seen.peeked.scopes()[depth].frame);
        // The lower bits are those of earlier events, which get no report after this one.
        let events = (event as u8) | (event as u8 - 1);
        let next = seen.tell(self.slot, depth, events, now);
        // A scope that cannot be remembered is not reported. Otherwise each look would report it again.
        let Some((next, begun)) = next.and_then(|next| Some((next, stack::begin_prepared(self.target())?)))
        else {
            losses::count_one();
            return;
        };
        self.next = self.next.min(next);
        let look = Look { event, scope, frame, begun, late, before: self.before };
        reporter::submit(Job { scope, make: Make::Look(look) });
    }
}
