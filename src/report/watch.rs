//! When a thread is looked at, and what for.
//!
//! The watchdog calls [`Watch::pass`] for threads whose deadline or look has passed. A thread is first *peeked* at: its scopes are
//! read while it runs, which takes microseconds but proves nothing. If a scope seems to be due for a report, the thread is copied
//! at one moment, and the reporter makes the report only if that scope is in the copy. So a peek that saw nonsense costs a copy,
//! and never a wrong report.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::TryLockError;
use std::time::Duration;

use super::dump::dump;
use super::look::{self, Event, Look, key_of};
use super::losses;
use super::policy::{self, Installed};
use super::recent::ScopeKey;
use super::reporter::{self, Job};
use super::stack::{self, CpuTimes, Memory, Target};
use super::state;
use crate::scope::{STUCK_POLL, ScopeCopies, ScopeCopy};
use crate::sync::callback::drop_quietly;
use crate::sync::fork::PerProcess;
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering, lock, os};
use crate::time::{NEVER, clock, nanos};
use crate::watchdog::{self, NO_WARNING, Observer};

/// After a report of a scope, the watchdog looks from time to time whether the scope is still open. The interval is the
/// time that the scope has been open, divided by `INTERVAL_FRACTION`, within these bounds in nanoseconds.
const LEAST_INTERVAL: u64 = 20_000_000;
const MOST_INTERVAL: u64 = 1_000_000_000;
const INTERVAL_FRACTION: u64 = 50;

/// How many times one look reads the scopes of a thread, at most. A read may miss a scope, because the thread may run
/// meanwhile. So the look reads again until it has seen all reported scopes.
const PEEKS: usize = 4;

/// The files in `/proc` are kept open for at most this many threads with reported scopes.
const MOST_TARGETS: usize = 64;

/// How many threads one pass looks at, at most. After the pass the watchdog serves deadlines, and at once begins a pass
/// for the other threads.
const LOOKS_PER_PASS: usize = 32;

/// How long one pass looks at threads, in nanoseconds. The watchdog serves no deadline meanwhile.
const TIME_PER_PASS: u64 = 1_000_000;

/// If another thread has locked the state, the next pass comes after this time. In nanoseconds.
const SOON: u64 = 1_000_000;

/// The durations of the policy in force, in nanoseconds. The watchdog reads them here. So it never owns a policy, whose
/// last owner drops the user's sinks.
struct Durations {
    warn: AtomicU64,
    overdue: AtomicU64,
    stuck: AtomicU64,
}

static DURATIONS: Durations = Durations {
    warn: AtomicU64::new(NO_WARNING),
    overdue: AtomicU64::new(NEVER),
    stuck: AtomicU64::new(NEVER),
};

/// Whether the next pass looks at all threads. A new policy sets it, because scopes may have been open already, and
/// their threads do not ask for a look.
static LOOK_AT_ALL: AtomicBool = AtomicBool::new(false);

// Relaxed for all durations: a look during a change of the policy may follow the old or the new policy.
fn get(duration: &AtomicU64) -> u64 {
    duration.load(Ordering::Relaxed)
}

pub(super) fn overdue_after() -> u64 {
    get(&DURATIONS.overdue)
}

pub(super) fn policy_changed(policy: Option<&Installed>) {
    let Some(policy) = policy else {
        watchdog::global().watch_no_more();
        // Closes the files.
        lock(STATE.get()).threads = None;
        return;
    };
    let or_never = |duration: Option<Duration>| duration.map_or(NEVER, nanos);
    let warn_after = or_never(policy.warn_after).min(NO_WARNING);
    DURATIONS.warn.store(warn_after, Ordering::Relaxed);
    DURATIONS.stuck.store(or_never(policy.stuck_after()), Ordering::Relaxed);
    DURATIONS.overdue.store(nanos(policy.overdue_after), Ordering::Relaxed);
    // Release: pairs with the swap in `pass`. So a pass that sees this also sees the new durations.
    LOOK_AT_ALL.store(true, Ordering::Release);
    stack::prepare();
    watchdog::prepare();
    watchdog::global().watch_with(&Watch, warn_after);
}

/// The watchdog's observer.
struct Watch;

static STATE: PerProcess<Mutex<State>> = PerProcess::new(Mutex::new(State::NEW), || Mutex::new(State::NEW));

struct State {
    /// The threads that are looked at, by the number of their slot. `None` before the first pass.
    threads: Option<HashMap<usize, Watched>>,
    /// The memory into which the scopes of a thread are read. `None` before the first pass.
    peeked: Option<Box<ScopeCopies>>,
}

struct Watched {
    tid: u32,
    frame_word: u64,
    /// Open while a scope of the thread is being reported.
    target: Option<Target>,
    /// The reported scopes that may still be open.
    reported: Vec<Reported>,
    /// The polls in which the thread was at the last look.
    polls: Vec<SeenPoll>,
    /// The thread's times at an earlier look, and the time of that look. `None` if there was no such look.
    before: Option<(u64, CpuTimes)>,
    next: u64,
}

struct Reported {
    frame: u64,
    scope: ScopeKey,
    /// The [`Event`]s that were reported.
    events: u8,
    /// When the scope was last seen open.
    seen: u64,
    /// How many looks in a row have not seen the scope.
    missed: u32,
    /// Whether the frame is that of one poll of a future. If such a frame is gone, the poll has ended, but perhaps not
    /// the scope.
    is_poll: bool,
}

struct SeenPoll {
    frame: u64,
    number: u64,
    since: u64,
}

impl SeenPoll {
    fn is_of(&self, scope: &ScopeCopy) -> bool {
        (self.frame, self.number) == (scope.frame, scope.poll)
    }
}

/// Whether the poll was first seen at least `STUCK_POLL` ago. Remembers a poll that was not seen before.
fn has_lasted(polls: &mut Vec<SeenPoll>, scope: &ScopeCopy, now: u64) -> bool {
    match polls.iter().find(|seen| seen.is_of(scope)) {
        Some(seen) => seen.since + STUCK_POLL <= now,
        None => {
            polls.push(SeenPoll { frame: scope.frame, number: scope.poll, since: now });
            false
        }
    }
}

impl State {
    const NEW: Self = Self { threads: None, peeked: None };
}

impl Observer for Watch {
    fn pass(&self, due: &mut dyn Iterator<Item = usize>, now: u64, late: u64) -> u64 {
        let mut state = match STATE.get().try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(state)) => state.into_inner(),
            // The policy is being changed.
            Err(TryLockError::WouldBlock) => return now + SOON,
        };
        let State { threads, peeked } = &mut *state;
        let peeked = peeked.get_or_insert_with(|| Box::new(ScopeCopies::new()));
        // The first pass of a process looks at all slots: a forked child may have open scopes from before the fork, of
        // which no event tells.
        let is_first = threads.is_none();
        let threads = threads.get_or_insert_default();
        let slots = &watchdog::global().slots;
        // Acquire: pairs with the Release in `policy_changed`.
        let mut indexes: Vec<usize> = if LOOK_AT_ALL.swap(false, Ordering::Acquire) || is_first {
            slots.iter_indexed().map(|(index, _)| index).collect()
        } else {
            let again = threads.iter().filter(|(_, watched)| watched.next <= now);
            again.map(|(&index, _)| index).chain(due).collect()
        };
        indexes.sort_unstable();
        indexes.dedup();
        let mut open = threads.values().filter(|watched| watched.target.is_some()).count();
        for (number, index) in indexes.into_iter().enumerate() {
            let slot = slots.at(index);
            let thread = slot.thread().map(|(tid, word)| (tid, word as u64));
            if threads.get(&index).is_some_and(|watched| thread != Some((watched.tid, watched.frame_word)))
                && let Some(watched) = threads.remove(&index)
            {
                watched.end_all(now);
            }
            let Some((tid, word)) = thread else { continue };
            let watched = threads.entry(index).or_insert_with(|| Watched::new(tid, word));
            let passed = clock::real_now().saturating_sub(now);
            if number >= LOOKS_PER_PASS || (number > 0 && passed > TIME_PER_PASS) {
                watched.next = now;
                continue;
            }
            let was_open = watched.target.is_some();
            watched.look(peeked, now, late);
            if watched.reported.is_empty() || (!was_open && open >= MOST_TARGETS) {
                watched.target = None;
            } else if !was_open {
                open += 1;
            }
        }
        threads.retain(|_, watched| watched.next != NEVER);
        threads.values().map(|watched| watched.next).min().unwrap_or(NEVER)
    }
}

impl Watched {
    fn new(tid: u32, frame_word: u64) -> Self {
        Self {
            tid,
            frame_word,
            target: None,
            reported: Vec::new(),
            polls: Vec::new(),
            before: None,
            next: NEVER,
        }
    }

    fn target(&mut self) -> &Target {
        let (tid, frame_word) = (self.tid, self.frame_word);
        self.target.get_or_insert_with(|| Target::new(tid, frame_word))
    }

    fn look(&mut self, peeked: &mut ScopeCopies, now: u64, late: u64) {
        self.next = NEVER;
        self.peek(peeked, now);
        self.polls.retain(|seen| peeked.scopes().iter().any(|scope| seen.is_of(scope)));
        let (mut due, mut stuck) = (None, None);
        // If the copy is cut, the outermost scope is not in it.
        let outermost = peeked.scopes().iter().rposition(|scope| !scope.kind.is_only_watched());
        let outermost = outermost.filter(|_| !peeked.is_cut);
        for (depth, scope) in peeked.scopes().iter().enumerate().filter(|(_, scope)| !scope.mocked) {
            let told =
                self.reported.iter().find(|reported| reported.is_of(scope)).map_or(0, |one| one.events);
            let has_lasted = !scope.kind.is_polled() || has_lasted(&mut self.polls, scope, now);
            let mut first = NEVER;
            for (event, at) in times(scope, Some(depth) == outermost) {
                // If the watchdog is late, the whole process may have stood still. So the poll gets as much more time
                // before it counts as stuck.
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
                    stuck = Some(*scope);
                } else {
                    due = Some((event, *scope));
                }
            }
            self.next = self.next.min(first);
        }
        if let Some((event, scope)) = due {
            self.report(event, &scope, now, late);
        }
        if let Some(scope) = stuck {
            self.tell(&scope, Event::Stuck as u8, now);
            tell_stuck();
        }
        if peeked.is_cut {
            self.next = self.next.min(now + MOST_INTERVAL);
        }
        self.look_again_for_ends(now);
        // A report compares the thread's times with `before`. All reports of one scope must compare with the same
        // times. So `before` is not replaced while a scope is being reported.
        if self.reported.is_empty() && self.next != NEVER {
            self.before = self.target().times().map(|times| (now, times));
        }
    }

    /// Reads the scopes of the thread, which may run meanwhile. Removes the scopes that have ended from `reported`, and
    /// reports each end (but not the end of a poll).
    fn peek(&mut self, peeked: &mut ScopeCopies, now: u64) {
        for _ in 0..PEEKS {
            peeked.fill(self.frame_word, &Memory);
            let are_all = self.reported.iter().all(|reported| reported.is_in(peeked));
            if are_all {
                break;
            }
        }
        self.reported.retain_mut(|reported| {
            let is_seen = reported.is_in(peeked);
            // A peek may miss an open scope, which other scopes or the call of a waker may hide for a moment. So a
            // scope counts as left only after two misses in a row. (A poll counts as ended after one miss.)
            reported.missed = if is_seen { 0 } else { reported.missed + 1 };
            let is_open = is_seen || peeked.is_cut || (!reported.is_poll && reported.missed < 2);
            if is_seen {
                reported.seen = now;
            } else if !is_open {
                reported.end(now);
            }
            is_open
        });
    }

    fn report(&mut self, event: Event, scope: &ScopeCopy, now: u64, late: u64) {
        let key = key_of(scope);
        let begun = stack::begin(self.target());
        let look = Look { event, scope: key, frame: scope.frame, begun, late, before: self.before };
        reporter::submit(Job { scope: key, make: Box::new(move |tools| look::make(look, tools)) });
        // The lower bits are those of earlier events, which get no report after this one.
        self.tell(scope, (event as u8) | (event as u8 - 1), now);
    }

    /// Remembers that these events of the scope were reported.
    fn tell(&mut self, scope: &ScopeCopy, events: u8, now: u64) {
        let key = key_of(scope);
        match self.reported.iter_mut().find(|reported| reported.is_of(scope)) {
            Some(reported) => reported.events |= events,
            None => self.reported.push(Reported {
                frame: scope.frame,
                scope: key,
                events,
                seen: now,
                missed: 0,
                is_poll: scope.kind.is_polled(),
            }),
        }
        let told = self.reported.iter().find(|reported| reported.is_of(scope)).map_or(0, |one| one.events);
        self.next = self.next.min(next_time(scope, told, now));
    }

    fn look_again_for_ends(&mut self, now: u64) {
        for reported in &self.reported {
            let open = now.saturating_sub(reported.scope.entered);
            let interval = (open / INTERVAL_FRACTION).clamp(LEAST_INTERVAL, MOST_INTERVAL);
            self.next = self.next.min(now + interval);
        }
    }

    /// Called when the thread has ended: reports that its scopes have ended.
    fn end_all(mut self, now: u64) {
        self.reported.drain(..).for_each(|reported| reported.end(now));
    }
}

impl Reported {
    fn is_of(&self, scope: &ScopeCopy) -> bool {
        self.frame == scope.frame && self.scope == key_of(scope)
    }

    fn is_in(&self, scopes: &ScopeCopies) -> bool {
        scopes.scopes().iter().any(|scope| self.is_of(scope))
    }

    fn end(&self, now: u64) {
        if self.is_poll {
            return;
        }
        let (scope, seen) = (self.scope, self.seen);
        reporter::submit(Job { scope, make: Box::new(move |_| look::ended(scope, seen, now)) });
    }
}

/// Calls the policy's `on_stuck` on a thread of its own, since the user's code may take any time. Scopes that get stuck
/// during the call share the next call.
fn tell_stuck() {
    /// How many scopes have become stuck since the last call of `on_stuck` that has returned. It is above 0 while the
    /// thread below runs, so there is one such thread at most.
    static WAITING: PerProcess<AtomicU64> = PerProcess::new(AtomicU64::new(0), || AtomicU64::new(0));
    // Relaxed throughout: the number publishes nothing else.
    if WAITING.get().fetch_add(1, Ordering::Relaxed) > 0 {
        return;
    }
    let tell = || {
        loop {
            let seen = WAITING.get().load(Ordering::Relaxed);
            call_on_stuck();
            if WAITING.get().fetch_sub(seen, Ordering::Relaxed) == seen {
                return;
            }
        }
    };
    if os::spawn("timebox-stuck", tell).is_err() {
        WAITING.get().store(0, Ordering::Relaxed);
        losses::count_one();
    }
}

/// Calls the policy's `on_stuck` with a dump of all threads. Does nothing if a debugger has attached to the process.
fn call_on_stuck() {
    let policy = policy::current();
    let on_stuck = policy.as_ref().and_then(|policy| policy.on_stuck());
    policy.into_iter().for_each(policy::release);
    let Some(on_stuck) = on_stuck.filter(|_| !state::is_traced()) else { return };
    let result = catch_unwind(AssertUnwindSafe(move || on_stuck(&dump())));
    result.err().into_iter().for_each(drop_quietly);
}

/// The events that may be reported about the scope, in their order, and when each is due; [`NEVER`] if it is not
/// reported.
fn times(scope: &ScopeCopy, is_outermost: bool) -> impl Iterator<Item = (Event, u64)> {
    let own = scope.own();
    let warn = match scope.warn_after {
        NEVER if is_outermost => get(&DURATIONS.warn),
        NEVER => NO_WARNING,
        warn => warn,
    };
    let slow = scope.entered.saturating_add(warn);
    let overdue = if scope.overdue_after == NEVER { overdue_after() } else { scope.overdue_after };
    let after = |duration: u64| if own == NEVER { NEVER } else { own.saturating_add(duration) };
    [
        (Event::Slow, if warn < NO_WARNING && slow < own { slow } else { NEVER }),
        (Event::Expired, own),
        (Event::Overdue, after(overdue)),
        (Event::Stuck, after(get(&DURATIONS.stuck))),
    ]
    .into_iter()
}

/// The time of the scope's next report; `NEVER` if there will be none. `told` are the events that were reported.
fn next_time(scope: &ScopeCopy, told: u8, now: u64) -> u64 {
    let left = times(scope, true).filter(|&(event, _)| event as u8 & told == 0);
    left.map(|(_, at)| at).filter(|&at| at > now).min().unwrap_or(NEVER)
}
