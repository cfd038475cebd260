//! The right to arm timers. Each thread may arm its own timers. Threads that have no timers of their own share the
//! timers in [`Orphans`], and arm them in turn.

use std::task::Waker;

use super::{Timer, Timers};
use crate::sync::{Mutex, MutexGuard, SetOnce, const_fn, lock};

/// The right of the calling thread to arm these timers. They are the thread's own, or the thread holds the lock of the
/// shared timers.
pub(crate) struct Lease {
    pub(crate) timers: &'static Timers,
    _lock: Option<MutexGuard<'static, ()>>,
}

impl Lease {
    /// # Safety
    ///
    /// No other thread may arm these timers as long as the lease exists. (A thread's own timers are its own until its
    /// `Registration` is dropped.)
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) unsafe fn of_own(timers: &'static Timers) -> Self {
        Self { timers, _lock: None }
    }

    /// Puts a timer in. The caller must call `Watchdog::announce` after this: only then does the watchdog notice the
    /// timer.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn put(&self, deadline: u64, waker: Waker) -> Timer {
        // SAFETY: no other thread may arm these timers while the lease exists: either the caller of `of_own` has
        // promised that, or the lease holds the lock.
        unsafe { self.timers.put(deadline, waker) }
    }
}

pub(crate) struct Orphans {
    lock: Mutex<()>,
    timers: SetOnce<Timers>,
}

impl Orphans {
    const_fn! {
        pub(crate) fn new() -> Self {
            Self { lock: Mutex::new(()), timers: SetOnce::new() }
        }
    }

    pub(crate) fn timers(&self) -> &SetOnce<Timers> {
        &self.timers
    }

    /// The timers belong to the thread that holds the lock. So the lease keeps the guard of the lock.
    pub(crate) fn lease(&'static self) -> Lease {
        let timers = self.timers.get_or_init(Timers::default);
        Lease { timers, _lock: Some(lock(&self.lock)) }
    }
}

#[cfg(timebox_loom)]
impl Timers {
    pub(crate) fn lease_in_turn(&'static self) -> Lease {
        // SAFETY: the threads of a model use the timers one after the other.
        unsafe { Lease::of_own(self) }
    }
}
