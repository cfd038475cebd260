//! The thread: its own state, and its calls to the watchdog.
//!
//! A thread tells the watchdog its deadline through its slot, and its timers through a lease (the right to change
//! them). Such a call returns `false` if no watchdog runs and none could be started. Then nobody sets the thread's flag
//! when a deadline passes, so the thread's next check reads the clock.

#[cfg(not(timebox_loom))]
mod local;
#[cfg(timebox_loom)]
mod model;
#[cfg(all(feature = "profile", not(timebox_loom)))]
mod profile_id;
#[cfg(all(feature = "profile", not(timebox_loom)))]
pub(crate) mod visit;

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
#[cfg(all(feature = "profile", not(timebox_loom)))]
pub(crate) use profile_id::ProfileId;

/// Makes the watchdog wake `waker` at `deadline`.
#[cfg_attr(not(debug_assertions), inline(always))]
pub(crate) fn schedule(deadline: u64, waker: Waker) -> Timer {
    // If several threads share the timers, the lease holds their lock. It is kept until `announce` has returned,
    // because otherwise another thread could rely on an `earliest` that is not announced yet (`watchdog/README.md`,
    // "Orphans").
    let lease = lease();
    let timer = lease.put(deadline, waker);
    if !global().announce(&lease, deadline) {
        look_again();
    }
    timer
}

/// Like [`schedule`], but `deadline` is a time on the clock of `env`, which may be a mock clock.
#[inline]
pub(crate) fn schedule_on(env: &TestEnv, deadline: u64, waker: Waker) -> Timer {
    #[cfg(feature = "testing")]
    if let Some(mock) = env.mock() {
        return mock::schedule(mock, deadline, waker);
    }
    let _ = env;
    schedule(deadline, waker)
}

/// Makes the watchdog wake `waker` as soon as possible, after all wakers that were posted earlier.
pub(crate) fn post(waker: Waker) {
    if !global().post(waker) {
        look_again();
    }
}

/// Starts the watchdog if there is none. `false`: no thread can be had for the watchdog. Then perhaps nobody wakes the
/// caller at its deadline, so the caller must wait only for a short time, and try again.
#[cfg_attr(not(debug_assertions), inline(always))]
pub(crate) fn ensure_watchdog() -> bool {
    global().is_reliable() || start_watchdog()
}

#[cold]
#[inline(never)]
fn start_watchdog() -> bool {
    let is_there = global().try_to_start();
    // Without a watchdog, a check notices an expiry only if it reads the clock. So the next check reads the clock.
    look_again();
    is_there
}

impl Timer {
    /// Takes the timer back. Does nothing if the timer has fired or is firing: then the waker may still be called.
    #[inline]
    pub(crate) fn cancel(self) {
        let waker = self.take(own_timers());
        #[cfg(feature = "testing")]
        let waker = waker.or_else(|| mock::take(self));
        drop(waker);
    }

    /// Gives the timer another waker. `false`: too late, because the timer is due, has fired, or was lost in a fork.
    pub(crate) fn redirect(self, waker: &Waker) -> bool {
        #[cfg(feature = "testing")]
        if self.mocked().is_some() {
            return mock::redirect(self, waker);
        }
        self.replace(waker)
    }
}
