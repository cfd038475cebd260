use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use super::{Dump, OpenScope, ThreadDump};
use crate::report::contents::{Activity, Frame, Stack, Thread, note_on_nameless};
use crate::report::stack::raw::RawStack;
use crate::report::stack::{self, Begun, Copy, Names, State, Target, Unwinder};
use crate::report::{look, state};
use crate::scope::ScopeCopy;
use crate::sync::callback::drop_quietly;
use crate::sync::{Condvar, Mutex, lock, os};
use crate::time::clock;
use crate::watchdog;

/// At most this many threads are read from the system's list of threads.
const MOST_LISTED: usize = 100_000;

const MOST_THREADS: usize = 512;

/// How long the dump looks at threads. Threads that it has not reached by then are left out.
const LOOKING: Duration = Duration::from_secs(2);

/// How long the caller waits for the dump. The search for names stops then, so some stacks may have no names.
const MAKING: Duration = Duration::from_secs(10);

/// How long the dump waits until a running thread has copied its own stack.
const PATIENCE: Duration = Duration::from_millis(100);

/// Makes a dump: what each thread of this process is doing.
///
/// A dump takes some milliseconds. The first one takes longer, because it reads the names of functions from the
/// program's file. A dump looks at 512 threads at most, and for two seconds at most. If threads are missing, its
/// [`notes`](Dump::notes) say so. The call returns within about ten seconds in any case.
///
/// A thread of this crate makes the dump, so the dump shows the calling thread too.
///
/// ```
/// let dump = timebox::report::dump();
/// eprintln!("{dump}");
/// # #[cfg(target_os = "linux")]
/// assert!(dump.threads.iter().any(|thread| thread.asked));
/// ```
pub fn dump() -> Dump {
    let asker = os::thread_id();
    let making = Arc::new(Making::new());
    let theirs = Arc::clone(&making);
    let began = now();
    if os::spawn("timebox-dump", move || theirs.run(Some(asker))).is_err() {
        making.run(None);
        let note = "The thread that asked for the dump is missing: the system had no thread to look at it.";
        lock(&making.made).notes.push(note.into());
    }
    making.finish(began)
}

/// Makes a dump on the calling thread. The dump does not show this thread.
#[cfg(unix)]
pub(super) fn dump_here() -> Dump {
    let making = Making::new();
    let began = now();
    making.run(None);
    making.finish(began)
}

#[allow(clippy::disallowed_methods)] // the time of day, for people
fn now() -> SystemTime {
    SystemTime::now()
}

/// A dump that is being made. If it is not done in time, the caller takes the part that has been made.
#[derive(Debug)]
struct Making {
    /// When `MAKING` is over, on the crate's clock.
    until: u64,
    made: Mutex<Made>,
    is_done: Condvar,
}

#[derive(Debug, Default)]
struct Made {
    threads: Vec<ThreadDump>,
    notes: Vec<String>,
    is_done: bool,
}

impl Making {
    fn new() -> Self {
        Self { until: after(MAKING), made: Mutex::default(), is_done: Condvar::default() }
    }

    /// Looks at all threads but the calling one. Even if the look panics, the dump is marked as done: otherwise the
    /// caller would wait until the time is up.
    fn run(&self, asker: Option<u32>) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| self.look(asker))) {
            drop_quietly(payload);
            self.note("The dump is not complete: there was a fault while it was made.".into());
        }
        lock(&self.made).is_done = true;
        self.is_done.notify_all();
    }

    fn look(&self, asker: Option<u32>) {
        let until = after(LOOKING);
        let mut stacks = Vec::new();
        let own = os::thread_id();
        let mut tids = state::threads(MOST_LISTED);
        tids.retain(|&tid| tid != own);
        if tids.is_empty() && asker.is_some() {
            self.note("The threads of the process are not known on this system.".into());
        }
        // The thread that asks comes first, then the threads that may be in scopes, then all others. Threads at the end
        // may be left out.
        let frame_words = frame_words();
        tids.sort_by_key(|tid| (asker != Some(*tid), !frame_words.contains_key(tid)));
        if tids.len() > MOST_THREADS {
            self.note(format!("{} threads are left out.", tids.len() - MOST_THREADS));
            tids.truncate(MOST_THREADS);
        }
        let mut unwinder = Unwinder::new();
        for (index, &tid) in tids.iter().enumerate() {
            if clock::real_now() > until {
                self.note(format!("{} threads are left out, for lack of time.", tids.len() - index));
                break;
            }
            let target = Target::new(tid, frame_words.get(&tid).copied().unwrap_or(0));
            let mut copy = match stack::begin(&target) {
                Begun::Copied(copy) => copy,
                Begun::Asked(request) => request.wait(PATIENCE),
            };
            // If the thread's frame word has changed, the thread has ended. Its memory may belong to another thread
            // now, so the copied scopes may be wrong.
            if frame_word_of(tid) != frame_words.get(&tid).copied() {
                copy.scopes.clear();
            }
            if copy.state == State::Gone {
                continue;
            }
            let thread = look::thread(&copy, None);
            let mut raw = unwinder.unwind(&copy.stack);
            let dumped = dumped(&copy, thread, &mut raw, asker == Some(tid));
            lock(&self.made).threads.push(dumped);
            stacks.push(raw);
        }
        self.name(&stacks);
    }

    /// Finds the names of functions. Stacks with the same addresses are searched for only once.
    fn name(&self, stacks: &[RawStack]) {
        let mut names = Names::new();
        let mut known: HashMap<Vec<u64>, Stack> = HashMap::new();
        for (index, raw) in stacks.iter().enumerate() {
            if clock::real_now() > self.until {
                break;
            }
            let addresses = raw.frames.iter().map(|frame| frame.address).collect();
            let stack = known.entry(addresses).or_insert_with(|| names.resolve(raw, None));
            lock(&self.made).threads[index].stack = stack.clone();
        }
        let nameless: BTreeSet<&str> = known.values().flat_map(Stack::nameless_modules).collect();
        nameless.into_iter().for_each(|module| self.note(note_on_nameless(module)));
    }

    fn note(&self, note: String) {
        lock(&self.made).notes.push(note);
    }

    fn finish(&self, began: SystemTime) -> Dump {
        let mut made = lock(&self.made);
        while !made.is_done {
            let left = self.until.saturating_sub(clock::real_now());
            if left == 0 {
                made.notes.push("The dump was not finished in time.".into());
                break;
            }
            let waited = self.is_done.wait_timeout(made, Duration::from_nanos(left));
            made = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let (mut threads, notes) = (made.threads.clone(), made.notes.clone());
        drop(made);
        threads.sort_by_cached_key(|thread| {
            let longest = thread.scopes.iter().map(|open| open.elapsed).max();
            (Reverse(longest), !thread.asked, thread.thread.activity != Activity::Running, thread.thread.id)
        });
        Dump { process: state::this_process(), began, threads, notes }
    }
}

fn after(duration: Duration) -> u64 {
    clock::real_now().saturating_add(crate::time::nanos(duration))
}

/// For each thread that may be in scopes: its number, and the address of its pointer to its innermost scope frame.
fn frame_words() -> HashMap<u32, u64> {
    threads_in_slots().collect()
}

fn frame_word_of(tid: u32) -> Option<u64> {
    threads_in_slots().find(|&(of, _)| of == tid).map(|(_, word)| word)
}

fn threads_in_slots() -> impl Iterator<Item = (u32, u64)> {
    let slots = watchdog::global().slots.iter_indexed();
    slots.filter_map(|(_, slot)| slot.thread()).map(|(tid, word)| (tid, word as u64))
}

/// The part of the dump about one thread. Its stack has addresses for names: [`Making::name`] finds the names later.
fn dumped(copy: &Copy, thread: Thread, raw: &mut RawStack, asked: bool) -> ThreadDump {
    let open = |scope: &ScopeCopy| {
        let elapsed = Duration::from_nanos(copy.at.saturating_sub(scope.entered));
        Some(OpenScope { scope: look::info(scope, copy.is_consistent)?, elapsed })
    };
    let mut notes = copy.notes();
    if copy.scopes.is_cut {
        notes.push("There are more scopes around these.".into());
    }
    notes.append(&mut raw.notes);
    let nameless = |address: u64| Frame { offset: address, ..Frame::with_name(format!("{address:#x}")) };
    let frames = raw.frames.iter().map(|frame| nameless(frame.address)).collect();
    // The thread that asked for the dump is blocked only because it waits for the dump.
    let thread = if asked { Thread { activity: Activity::Running, ..thread } } else { thread };
    ThreadDump {
        thread,
        asked,
        scopes: copy.scopes.scopes().iter().filter_map(open).collect(),
        stack: Stack { frames, truncated: raw.truncated, approximate: raw.approximate },
        notes,
    }
}
