//! Slots: a few words for each thread. The thread writes its deadline there, and the watchdog reads it.
//!
//! Invariants:
//! 1. Only the thread that has a slot writes it. All other threads only read it. (In a forked child the fork handler
//!    writes all slots.)
//! 2. A slot, and the timers with the same number, belong to at most one thread.

use crate::sync::chunked_vec::ChunkedVec;
#[cfg(feature = "report")]
use crate::sync::{AtomicU32, AtomicUsize};
use crate::sync::{AtomicU64, CachePadded, Ordering, const_fn};
use crate::time::NEVER;

#[derive(Debug)]
pub(crate) struct Slot(CachePadded<Words>);

#[derive(Debug)]
struct Words {
    /// The deadline that the slot's thread armed last. The watchdog ignores a deadline in the past.
    deadline: AtomicU64,
    /// The time at which the watchdog must look at the thread for reports. The watchdog ignores a time in the past.
    #[cfg(feature = "report")]
    look: AtomicU64,
    /// The operating system's number of the thread; 0 if no thread has the slot.
    #[cfg(feature = "report")]
    thread: AtomicU32,
    /// The address of the thread's pointer to its innermost frame.
    #[cfg(feature = "report")]
    frame_word: AtomicUsize,
    /// The address of the record of the thread's innermost visit to a profile; 0 if there is none.
    #[cfg(feature = "profile")]
    visit: AtomicUsize,
}

impl Slot {
    const_fn! {
        pub(crate) fn new() -> Self {
            Self(CachePadded(Words {
                deadline: AtomicU64::new(NEVER),
                #[cfg(feature = "report")]
                look: AtomicU64::new(NEVER),
                #[cfg(feature = "report")]
                thread: AtomicU32::new(0),
                #[cfg(feature = "report")]
                frame_word: AtomicUsize::new(0),
                #[cfg(feature = "profile")]
                visit: AtomicUsize::new(0),
            }))
        }
    }

    #[inline]
    pub(super) fn get(&self) -> u64 {
        // Relaxed: the reader is the thread that wrote the deadline, or the watchdog, which has fences
        // (`Watchdog::pass`).
        self.0.0.deadline.load(Ordering::Relaxed)
    }

    /// Sets the deadline that the watchdog must notice for the thread; `NEVER` for none. Only the thread that has the
    /// slot calls this.
    #[inline]
    pub(crate) fn set(&self, deadline: u64) {
        // Relaxed: the fence of `Watchdog::arm` follows.
        self.0.0.deadline.store(deadline, Ordering::Relaxed);
    }
}

#[cfg(feature = "report")]
impl Slot {
    #[inline]
    pub(crate) fn look(&self) -> u64 {
        // Relaxed: as in `get`.
        self.0.0.look.load(Ordering::Relaxed)
    }

    /// Stores the time of the next look at the thread; `NEVER` for none. Alone this does not make the watchdog notice
    /// the time: see `Watchdog::arm_look`.
    #[inline]
    pub(crate) fn set_look(&self, at: u64) {
        // Relaxed: as in `set`.
        self.0.0.look.store(at, Ordering::Relaxed);
    }

    /// Stores the number of the thread that has the slot (0 for none), and the address of its pointer to its innermost
    /// frame.
    pub(crate) fn set_thread(&self, thread: u32, frame_word: usize) {
        self.0.0.frame_word.store(frame_word, Ordering::Relaxed);
        // Release: pairs with the Acquire in `thread`, so that a reader of the number finds the address.
        self.0.0.thread.store(thread, Ordering::Release);
    }

    /// The number of the thread that has the slot, and the address of that thread's pointer to its innermost frame.
    /// `None` if no thread has the slot.
    pub(crate) fn thread(&self) -> Option<(u32, usize)> {
        // Acquire: pairs with the Release in `set_thread`.
        let thread = self.0.0.thread.load(Ordering::Acquire);
        (thread != 0).then(|| (thread, self.0.0.frame_word.load(Ordering::Relaxed)))
    }
}

#[cfg(feature = "profile")]
impl Slot {
    /// The address of the record of the thread's innermost visit; 0 if there is none.
    ///
    /// Relaxed, here and in `set_visit`: to a profiler, which is on another thread, the word only says whether to copy
    /// the thread.
    pub(crate) fn visit(&self) -> usize {
        self.0.0.visit.load(Ordering::Relaxed)
    }

    pub(crate) fn set_visit(&self, record: usize) {
        self.0.0.visit.store(record, Ordering::Relaxed);
    }

    pub(crate) fn visit_word(&self) -> usize {
        (&raw const self.0.0.visit).addr()
    }
}

impl Default for Slot {
    fn default() -> Self {
        Self::new()
    }
}

pub(crate) type Slots = ChunkedVec<Slot>;

impl Slots {
    pub(super) fn earliest(&self, floor: u64) -> u64 {
        self.iter().map(Slot::get).filter(|&deadline| deadline > floor).min().unwrap_or(NEVER)
    }

    #[cfg(feature = "report")]
    pub(super) fn earliest_look(&self, floor: u64) -> u64 {
        self.iter().map(Slot::look).filter(|&look| look > floor).min().unwrap_or(NEVER)
    }

    #[cfg(feature = "report")]
    pub(super) fn due(&self, from: u64, to: u64) -> impl Iterator<Item = usize> {
        let passed = move |at: u64| from < at && at <= to;
        let slots = self.iter_indexed();
        slots.filter(move |(_, slot)| passed(slot.get()) || passed(slot.look())).map(|(index, _)| index)
    }
}

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
