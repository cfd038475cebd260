//! Reports: the watchdog tells an observer which threads to look at.
//!
//! While a policy of reports is in force, a thread stores two times in its slot: its deadline, and the time of the next
//! *look* at the thread. The protocol is the same for both: see `README.md`. The watchdog calls the observer at the
//! beginning of a pass, before it wakes any waker. So the observer sees what a hook is about to interrupt.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::arm::Watchdog;
use super::reports::{NO_WARNING, Observer};
use super::slots::Slot;
use crate::sync::Ordering;
use crate::sync::callback::drop_quietly;
use crate::time::{NEVER, clock};

impl Watchdog {
    /// Sets the observer, unless one is set already. Threads that got their slot before are not announced to it
    /// (`Observer::make_room`).
    pub(crate) fn observe_with(&self, observer: &'static dyn Observer) {
        self.reports.observer.get_or_init(|| observer);
    }

    /// Puts a policy of reports into force. `warn_after`: after how long an outermost scope is reported as slow, in
    /// nanoseconds.
    pub(crate) fn watch_with(&'static self, warn_after: u64) {
        // Relaxed, here and below: a scope that is entered at this moment may follow either the old or the new policy.
        self.reports.warn_after.store(warn_after.min(NO_WARNING), Ordering::Relaxed);
        self.settings().set_watched(true);
        // While reports were off, scopes armed no look. So the observer is called now, to find the scopes that are
        // already open.
        self.call_observer();
    }

    pub(crate) fn watch_no_more(&'static self) {
        self.settings().set_watched(false);
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn warn_after(&self) -> u64 {
        self.reports.warn_after.load(Ordering::Relaxed)
    }

    /// Makes the watchdog call the observer as soon as possible.
    pub(crate) fn call_observer(&'static self) {
        // Release: pairs with the swap in `observe`, so that the observer sees what the caller has changed.
        self.reports.next.store(0, Ordering::Release);
        // SeqCst: orders the store before the load of `next_wake`, as in `arm`. Pairs with the fence in `pass`.
        crate::sync::fence(Ordering::SeqCst);
        self.wake(0);
    }

    /// Makes the watchdog look at the slot's thread at the time `at`. Returns `false` if no thread can be had for the
    /// watchdog.
    #[must_use]
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn arm_look(&'static self, slot: &Slot, at: u64) -> bool {
        slot.set_look(at);
        self.light_fence();
        // Relaxed: as in `wake_for`.
        at >= self.next_wake.0.load(Ordering::Relaxed) || self.wake_for_look(slot, at)
    }

    /// [`wake`](Self::wake) for a look. This thread may have been kept from running, so that a pass of the watchdog
    /// went beyond the time `at` before the look was stored. No pass would find such a look. So the look is moved to
    /// the present time.
    #[cold]
    #[inline(never)]
    fn wake_for_look(&'static self, slot: &Slot, mut at: u64) -> bool {
        // Relaxed: this load may miss a pass that has begun meanwhile. But that pass has found the look, because the
        // look was stored before the fence.
        let passed = self.reports.passed.load(Ordering::Relaxed);
        if at <= passed {
            at = clock::now().max(passed.saturating_add(1));
            slot.set_look(at);
            self.light_fence();
        }
        self.wake(at)
    }

    pub(crate) fn make_room_for_looks(&'static self, slot: usize) {
        if let Some(observer) = self.reports.observer.get() {
            observer.make_room(slot + 1);
        }
    }

    pub(super) fn prepare_looks(&'static self) {
        if let Some(observer) = self.reports.observer.get()
            && self.settings().is_watched()
        {
            observer.prepare();
        }
    }

    /// Calls the observer. `planned`: the time at which this pass was to begin; `NEVER` if it had no such time.
    pub(super) fn observe(&'static self, now: u64, planned: u64) {
        if !self.settings().is_watched() {
            return;
        }
        let Some(observer) = self.reports.observer.get() else { return };
        // Relaxed: only the watchdog writes `passed`.
        let passed = self.reports.passed.swap(now, Ordering::Relaxed);
        let late = now.saturating_sub(planned);
        // Acquire: pairs with the Release in `call_observer`, which stores 0. If it stores the 0 after this swap, the
        // `fetch_min` below keeps the 0, so the next pass comes at once.
        self.reports.next.swap(NEVER, Ordering::Acquire);
        // A panic must not end the watchdog.
        let look = || observer.pass(&mut self.slots.due(passed, now), now, late);
        let next = match catch_unwind(AssertUnwindSafe(look)) {
            Ok(next) => next,
            Err(payload) => {
                drop_quietly(payload);
                NEVER
            }
        };
        self.reports.next.fetch_min(next, Ordering::Relaxed);
    }

    pub(super) fn next_look(&self, now: u64) -> u64 {
        if !self.settings().is_watched() {
            return NEVER;
        }
        self.slots.earliest_look(now).min(self.reports.next.load(Ordering::Relaxed))
    }
}
