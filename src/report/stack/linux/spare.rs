//! The memory into which threads are copied. It is kept for later copies, so a copy allocates nothing while spare
//! memory is left.

use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};

use super::super::copy::{Contents, MOST};
use crate::sync::fork::PerProcess;
use crate::sync::{Mutex, lock};
use crate::watchdog;

/// Copies that are not in use. While a thread holds this lock, it neither allocates nor frees memory. Otherwise it
/// could get stuck in the allocator, and then the watchdog would wait for it.
static SPARE: PerProcess<Mutex<Spare>> = PerProcess::new(Mutex::new(Spare::NEW), || Mutex::new(Spare::NEW));

const ROOM: usize = 64;

/// How many spare copies are kept, unless [`prepare`] was called with a larger number.
const KEPT: usize = 4;

struct Spare {
    copies: [Option<Box<Contents>>; ROOM],
    count: usize,
    /// How many copies are kept. The watchdog may keep more: see `push`.
    kept: usize,
}

impl Spare {
    const NEW: Self = Self { copies: [const { None }; ROOM], count: 0, kept: KEPT };

    fn pop(&mut self) -> Option<Box<Contents>> {
        self.count = self.count.checked_sub(1)?;
        self.copies[self.count].take()
    }

    /// Keeps the contents. `Some`: enough copies are kept already, so the caller must drop these contents. On the
    /// watchdog's thread only `ROOM` limits the number of copies, because the watchdog must not free memory.
    fn push(&mut self, contents: Box<Contents>) -> Option<Box<Contents>> {
        let place = self.copies.get_mut(self.count);
        let is_full = self.count >= self.kept && !watchdog::is_this_thread();
        let Some(place) = place.filter(|_| !is_full) else { return Some(contents) };
        self.count += 1;
        place.replace(contents)
    }
}

/// Makes spare copies in advance, and from now on keeps at least so many (up to `ROOM`). Later it may be too late to
/// allocate them: a stuck thread may hold the allocator's lock.
pub(super) fn prepare(kept: usize) {
    let mut spare = lock(SPARE.get());
    spare.kept = spare.kept.max(kept).min(ROOM);
    let missing = spare.kept.saturating_sub(spare.count);
    drop(spare);
    make(missing);
}

pub(super) fn refill() {
    let spare = lock(SPARE.get());
    let (count, kept) = (spare.count, spare.kept);
    drop(spare);
    if count < kept / 2 {
        make(kept - count);
    }
}

fn make(count: usize) {
    let made = (0..count).map(|_| Box::new(Contents::new(MOST)));
    made.for_each(|contents| drop(Copy::from_contents(contents)));
}

/// A copy of a thread. The drop keeps the memory in `SPARE` for a later copy.
#[derive(Debug)]
pub(crate) struct Copy(ManuallyDrop<Box<Contents>>);

impl Deref for Copy {
    type Target = Contents;

    fn deref(&self) -> &Contents {
        &self.0
    }
}

impl DerefMut for Copy {
    fn deref_mut(&mut self) -> &mut Contents {
        &mut self.0
    }
}

impl Copy {
    pub(in crate::report::stack) fn new(tid: u32) -> Self {
        Self::of_spare(tid).unwrap_or_else(|| {
            let mut contents = Box::new(Contents::new(MOST));
            contents.clear(tid);
            Self::from_contents(contents)
        })
    }

    /// As [`new`](Self::new), but never allocates. `None` if no spare copy is left.
    pub(super) fn of_spare(tid: u32) -> Option<Self> {
        let mut contents = lock(SPARE.get()).pop()?;
        contents.clear(tid);
        Some(Self::from_contents(contents))
    }

    fn from_contents(contents: Box<Contents>) -> Self {
        Self(ManuallyDrop::new(contents))
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // SAFETY: the value is not used again, so the box is taken one time.
        let contents = unsafe { ManuallyDrop::take(&mut self.0) };
        let left = lock(SPARE.get()).push(contents);
        drop(left);
    }
}
