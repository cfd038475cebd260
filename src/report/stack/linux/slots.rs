//! Requests that threads copy their own stacks, and the protocol between the requester and the signal handler.
//!
//! A *slot* carries one request. Its word holds a phase and a number that grows with each request. In this order:
//!
//! - `FREE` -> `TAKEN`: a requester has the slot, and writes the request.
//! - `TAKEN` -> `ARMED`: the request is there. Then the signal is sent.
//! - `ARMED` -> `COPYING`: the handler, on the thread that the request names, has the slot.
//! - `COPYING` -> `DONE`: the copy is there. The requester takes it and makes the slot `FREE`.
//! - `ARMED` -> `TAKEN` -> `FREE`: the requester does not wait any longer. A handler that comes later finds another word.
//! - `COPYING` -> `LEFT` -> `OVER`: the requester does not wait any longer, but the handler still writes. When the
//!   handler has written all, it makes the slot `OVER`. The next requester takes the slot from `OVER`, and frees the
//!   copy in it. So memory that a handler may write to is never used for anything else.
//!
//! Invariants:
//! 1. One party owns the contents of a slot: the requester in `TAKEN` and `DONE`, the handler in `COPYING` and `LEFT`,
//!    and in `OVER` the requester that takes the slot next. In `ARMED` nobody touches the contents; in `FREE` there are
//!    none.
//! 2. Only the owner may store the word. Every other step is a compare-exchange of the whole word, so it is never made
//!    on a later request.

use std::ptr;
use std::time::Duration;

use super::super::copy::{Contents, Registers, State, Words};
use super::super::reason::Reason;
use super::memory::PreparedMemory;
use super::spare::Copy;
use super::system::{is_gone, wait, wake};
use crate::sync::fork::InChild;
use crate::sync::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use crate::time::{clock, nanos};

/// How many requests can be open at a time.
const SLOTS: usize = 32;

/// How much longer a requester waits if the handler has begun the copy.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often a waiting requester looks whether the thread has ended, in nanoseconds.
const GLANCE: libc::c_long = 1_000_000;

const FREE: u32 = 0;
const TAKEN: u32 = 1;
const ARMED: u32 = 2;
const COPYING: u32 = 3;
const DONE: u32 = 4;
const LEFT: u32 = 5;
const OVER: u32 = 6;
const PHASES: u32 = 7;

/// One request: see the protocol above.
struct Slot {
    word: AtomicU32,
    tid: AtomicU32,
    frame_word: AtomicU64,
    #[cfg(feature = "profile")]
    visit_word: AtomicU64,
    /// The address of a `Contents`.
    contents: AtomicUsize,
}

impl Slot {
    const fn new() -> Self {
        Self {
            word: AtomicU32::new(FREE),
            tid: AtomicU32::new(0),
            frame_word: AtomicU64::new(0),
            #[cfg(feature = "profile")]
            visit_word: AtomicU64::new(0),
            contents: AtomicUsize::new(0),
        }
    }

    fn step(&self, word: u32, phase: u32) -> bool {
        let next = word & !PHASES | phase;
        // Acquire: pairs with the Release of the step before, so that its contents are seen. Release: pairs with the Acquire
        // of the next step.
        self.word.compare_exchange(word, next, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Takes the contents out of a slot that the caller owns: in `TAKEN` or `DONE`.
    fn take(&self) -> Copy {
        let contents = ptr::with_exposed_provenance_mut::<Contents>(self.contents.load(Ordering::Relaxed));
        // SAFETY: the address is that of a box that `Armed::new` has put here. By invariant 1 the caller owns it, and takes it
        // one time: the slot is made free, or is armed with another box, before anybody can take from it again.
        Copy::from_contents(unsafe { Box::from_raw(contents) })
    }

    fn free(&self, word: u32) {
        // Release: pairs with the Acquire of the step to `TAKEN`.
        self.word.store(word & !PHASES | FREE, Ordering::Release);
    }

    fn words(&self) -> Words {
        Words {
            frame: self.frame_word.load(Ordering::Relaxed),
            #[cfg(feature = "profile")]
            visit: self.visit_word.load(Ordering::Relaxed),
        }
    }

    /// Copies the calling thread, if this slot asks for it. Runs in the signal handler.
    fn serve(&self, tid: u32, registers: Registers, has_room: bool) {
        // Acquire: pairs with the Release in `Armed::new`.
        let word = self.word.load(Ordering::Acquire);
        // `self.tid` may already be that of a later request. Then the slot's word is no longer `word`, so the step fails.
        if word & PHASES != ARMED || self.tid.load(Ordering::Relaxed) != tid || !self.step(word, COPYING) {
            return;
        }
        let contents = ptr::with_exposed_provenance_mut::<Contents>(self.contents.load(Ordering::Relaxed));
        // SAFETY: the address is that of a box that `Armed::new` has put here. By invariant 1 the handler owns it now.
        let contents = unsafe { &mut *contents };
        if has_room {
            contents.fill(registers, self.words(), &PreparedMemory);
            contents.is_consistent = true;
            if contents.stack.registers.is_none() {
                contents.because(Reason::Unreadable);
            }
        } else {
            contents.because(Reason::NoRoom);
        }
        let word = word & !PHASES | COPYING;
        if self.step(word, DONE) {
            wake(&self.word);
        } else {
            // The step to `DONE` fails only if the requester has left, because nobody else changes the phase `COPYING`.
            self.step(word & !PHASES | LEFT, OVER);
        }
    }
}

static ALL: [Slot; SLOTS] = [const { Slot::new() }; SLOTS];

/// Frees every slot, in a forked child. No other thread is in the child, so nobody serves a request or waits for one.
/// The memory of the copies is leaked.
extern "C" fn forget_requests() {
    for slot in &ALL {
        // Relaxed: this is the child's only thread, and no handler is running on it.
        slot.word.store(FREE, Ordering::Relaxed);
    }
}

pub(super) fn prepare_for_forks() {
    static IN_CHILD: InChild = InChild::new(forget_requests);
    IN_CHILD.install();
}

/// Runs in the signal handler. Copies the calling thread into each slot whose request names it.
pub(super) fn serve(tid: u32, registers: Registers, has_room: bool) {
    for slot in &ALL {
        slot.serve(tid, registers, has_room);
    }
}

/// A request to a thread to copy its stack: the slot, and the slot's word as the request stored it.
#[derive(Debug)]
pub(super) struct Armed {
    slot: usize,
    word: u32,
    tid: u32,
}

impl Armed {
    pub(super) fn new(mut copy: Copy, words: Words) -> Result<Self, Copy> {
        for (index, slot) in ALL.iter().enumerate() {
            // Relaxed: the step has the ordering.
            let word = slot.word.load(Ordering::Relaxed);
            if !matches!(word & PHASES, FREE | OVER) || !slot.step(word, TAKEN) {
                continue;
            }
            if word & PHASES == OVER {
                drop(slot.take());
            }
            let tid = copy.tid;
            slot.tid.store(tid, Ordering::Relaxed);
            slot.frame_word.store(words.frame, Ordering::Relaxed);
            #[cfg(feature = "profile")]
            slot.visit_word.store(words.visit, Ordering::Relaxed);
            let contents = Box::into_raw(copy.into_contents());
            slot.contents.store(contents.expose_provenance(), Ordering::Relaxed);
            let word = (word & !PHASES).wrapping_add(PHASES + 1) | ARMED;
            // Release: pairs with the Acquire in `serve`.
            slot.word.store(word, Ordering::Release);
            return Ok(Self { slot: index, word, tid });
        }
        copy.because(Reason::TooMany);
        Err(copy)
    }

    fn slot(&self) -> &'static Slot {
        &ALL[self.slot]
    }

    fn in_phase(&self, phase: u32) -> u32 {
        self.word & !PHASES | phase
    }

    /// Tries to withdraw the request. `Err`: it is withdrawn, and this is the copy, which has no stack and notes
    /// `reason`. `Ok`: it is too late, because the thread has taken the request. This is the request, to wait with.
    pub(super) fn cancel(self, reason: Reason) -> Result<Self, Copy> {
        match self.cancel_now() {
            Some(mut copy) => {
                std::mem::forget(self);
                copy.because(reason);
                Err(copy)
            }
            None => Ok(self),
        }
    }

    fn cancel_now(&self) -> Option<Copy> {
        let slot = self.slot();
        // The slot stays `TAKEN` until the copy has been moved out: no other request can get the slot meanwhile.
        if !slot.step(self.word, TAKEN) {
            return None;
        }
        let copy = slot.take();
        slot.free(self.word);
        Some(copy)
    }

    /// Waits for the copy.
    pub(super) fn wait(self, at_most: Duration) -> Copy {
        let mut copy = self.wait_for(at_most);
        std::mem::forget(self);
        if copy.is_consistent {
            copy.state = State::Running;
        }
        copy
    }

    fn wait_for(&self, at_most: Duration) -> Copy {
        let slot = self.slot();
        let deadline = clock::real_now().saturating_add(nanos(at_most));
        let last = deadline.saturating_add(nanos(PATIENCE));
        loop {
            // Acquire: pairs with the Release of the step to `DONE`.
            let word = slot.word.load(Ordering::Acquire);
            if word == self.in_phase(DONE) {
                let copy = slot.take();
                slot.free(self.word);
                return copy;
            }
            let now = clock::real_now();
            if word == self.word {
                let reason = if is_gone(self.tid) {
                    Some(Reason::Gone)
                } else {
                    (now >= deadline).then_some(Reason::NotTaken)
                };
                if let Some(reason) = reason
                    && let Some(mut copy) = self.cancel_now()
                {
                    copy.because(reason);
                    return copy;
                }
            } else if now >= last && slot.step(self.in_phase(COPYING), LEFT) {
                let mut copy = Copy::new(self.tid);
                copy.at = now;
                copy.because(Reason::Unfinished);
                return copy;
            }
            wait(&slot.word, word, GLANCE);
        }
    }
}

impl Drop for Armed {
    /// The watchdog may run this: it drops requests that no reporter takes. So this must not wait.
    fn drop(&mut self) {
        if self.cancel_now().is_some() {
            return;
        }
        let slot = self.slot();
        // If the handler still copies, `LEFT` tells it that nobody waits any more. If that step fails, the copy is
        // done, so it is dropped here.
        if !slot.step(self.in_phase(COPYING), LEFT) && slot.step(self.in_phase(DONE), TAKEN) {
            drop(slot.take());
            slot.free(self.word);
        }
    }
}
