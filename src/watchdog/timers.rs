//! The timers of nodes and futures: each thread has timers of its own, and the watchdog fires the due timers.
//!
//! Most timers are short-lived: they are armed, and taken back before they are due. So a timer is put into a *record*
//! and listed in the thread's *nursery*, by plain stores. When the nursery is full, the timers that are left in it move
//! to a heap, under a lock. A timer in the heap that is taken back leaves a stale entry there. The entry goes when it
//! is due, or when there are too many stale entries.
//!
//! Invariants:
//! 1. Only the thread that owns these timers arms them. Only that thread changes which records are free, which are listed, and
//!    the list of the nursery.
//! 2. A record is in use from its claim until its owner has taken the waker out, or has the record back from the thread that took
//!    the waker out (`Records::returned`). Meanwhile nobody puts another waker into it.
//! 3. Each record with a waker is listed in the nursery or in the heap. A look first at the nursery, then at the heap, finds
//!    the record, since a record moves from the nursery to the heap under the heap's lock. There are three exceptions: a record
//!    whose waker is just being put in; a record that a look has found due; a record whose deadline is centuries ahead. In the
//!    second case the watchdog cannot take the waker while `replace` holds it: then the caller of `replace` arms another timer.
//! 4. Once an arm has been announced, its timer is not due before `earliest`, except while the watchdog has reset `earliest` and
//!    is about to look again.
//! 5. The list of groups that begins at `Records::first` has each group with a free record once. It has no other group, except
//!    that its first group may have no free record.
//!
//! The protocol is in `watchdog/README.md`.

#![allow(clippy::cast_possible_truncation)] // four billion timers do not fit in memory

pub(crate) mod lease;
mod records;
#[cfg(all(test, not(timebox_loom)))]
mod tests;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ptr;
// The type of std, even in a loom model: only the watchdog uses the flag, so there are no races to find.
use std::sync::atomic::AtomicBool;
use std::task::Waker;

use crate::sync::handoff::Ticket;
use crate::sync::{AtomicU32, AtomicU64, CachePadded, Mutex, MutexGuard, Ordering, lock};
use crate::time::NEVER;
use records::{GROUP, Group, NONE, Record, Records};

/// How many records the nursery lists. Each look of the watchdog at the thread's timers goes through all of them.
const NURSERY: usize = if cfg!(timebox_loom) { 1 } else { 16 };
/// The heap is rebuilt if it may have more stale entries than this, and more than half as many as there are records.
const STALE: usize = 1024;
/// How many entries of the heap the watchdog goes through at a time, with the lock held.
const BATCH: usize = 64;
/// How many due timers the watchdog takes at a time, at most.
pub(super) const MOST_DUE: usize = NURSERY + BATCH;

pub(crate) struct Timers {
    /// No timer is due before this time (invariant 4). Arming a timer lowers this time. When it has come, the watchdog
    /// sets it to [`NEVER`], looks at all timers, and lowers it to their earliest deadline.
    earliest: CachePadded<AtomicU64>,
    nursery: [AtomicU32; NURSERY],
    listed: AtomicU32,
    records: Records,
    /// Nobody allocates or frees memory while the heap is locked: the watchdog must not wait for a thread that is stuck
    /// in the allocator.
    heap: Mutex<Heap>,
    /// Whether the watchdog has reset `earliest`, and has yet to look at the timers that remain. Only the watchdog uses
    /// this flag.
    is_in_look: AtomicBool,
}

/// An entry has the deadline, the index of the record, and the short number of the record's *filling*: each use of a
/// record for a waker is a filling. A stale entry may have the same short number as a later filling of its record. That
/// does no harm: the record itself says when it is due, and the later filling has an entry of its own.
type Heap = BinaryHeap<Reverse<(u64, u32, u32)>>;

fn entry((deadline, index, ticket): (u64, u32, Ticket)) -> Reverse<(u64, u32, u32)> {
    Reverse((deadline, index, ticket.short()))
}

const _: () = assert!(GROUP as u64 <= Ticket::ROOM + 1);

/// A timer that was due and was taken out.
pub(crate) struct Due {
    deadline: u64,
    /// The timer's number in its batch. Sorting by it keeps timers with the same deadline in order.
    number: usize,
    pub(crate) waker: Waker,
}

#[derive(Clone, Copy)]
pub(crate) struct Timer {
    group: &'static Group,
    /// Two numbers in one word, so that a timer stays in registers: the ticket of the timer's waker and, in the bits
    /// that a ticket leaves free (`Ticket::ROOM`), the index of the timer's record in the group. (For a timer on a mock
    /// clock see `on_mock`.)
    place: u64,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            earliest: CachePadded(AtomicU64::new(NEVER)),
            nursery: std::array::from_fn(|_| AtomicU32::new(NONE)),
            listed: AtomicU32::new(0),
            records: Records::default(),
            // In a model the heap never grows: the locks of `heap_with_room` would make the model larger.
            heap: Mutex::new(Heap::with_capacity(if cfg!(timebox_loom) { 64 } else { 0 })),
            is_in_look: AtomicBool::new(false),
        }
    }
}

/// Methods for the owner. Orderings are Relaxed unless a comment says otherwise, because only the owner calls them
/// (invariant 1).
impl Timers {
    /// Puts a timer in. `Watchdog::announce` must follow.
    ///
    /// # Safety
    ///
    /// Invariant 1: the timers belong to the calling thread.
    #[cfg_attr(not(debug_assertions), inline(always))]
    unsafe fn put(&'static self, deadline: u64, waker: Waker) -> Timer {
        let (group, at) = self.records.claim();
        let record = group.record(at);
        record.deadline.store(deadline, Ordering::Relaxed);
        // SAFETY: invariant 2: nobody else puts a waker into a record that is in use.
        let ticket = unsafe { record.waker.put(waker) };
        if !group.is_listed(at) {
            self.list(group, at);
        }
        Timer { group, place: ticket.number() | u64::from(at) }
    }

    #[cold]
    #[inline(never)]
    fn list(&'static self, group: &Group, at: u32) {
        let mut listed = self.listed.load(Ordering::Relaxed);
        if listed as usize == NURSERY {
            self.empty_nursery();
            listed = 0;
        }
        group.set_listed(at, true);
        // Release, twice: pairs with the Acquires in `in_nursery`. So a look that reads the index sees what the record
        // holds.
        self.nursery[listed as usize].store(group.index(at), Ordering::Release);
        self.listed.store(listed + 1, Ordering::Release);
    }

    fn empty_nursery(&'static self) {
        let stale = self.records.stale();
        if stale > STALE && stale > self.records.count() / 2 {
            self.rebuild_heap();
        }
        let mut heap = self.heap_with_room();
        for index in self.in_nursery() {
            let (group, at) = self.records.find(index);
            group.set_listed(at, false);
            heap.extend(group.timer(at).map(entry));
        }
        // Stored before the heap's lock is released. So a look that reads this 0 gets the lock only after this function
        // has released it, and then finds the records in the heap.
        self.listed.store(0, Ordering::Relaxed);
    }

    /// Makes room for the nursery in the heap, and returns the locked heap. Only this thread puts entries in, so the
    /// room stays while the heap is unlocked.
    fn heap_with_room(&self) -> MutexGuard<'_, Heap> {
        let heap = lock(&self.heap);
        let needed = heap.len() + NURSERY;
        if needed <= heap.capacity() {
            return heap;
        }
        drop(heap);
        let mut entries = Vec::with_capacity(2 * needed);
        let mut heap = lock(&self.heap);
        let mut before = std::mem::take(&mut *heap).into_vec();
        entries.append(&mut before);
        *heap = Heap::from(entries);
        drop(heap);
        // The old memory is freed without the lock.
        drop(before);
        lock(&self.heap)
    }

    /// Builds the heap anew from the records, without stale entries. No new entry is lost, because only this thread
    /// puts entries into the heap. If the watchdog takes an entry out meanwhile, the new heap has the entry again, as a
    /// stale one.
    fn rebuild_heap(&'static self) {
        let timers = self.records.sort_out().filter_map(|(group, at)| group.timer(at));
        let entries: Vec<_> = timers.map(entry).collect();
        let mut heap = lock(&self.heap);
        if entries.len() <= heap.capacity().min(STALE) {
            // Few entries: they go into the old heap, which keeps its memory.
            heap.clear();
            heap.extend(entries);
        } else {
            // The new heap is built without the lock, since that takes long.
            drop(heap);
            let anew = Heap::from(entries);
            let before = std::mem::replace(&mut *lock(&self.heap), anew);
            drop(before);
        }
    }
}

impl Timers {
    /// The indices of the records in the nursery. On another thread, the owner may empty and refill the nursery
    /// meanwhile. Then the indices may be those of records that are in the heap by now, or that were listed after this
    /// began.
    fn in_nursery(&self) -> impl Iterator<Item = u32> {
        // Acquire, twice: pairs with the Releases in `list`.
        let listed = self.listed.load(Ordering::Acquire) as usize;
        self.nursery[..listed].iter().map(|index| index.load(Ordering::Acquire))
    }
}

impl Timers {
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn earliest(&self) -> u64 {
        // Relaxed: README, "Timers".
        self.earliest.0.load(Ordering::Relaxed)
    }

    #[cold]
    pub(crate) fn lower(&self, deadline: u64) {
        // Relaxed: as in `earliest`. `fetch_min`, because the thread and the watchdog may do this at the same time.
        self.earliest.0.fetch_min(deadline, Ordering::Relaxed);
    }

    /// Resets `earliest` to "never", so that each timer that is set from now on lowers it. The caller must call
    /// [`end_look`](Self::end_look) after its next fence.
    pub(crate) fn begin_look(&self) {
        self.is_in_look.store(true, Ordering::Relaxed);
        // Relaxed: as in `earliest`.
        self.earliest.0.store(NEVER, Ordering::Relaxed);
    }

    pub(crate) fn is_in_look(&self) -> bool {
        self.is_in_look.load(Ordering::Relaxed)
    }

    /// Only for the mutant `ShortLook`.
    pub(crate) fn forget_look(&self) {
        self.is_in_look.store(false, Ordering::Relaxed);
    }

    /// Looks at all timers, and lowers `earliest` to the earliest deadline, or to an earlier time.
    pub(crate) fn end_look(&self) {
        let mut earliest = NEVER;
        for index in self.in_nursery() {
            let (group, at) = self.records.find(index);
            earliest = earliest.min(group.timer(at).map_or(NEVER, |(deadline, ..)| deadline));
        }
        let mut heap = lock(&self.heap);
        let mut left = BATCH;
        while let Some(&Reverse((deadline, index, filling))) = heap.peek() {
            // This loop removes at most `BATCH` stale entries. The next entry then counts even if it is stale. Its
            // deadline is not later than that of the first timer, so no timer is missed.
            if left == 0 || self.records.filling(index, filling).is_some() {
                earliest = earliest.min(deadline);
                break;
            }
            heap.pop();
            left -= 1;
        }
        drop(heap);
        self.lower(earliest);
        self.is_in_look.store(false, Ordering::Relaxed);
    }

    /// Takes the wakers of a batch of due timers: at most [`MOST_DUE`]. Appends them to `due`, sorted by deadline.
    /// Returns `true` if no due timer is left; `false` if there may be more.
    pub(crate) fn take_due(&self, now: u64, due: &mut Vec<Due>) -> bool {
        let mut take = |index: u32, ticket: Ticket| {
            let (group, at) = self.records.find(index);
            let deadline = group.record(at).deadline.load(Ordering::Relaxed);
            if deadline <= now
                && let Some(waker) = group.record(at).waker.take(ticket)
            {
                group.give_back(at);
                due.push(Due { deadline, number: due.len(), waker });
            }
        };
        for index in self.in_nursery() {
            if let Some(ticket) = self.records.record(index).waker.ticket() {
                take(index, ticket);
            }
        }
        let mut heap = lock(&self.heap);
        let mut left = BATCH;
        while left > 0
            && let Some(&Reverse((deadline, index, filling))) = heap.peek()
            && deadline <= now
        {
            heap.pop();
            self.records.filling(index, filling).into_iter().for_each(|ticket| take(index, ticket));
            left -= 1;
        }
        drop(heap);
        // A stable sort would allocate.
        due.sort_unstable_by_key(|due| (due.deadline, due.number));
        left > 0
    }

    #[cfg(timebox_loom)]
    pub(crate) fn len(&self) -> usize {
        let all = self.records.groups().flat_map(|group| (0..GROUP as u32).map(move |at| group.timer(at)));
        all.flatten().count()
    }
}

impl Timer {
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn record(self) -> &'static Record {
        self.group.record(self.at())
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn at(self) -> u32 {
        (self.place & Ticket::ROOM) as u32
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn ticket(self) -> Ticket {
        Ticket::from_number(self.place)
    }

    /// Whether the timer was armed before a fork, by the parent of this process.
    pub(crate) fn is_lost(self) -> bool {
        #[cfg(feature = "testing")]
        if self.mocked().is_some() {
            return false;
        }
        self.group.is_lost()
    }

    #[cfg(feature = "testing")]
    pub(crate) fn on_mock(clock: u32, number: u32) -> Self {
        Self { group: Group::of_mocks(), place: u64::from(clock) << 32 | u64::from(number) }
    }

    /// The clock and the number that were given to [`on_mock`](Self::on_mock); `None` if the timer is not on a mock
    /// clock.
    #[cfg(feature = "testing")]
    pub(crate) fn mocked(self) -> Option<(u32, u32)> {
        self.group.is_of_mocks().then_some(((self.place >> 32) as u32, self.place as u32))
    }

    /// Takes the timer back. `None` if it has fired, if the parent process armed it before a fork, or if it is on a
    /// mock clock. `own` are the calling thread's timers; `None` if it has none.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn take(self, own: Option<&'static Timers>) -> Option<Waker> {
        if self.group.is_lost() {
            return None;
        }
        let waker = self.record().waker.take(self.ticket())?;
        if own.is_some_and(|own| ptr::eq(&raw const own.records, self.group.records)) {
            self.group.set_free(self.at());
        } else {
            self.group.give_back(self.at());
        }
        Some(waker)
    }

    /// Makes the timer wake another task. `false` if the timer is due, lost or on a mock clock. If it is due or lost,
    /// the caller must arm another timer.
    pub(crate) fn replace(self, waker: &Waker) -> bool {
        if self.group.is_lost() {
            return false;
        }
        let (place, ticket) = (&self.record().waker, self.ticket());
        match place.hold(ticket, |before| before.will_wake(waker)) {
            None => return false,
            Some(true) => return true,
            Some(false) => {}
        }
        // Clone and drop of a waker are foreign code, so they must not run while the record is held.
        let mut waker = waker.clone();
        place.hold(ticket, |before| std::mem::swap(before, &mut waker)).is_some()
    }
}

impl std::fmt::Debug for Timer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Timer").field("place", &self.place).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Timers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Timers").field("earliest", &self.earliest.0).finish_non_exhaustive()
    }
}
