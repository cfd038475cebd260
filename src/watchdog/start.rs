//! How the watchdog is started; and what is done where no thread can be had.
//!
//! A limit must not be lost because there was no thread when it was armed. So whoever waits for one tries again, until
//! there is a watchdog: tasks are polled again at once, sleeps get up now and then, checks do it as they read the clock. A
//! runner with nothing to do becomes the watchdog itself.

use super::Watchdog;
#[cfg(timebox_loom)]
use crate::sync::alarm;

#[cfg(not(timebox_loom))]
use super::slots::Thread;
#[cfg(not(timebox_loom))]
use crate::sync::{Ordering, os};
#[cfg(not(timebox_loom))]
use crate::time::{NEVER, clock};

/// How long no thread is asked for again after none could be had, in nanoseconds.
#[cfg(not(timebox_loom))]
const TRY_EVERY: u64 = 1_000_000;

/// How long a call that nobody would interrupt waits for a watchdog, in nanoseconds.
#[cfg(not(timebox_loom))]
const PATIENCE: u64 = 1_000_000_000;

/// How long a sleeper sleeps at a time while there is no watchdog, before it tries again to start it, in nanoseconds.
pub(crate) const NAP: u64 = 10_000_000;

#[cfg(timebox_loom)]
impl Watchdog {
    pub(super) fn start(&'static self) {
        if self.alarm.start() {
            alarm::model_spawn(|| self.serve(false));
        }
    }

    /// In a model there are threads enough.
    #[cfg_attr(not(debug_assertions), inline(always))]
    #[allow(clippy::unused_self)]
    pub(crate) fn ensure_running(&'static self) -> bool {
        true
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
    pub(super) fn start(&'static self) {
        if !self.alarm.claim() {
            return;
        }
        // Relaxed, here and below: hints; it is the alarm that decides.
        let is_time = clock::real_now() >= self.try_at.load(Ordering::Relaxed);
        if is_time && os::spawn("timebox-watchdog", || self.serve(false)).is_ok() {
            self.try_at.store(0, Ordering::Relaxed);
            self.alarm.started();
            return;
        }
        // Without threads every check reads the clock, and the next arm tries again.
        if is_time {
            let now = clock::real_now();
            if self.try_at.swap(now.saturating_add(TRY_EVERY), Ordering::Relaxed) == 0 {
                self.missing_since.store(now, Ordering::Relaxed);
            }
        }
        self.alarm.forget();
        self.next_wake.0.store(NEVER, Ordering::Relaxed);
        Thread::with(Thread::look_again);
        self.hooks().rouse();
        self.abandoned().rouse();
    }

    /// Starts the watchdog if there is none. `false` if no thread can be had: a caller that has armed something, and is about to
    /// wait for it, must not rely on being woken, and asks again soon.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn ensure_running(&'static self) -> bool {
        self.alarm.is_reliable() || self.try_again()
    }

    #[cold]
    #[inline(never)]
    fn try_again(&'static self) -> bool {
        // Another thread may be about to start it, which takes but a moment.
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
        // What has been seen by the clock is not to be missed in the next poll.
        Thread::with(Thread::look_again);
        self.alarm.is_reliable()
    }

    /// Whether no thread could be had for it when somebody needed it.
    #[inline]
    pub(crate) fn is_missing(&'static self) -> bool {
        self.try_at.load(Ordering::Relaxed) != 0 && !self.alarm.is_reliable()
    }

    /// Whether a watchdog may be had soon: it has not been missing for long.
    pub(crate) fn is_worth_waiting_for(&'static self) -> bool {
        clock::real_now().saturating_sub(self.missing_since.load(Ordering::Relaxed)) < PATIENCE
    }

    /// For a thread of ours with nothing to do: whether it is to be the watchdog, which is missing. Then it
    /// [serves](Self::step_in) as that.
    pub(super) fn needs_this_thread(&'static self) -> bool {
        self.is_missing() && self.alarm.start()
    }

    pub(super) fn step_in(&'static self) {
        self.try_at.store(0, Ordering::Relaxed);
        os::name_this_thread("timebox-watchdog");
        self.serve(false);
    }
}
