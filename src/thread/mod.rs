//! The thread: its own words, and its calls to the watchdog.
//!
//! The watchdog is given a thread's slot or a lease of its timers, and answers whether it runs or could be started. If not, this
//! room has the thread's next check read the clock.

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
    // Kept until the watchdog is told: its README, "Timers".
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

/// Has `waker` woken as soon as possible, on the watchdog, after all that was posted before.
pub(crate) fn post(waker: Waker) {
    if !global().post(waker) {
        look_again();
    }
}

/// Starts the watchdog if there is none. `false` if no thread can be had: a caller that has armed something, and is about to
/// wait for it, must not rely on being woken, and asks again soon.
#[cfg_attr(not(debug_assertions), inline(always))]
pub(crate) fn ensure_watchdog() -> bool {
    global().is_reliable() || start_watchdog()
}

#[cold]
#[inline(never)]
fn start_watchdog() -> bool {
    let is_there = global().try_to_start();
    // What has been seen by the clock is not to be missed in the next poll.
    look_again();
    is_there
}

impl Timer {
    /// Takes it back; it may be running, or have run.
    #[inline]
    pub(crate) fn cancel(self) {
        let waker = self.take(own_timers());
        #[cfg(feature = "testing")]
        let waker = waker.or_else(|| mock::take(self));
        drop(waker);
    }

    /// Has it wake another task; `false` if it has run.
    pub(crate) fn redirect(self, waker: &Waker) -> bool {
        #[cfg(feature = "testing")]
        if self.mocked().is_some() {
            return mock::redirect(self, waker);
        }
        self.replace(waker)
    }
}
