use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::scope::presence::{self, Mover, Wait};
use crate::scope::test_hooks;
use crate::sync::ThreadKey;
use crate::test_env::{Mock, TestEnv};
use crate::thread::{Thread, without_scopes};
use crate::time::{Deadline, clock, nanos};
use crate::watchdog::mock;

/// A clock that a test moves, or that moves [by itself](Self::auto_advancing) when all threads under it wait.
///
/// Scopes, quotas, tokens, handles and futures that are made inside [`run`](Self::run) follow the clock. They keep the
/// clock outside of `run`. For example, a future may be polled elsewhere. All that another thread makes while it has
/// entered such a [`Handle`](crate::Handle) follows the clock. Tests that run at the same time do not see each other's
/// clocks.
///
/// The clock starts at the real time, so an [`Instant`] from the system can be compared with it. Clones share the
/// clock, and any thread can move it. Code under test reads the clock by [`timebox::now`](crate::now). Outside of tests
/// that function reads the system's clock.
///
/// The clock counts nanoseconds, and ends after 584 years. A move past that end, such as a [sleep](crate::sleep()) of
/// [`Duration::MAX`], goes only half of the way to the end, so that later limits still fit.
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
    /// `Some` if the clock moves by itself.
    mover: Option<Mover>,
}

impl UnwindSafe for MockClock {}
impl RefUnwindSafe for MockClock {}

impl Drop for Shared {
    fn drop(&mut self) {
        mock::forget_clock(&self.mock);
    }
}

impl MockClock {
    /// A clock that starts at the real time and stands still.
    pub fn new() -> Self {
        Self::with_mover(|_| None)
    }

    /// A clock that moves to the next timer by itself when all threads under it wait.
    ///
    /// A thread is under the clock inside [`run`](Self::run), and while it has entered a [`Handle`](crate::Handle)
    /// that was made there. Three calls count as waiting: a [`sleep`](crate::sleep()) of this crate,
    /// [`abandon`](crate::abandon()), and [`block_on`](Self::block_on) while its future is pending. The timers are
    /// the ends of sleeps, and the limits of scopes that have a hook or a token, or in which code waits. Without a
    /// timer the clock stands still.
    ///
    /// Everything else counts as work: a join, a lock, a channel, a read. **So the clock never moves during work, and
    /// no limit expires because work takes long. But a test hangs if it joins a thread that waits for the clock to
    /// move.** To wait for another thread or for a hook, use [`block_on`](Self::block_on) with a
    /// [token](crate::CancellationToken::cancelled) or an async channel. A wakeup counts the thread as awake at once,
    /// so the clock does not move between the wakeup and the poll.
    ///
    /// The clock does not see tasks that an executor polls on a thread that is not under the clock: see
    /// [`advance_to_next`](Self::advance_to_next).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::thread;
    /// use std::time::Duration;
    /// use timebox::testing::MockClock;
    /// use timebox::{Limit, sleep};
    ///
    /// let hour = Duration::from_secs(3600);
    /// MockClock::auto_advancing().run(|clock| {
    ///     let handle = timebox::handle();
    ///     thread::scope(|threads| {
    ///         for hours in [1, 2, 3] {
    ///             // The clock stands still until the thread is under it.
    ///             let (hold, handle) = (clock.hold(), &handle);
    ///             threads.spawn(move || {
    ///                 handle.enter(Limit::NONE, |_| {
    ///                     drop(hold);
    ///                     sleep(hours * hour)
    ///                 })
    ///             });
    ///         }
    ///         assert!(sleep(10 * hour).is_ok());
    ///     });
    ///     assert_eq!(clock.elapsed(), 10 * hour);
    /// });
    /// ```
    pub fn auto_advancing() -> Self {
        Self::with_mover(|mock| Some(Mover::of(mock)))
    }

    fn with_mover(mover: impl FnOnce(&Arc<Mock>) -> Option<Mover>) -> Self {
        #[allow(clippy::disallowed_methods)] // the clock starts at the real time
        let started = Instant::now();
        let mock = mock::new_clock(clock::of_instant(started));
        let mover = mover(&mock);
        Self { shared: Arc::new(Shared { mock, started, mover }) }
    }

    /// Runs a test under this clock.
    ///
    /// Scopes that are open around the call do not count inside. On this thread a [`sleep`](crate::sleep()) moves the
    /// clock: to the end of the sleep, or to the first deadline of the scopes around the sleep if that is earlier. On
    /// other threads, and in futures, a sleep waits until the clock is moved. Under a clock that moves [by
    /// itself](Self::auto_advancing) every sleep waits.
    pub fn run<R>(&self, test: impl FnOnce(&MockClock) -> R) -> R {
        let mut setup = TestEnv::current().setup().cloned().unwrap_or_default();
        setup.mock = Some(Arc::clone(&self.shared.mock));
        setup.moved_by = self.shared.mover.is_none().then(ThreadKey::current);
        let env = TestEnv::of(setup);
        Thread::with(|thread| {
            let _present = test_hooks::present(&env);
            // `enter_env` makes the nodes of the outer scopes, so that these keep the outer clock. So it must come
            // before `without_scopes`, which hides the outer scopes.
            let _under = test_hooks::enter_env(thread, &env);
            without_scopes(|| test(self))
        })
    }

    /// Runs a future under this clock. Meanwhile the clock moves by itself: it goes to the next timer when the future
    /// is pending and not woken, and all other threads under the clock wait.
    ///
    /// The future is polled on this thread only, so each run has the same result. For the tasks of a runtime see
    /// [`advance_to_next`](Self::advance_to_next).
    ///
    /// A thread under the clock can also call `block_on` to wait for another thread or for a hook, because the clock
    /// moves during the wait. As in [`run`](Self::run), scopes that are open around the call do not count inside.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use timebox::future;
    /// use timebox::testing::MockClock;
    ///
    /// let hour = Duration::from_secs(3600);
    /// let clock = MockClock::new();
    /// let error = clock.block_on(async { future::timeout(hour, future::sleep(2 * hour)).await }).unwrap_err();
    /// assert_eq!((error.elapsed(), clock.elapsed()), (hour, hour));
    ///
    /// // A foreign call that returns only after its hook.
    /// clock.run(|clock| {
    ///     let stop = timebox::CancellationToken::new();
    ///     let stopped = stop.clone();
    ///     let call = || {
    ///         clock.block_on(stopped.cancelled());
    ///         Err::<(), _>("stopped")
    ///     };
    ///     let result = timebox::timeout(hour, || timebox::interruptible(move || stop.cancel(), call));
    ///     assert!(result.unwrap_err().is_timeout());
    /// });
    /// assert_eq!(clock.elapsed(), 2 * hour);
    /// ```
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.run(|_| {
            let _mover = Mover::of(&self.shared.mock);
            let mut future = pin!(future);
            let wait = Arc::new(Wait::new(&self.shared.mock));
            let waker = Waker::from(Arc::clone(&wait));
            loop {
                if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                    return output;
                }
                wait.sleep(Deadline::NEVER.as_nanos());
            }
        })
    }

    /// Keeps the clock from moving [by itself](Self::auto_advancing) until the result is dropped. Any thread may drop
    /// the result.
    ///
    /// Hold the clock for work that no thread under the clock does: for example while a thread is starting, or while
    /// a server prepares an answer.
    pub fn hold(&self) -> Hold {
        Hold { _awake: presence::Hold::new(&self.shared.mock), clock: self.clone() }
    }

    /// Moves the clock forward. Each expiry on the way happens at its own time.
    ///
    /// When the call returns, the expiries have happened in order: tokens are cancelled, tasks have been woken (but
    /// perhaps not polled), and hooks have run. Hooks that threads under this clock had fired earlier, by a cancel or
    /// at the end of a shield, have run too. So the caller must not hold a lock that a hook needs.
    ///
    /// If a hook runs for longer than a second of real time and another expiry is due, the clock moves on to that
    /// expiry, because the hook may wait for it. If a hook that a move has fired calls `advance`, that call extends the
    /// move, and returns at once.
    pub fn advance(&self, duration: Duration) {
        mock::advance(&self.shared.mock, |now| now.saturating_add(nanos(duration)), || true);
        self.moved();
    }

    /// Moves the clock forward to a deadline. The clock never moves back, and does not move for [`Deadline::NEVER`].
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

    /// Moves the clock to the next timer, as [`advance`](Self::advance) does, even if threads under the clock are at
    /// work. Returns `false` if there is no timer.
    ///
    /// Call it when an executor reports that it is idle. A tokio runtime with one thread reports that before it parks:
    ///
    /// ```
    /// use std::time::Duration;
    /// use timebox::future;
    /// use timebox::testing::MockClock;
    ///
    /// let hour = Duration::from_secs(3600);
    /// let clock = MockClock::new();
    /// let idle = clock.clone();
    /// let runtime = tokio::runtime::Builder::new_current_thread()
    ///     .on_thread_park(move || {
    ///         idle.advance_to_next();
    ///     })
    ///     .build()
    ///     .unwrap();
    /// clock.run(|_| {
    ///     runtime.block_on(async {
    ///         let hours = [3, 1, 2].map(|n| tokio::spawn(future::sleep(n * hour)));
    ///         for slept in hours {
    ///             slept.await.unwrap().unwrap();
    ///         }
    ///     });
    /// });
    /// assert_eq!(clock.elapsed(), 3 * hour);
    /// ```
    ///
    /// The runtime also parks while it waits for a socket, or for one of its own threads. Then the clock moves, as
    /// tokio's paused clock does. So let such a wait end before the code enters its limits.
    pub fn advance_to_next(&self) -> bool {
        let moved = mock::advance_to_next(&self.shared.mock, || true);
        self.moved();
        moved
    }

    /// Called after a move of the clock. Renews the reading that this thread has cached, if the thread is under the
    /// clock.
    fn moved(&self) {
        if TestEnv::current().mock().is_some_and(|mock| Arc::ptr_eq(mock, &self.shared.mock)) {
            Thread::with(test_hooks::set);
        }
    }

    /// The clock's time.
    pub fn now(&self) -> Instant {
        let started = self.shared.started;
        started.checked_add(self.elapsed()).unwrap_or(started)
    }

    /// How far the clock has moved since it was made.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.shared.mock.now().saturating_sub(clock::of_instant(self.shared.started)))
    }
}

/// Keeps a [`MockClock`] from moving by itself until the hold is dropped: see [`MockClock::hold`].
#[must_use = "the clock may move again once this is dropped"]
pub struct Hold {
    _awake: presence::Hold,
    clock: MockClock,
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold").field("clock", &self.clock).finish_non_exhaustive()
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
