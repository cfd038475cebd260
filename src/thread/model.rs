//! The thread in a loom model. Here a thread has no timers and scopes of its own: all threads use the timers of
//! `orphans()`.

use crate::watchdog::global;
use crate::watchdog::timers::Timers;
use crate::watchdog::timers::lease::Lease;

pub(super) fn lease() -> Lease {
    global().orphans().lease()
}

pub(super) fn own_timers() -> Option<&'static Timers> {
    None
}

pub(super) fn look_again() {}

pub(crate) fn without_scopes<R>(f: impl FnOnce() -> R) -> R {
    f()
}
