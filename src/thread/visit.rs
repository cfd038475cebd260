//! Visits: stretches in which a thread runs code that is profiled.
//!
//! The thread's slot has the address of the record of the innermost visit. Each record has the address of the record of
//! the visit around it. A profiler reads the records from outside the thread as bytes, in the same consistent copy as
//! the stack. For each visit the thread allocates a record and stores two words. It takes no lock.

use std::ptr;

use super::{ProfileId, Thread};
use crate::sync::{Ordering, compiler_fence};

/// How many words a record has: one for each field of [`VisitCopy`].
pub(crate) const WORDS: usize = 4;

/// The record of a visit, as it was read from outside the thread.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct VisitCopy {
    pub(crate) profile: ProfileId,
    /// `true`: the thread runs the profiled closure or future. `false`: it runs work that entered the profile by a
    /// handle.
    pub(crate) is_own: bool,
    /// An address in the thread's stack. Functions whose frames end at a higher address are outside the visit.
    pub(crate) stack: u64,
    /// The address of the record of the visit around this one; 0 if there is none.
    pub(crate) outer: u64,
}

impl VisitCopy {
    pub(crate) fn new([profile, is_own, stack, outer]: [u64; WORDS]) -> Self {
        Self { profile: ProfileId::from_raw(profile), is_own: is_own != 0, stack, outer }
    }
}

/// A visit of this thread to profiled code. The drop ends the visit, and must happen on this thread.
#[derive(Debug)]
pub(crate) struct Visit {
    record: Box<[u64; WORDS]>,
    outer: ProfileId,
}

impl Visit {
    /// Begins a visit. `stack`: an address in the stack frame of a caller of the profiled code.
    pub(crate) fn begin(profile: ProfileId, is_own: bool, stack: usize) -> Self {
        let thread = Thread::current();
        let slot = thread.slot();
        let record = Box::new([profile.get(), u64::from(is_own), stack as u64, slot.visit() as u64]);
        // A signal handler on this thread may read the record at any point. So the record must be complete before the
        // slot points to it.
        let address = ptr::from_ref(&*record).expose_provenance();
        compiler_fence(Ordering::SeqCst);
        slot.set_visit(address);
        compiler_fence(Ordering::SeqCst);
        Self { record, outer: thread.profile.replace(profile) }
    }

    pub(crate) fn current() -> ProfileId {
        Thread::with(|thread| thread.profile.get())
    }

    /// Begins the visit of a thread that enters a handle. `None` if the handle was not made inside a profile.
    pub(crate) fn of_handle(profile: ProfileId, stack: usize) -> Option<Self> {
        (profile != ProfileId::NONE).then(|| Self::begin(profile, false, stack))
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let thread = Thread::current();
        let [.., outer] = *self.record;
        thread.slot().set_visit(usize::try_from(outer).unwrap_or(0));
        compiler_fence(Ordering::SeqCst);
        thread.profile.set(self.outer);
    }
}

pub(crate) fn visit<R>(profile: ProfileId, body: impl FnOnce() -> R) -> R {
    let here = 0_u8;
    let _visit = Visit::begin(profile, true, ptr::from_ref(&here).addr());
    call(body)
}

/// Keeps the body out of the frame of `visit`, which ends above the local `here`. In that frame the body would count as
/// outside the visit.
#[inline(never)]
fn call<R>(body: impl FnOnce() -> R) -> R {
    body()
}
