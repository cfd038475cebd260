//! Finds out where a pending future waits.
//!
//! A pending future is on no thread, so there is no stack that could be taken. But each leaf of it (a timer, a socket,
//! a lock, a channel) has cloned the waker, during a poll, for whoever will wake the task. So one poll is made with a
//! waker that takes the stack when it is cloned. The stack has the whole chain of async functions down to the leaf, and
//! each branch of a `join!` or `select!` gives a stack of its own.
//!
//! There are limits. A leaf that keeps the waker of an earlier poll, and does not compare it with the new one, clones
//! nothing: so the leaf is not seen. The children of a `FuturesUnordered` have wakers of their own, and the children of
//! a `JoinSet` are tasks of their own. So for such a set, the stack shows only the place where the set waits for its
//! children.

use std::collections::BTreeSet;
use std::mem;
use std::ptr;
use std::task::{Context, Waker};
use std::thread;

use super::backtrace::OwnStack;
use super::contents::{Frame, Stack, note_on_nameless};
use super::foreign::crate_of;
use super::stack::raw::RawStack;
use super::stack::{self, Names, StackCopy, Unwinder};
#[cfg(feature = "testing")]
use crate::sync::SetOnce;
use crate::sync::traced_waker::with_traced;
use crate::sync::{Mutex, lock};

/// How many stacks are taken in one poll, at most.
const MOST_STACKS: usize = 32;

/// The stacks that one poll took. Their functions have no names yet.
#[derive(Debug, Default)]
pub(crate) struct AwaitCopies {
    stacks: Vec<Taken>,
    /// How many stacks were not taken, because the poll had taken [`MOST_STACKS`] already.
    left_out: u32,
    /// How many times another thread cloned or woke the waker. No stack is taken for such a clone or wake.
    elsewhere: u32,
}

/// A stack, from the innermost frame to the traced poll, or further out.
#[derive(Debug)]
enum Taken {
    /// A copy by this crate. `poll` is an address in the stack frame of the traced poll.
    Copy { copy: Box<StackCopy>, poll: u64 },
    /// A backtrace of std, on systems on which this crate copies no stacks.
    ByStd(OwnStack),
}

#[derive(Debug, Default)]
pub(crate) struct Awaits {
    /// One stack for each place at which the future waits. It goes from the leaf to the future that was polled.
    pub(crate) stacks: Vec<Stack>,
    /// What is not certain about the stacks, in sentences.
    pub(crate) notes: Vec<String>,
}

/// Polls the future, and copies a stack each time the future clones or wakes the waker. Each clone is a clone of the
/// task's own waker, so no clone refers to anything that this function owns.
#[inline(never)] // stacks end at its name
pub(crate) fn traced_poll<R>(waker: &Waker, poll: &mut dyn FnMut(&mut Context<'_>) -> R) -> (R, AwaitCopies) {
    let copies = Mutex::new(AwaitCopies::default());
    let polled_on = thread::current().id();
    let here = ptr::from_ref(&copies).addr() as u64;
    let on_clone = || {
        if thread::current().id() != polled_on {
            lock(&copies).elsewhere += 1;
        } else if lock(&copies).stacks.len() == MOST_STACKS {
            lock(&copies).left_out += 1;
        } else {
            let taken = Taken::new(here);
            lock(&copies).stacks.push(taken);
        }
    };
    let result = with_traced(waker, &on_clone, |cx| poll(cx));
    let copies = mem::take(&mut *lock(&copies));
    (result, copies)
}

/// For tests of this crate: calls [`traced_poll`]. Returns the result of the poll, and a closure. The closure finds the
/// names of the functions in the copied stacks. It returns the stacks, and notes on what is not certain about them.
#[cfg(feature = "testing")]
#[doc(hidden)]
pub fn awaits_of<R>(
    waker: &Waker,
    mut poll: impl FnMut(&mut Context<'_>) -> R,
) -> (R, impl FnOnce() -> (Vec<Stack>, Vec<String>)) {
    static TOOLS: SetOnce<Mutex<(Unwinder, Names)>> = SetOnce::new();
    let (result, copies) = traced_poll(waker, &mut poll);
    let resolve = || {
        let tools = TOOLS.get_or_init(|| Mutex::new((Unwinder::new(), Names::new())));
        let (unwinder, names) = &mut *lock(tools);
        let Awaits { stacks, notes } = copies.resolve(unwinder, names);
        (stacks, notes)
    };
    (result, resolve)
}

impl AwaitCopies {
    /// The unwound stacks, without names, for a profile. The profile's report finds the names later, and then calls
    /// [`places`]. [Backtraces of std](Taken::ByStd) are left out.
    #[cfg(feature = "profile")]
    pub(super) fn unwind(self, unwinder: &mut Unwinder) -> Vec<RawStack> {
        self.stacks.into_iter().filter_map(|taken| taken.unwind(unwinder).ok()).collect()
    }

    /// Finds the names of the functions in the stacks, and joins equal stacks. This takes milliseconds, so it is for
    /// the reporter thread.
    pub(crate) fn resolve(self, unwinder: &mut Unwinder, names: &mut Names) -> Awaits {
        let Self { stacks, left_out, elsewhere } = self;
        let mut awaits = Awaits::default();
        let Awaits { stacks: distinct, notes } = &mut awaits;
        let stacks = stacks.into_iter().map(|taken| taken.resolve(unwinder, names, notes)).collect();
        let equal;
        (*distinct, equal) = places(stacks);
        let nameless: BTreeSet<&str> = distinct.iter().flat_map(Stack::nameless_modules).collect();
        notes.extend(nameless.into_iter().map(note_on_nameless));
        if distinct.is_empty() && elsewhere == 0 {
            let note = "No waker was cloned: the future waits with the waker of an earlier poll, or nothing will wake it.";
            notes.push(note.to_owned());
        }
        for (count, one, many) in [
            (equal, "branch waits where another one waits.", "branches wait where others wait."),
            (left_out, "more branch is not shown.", "more branches are not shown."),
            (
                elsewhere,
                "waker was cloned on another thread, of which no stack was taken.",
                "wakers were cloned on other threads, of which no stacks were taken.",
            ),
        ] {
            if count > 0 {
                notes.push(format!("{count} {}", if count == 1 { one } else { many }));
            }
        }
        awaits
    }
}

impl Taken {
    fn new(poll: u64) -> Self {
        match stack::own(poll) {
            Some(copy) => Self::Copy { copy, poll },
            None => Self::ByStd(OwnStack::take()),
        }
    }

    fn resolve(self, unwinder: &mut Unwinder, names: &mut Names, notes: &mut Vec<String>) -> Stack {
        let mut raw = match self.unwind(unwinder) {
            Ok(raw) => raw,
            Err(stack) => return stack.resolve(),
        };
        for note in mem::take(&mut raw.notes) {
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
        names.resolve(&raw, None)
    }

    fn unwind(self, unwinder: &mut Unwinder) -> Result<RawStack, OwnStack> {
        let (copy, poll) = match self {
            Self::Copy { copy, poll } => (copy, poll),
            Self::ByStd(stack) => return Err(stack),
        };
        let mut raw = unwinder.unwind(&copy);
        // Keeps only the frames inside the traced poll. The first frame with a `cfa` above `poll` is outside the traced
        // poll. A `cfa` of `u64::MAX` is unknown.
        let outside = raw.frames.iter().position(|frame| frame.cfa > poll && frame.cfa != u64::MAX);
        if let Some(outside) = outside {
            raw.frames.truncate(outside);
            raw.truncated = false;
        }
        Ok(raw)
    }
}

/// Keeps one stack for each place: one of several equal stacks, and the longest of several stacks of one leaf future.
/// Returns the kept stacks, and how many stacks were dropped because an equal stack was kept.
pub(super) fn places(stacks: Vec<Stack>) -> (Vec<Stack>, u32) {
    let mut distinct: Vec<Stack> = Vec::new();
    let mut equal = 0;
    for mut stack in stacks {
        trim(&mut stack);
        if distinct.contains(&stack) {
            equal += 1;
        } else if let Some(other) = distinct.iter_mut().find(|other| is_of_one_leaf(other, &stack)) {
            if other.frames.len() < stack.frames.len() {
                *other = stack;
            }
        } else {
            distinct.push(stack);
        }
    }
    (distinct, equal)
}

/// Whether both stacks come from one leaf future. Such a future may clone the waker in several places: itself, and in
/// functions that it calls.
fn is_of_one_leaf(a: &Stack, b: &Stack) -> bool {
    let mut pairs = a.frames.iter().rev().zip(b.frames.iter().rev());
    let Some(at) = pairs.position(|(a, b)| !is_same_place(a, b)) else { return false };
    let is_innermost = at + 1 == a.frames.len() || at + 1 == b.frames.len();
    let (a, b) = (&a.frames[a.frames.len() - 1 - at], &b.frames[b.frames.len() - 1 - at]);
    is_innermost && a.foreign && a.function == b.function
}

/// Whether both frames are in the same function at the same line. If one of the lines is not known, the offsets are
/// compared.
fn is_same_place(a: &Frame, b: &Frame) -> bool {
    let is_same_line = match (a.line, b.line) {
        (Some(_), Some(_)) => (&a.file, a.line) == (&b.file, b.line),
        _ => a.offset == b.offset,
    };
    a.function == b.function && is_same_line
}

/// Leaves only the frames of the future. The traced waker and the frames inside it have taken the stack, so they are
/// removed. The traced poll, the frames between it and the future, and all frames outside it are removed too.
///
/// Traced polls may be nested. Then a clone goes through each traced waker, from the inside to the outside, and each of
/// them takes a stack. So a stack with two traced wakers belongs to the second traced poll from the inside.
fn trim(stack: &mut Stack) {
    let frames = &mut stack.frames;
    let mut polls = (0..frames.len()).filter(|&at| is_traced_poll(&frames[at].function));
    let first_poll = polls.next().unwrap_or(frames.len());
    let wakers: Vec<usize> = (0..first_poll).filter(|&at| is_traced_waker(&frames[at].function)).collect();
    let own_poll = match wakers.len() {
        0 | 1 => first_poll,
        nested => polls.nth(nested - 2).unwrap_or(frames.len()),
    };
    frames.truncate(own_poll);
    while frames.last().is_some_and(|frame| is_between(&frame.function)) {
        frames.pop();
    }
    let inner = wakers.last().map_or(0, |&last| last + 1).min(frames.len());
    let wakers = frames[inner..].iter().take_while(|frame| frame.function.contains("task::wake::Waker"));
    let inner = inner + wakers.count();
    frames.drain(..inner);
}

fn is_traced_poll(function: &str) -> bool {
    function.contains("report::awaits::traced_poll") && !function.contains("{{closure}}")
}

fn is_traced_waker(function: &str) -> bool {
    function.ends_with("sync::traced_waker::clone") || function.ends_with("sync::traced_waker::wake_by_ref")
}

/// Whether a frame of this function may lie between the frame of a traced poll and the frame of the future.
fn is_between(function: &str) -> bool {
    matches!(crate_of(function), Some("timebox" | "core" | "alloc" | "std"))
}
