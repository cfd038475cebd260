//! Which thread is the watchdog. It calls code that may not return; then its *deputy* takes over.
//!
//! Invariants:
//! 1. One thread at a time is the watchdog, except while it is in a call: then nobody touches what is the watchdog's.
//! 2. A call that has not returned when its deputy has looked at it for [`PATIENCE`] is taken over: the deputy is the watchdog,
//!    and who returns from the call is not.
//! 3. The deputy sleeps, with nothing to wake it, unless there was a call within that time.

use crate::sync::alarm::Alarm;
#[cfg(not(timebox_loom))]
use crate::sync::os;
use crate::sync::{AtomicU64, Ordering, const_fn, mutant};
use crate::time::{NEVER, clock};

/// How long the deputy looks at one call before it takes over, in nanoseconds.
const PATIENCE: u64 = 50_000_000;

/// How long it is left alone that no deputy could be had, in nanoseconds.
#[cfg(not(timebox_loom))]
const TRY_EVERY: u64 = 10_000_000;

/// Bits of the word: the watchdog is in a call.
const IN_CALL: u64 = 1;
/// The deputy is up, or has been called.
const WATCHED: u64 = 2;
/// The rest counts calls, and who took over.
const STEP: u64 = 4;

#[derive(Debug)]
pub(super) struct Shift {
    word: AtomicU64,
    /// What the deputy sleeps on, and whether there is one.
    bed: Alarm,
    /// When to try again to have one.
    #[cfg(not(timebox_loom))]
    try_at: AtomicU64,
}

impl Shift {
    const_fn! {
        pub(super) fn new() -> Self {
            Self {
                word: AtomicU64::new(0),
                bed: Alarm::new(),
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
        // Relaxed: the exchange decides. But for it only the deputy changes the word, as it lies down.
        let mut seen = self.word.load(Ordering::Relaxed);
        loop {
            let call = (seen | IN_CALL | WATCHED).wrapping_add(STEP);
            // Release: pairs with the Acquire in `stand_by`: who takes over sees what this thread has done.
            match self.word.compare_exchange(seen, call, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => {
                    if seen & WATCHED == 0 {
                        self.bed.ring();
                    }
                    return call;
                }
                Err(now) => seen = now,
            }
        }
    }

    #[inline]
    pub(super) fn has_deputy(&self) -> bool {
        self.bed.is_running()
    }

    /// Starts a thread that stands by. Where none can be had it goes without.
    #[cfg(not(timebox_loom))]
    pub(super) fn start_deputy(&self, stand_by: impl FnOnce() + Send + 'static) {
        // Relaxed: a hint.
        let now = clock::now();
        if now < self.try_at.load(Ordering::Relaxed) || !self.bed.start() {
            return;
        }
        // By this name the program will know it when it has taken over.
        let run = || {
            os::name_this_thread("timebox-deputy");
            stand_by();
        };
        if os::spawn("timebox-watchdog", run).is_err() {
            self.bed.forget();
            self.try_at.store(now.saturating_add(TRY_EVERY), Ordering::Relaxed);
        }
    }

    /// There is no watchdog any more that needs one.
    pub(super) fn dismiss_deputy(&self) {
        if self.has_deputy() {
            self.bed.ring();
        }
    }

    // ===== For the deputy =====

    /// Whether the calling thread is the deputy now: there was none.
    pub(super) fn become_deputy(&self) -> bool {
        self.bed.start()
    }

    /// Waits until the watchdog is stuck in a call, and takes over; or, with `false`, until there is none, as `is_needed`
    /// says. The caller is not the deputy any more.
    pub(super) fn stand_by(&self, is_needed: impl Fn() -> bool) -> bool {
        loop {
            // Before the look at the word: who calls the deputy changes the word, then rings.
            let key = self.bed.key();
            // Relaxed, here and below: the ring orders it, and to take over is an exchange.
            let seen = self.word.load(Ordering::Relaxed);
            if seen & WATCHED == 0 {
                if !is_needed() && self.bed.retire(key) {
                    return false;
                }
                self.bed.wait(key, NEVER);
            } else if self.lasts(seen) {
                let (next, order) = match seen & IN_CALL {
                    0 => (seen & !WATCHED, Ordering::Relaxed),
                    // Acquire: pairs with the Release in `begin_call`.
                    _ => ((seen & !IN_CALL).wrapping_add(STEP), Ordering::Acquire),
                };
                if mutant!(DeafDeputy) && seen & IN_CALL == 0 {
                    self.word.fetch_and(!WATCHED, Ordering::Relaxed);
                    continue;
                }
                let done = self.word.compare_exchange(seen, next, order, Ordering::Relaxed).is_ok();
                if done && seen & IN_CALL != 0 {
                    self.bed.forget();
                    return true;
                }
            }
        }
    }

    /// Whether the word stays as it is for a while.
    fn lasts(&self, seen: u64) -> bool {
        let end = clock::now().saturating_add(PATIENCE);
        while clock::now() < end {
            let key = self.bed.key();
            if self.word.load(Ordering::Relaxed) != seen {
                return false;
            }
            self.bed.wait(key, end);
        }
        self.word.load(Ordering::Relaxed) == seen
    }

    #[cfg(all(test, timebox_loom))]
    pub(super) fn bed(&self) -> &Alarm {
        &self.bed
    }

    /// In a forked child: there is no deputy, and whoever forked in a call is not the watchdog.
    #[cfg(not(timebox_loom))]
    pub(super) fn restart(&self) {
        self.bed.forget();
        // Relaxed: this is the child's only thread.
        let before = self.word.load(Ordering::Relaxed);
        self.word.store((before & !(IN_CALL | WATCHED)).wrapping_add(STEP), Ordering::Relaxed);
        self.try_at.store(0, Ordering::Relaxed);
    }
}
