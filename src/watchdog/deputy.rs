//! The deputy: a second thread, which takes over as the watchdog when the watchdog is stuck in a call.
//!
//! Invariants:
//! 1. One thread at a time does the watchdog's work. A watchdog that is in a call does none.
//! 2. If a call has not returned when the deputy has observed it for [`TAKE_OVER_AFTER`], the deputy becomes the watchdog. When
//!    the call returns after that, its thread is not the watchdog any more.
//! 3. The deputy begins to observe a call at most twice [`TAKE_OVER_AFTER`] after the call has begun.
//! 4. While nothing is due the deputy sleeps. The watchdog says in advance when a timer will be due. So the deputy
//!    wakes by itself in time, and the watchdog need not spend time on waking the deputy when the timer is due.

use crate::sync::alarm::Alarm;
#[cfg(not(timebox_loom))]
use crate::sync::os;
use crate::sync::{AtomicU64, Ordering, const_fn, fence, mutant};
use crate::time::{NEVER, clock};

/// How long the deputy observes one call before it takes over, in nanoseconds. Miri's clock advances by 5 us with each
/// block of code, so there any call would take longer than 2 ms.
const TAKE_OVER_AFTER: u64 = if cfg!(miri) { 50_000_000 } else { 2_000_000 };

/// If no deputy can be started, the next try comes after this many nanoseconds.
#[cfg(not(timebox_loom))]
const TRY_EVERY: u64 = 10_000_000;

/// This bit of `Deputy::word` is set while the watchdog is in a call. The higher bits count calls and takeovers.
const IN_CALL: u64 = 1;
const STEP: u64 = 2;

#[derive(Debug)]
pub(super) struct Deputy {
    /// Says whether the watchdog is in a call, and numbers the calls: see [`IN_CALL`].
    word: AtomicU64,
    /// Before this time the watchdog plans no call, so the deputy may sleep. If a new timer or a posted waker brings an
    /// earlier call, `begin_call` wakes the deputy.
    expected: AtomicU64,
    /// When the deputy reads `word` next, at the latest.
    looks_at: AtomicU64,
    /// The deputy sleeps on this alarm. The alarm also says whether there is a deputy.
    alarm: Alarm,
    /// After a failed start of a deputy: no other try before this time.
    #[cfg(not(timebox_loom))]
    try_at: AtomicU64,
}

impl Deputy {
    const_fn! {
        pub(super) fn new() -> Self {
            Self {
                word: AtomicU64::new(0),
                expected: AtomicU64::new(NEVER),
                looks_at: AtomicU64::new(NEVER),
                alarm: Alarm::new(),
                #[cfg(not(timebox_loom))]
                try_at: AtomicU64::new(0),
            }
        }
    }

    // ===== For the watchdog =====

    /// Makes a call that may return late, or never. `None` if the deputy has become the watchdog during the call. Then
    /// the caller is not the watchdog any more.
    pub(super) fn supervise(&self, f: impl FnOnce()) -> Option<()> {
        let call = self.begin_call();
        f();
        if mutant!(BlindReturn) {
            self.word.fetch_and(!IN_CALL, Ordering::Relaxed);
            return Some(());
        }
        // Relaxed: the exchange succeeds only if no other thread was the watchdog during the call. So there are no
        // writes of another watchdog to see.
        let order = (Ordering::Relaxed, Ordering::Relaxed);
        self.word.compare_exchange(call, call & !IN_CALL, order.0, order.1).ok().map(drop)
    }

    fn begin_call(&self) -> u64 {
        // Relaxed: no call is in progress, so only this thread, the watchdog, changes the word.
        let call = (self.word.load(Ordering::Relaxed) | IN_CALL).wrapping_add(STEP);
        // Release: pairs with the Acquire in `stand_by`, so a deputy that takes over sees all that this thread has
        // done.
        self.word.store(call, Ordering::Release);
        self.look_by(clock::now().saturating_add(2 * TAKE_OVER_AFTER));
        call
    }

    /// Tells the deputy that the watchdog expects to call no waker before `from`. Called before the watchdog sleeps.
    pub(super) fn expect_calls(&self, from: u64) {
        // Relaxed: the fence in `look_by` orders the store.
        self.expected.store(from, Ordering::Relaxed);
        self.look_by(from.saturating_add(TAKE_OVER_AFTER));
    }

    /// Wakes the deputy, unless it reads the word by `time` anyway.
    fn look_by(&self, time: u64) {
        // SeqCst: the watchdog has stored `word` or `expected`, and now loads `looks_at`. Pairs with the fence in
        // `stand_by`: the deputy stores `looks_at`, and then loads `word` and `expected`. So at least one of the two
        // sees the other's store.
        fence(Ordering::SeqCst);
        if self.looks_at.load(Ordering::Relaxed) > time {
            self.alarm.ring();
        }
    }

    #[inline]
    pub(super) fn is_there(&self) -> bool {
        self.alarm.is_running()
    }

    /// Starts a thread for the deputy. If no thread can be had, the watchdog goes without a deputy.
    #[cfg(not(timebox_loom))]
    pub(super) fn start(&self, stand_by: impl FnOnce() + Send + 'static) {
        // Relaxed: `try_at` only limits how often a start is tried.
        let now = clock::now();
        if now < self.try_at.load(Ordering::Relaxed) || !self.alarm.start() {
            return;
        }
        // A deputy that becomes the watchdog changes the name that the system shows for its thread. But the name in std
        // (`Thread::name`, panic messages) cannot change. So std's name is that of the watchdog from the beginning.
        let run = || {
            os::name_this_thread("timebox-deputy");
            stand_by();
        };
        if os::spawn("timebox-watchdog", run).is_err() {
            self.alarm.forget();
            self.try_at.store(now.saturating_add(TRY_EVERY), Ordering::Relaxed);
        }
    }

    /// Wakes the deputy, so that it ends. Called when the watchdog has ended.
    pub(super) fn dismiss(&self) {
        if self.is_there() {
            self.alarm.ring();
        }
    }

    // ===== For the deputy =====

    /// Makes the calling thread the deputy; `false` if there is a deputy already.
    pub(super) fn appoint(&self) -> bool {
        self.alarm.start()
    }

    /// Waits until the watchdog is stuck in a call. Then takes over, and returns `true`. Returns `false` if the
    /// watchdog has ended (`is_needed` has returned `false`). In both cases the caller is not the deputy any more.
    pub(super) fn stand_by(&self, is_needed: impl Fn() -> bool) -> bool {
        // The word that was read last, and the time at which this word was first read.
        let mut since = (self.word.load(Ordering::Relaxed), clock::now());
        loop {
            // The key is read before the word. If the alarm is rung after this line, the sleep below ends at once.
            let key = self.alarm.key();
            let now = clock::now();
            // Relaxed, here and below: the fence orders these loads and the store of `looks_at`. A stale value cannot
            // cause a takeover, because the takeover is a compare-and-swap.
            let seen = self.word.load(Ordering::Relaxed);
            if seen != since.0 {
                since = (seen, now);
            }
            let expected = self.expected.load(Ordering::Relaxed);
            let until = if seen & IN_CALL != 0 {
                since.1.saturating_add(TAKE_OVER_AFTER)
            } else if !is_needed() && self.alarm.retire(key) {
                return false;
            } else {
                expected.max(now).saturating_add(TAKE_OVER_AFTER)
            };
            if seen & IN_CALL != 0 && until <= now {
                let taken = (seen & !IN_CALL).wrapping_add(STEP);
                // Acquire: pairs with the Release in `begin_call`.
                let taken = self.word.compare_exchange(seen, taken, Ordering::Acquire, Ordering::Relaxed);
                if taken.is_ok() {
                    self.alarm.forget();
                    return true;
                }
                continue;
            }
            self.looks_at.store(until, Ordering::Relaxed);
            // SeqCst: pairs with the fence in `look_by`.
            if !mutant!(DeafDeputy) {
                fence(Ordering::SeqCst);
            }
            let is_same = seen == self.word.load(Ordering::Relaxed)
                && expected <= self.expected.load(Ordering::Relaxed);
            if is_same || mutant!(DeafDeputy) {
                self.alarm.wait(key, until);
            }
        }
    }

    #[cfg(all(test, timebox_loom))]
    pub(super) fn alarm(&self) -> &Alarm {
        &self.alarm
    }

    /// Called in a forked child, which has no deputy. A waker that the watchdog called may have made the fork. Then the
    /// child's only thread is a copy of the watchdog. The new word tells this thread that it is not the watchdog any
    /// more.
    #[cfg(not(timebox_loom))]
    pub(super) fn restart(&self) {
        self.alarm.forget();
        // Relaxed: this is the child's only thread.
        let before = self.word.load(Ordering::Relaxed);
        self.word.store((before & !IN_CALL).wrapping_add(STEP), Ordering::Relaxed);
        self.try_at.store(0, Ordering::Relaxed);
    }
}
