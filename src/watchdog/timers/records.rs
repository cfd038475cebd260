//! The records of one thread's timers. Records are in groups, and groups in chunks.
//!
//! The invariants are those of `timers.rs`, with the same numbers.

use std::ptr;
// The type of std, even in a loom model: only the owner of the timers uses the pointer, so there are no races to find.
use std::sync::atomic::AtomicPtr;
use std::task::Waker;

use crate::sync::chunked_vec::chunk_of;
use crate::sync::handoff::{Handoff, Ticket};
use crate::sync::{AtomicU32, AtomicU64, CachePadded, Ordering, SetOnce, fork::Process};
use crate::time::NEVER;

/// How many records a group has. Each record has one bit in the words of its group.
pub(super) const GROUP: usize = if cfg!(timebox_loom) { 4 } else { 32 };
/// How many chunks there are. Each chunk has twice as many groups as the one before.
const CHUNKS: usize = 26;
/// The index that stands for no record.
pub(super) const NONE: u32 = u32::MAX;
/// If this bit of a record's `deadline` is set, the other bits are the index of another record. (A deadline with this
/// bit would be centuries away.)
const LINK: u64 = 1 << 63;

pub(super) struct Records {
    /// The head of the list of groups with a free record (invariant 5).
    first: Link,
    /// The head of the list of records that other threads have given back, after they had taken the wakers out.
    returned: CachePadded<AtomicU32>,
    /// At most this number of entries of the heap are stale. Counts the records that were freed since the heap was
    /// rebuilt, without those in the nursery, which have no entry in the heap. (Stale entries that have left the heap
    /// are not subtracted.)
    stale: AtomicU32,
    made_in: Process,
    chunks: [SetOnce<Box<[Group]>>; CHUNKS],
}

pub(super) struct Group {
    pub(super) records: &'static Records,
    number: u32,
    free: AtomicU32,
    /// Which records are in the nursery (see `timers.rs`): one bit for each record.
    listed: AtomicU32,
    made_in: Process,
    /// The next group of the list that begins at `Records::first` (invariant 5).
    next: Link,
    places: [Record; GROUP],
}

pub(super) struct Record {
    pub(super) deadline: AtomicU64,
    pub(super) waker: Handoff<Waker>,
}

/// A pointer to a group, which only the owner of the timers uses. Groups are never moved or freed.
struct Link(AtomicPtr<Group>);

impl Link {
    const fn none() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    // Relaxed, in `get` and `set`, because only the owner of the timers uses the link (invariant 1).
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn get(&self) -> Option<&'static Group> {
        // SAFETY: the pointer is null, or comes from a `&'static` reference that `set` was given.
        unsafe { self.0.load(Ordering::Relaxed).as_ref() }
    }

    fn set(&self, group: Option<&'static Group>) {
        let group = group.map_or(ptr::null_mut(), |group| ptr::from_ref(group).cast_mut());
        self.0.store(group, Ordering::Relaxed);
    }
}

/// Methods for the owner. Orderings are Relaxed unless a comment says otherwise, because only the owner calls them
/// (invariant 1).
impl Records {
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn claim(&'static self) -> (&'static Group, u32) {
        let (group, free) = match self.first.get().map(|group| (group, group.free.load(Ordering::Relaxed))) {
            Some((group, free)) if free != 0 => (group, free),
            first => self.next_group(first.map(|(group, _)| group)),
        };
        group.free.store(free & (free - 1), Ordering::Relaxed);
        (group, free.trailing_zeros())
    }

    /// Goes on from the group `before`, which has no free record left. Returns the next group with free records, and
    /// the bits of these records. If there is no such group, takes back records from other threads, or makes more
    /// groups.
    #[cold]
    #[inline(never)]
    fn next_group(&'static self, before: Option<&'static Group>) -> (&'static Group, u32) {
        self.first.set(before.and_then(|group| group.next.get()));
        if self.first.get().is_none() && !self.take_returned() {
            self.add_groups();
        }
        match self.first.get().map(|group| (group, group.free.load(Ordering::Relaxed))) {
            Some(found) => found,
            None => unreachable!("there are groups now"),
        }
    }

    fn add_groups(&'static self) {
        let k = self.chunks.iter().take_while(|chunk| chunk.get().is_some()).count();
        let groups: u32 = 1 << k;
        let make = |at| Group::new(self, groups - 1 + at, self.made_in);
        let chunk = self.chunks[k].get_or_init(|| (0..groups).map(make).collect());
        chunk.iter().rev().for_each(Group::put_first);
    }

    /// Frees the records that other threads have given back. `true` if there were any.
    fn take_returned(&'static self) -> bool {
        // Acquire: pairs with the Release in `give_back`. So whatever the other threads did with these records comes
        // before this.
        let mut next = self.returned.0.swap(NONE, Ordering::Acquire);
        let any = next != NONE;
        while next != NONE {
            let (group, at) = self.find(next);
            next = (group.record(at).deadline.load(Ordering::Relaxed) & !LINK) as u32;
            group.set_free(at);
        }
        any
    }

    pub(super) fn stale(&self) -> usize {
        self.stale.load(Ordering::Relaxed) as usize
    }

    pub(super) fn count(&self) -> usize {
        self.groups().count() * GROUP
    }

    /// Returns all records that are in use and not in the nursery, in the order of their groups, because a walk in this
    /// order is several times as fast. Sorts the list of groups with free records in the same order.
    pub(super) fn sort_out(&'static self) -> impl Iterator<Item = (&'static Group, u32)> {
        self.stale.store(0, Ordering::Relaxed);
        let mut last: Option<&Group> = None;
        for group in self.groups().filter(|group| group.free.load(Ordering::Relaxed) != 0) {
            last.map_or(&self.first, |last| &last.next).set(Some(group));
            last = Some(group);
        }
        last.map_or(&self.first, |last| &last.next).set(None);
        self.groups().flat_map(|group| {
            let not = group.free.load(Ordering::Relaxed) | group.listed.load(Ordering::Relaxed);
            (0..GROUP as u32).filter(move |&at| not & bit(at) == 0).map(move |at| (group, at))
        })
    }
}

/// Methods for all threads.
impl Records {
    pub(super) fn groups(&self) -> impl Iterator<Item = &Group> {
        self.chunks.iter().map_while(SetOnce::get).flatten()
    }

    /// The group of a record, and the record's number in the group.
    pub(super) fn find(&self, index: u32) -> (&Group, u32) {
        let (number, at) = (index / GROUP as u32, index % GROUP as u32);
        let (chunk, place) = chunk_of(number as usize, 1);
        let group = self.chunks[chunk].get().map(|chunk| &chunk[place]);
        (group.unwrap_or_else(|| unreachable!("an index is that of a record")), at)
    }

    pub(super) fn record(&self, index: u32) -> &Record {
        let (group, at) = self.find(index);
        group.record(at)
    }
}

impl Records {
    /// The ticket of the waker in the record, if its short number is `short`. `None` if the record is empty, or holds a
    /// later waker: then the heap entry with the number `short` is stale.
    pub(super) fn filling(&self, index: u32, short: u32) -> Option<Ticket> {
        self.record(index).waker.ticket().filter(|ticket| ticket.short() == short)
    }
}

impl Default for Records {
    fn default() -> Self {
        Self {
            first: Link::none(),
            returned: CachePadded(AtomicU32::new(NONE)),
            stale: AtomicU32::new(0),
            made_in: Process::current(),
            chunks: std::array::from_fn(|_| SetOnce::new()),
        }
    }
}

impl Group {
    fn new(records: &'static Records, number: u32, made_in: Process) -> Self {
        let record = |_| Record { deadline: AtomicU64::new(NEVER), waker: Handoff::new() };
        Self {
            records,
            number,
            free: AtomicU32::new(u32::MAX >> (u32::BITS as usize - GROUP)),
            listed: AtomicU32::new(0),
            made_in,
            next: Link::none(),
            places: std::array::from_fn(record),
        }
    }
}

/// Methods for the owner. Orderings are Relaxed, because only the owner calls them (invariant 1).
impl Group {
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn is_listed(&self, at: u32) -> bool {
        self.listed.load(Ordering::Relaxed) & bit(at) != 0
    }

    pub(super) fn set_listed(&self, at: u32, listed: bool) {
        let before = self.listed.load(Ordering::Relaxed);
        self.listed.store(if listed { before | bit(at) } else { before & !bit(at) }, Ordering::Relaxed);
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn set_free(&'static self, at: u32) {
        let free = self.free.load(Ordering::Relaxed);
        self.free.store(free | bit(at), Ordering::Relaxed);
        if !self.is_listed(at) {
            let stale = &self.records.stale;
            stale.store(stale.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
        if free == 0 {
            self.put_first();
        }
    }

    fn put_first(&'static self) {
        let first = self.records.first.get();
        if first.is_some_and(|first| ptr::eq(first, self)) {
            return;
        }
        // If the group that was first until now has no free record left, it leaves the list.
        let is_left = |first: &&Group| first.free.load(Ordering::Relaxed) != 0;
        self.next.set(first.filter(is_left).or_else(|| first?.next.get()));
        self.records.first.set(Some(self));
    }
}

/// Methods for all threads.
impl Group {
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn record(&self, at: u32) -> &Record {
        &self.places[at as usize % GROUP]
    }

    pub(super) fn index(&self, at: u32) -> u32 {
        self.number * GROUP as u32 + at
    }

    /// Whether the parent process made the group, before a fork.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn is_lost(&self) -> bool {
        !self.made_in.is_current()
    }

    /// A group that stands for the timers on mock clocks, which have no records.
    #[cfg(feature = "testing")]
    pub(super) fn of_mocks() -> &'static Self {
        static MOCKS: SetOnce<Group> = SetOnce::new();
        MOCKS.get_or_init(|| Group::new(Box::leak(Box::default()), 0, Process::NONE))
    }

    #[cfg(feature = "testing")]
    pub(super) fn is_of_mocks(&self) -> bool {
        self.made_in == Process::NONE
    }

    /// Returns the deadline of the timer in the record `at`, the record's index among all records, and the timer's
    /// ticket. `None` if the record has no timer.
    pub(super) fn timer(&self, at: u32) -> Option<(u64, u32, Ticket)> {
        let record = self.record(at);
        let ticket = record.waker.ticket()?;
        let deadline = record.deadline.load(Ordering::Relaxed);
        // `deadline` holds a link if another thread has just taken the waker out, and is giving the record back.
        (deadline & LINK == 0).then_some((deadline, self.index(at), ticket))
    }

    /// Gives a record back to the thread that owns it. Called by another thread, which has taken the waker out of it.
    #[cold]
    pub(super) fn give_back(&self, at: u32) {
        let (link, returned) = (&self.record(at).deadline, &self.records.returned.0);
        let mut first = returned.load(Ordering::Relaxed);
        loop {
            // Relaxed: the Release below publishes the store.
            link.store(LINK | u64::from(first), Ordering::Relaxed);
            // Release: pairs with the Acquire in `take_returned`.
            match returned.compare_exchange_weak(first, self.index(at), Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(now) => first = now,
            }
        }
    }
}

#[cfg_attr(not(debug_assertions), inline(always))]
fn bit(at: u32) -> u32 {
    1 << (at % GROUP as u32)
}
