//! The start of the watchdog, and what happens when no thread can be had for it.
//!
//! A limit must act even if no thread could be had when the limit was armed. So code that waits for a limit tries again
//! and again to start the watchdog. A task is polled again at once, and each poll tries. A thread that sleeps wakes now
//! and then, and tries. A check tries when it reads the clock. A pool's thread with nothing to do becomes the watchdog
//! itself.

use super::arm::Watchdog;
#[cfg(timebox_loom)]
use crate::sync::model;
#[cfg(not(timebox_loom))]
use crate::sync::{Ordering, os};
#[cfg(not(timebox_loom))]
use crate::time::{NEVER, clock};

/// How long to wait before another try to start a thread, in nanoseconds.
#[cfg(not(timebox_loom))]
const TRY_EVERY: u64 = 1_000_000;

/// Once the watchdog has been missing for this number of nanoseconds, calls no longer wait for it before they begin.
#[cfg(not(timebox_loom))]
const WORTH_WAITING: u64 = 1_000_000_000;

/// While there is no watchdog, a sleeper wakes after this number of nanoseconds, and tries again to start the watchdog.
pub(crate) const NAP: u64 = 10_000_000;

#[cfg(timebox_loom)]
impl Watchdog {
    pub(super) fn start(&'static self) -> bool {
        if self.alarm.start() {
            model::spawn(|| self.serve());
        }
        true
    }

    /// In a model a thread can always be started.
    #[allow(clippy::unused_self)]
    pub(crate) fn is_reliable(&'static self) -> bool {
        true
    }

    pub(crate) fn try_to_start(&'static self) -> bool {
        self.start()
    }

    #[allow(clippy::unused_self)]
    pub(crate) fn is_missing(&'static self) -> bool {
        false
    }

    #[allow(clippy::unused_self)]
    pub(crate) fn is_worth_waiting_for(&'static self) -> bool {
        true
    }
}

#[cfg(not(timebox_loom))]
impl Watchdog {
    /// Starts the watchdog, unless it runs or is being started. `false` if no thread can be had.
    pub(super) fn start(&'static self) -> bool {
        if !self.alarm.claim() {
            return true;
        }
        // Relaxed, here and below: `try_at` only limits how often a start is tried. The alarm makes sure that only one
        // thread starts the watchdog.
        let is_time = clock::real_now() >= self.try_at.load(Ordering::Relaxed);
        if is_time && os::spawn("timebox-watchdog", || self.serve()).is_ok() {
            self.try_at.store(0, Ordering::Relaxed);
            self.alarm.started();
            return true;
        }
        // No thread can be had. From now on `is_missing` returns `true`, so every check reads the clock itself. The
        // stores below let the next arm try again to start the watchdog.
        if is_time {
            let now = clock::real_now();
            if self.try_at.swap(now.saturating_add(TRY_EVERY), Ordering::Relaxed) == 0 {
                self.missing_since.store(now, Ordering::Relaxed);
            }
        }
        self.alarm.forget();
        self.next_wake.0.store(NEVER, Ordering::Relaxed);
        if let Some(on_missing) = self.on_missing.get() {
            on_missing();
        }
        false
    }

    /// Sets the function that is called whenever no thread can be started for the watchdog. Only the first call of
    /// `when_missing` sets it.
    pub(crate) fn when_missing(&self, f: fn()) {
        self.on_missing.get_or_init(|| f);
    }

    /// Whether a watchdog runs. A watchdog that is being started does not count, since its start may fail.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn is_reliable(&'static self) -> bool {
        self.alarm.is_reliable()
    }

    /// Starts the watchdog if there is none; `false` if no thread can be had.
    #[cold]
    pub(crate) fn try_to_start(&'static self) -> bool {
        // Another thread may be starting the watchdog, which takes only a moment.
        for _ in 0..100 {
            if self.alarm.is_reliable() {
                return true;
            }
            if !self.alarm.is_running() {
                break;
            }
            std::thread::yield_now();
        }
        self.start();
        self.alarm.is_reliable()
    }

    /// Whether there is no watchdog because no thread could be had.
    #[inline]
    pub(crate) fn is_missing(&'static self) -> bool {
        self.try_at.load(Ordering::Relaxed) != 0 && !self.alarm.is_reliable()
    }

    /// For a caller that has found the watchdog missing. `false` if it has been missing for a second: then do not wait
    /// for it.
    pub(crate) fn is_worth_waiting_for(&'static self) -> bool {
        clock::real_now().saturating_sub(self.missing_since.load(Ordering::Relaxed)) < WORTH_WAITING
    }

    /// Called by threads of a pool that have nothing to do. `true` if the watchdog is missing and this thread must take
    /// its place: then the thread must call [`step_in`](Self::step_in).
    pub(crate) fn needs_this_thread(&'static self) -> bool {
        self.is_missing() && self.alarm.start()
    }

    pub(crate) fn step_in(&'static self) {
        self.try_at.store(0, Ordering::Relaxed);
        os::name_this_thread("timebox-watchdog");
        self.serve();
    }
}
