//! The memory into which threads are copied. It is kept for later copies, so a copy allocates nothing while spare
//! memory is left.

use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};

use super::super::copy::{Contents, MOST};
use crate::sync::fork::PerProcess;
use crate::sync::{Mutex, lock};

/// Copies that are not in use. Only the watchdog and reporters lock it.
static SPARE: PerProcess<Mutex<Vec<Box<Contents>>>> =
    PerProcess::new(Mutex::new(Vec::new()), || Mutex::new(Vec::new()));

const SPARES: usize = 4;

/// Makes spare copies in advance. When they are needed, a stuck thread may hold the lock of the program's allocator.
pub(super) fn prepare() {
    let missing = SPARES.saturating_sub(lock(SPARE.get()).len());
    let made = (0..missing).map(|_| Box::new(Contents::new(MOST)));
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
        let spare = lock(SPARE.get()).pop();
        let mut contents = spare.unwrap_or_else(|| Box::new(Contents::new(MOST)));
        contents.clear(tid);
        Self(ManuallyDrop::new(contents))
    }

    fn from_contents(contents: Box<Contents>) -> Self {
        Self(ManuallyDrop::new(contents))
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // SAFETY: the value is not used again, so the box is taken one time.
        let contents = unsafe { ManuallyDrop::take(&mut self.0) };
        let mut spare = lock(SPARE.get());
        if spare.len() < SPARES {
            spare.push(contents);
        } else {
            drop(spare);
            drop(contents);
        }
    }
}
