//! The thread: its own state, and its calls to the watchdog.
//!
//! A call gives the watchdog the thread's slot, or a lease of the thread's timers. The call returns `false` if no watchdog runs
//! and none could be started. The thread's next check must then read the clock.

#[cfg(not(timebox_loom))]
mod local;
#[cfg(timebox_loom)]
mod model;

use std::task::Waker;

use crate::test_env::TestEnv;
#[cfg(feature = "testing")]
use crate::watchdog::mock;
use crate::watchdog::{Timer, global};
#[cfg(not(timebox_loom))]
pub(crate) use local::{Thread, without_scopes};
#[cfg(not(timebox_loom))]
use local::{lease, look_again, own_timers};
#[cfg(timebox_loom)]
pub(crate) use model::without_scopes;
#[cfg(timebox_loom)]
use model::{lease, look_again, own_timers};

/// Has `waker` woken at `deadline`.
#[cfg_attr(not(debug_assertions), inline(always))]
pub(crate) fn schedule(deadline: u64, waker: Waker) -> Timer {
    // The lease is kept until `announce` has returned. It may hold the lock of the shared timers (`watchdog/README.md`,
    // "Orphans").
    let lease = lease();
    let timer = lease.put(deadline, waker);
    if !global().announce(&lease, deadline) {
        look_again();
    }
    timer
}

/// Has `waker` woken at `deadline` on the clock of `env`.
#[inline]
pub(crate) fn schedule_on(env: &TestEnv, deadline: u64, waker: Waker) -> Timer {
    #[cfg(feature = "testing")]
    if let Some(mock) = env.mock() {
        return mock::schedule(mock, deadline, waker);
    }
    let _ = env;
    schedule(deadline, waker)
}

/// Has `waker` woken as soon as possible, on the watchdog, after all wakers that were posted before.
pub(crate) fn post(waker: Waker) {
    if !global().post(waker) {
        look_again();
    }
}

/// Starts the watchdog if there is none. Returns `false` if no thread can be had for it. A caller that is about to wait for a
/// deadline must then not rely on being woken, and must ask again soon.
#[cfg_attr(not(debug_assertions), inline(always))]
pub(crate) fn ensure_watchdog() -> bool {
    global().is_reliable() || start_watchdog()
}

#[cold]
#[inline(never)]
fn start_watchdog() -> bool {
    let is_there = global().try_to_start();
    // Without a watchdog only the clock shows an expiry: so the next check, perhaps in another poll, must read the clock.
    look_again();
    is_there
}

impl Timer {
    /// Takes the timer back. It may have fired already, or be firing now.
    #[inline]
    pub(crate) fn cancel(self) {
        let waker = self.take(own_timers());
        #[cfg(feature = "testing")]
        let waker = waker.or_else(|| mock::take(self));
        drop(waker);
    }

    /// Has the timer wake another task. Returns `false` if the timer has fired.
    pub(crate) fn redirect(self, waker: &Waker) -> bool {
        #[cfg(feature = "testing")]
        if self.mocked().is_some() {
            return mock::redirect(self, waker);
        }
        self.replace(waker)
    }
}
