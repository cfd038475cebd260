//! Requests that a thread serves in a signal handler, and the protocol between the requester and the handler.
//!
//! A *slot* carries one request. Its word holds a phase and a number that grows with each request. In this order:
//!
//! - `FREE` -> `TAKEN`: a requester has the slot, and writes the request.
//! - `TAKEN` -> `ARMED`: the request is there. Then the signal is sent.
//! - `ARMED` -> `SERVING`: the handler, on the thread that the request names, has the slot.
//! - `SERVING` -> `DONE`: the request is served. The requester takes its value and makes the slot `FREE`.
//! - `ARMED` -> `TAKEN` -> `FREE`: the requester does not wait any longer. A handler that comes later finds another
//!   word.
//! - `SERVING` -> `LEFT` -> `OVER`: the requester does not wait any longer, but the handler still writes. When the
//!   handler has written all, it makes the slot `OVER`. The next requester takes the slot from `OVER`, and drops the
//!   value in it. So memory that a handler may write to is never used for anything else.
//!
//! Invariants:
//! 1. One party owns the value in a slot: the requester in `TAKEN` and `DONE`, the handler in `SERVING` and `LEFT`, and
//!    in `OVER` the requester that takes the slot next. In `ARMED` nobody touches the value; in `FREE` there is none.
//! 2. Only the owner may store the word. Every other step is a compare-exchange of the whole word, so it is never made
//!    on a later request.
//! 3. A forked child frees all slots, but their numbers stay. So no slot of the child gets a word that a request from
//!    before the fork has.
//!
//! The numbers repeat after 2^29 requests of one slot. To take a new request for an old one, a handler would have to
//! stand still for so long between its look at the word and its step.

#[cfg(all(test, timebox_loom))]
mod model;

use std::mem::{self, ManuallyDrop, MaybeUninit};

use super::primitive::{AtomicU32, Ordering, UnsafeCell, const_fn, mutant};

const FREE: u32 = 0;
const TAKEN: u32 = 1;
const ARMED: u32 = 2;
const SERVING: u32 = 3;
const DONE: u32 = 4;
const LEFT: u32 = 5;
const OVER: u32 = 6;
const PHASE: u32 = 7;
/// The bits above the phase count requests.
const NUMBER: u32 = PHASE + 1;

struct Slot<T> {
    word: AtomicU32,
    thread: AtomicU32,
    value: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: invariant 1: one thread at a time touches the value, as with a mutex.
unsafe impl<T: Send> Sync for Slot<T> {}

impl<T> Slot<T> {
    const_fn! {
        fn new() -> Self {
            let value = UnsafeCell::new(MaybeUninit::uninit());
            Self { word: AtomicU32::new(FREE), thread: AtomicU32::new(0), value }
        }
    }

    fn step(&self, word: u32, phase: u32) -> bool {
        // Acquire: pairs with the Release of the step before, so that this thread sees what was written to the value.
        // Release: pairs with the Acquire of the next step.
        self.step_by(word, phase, Ordering::AcqRel)
    }

    fn step_by(&self, word: u32, phase: u32, order: Ordering) -> bool {
        let next = word & !PHASE | phase;
        self.word.compare_exchange(word, next, order, Ordering::Relaxed).is_ok()
    }

    /// The handler's last step. `is_loose` is set only by a mutant.
    fn end(&self, word: u32, phase: u32, is_loose: bool) -> bool {
        if is_loose { self.step_by(word, phase, Ordering::Relaxed) } else { self.step(word, phase) }
    }

    /// Takes the value out of a slot that the caller owns: in `TAKEN` or `DONE`.
    fn take(&self) -> T {
        // SAFETY: `ask` has written the value. By invariant 1 the caller owns it, and takes it one time: the slot is
        // freed, or gets another value, before anybody can take from it again.
        self.value.with_mut(|value| unsafe { (*value).assume_init_read() })
    }

    fn free(&self, word: u32) {
        // Release: pairs with the Acquire of the step to `TAKEN`.
        let order = if mutant!(LooseFree) { Ordering::Relaxed } else { Ordering::Release };
        self.word.store(word & !PHASE | FREE, order);
    }

    fn ask(&self, thread: u32, value: T) -> Result<Request<'_, T>, T> {
        // Relaxed: the step in `begin` has the ordering.
        let word = self.word.load(Ordering::Relaxed);
        let is_taken = matches!(word & PHASE, FREE | OVER) && self.begin(word);
        if !is_taken {
            return Err(value);
        }
        if word & PHASE == OVER {
            drop(self.take());
        }
        self.thread.store(thread, Ordering::Relaxed);
        // SAFETY: by invariant 1 this thread owns the value.
        self.value.with_mut(|place| unsafe { (*place).write(value) });
        let number = if mutant!(NoNumber) { word & !PHASE } else { (word & !PHASE).wrapping_add(NUMBER) };
        let word = number | ARMED;
        // Release: pairs with the Acquire in `serve`.
        let order = if mutant!(LooseArm) { Ordering::Relaxed } else { Ordering::Release };
        self.word.store(word, order);
        Ok(Request { slot: self, word })
    }

    fn begin(&self, word: u32) -> bool {
        if mutant!(PlainSlot) {
            self.word.store(word & !PHASE | TAKEN, Ordering::Release);
            return true;
        }
        self.step(word, TAKEN)
    }

    /// Serves the request, and returns `true`. `false`: there is no request for this thread in the slot.
    fn serve(&self, thread: u32, serve: impl FnOnce(&mut T), wake: impl FnOnce(&AtomicU32)) -> bool {
        // Acquire: pairs with the Release in `ask`. So `self.thread` is that of this request or of a later request. If
        // it is that of a later request, the slot's word is no longer `word`, and the step fails.
        let word = self.word.load(if mutant!(LooseLook) { Ordering::Relaxed } else { Ordering::Acquire });
        let is_for_it = || mutant!(NoThread) || self.thread.load(Ordering::Relaxed) == thread;
        if word & PHASE != ARMED || !is_for_it() || !self.claim(word) {
            return false;
        }
        let word = word & !PHASE | SERVING;
        let is_early = mutant!(EarlyDone) && self.step(word, DONE);
        // SAFETY: `ask` has written the value. By invariant 1 the handler owns it now.
        self.value.with_mut(|value| serve(unsafe { (*value).assume_init_mut() }));
        if is_early || self.end(word, DONE, mutant!(LooseDone)) {
            wake(&self.word);
        } else if !mutant!(NoOver) {
            // The step to `DONE` fails only if the requester has left, because nobody else changes the phase `SERVING`.
            self.end(word & !PHASE | LEFT, OVER, mutant!(LooseOver));
        }
        true
    }

    fn claim(&self, word: u32) -> bool {
        if mutant!(PlainClaim) {
            self.word.store(word & !PHASE | SERVING, Ordering::Release);
            return true;
        }
        self.step(word, SERVING)
    }
}

pub(crate) struct Slots<T, const N: usize>([Slot<T>; N]);

impl<T, const N: usize> Slots<T, N> {
    #[cfg(not(timebox_loom))]
    pub(crate) const fn new() -> Self {
        Self([const { Slot::new() }; N])
    }

    #[cfg(timebox_loom)]
    pub(crate) fn new() -> Self {
        Self(std::array::from_fn(|_| Slot::new()))
    }

    /// Asks a thread to serve a request with this value. The caller must then send the signal. `Err`: all slots are in
    /// use; here is the value.
    pub(crate) fn ask(&self, thread: u32, mut value: T) -> Result<Request<'_, T>, T> {
        for slot in &self.0 {
            match slot.ask(thread, value) {
                Ok(request) => return Ok(request),
                Err(back) => value = back,
            }
        }
        Err(value)
    }

    /// Runs in the signal handler, on the thread `thread`, and serves each request that is for this thread. `wake`
    /// wakes the thread that sleeps on the word.
    pub(crate) fn serve(&self, thread: u32, mut serve: impl FnMut(&mut T), wake: impl Fn(&AtomicU32)) {
        for slot in &self.0 {
            if slot.serve(thread, &mut serve, &wake) && mutant!(FirstOnly) {
                return;
            }
        }
    }

    /// Frees every slot, in a forked child. No other thread is in the child, so nobody serves a request. The values are
    /// leaked.
    pub(crate) fn forget(&self) {
        for slot in &self.0 {
            // Relaxed: this is the child's only thread, and no handler is running on it.
            let word = if mutant!(NumbersAgain) { 0 } else { slot.word.load(Ordering::Relaxed) };
            slot.word.store(word & !PHASE | FREE, Ordering::Relaxed);
        }
    }
}

/// A request: the slot, and the slot's word as `ask` has stored it. The drop gives the request up.
pub(crate) struct Request<'a, T> {
    slot: &'a Slot<T>,
    word: u32,
}

/// The state of a request that is not served yet.
pub(crate) struct Unserved<'a> {
    pub(crate) has_begun: bool,
    /// The slot's word. It is `value` until the state of the request changes. When the request is served, the handler
    /// wakes the thread that sleeps on this word.
    pub(crate) word: &'a AtomicU32,
    pub(crate) value: u32,
}

#[derive(Debug)]
pub(crate) enum Waited<T> {
    Served(T),
    /// The request was given up before the thread has begun to serve it.
    Withdrawn(T),
    /// The request was given up while the thread served it.
    Left,
    /// The request comes from the process that this process was forked from.
    Forgotten,
}

impl<T> Request<'_, T> {
    fn in_phase(&self, phase: u32) -> u32 {
        self.word & !PHASE | phase
    }

    /// Takes the value back. `None`: the thread has begun to serve the request.
    fn withdraw(&self) -> Option<T> {
        // The slot stays `TAKEN` until the value has been moved out: no other request can get the slot meanwhile.
        if !self.slot.step(self.word, TAKEN) {
            return None;
        }
        let value = self.slot.take();
        self.slot.free(self.word);
        Some(value)
    }

    /// Leaves the value to the thread that is serving the request. `false`: no thread is serving it.
    fn leave(&self) -> bool {
        let phase = if mutant!(EarlyFree) { FREE } else { LEFT };
        self.slot.step(self.in_phase(SERVING), phase)
    }

    /// Tries to give the request up. `Ok`: it is given up; here is the value. `Err`: the thread has begun to serve it;
    /// here is the request.
    pub(crate) fn cancel(self) -> Result<T, Self> {
        let Some(value) = self.withdraw() else { return Err(self) };
        mem::forget(self);
        Ok(value)
    }

    /// Waits until the request is served. Until then, calls `goes_on` again and again. `goes_on` sleeps and returns
    /// `true`, or returns `false` to give the request up.
    pub(crate) fn wait(self, mut goes_on: impl FnMut(&Unserved<'_>) -> bool) -> Waited<T> {
        loop {
            // Acquire: pairs with the Release of the step to `DONE`.
            let value = self.slot.word.load(Ordering::Acquire);
            if value == self.in_phase(DONE) {
                let request = ManuallyDrop::new(self);
                let value = request.slot.take();
                request.slot.free(request.word);
                return Waited::Served(value);
            }
            let has_begun = value == self.in_phase(SERVING);
            if !has_begun && value != self.word {
                mem::forget(self);
                return Waited::Forgotten;
            }
            if goes_on(&Unserved { has_begun, word: &self.slot.word, value }) {
                continue;
            }
            if has_begun {
                if self.leave() {
                    mem::forget(self);
                    return Waited::Left;
                }
            } else if let Some(value) = self.withdraw() {
                mem::forget(self);
                return Waited::Withdrawn(value);
            }
        }
    }
}

impl<T> Drop for Request<'_, T> {
    /// This must not wait, because the watchdog may run it: the watchdog drops requests that no reporter takes.
    fn drop(&mut self) {
        // If the handler still writes, the step to `LEFT` tells the handler that nobody waits any more. If that step
        // fails, the request is served, so the value is dropped here.
        if self.withdraw().is_some() || self.leave() || mutant!(ForgetfulDrop) {
            return;
        }
        if self.slot.step(self.in_phase(DONE), TAKEN) {
            drop(self.slot.take());
            self.slot.free(self.word);
        }
    }
}

impl<T> std::fmt::Debug for Request<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("number", &(self.word / NUMBER)).finish_non_exhaustive()
    }
}
