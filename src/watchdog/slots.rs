//! The per-thread words: what the watchdog reads of each thread, and what the thread keeps for itself.
//!
//! Invariants:
//! 1. Only its thread writes a slot. The watchdog, and nobody else, reads it.
//! 2. `Thread::flag` points to `NO_FLAG`, or to the flag of a node that a frame open on this thread keeps alive.
//!    Only `scope/frame.rs` sets it.
//! 3. A slot, and the timers with the same number, belong to at most one thread; the orphans' slot to all that have none,
//!    and nobody reads it.

#[cfg(not(timebox_loom))]
use super::timers::{Lease, Timers};
#[cfg(not(timebox_loom))]
use super::{Watchdog, global};
#[cfg(not(timebox_loom))]
use crate::sync::AtomicBool;
use crate::sync::{AtomicU64, Ordering, Padded, SetOnce, const_fn};
#[cfg(feature = "testing")]
use crate::test_env::TestEnv;
use crate::time::NEVER;
#[cfg(not(timebox_loom))]
use crate::time::clock;
#[cfg(not(timebox_loom))]
use std::cell::Cell;

#[cfg(not(timebox_loom))]
const PER_CHUNK: usize = 32;
#[cfg(timebox_loom)]
const PER_CHUNK: usize = 2;

/// A thread's deadline, as the watchdog sees it: the last one armed. A past one means nothing.
#[derive(Debug)]
pub(crate) struct Slot(Padded<AtomicU64>);

impl Slot {
    const_fn! {
        pub(crate) fn new() -> Self {
            Self(Padded(AtomicU64::new(NEVER)))
        }
    }

    /// For its own thread.
    #[inline]
    pub(crate) fn get(&self) -> u64 {
        // Relaxed: read by the thread that wrote it, or by a scan, whose fences are in `Watchdog::pass`.
        self.0.0.load(Ordering::Relaxed)
    }

    /// For its own thread.
    #[inline]
    pub(super) fn set(&self, deadline: u64) {
        // Relaxed: the fence of `Watchdog::arm` follows.
        self.0.0.store(deadline, Ordering::Relaxed);
    }
}

impl Default for Slot {
    fn default() -> Self {
        Self::new()
    }
}

/// What there is one of for each number of a slot, in chunks that never move or go. Each has twice as many as the one before.
#[derive(Debug)]
pub(crate) struct ChunkedVec<T> {
    chunks: [SetOnce<Box<[T]>>; CHUNKS],
}

const CHUNKS: usize = 26;

/// Where a number is in chunks of which the first has `first` places, and each twice as many as the one before: which chunk,
/// and its place in that.
pub(super) fn chunk_of(index: usize, first: usize) -> (usize, usize) {
    let chunk = (index / first + 1).ilog2() as usize;
    // As many places lie before a chunk as it has, less those of the first.
    (chunk, index + first - (first << chunk))
}

impl<T: Default> ChunkedVec<T> {
    pub(super) const fn new() -> Self {
        Self { chunks: [const { SetOnce::new() }; CHUNKS] }
    }

    /// The one with this number; it is made if need be.
    pub(super) fn at(&self, index: usize) -> &T {
        let (chunk, at) = chunk_of(index, PER_CHUNK);
        let make = || (0..PER_CHUNK << chunk).map(|_| T::default()).collect();
        &self.chunks[chunk].get_or_init(make)[at]
    }

    /// All that were made: a later chunk may be there before an earlier one.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().filter_map(SetOnce::get).flat_map(|chunk| &chunk[..])
    }
}

/// All slots ever made.
pub(crate) type Slots = ChunkedVec<Slot>;

impl Slots {
    /// The earliest deadline after `floor`.
    pub(super) fn earliest(&self, floor: u64) -> u64 {
        self.iter().map(Slot::get).filter(|&deadline| deadline > floor).min().unwrap_or(NEVER)
    }
}

/// The slots that no thread has.
#[derive(Debug)]
pub(super) struct FreeSlots {
    returned: Vec<usize>,
}

impl FreeSlots {
    pub(super) const fn new() -> Self {
        Self { returned: Vec::new() }
    }

    pub(super) fn take(&mut self) -> Option<usize> {
        self.returned.pop()
    }

    pub(super) fn give_back(&mut self, index: usize) {
        self.returned.push(index);
    }
}

/// What a thread keeps for itself. Nobody else reads it.
#[cfg(not(timebox_loom))]
#[derive(Debug)]
pub(crate) struct Thread {
    /// Checks left until one reads the clock.
    left: Cell<u32>,
    /// How many checks lie between two readings.
    stride: Cell<u32>,
    /// When a check last read the clock.
    looked: Cell<u64>,
    /// The latest reading of the clock by this thread, for whatever reason.
    pub(crate) now: Cell<u64>,
    /// The effective deadline of the innermost scope.
    pub(crate) deadline: Cell<u64>,
    /// Invariant 2.
    flag: Cell<*const AtomicBool>,
    slot: Cell<Option<&'static Slot>>,
    /// The innermost frame; `scope/frame.rs` knows its type.
    pub(crate) frame: Cell<*const ()>,
    /// Its timers, if it has armed any. Invariant 3.
    timers: Cell<Option<&'static Timers>>,
    /// Whether it is the watchdog.
    pub(super) is_watchdog: Cell<bool>,
}

/// The words of the thread that has this, which cannot leave it: it is not `Send`.
#[cfg(not(timebox_loom))]
#[derive(Clone, Copy)]
pub(crate) struct CurrentThread(*const Thread);

#[cfg(not(timebox_loom))]
impl std::ops::Deref for CurrentThread {
    type Target = Thread;

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn deref(&self) -> &Thread {
        // SAFETY: it is that of this thread, and a thread-local without a destructor lives as long as its thread.
        unsafe { &*self.0 }
    }
}

#[cfg(not(timebox_loom))]
static NO_FLAG: AtomicBool = AtomicBool::new(false);
#[cfg(not(timebox_loom))]
static ORPHANS: Slot = Slot::new();

#[cfg(not(timebox_loom))]
thread_local! {
    // No destructor, so that it is there in the destructors of others, and needs no check whether it is.
    static THREAD: Thread = const {
        Thread {
            left: Cell::new(1),
            stride: Cell::new(1),
            looked: Cell::new(0),
            now: Cell::new(0),
            deadline: Cell::new(NEVER),
            flag: Cell::new(&raw const NO_FLAG),
            slot: Cell::new(None),
            frame: Cell::new(std::ptr::null()),
            timers: Cell::new(None),
            is_watchdog: Cell::new(false),
        }
    };
    static REGISTRATION: Registration = const { Registration(Cell::new(None)) };
}

/// How much time should pass between two looks at the clock by checks, in nanoseconds.
#[cfg(not(timebox_loom))]
const LOOK_EVERY: u64 = 50_000;

/// Whether a test has put something in place here, which must be asked each time.
#[cfg(not(timebox_loom))]
fn is_in_seam() -> bool {
    #[cfg(feature = "testing")]
    return !TestEnv::current().is_real();
    #[cfg(not(feature = "testing"))]
    false
}

#[cfg(not(timebox_loom))]
impl Thread {
    /// Runs `f` with the calling thread's words.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn with<R>(f: impl FnOnce(&Thread) -> R) -> R {
        f(&Thread::current())
    }

    /// The calling thread's words. (To have them inside of `LocalKey::with` would keep what is done there from being inlined.)
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn current() -> CurrentThread {
        CurrentThread(THREAD.with(std::ptr::from_ref))
    }

    /// The check: whether nothing speaks for an expiry, as far as can be told without reading the clock. Now and
    /// then it is false so that the clock is read.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn is_quiet(&self) -> bool {
        !self.is_clock_due() && self.deadline.get() > global().reached() && !self.is_flagged()
    }

    /// Counts one check; whether this one should read the clock, with [`look`](Self::look).
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn is_clock_due(&self) -> bool {
        let left = self.left.get().wrapping_sub(1);
        self.left.set(left);
        left == 0
    }

    /// Whether the nearest node of the innermost scope is over.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn is_flagged(&self) -> bool {
        // SAFETY: invariant 2.
        // Relaxed: who acts on it takes the node's lock.
        unsafe { (*self.flag.get()).load(Ordering::Relaxed) }
    }

    /// Reads the clock for a check of what expires at `deadline`, and aims so that the next check to do so is
    /// [`LOOK_EVERY`] away.
    #[cold]
    pub(crate) fn look(&self, deadline: impl FnOnce() -> u64) -> u64 {
        let now = clock::now();
        self.now.set(now);
        let passed = now.saturating_sub(self.looked.replace(now)).max(1);
        let deadline = deadline();
        let stride = u64::from(self.stride.get());
        // The checks may come slower than before: the stride at most doubles.
        let aimed =
            (stride.saturating_mul(LOOK_EVERY) / passed).clamp(1, stride.saturating_mul(2).min(1 << 20));
        if global().is_missing() {
            global().ensure_running();
        }
        let alone = is_in_seam() || deadline.min(self.deadline.get()) != NEVER && self.is_alone();
        let aimed = if alone { 1 } else { u32::try_from(aimed).unwrap_or(1) };
        self.stride.set(aimed);
        self.left.set(aimed);
        now
    }

    /// A look has ended that had more to look at than the clock, very many tokens maybe. What it took does not count, or
    /// each check would look.
    pub(crate) fn end_look(&self) {
        self.looked.set(clock::now());
    }

    /// Has the next check read the clock: an expiry that this thread has seen stays seen.
    pub(crate) fn look_again(&self) {
        self.left.set(1);
    }

    /// Whether no watchdog looks after this thread, so that every check must read the clock.
    fn is_alone(&self) -> bool {
        !global().is_running() || self.slot.get().is_some_and(|slot| std::ptr::eq(slot, &raw const ORPHANS))
    }

    /// This thread's slot.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn slot(&self) -> &'static Slot {
        match self.slot.get() {
            Some(slot) => slot,
            None => self.register(),
        }
    }

    #[cold]
    #[inline(never)]
    fn register(&self) -> &'static Slot {
        super::prepare();
        // In this thread's TLS destructors it is too late to be told of its end: then there is no slot to be had.
        let index = REGISTRATION.try_with(|registration| {
            let index = global().take_slot();
            registration.0.set(Some(index));
            index
        });
        let slot = match index {
            Ok(index) => global().slots.at(index),
            Err(_) => {
                self.restart();
                &ORPHANS
            }
        };
        self.slot.set(Some(slot));
        slot
    }

    /// The timers that belong to this thread, if it has any.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn timers(&self) -> Option<&'static Timers> {
        self.timers.get()
    }

    /// The right to arm timers.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn lease(&self) -> Lease {
        match self.timers.get() {
            // SAFETY: invariant 3.
            Some(timers) => unsafe { Lease::of_own(timers) },
            None => self.find_timers(),
        }
    }

    #[cold]
    #[inline(never)]
    fn find_timers(&self) -> Lease {
        // A thread that has a slot was prepared.
        self.slot();
        match REGISTRATION.try_with(|registration| registration.0.get()) {
            Ok(Some(index)) => {
                self.timers.set(Some(global().timers_at(index)));
                self.lease()
            }
            // In its TLS destructors it has none.
            _ => global().orphans().lease(),
        }
    }

    /// Makes `deadline` the thread's again after an inner scope with another. The slot must say so too, since the
    /// watchdog may have consumed the inner one and gone to sleep for ever.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn restore(&self, deadline: u64) {
        let inner = self.deadline.replace(deadline);
        if deadline != NEVER && !clock::is_mocked() {
            if inner <= global().reached() || inner > deadline {
                // It may have passed meanwhile, unnoticed.
                self.look_again();
            }
            global().rearm(self.slot(), deadline);
        }
    }

    /// Points the check at a node's flag, or at none.
    ///
    /// # Safety
    ///
    /// Invariant 2: the flag must live until it is replaced here.
    pub(crate) unsafe fn set_flag(&self, flag: Option<&AtomicBool>) {
        self.flag.set(flag.map_or(&raw const NO_FLAG, std::ptr::from_ref));
    }

    /// Nobody looks after this thread, as in a forked child until it arms again.
    pub(super) fn restart(&self) {
        self.timers.set(None);
        self.stride.set(1);
        self.left.set(1);
    }
}

/// Runs foreign code (a waker, which may run its task inline) so that it sees no scope of this thread.
#[cfg(not(timebox_loom))]
pub(crate) fn without_scopes<R>(f: impl FnOnce() -> R) -> R {
    struct Restore {
        frame: *const (),
        deadline: u64,
        flag: *const AtomicBool,
    }
    impl Drop for Restore {
        fn drop(&mut self) {
            Thread::with(|thread| {
                thread.frame.set(self.frame);
                thread.flag.set(self.flag);
                // What ran meanwhile saw no scope to restore, and may have armed the slot for one of its own.
                thread.restore(self.deadline);
            });
        }
    }
    // Invariant 2 holds for what is put back: the frames stay open meanwhile.
    let _restore = Thread::with(|thread| Restore {
        frame: thread.frame.replace(std::ptr::null()),
        deadline: thread.deadline.replace(NEVER),
        flag: thread.flag.replace(&raw const NO_FLAG),
    });
    f()
}

#[cfg(timebox_loom)]
pub(crate) fn without_scopes<R>(f: impl FnOnce() -> R) -> R {
    f()
}

/// Gives the thread's slot back when the thread ends.
#[cfg(not(timebox_loom))]
struct Registration(Cell<Option<usize>>);

#[cfg(not(timebox_loom))]
impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(index) = self.0.take() {
            Thread::with(|thread| {
                thread.slot.set(None);
                thread.timers.set(None);
            });
            let watchdog: &'static Watchdog = global();
            watchdog.slots.at(index).set(NEVER);
            watchdog.give_slot_back(index);
        }
    }
}

#[cfg(all(test, not(timebox_loom)))]
mod tests {
    use super::*;

    #[test]
    fn each_number_has_a_place_of_its_own_that_stays() {
        let numbered = ChunkedVec::<Cell<usize>>::new();
        let last = 10 * PER_CHUNK;
        numbered.at(last).set(last);
        (0..last).for_each(|index| numbered.at(index).set(index));
        assert!((0..=last).all(|index| numbered.at(index).get() == index));
        let all: Vec<usize> = numbered.iter().map(Cell::get).take(last + 1).collect();
        assert!(all.into_iter().eq(0..=last));
    }
}
