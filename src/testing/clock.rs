use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::scope::staged;
use crate::sync::ThreadKey;
use crate::time::seam::{Mock, Seam};
use crate::time::{Deadline, clock, nanos};
use crate::watchdog::mock;
use crate::watchdog::slots::{Thread, without_scopes};

/// A clock that moves only when it is told to.
///
/// What this crate makes inside of [`run`](Self::run) follows it: scopes, quotas, tokens and futures, also on threads
/// that are entered with a [`Handle`](crate::Handle), and in futures that are polled elsewhere. Handles and tokens keep
/// the clock that they were made under. Tests that run at the same time do not see each other's clocks.
///
/// It starts at the real time, so that an [`Instant`] that was read from the system is one on its scale too. Clones
/// share the clock; it can be moved from any thread.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use timebox::testing::MockClock;
/// use timebox::{TimeoutError, checkpoint, timeout};
///
/// MockClock::new().run(|clock| {
///     let hour = Duration::from_secs(3600);
///     let result = timeout(hour, || -> Result<(), TimeoutError> {
///         clock.advance(hour - Duration::from_nanos(1));
///         checkpoint()?;
///         clock.advance(Duration::from_nanos(1));
///         checkpoint()
///     });
///     let error = result.unwrap_err();
///     assert_eq!((error.elapsed(), error.overshoot()), (hour, Duration::ZERO));
/// });
/// ```
#[derive(Clone)]
pub struct MockClock {
    shared: Arc<Shared>,
}

struct Shared {
    mock: Arc<Mock>,
    started: Instant,
}

impl UnwindSafe for MockClock {}
impl RefUnwindSafe for MockClock {}

impl Drop for Shared {
    fn drop(&mut self) {
        mock::forget_clock(&self.mock);
    }
}

impl MockClock {
    /// A clock that shows the real time, and stands still.
    pub fn new() -> Self {
        #[allow(clippy::disallowed_methods)] // it starts at the real time, as an instant and on our scale
        let started = Instant::now();
        let mock = mock::new_clock(clock::of_instant(started));
        Self { shared: Arc::new(Shared { mock, started }) }
    }

    /// Runs a test under this clock.
    ///
    /// It is a root: the scopes that are open around it do not count inside. On this thread a [`sleep`](crate::sleep())
    /// moves the clock, to its own end or to that of its scope, since nobody else could; on other threads, and in
    /// futures, it waits until somebody does.
    pub fn run<R>(&self, test: impl FnOnce(&MockClock) -> R) -> R {
        let mut world = Seam::current().world().cloned().unwrap_or_default();
        world.mock = Some(Arc::clone(&self.shared.mock));
        world.moved_by = Some(ThreadKey::current());
        let seam = Seam::of(world);
        Thread::with(|thread| {
            // Before the scopes around are out of sight.
            let _under = staged::under(thread, &seam);
            without_scopes(|| test(self))
        })
    }

    /// Moves the clock, from one expiry that is due in between to the next.
    ///
    /// When it returns, all of them have happened in order: tokens say so, tasks have been woken (not: been polled), and
    /// the hooks that fired have run, those included that threads under this clock had set off before, by a cancel or by
    /// leaving a shield. So the caller must not hold what a hook waits for. Where a hook takes longer than a second of real
    /// time, and another expiry is due, the clock moves on to that, for the hook may wait for it. Called from inside a
    /// hook it has the move in progress go on, if there is one, and returns at once.
    pub fn advance(&self, duration: Duration) {
        mock::advance(&self.shared.mock, |now| now.saturating_add(nanos(duration)), || true);
        self.moved();
    }

    /// Moves the clock to a deadline on its scale, never back; not at all for one that never comes.
    ///
    /// ```
    /// use std::time::Duration;
    /// use timebox::testing::MockClock;
    ///
    /// MockClock::new().run(|clock| {
    ///     timebox::timeout_value(Duration::from_secs(60), || {
    ///         clock.advance_to(timebox::deadline());
    ///         assert!(timebox::is_expired());
    ///     }).unwrap();
    /// });
    /// ```
    pub fn advance_to(&self, deadline: Deadline) {
        if deadline == Deadline::NEVER {
            return;
        }
        let deadline = deadline.as_nanos();
        mock::advance(&self.shared.mock, |_| deadline, || true);
        self.moved();
    }

    /// This thread's latest reading is not the latest any more.
    fn moved(&self) {
        if Seam::current().mock().is_some_and(|mock| Arc::ptr_eq(mock, &self.shared.mock)) {
            Thread::with(staged::set);
        }
    }

    /// What it shows.
    pub fn now(&self) -> Instant {
        let started = self.shared.started;
        started.checked_add(self.elapsed()).unwrap_or(started)
    }

    /// How far it has been moved since it was made.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.shared.mock.now().saturating_sub(clock::of_instant(self.shared.started)))
    }
}

impl Default for MockClock {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MockClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MockClock").field("elapsed", &self.elapsed()).finish_non_exhaustive()
    }
}
