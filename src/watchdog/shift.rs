//! Which thread is the watchdog. It calls code that may not return; then its *deputy* takes over.
//!
//! Invariants:
//! 1. One thread at a time is the watchdog, except while it is in a call: then nobody touches what is the watchdog's.
//! 2. A call that has not returned when its deputy has looked at it for [`PATIENCE`] is taken over: the deputy is the watchdog,
//!    and who returns from the call is not.
//! 3. A call is looked at within twice that time of its begin.
//! 4. While nothing is due the deputy sleeps. It is told beforehand when something will be, so that to wake it is not in the way
//!    when that time has come.

use crate::sync::alarm::Alarm;
#[cfg(not(timebox_loom))]
use crate::sync::os;
use crate::sync::{AtomicU64, Ordering, const_fn, fence, mutant};
use crate::time::{NEVER, clock};

/// How long the deputy looks at one call before it takes over, in nanoseconds.
const PATIENCE: u64 = 2_000_000;

/// How long it is left alone that no deputy could be had, in nanoseconds.
#[cfg(not(timebox_loom))]
const TRY_EVERY: u64 = 10_000_000;

/// Bit 0 of the word: the watchdog is in a call. The rest counts calls, and who took over.
const IN_CALL: u64 = 1;
const STEP: u64 = 2;

#[derive(Debug)]
pub(super) struct Shift {
    word: AtomicU64,
    /// From when on the watchdog expects to make calls, unless something comes meanwhile.
    expected: AtomicU64,
    /// When the deputy will look at the word, at the latest.
    looks_at: AtomicU64,
    /// What the deputy sleeps on, and whether there is one.
    parker: Alarm,
    /// When to try again to have one.
    #[cfg(not(timebox_loom))]
    try_at: AtomicU64,
}

impl Shift {
    const_fn! {
        pub(super) fn new() -> Self {
            Self {
                word: AtomicU64::new(0),
                expected: AtomicU64::new(NEVER),
                looks_at: AtomicU64::new(NEVER),
                parker: Alarm::new(),
                #[cfg(not(timebox_loom))]
                try_at: AtomicU64::new(0),
            }
        }
    }

    // ===== For the watchdog =====

    /// Calls something that may not return, or late; `None` if another is the watchdog by then.
    pub(super) fn call(&self, f: impl FnOnce()) -> Option<()> {
        let call = self.begin_call();
        f();
        if mutant!(BlindReturn) {
            self.word.fetch_and(!IN_CALL, Ordering::Relaxed);
            return Some(());
        }
        // Relaxed: if it succeeds nobody else was the watchdog meanwhile.
        let order = (Ordering::Relaxed, Ordering::Relaxed);
        self.word.compare_exchange(call, call & !IN_CALL, order.0, order.1).ok().map(drop)
    }

    /// The word while it is in the call.
    fn begin_call(&self) -> u64 {
        // Relaxed: nobody but the watchdog changes it, unless that is in a call.
        let call = (self.word.load(Ordering::Relaxed) | IN_CALL).wrapping_add(STEP);
        // Release: pairs with the Acquire in `stand_by`: who takes over sees what this thread has done.
        self.word.store(call, Ordering::Release);
        self.have_looked_at(clock::now().saturating_add(2 * PATIENCE));
        call
    }

    /// Before the watchdog sleeps: when it will make calls.
    pub(super) fn expect_calls(&self, from: u64) {
        // Relaxed: the fence orders it.
        self.expected.store(from, Ordering::Relaxed);
        self.have_looked_at(from.saturating_add(PATIENCE));
    }

    /// Wakes the deputy if it would look later.
    fn have_looked_at(&self, time: u64) {
        // SeqCst: between what the watchdog has said and its look at the deputy. Pairs with the fence in `stand_by`, between the
        // same two in reverse: one of them sees the other's.
        fence(Ordering::SeqCst);
        if self.looks_at.load(Ordering::Relaxed) > time {
            self.parker.ring();
        }
    }

    #[inline]
    pub(super) fn has_deputy(&self) -> bool {
        self.parker.is_running()
    }

    /// Starts a thread that stands by. Where none can be had it goes without.
    #[cfg(not(timebox_loom))]
    pub(super) fn start_deputy(&self, stand_by: impl FnOnce() + Send + 'static) {
        // Relaxed: a hint.
        let now = clock::now();
        if now < self.try_at.load(Ordering::Relaxed) || !self.parker.start() {
            return;
        }
        // By this name the program will know it when it has taken over.
        let run = || {
            os::name_this_thread("timebox-deputy");
            stand_by();
        };
        if os::spawn("timebox-watchdog", run).is_err() {
            self.parker.forget();
            self.try_at.store(now.saturating_add(TRY_EVERY), Ordering::Relaxed);
        }
    }

    /// There is no watchdog any more that needs one.
    pub(super) fn dismiss_deputy(&self) {
        if self.has_deputy() {
            self.parker.ring();
        }
    }

    // ===== For the deputy =====

    /// Whether the calling thread is the deputy now: there was none.
    pub(super) fn become_deputy(&self) -> bool {
        self.parker.start()
    }

    /// Waits until the watchdog is stuck in a call, and takes over; or, with `false`, until there is none, as `is_needed`
    /// says. The caller is not the deputy any more.
    pub(super) fn stand_by(&self, is_needed: impl Fn() -> bool) -> bool {
        // Since when the word has been as it was seen last.
        let mut since = (self.word.load(Ordering::Relaxed), clock::now());
        loop {
            // Before it looks: a ring after that cuts its sleep short.
            let key = self.parker.key();
            let now = clock::now();
            // Relaxed, here and below: the fence orders it; and to take over is an exchange.
            let seen = self.word.load(Ordering::Relaxed);
            if seen != since.0 {
                since = (seen, now);
            }
            let expected = self.expected.load(Ordering::Relaxed);
            let until = if seen & IN_CALL != 0 {
                since.1.saturating_add(PATIENCE)
            } else if !is_needed() && self.parker.retire(key) {
                return false;
            } else {
                expected.max(now).saturating_add(PATIENCE)
            };
            if seen & IN_CALL != 0 && until <= now {
                let taken = (seen & !IN_CALL).wrapping_add(STEP);
                // Acquire: pairs with the Release in `begin_call`.
                let taken = self.word.compare_exchange(seen, taken, Ordering::Acquire, Ordering::Relaxed);
                if taken.is_ok() {
                    self.parker.forget();
                    return true;
                }
                continue;
            }
            self.looks_at.store(until, Ordering::Relaxed);
            // SeqCst: pairs with the fence in `have_looked_at`.
            if !mutant!(DeafDeputy) {
                fence(Ordering::SeqCst);
            }
            let is_same = seen == self.word.load(Ordering::Relaxed)
                && expected <= self.expected.load(Ordering::Relaxed);
            if is_same || mutant!(DeafDeputy) {
                self.parker.wait(key, until);
            }
        }
    }

    #[cfg(all(test, timebox_loom))]
    pub(super) fn parker(&self) -> &Alarm {
        &self.parker
    }

    /// In a forked child: there is no deputy, and whoever forked in a call is not the watchdog.
    #[cfg(not(timebox_loom))]
    pub(super) fn restart(&self) {
        self.parker.forget();
        // Relaxed: this is the child's only thread.
        let before = self.word.load(Ordering::Relaxed);
        self.word.store((before & !IN_CALL).wrapping_add(STEP), Ordering::Relaxed);
        self.try_at.store(0, Ordering::Relaxed);
    }
}
