//! A thread that a report or a profile copies, and how such a copy begins.

use std::time::Duration;

use super::super::copy::{CpuTimes, State, Words};
use super::super::reason::Reason;
use super::memory::Memory;
use super::signal;
use super::slots::Armed;
use super::spare::{self, Copy};
use super::task::{self, Look, Task};

/// A thread of this process, and its open files in `/proc`, which say what it does.
pub(crate) struct Target {
    tid: u32,
    words: Words,
    task: Task,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("tid", &self.tid).finish_non_exhaustive()
    }
}

impl Target {
    /// `frame_word`: the address of the thread's pointer to its innermost frame; 0 if the thread has no scopes.
    pub(crate) fn new(tid: u32, frame_word: u64) -> Self {
        Self { tid, words: Words::of_frame(frame_word), task: Task::open(tid) }
    }

    /// A target for a profile. A copy of the thread then has the records of its visits (`thread/visit.rs`) in place of
    /// its scopes. Of the stack it has the part from the innermost function to the outermost visit. `word` is the
    /// address of the thread's pointer to the record of its innermost visit.
    #[cfg(feature = "profile")]
    pub(crate) fn with_visits(tid: u32, word: u64) -> Self {
        Self { tid, words: Words { frame: 0, visit: word }, task: Task::open(tid) }
    }

    pub(crate) fn times(&self) -> Option<CpuTimes> {
        self.task.times()
    }
}

#[derive(Debug)]
pub(crate) enum Begun {
    /// The copy is complete. If it has no stack, it notes why.
    Copied(Copy),
    /// The thread runs, and was asked to copy its own stack.
    Asked(Request),
}

/// Does in advance what the first [`begin`] would do. Also allocates `looks` copies (at least a few), so that
/// [`begin_prepared`] finds memory.
pub(crate) fn prepare(looks: usize) {
    Memory::prepare();
    signal::install();
    spare::prepare(looks);
}

/// Allocates more copies for [`begin_prepared`] if few are left.
pub(crate) fn refill() {
    spare::refill();
}

/// Copies a thread if it is blocked; asks it to copy itself if it runs. Does not wait for the thread. Takes no lock
/// that the program may hold, except the allocator's if no spare copy is left.
pub(crate) fn begin(target: &Target) -> Begun {
    begin_in(Copy::new(target.tid), target)
}

/// As [`begin`], but allocates nothing once [`prepare`] has been called. `None`: no spare copy is left.
pub(crate) fn begin_prepared(target: &Target) -> Option<Begun> {
    Some(begin_in(Copy::of_spare(target.tid)?, target))
}

fn begin_in(mut copy: Copy, target: &Target) -> Begun {
    Memory::prepare();
    signal::install();
    if !Memory::is_readable() {
        copy.because(Reason::NoMemory);
    }
    match target.task.look(&mut copy, target.words) {
        Look::Copied | Look::Gone => return Begun::Copied(copy),
        Look::Running => {}
        Look::Refused => copy.because(Reason::NoTaskFiles),
    }
    if copy.reasons.has(Reason::NoMemory) {
        return Begun::Copied(copy);
    }
    ask(target, copy)
}

pub(in crate::report::stack) fn ask(target: &Target, copy: Copy) -> Begun {
    match signal::ask(copy, target.words) {
        Ok(armed) => Begun::Asked(Request { armed, frame_word: target.words.frame }),
        Err(copy) => Begun::Copied(without_stack(copy, target.words.frame)),
    }
}

/// Completes a copy that has no stack: adds the scopes of the thread (which may not be of one moment), or notes that
/// the thread is gone.
fn without_stack(mut copy: Copy, frame_word: u64) -> Copy {
    if copy.reasons.has(Reason::Gone) {
        copy.state = State::Gone;
    } else if frame_word != 0 && task::scopes_of_running(&mut copy.scopes, frame_word) {
        copy.because(Reason::Inconsistent);
    }
    copy
}

/// A request to a running thread to copy its own stack. The copy may still have to come: see [`wait`](Self::wait).
#[derive(Debug)]
pub(crate) struct Request {
    armed: Armed,
    frame_word: u64,
}

impl Request {
    /// Waits for the copy. If the thread does not copy its stack in time, the result has no stack, and says why.
    pub(crate) fn wait(self, at_most: Duration) -> Copy {
        let copy = self.armed.wait(at_most);
        if copy.is_consistent { copy } else { without_stack(copy, self.frame_word) }
    }
}
