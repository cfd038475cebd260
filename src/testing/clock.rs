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

/// A clock that moves only when it is told to, or [by itself](Self::auto_advancing) when all wait.
///
/// What this crate makes inside of [`run`](Self::run) follows it: scopes, quotas, tokens and futures, also on threads
/// that are entered with a [`Handle`](crate::Handle), and in futures that are polled elsewhere. Handles and tokens keep
/// the clock that they were made under. Tests that run at the same time do not see each other's clocks.
///
/// It starts at the real time, so that an [`Instant`] that was read from the system is one on its scale too. Clones
/// share the clock; it can be moved from any thread. Code under test asks it the time by [`timebox::now`](crate::now),
/// which outside of tests is the system's.
///
/// Its time is counted in nanoseconds and ends after 584 years. What never comes is half of the way to that end: so far a
/// [sleep](crate::sleep()) of [`Duration::MAX`] moves it, and an [`advance`](Self::advance) that leads past the end.
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
    /// There if it moves by itself.
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
    /// A clock that shows the real time, and stands still.
    pub fn new() -> Self {
        Self::with_mover(|_| None)
    }

    /// A clock that moves to the next timer by itself when all threads under it wait.
    ///
    /// A thread is under the clock in [`run`](Self::run), and where it has entered a [`Handle`](crate::Handle) from there. It
    /// waits in a [`sleep`](crate::sleep()) of this crate, in [`abandon`](crate::abandon()), and in
    /// [`block_on`](Self::block_on) while the future is pending. Timers are all that something waits for by this clock: the
    /// ends of sleeps, the limits of those who wait or have hooks or tokens. Where there are none, the clock stands.
    ///
    /// All else counts as work: a join, a lock, a channel, a read. **So the clock never runs away from work that it cannot
    /// see, and no limit expires for that reason; but where such a wait is for the clock to move, the test hangs.** Wait for
    /// another thread, or for a hook, with [`block_on`](Self::block_on): for a [token](crate::CancellationToken::cancelled), or
    /// a channel of futures. Whoever wakes it counts it as awake at once, so that the clock does not move in between. What an
    /// executor polls on a thread that is not under the clock is not seen: see [`advance_to_next`](Self::advance_to_next).
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
    ///             // Until the thread is under the clock.
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
        #[allow(clippy::disallowed_methods)] // it starts at the real time, as an instant and on our scale
        let started = Instant::now();
        let mock = mock::new_clock(clock::of_instant(started));
        let mover = mover(&mock);
        Self { shared: Arc::new(Shared { mock, started, mover }) }
    }

    /// Runs a test under this clock.
    ///
    /// It is a root: the scopes that are open around it do not count inside. On this thread a [`sleep`](crate::sleep())
    /// moves the clock, to its own end or to that of its scope, since nobody else could; on other threads, and in
    /// futures, it waits until somebody does. Under a clock that moves [by itself](Self::auto_advancing) all of them wait.
    pub fn run<R>(&self, test: impl FnOnce(&MockClock) -> R) -> R {
        let mut setup = TestEnv::current().setup().cloned().unwrap_or_default();
        setup.mock = Some(Arc::clone(&self.shared.mock));
        setup.moved_by = self.shared.mover.is_none().then(ThreadKey::current);
        let env = TestEnv::of(setup);
        Thread::with(|thread| {
            let _present = test_hooks::present(&env);
            // Before the scopes around are out of sight.
            let _under = test_hooks::enter_env(thread, &env);
            without_scopes(|| test(self))
        })
    }

    /// Runs a future under this clock, which moves by itself meanwhile: when the future is pending and nothing has woken it,
    /// and all other threads under the clock wait too, it goes to the next timer.
    ///
    /// The future is polled on this thread and nowhere else, so it comes out the same each time. For tasks of a runtime see
    /// [`advance_to_next`](Self::advance_to_next).
    ///
    /// It is also how a thread under the clock waits for another, or for a hook, and has the clock move meanwhile. As in
    /// [`run`](Self::run), the scopes that are open around it do not count inside.
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
    /// // A foreign call that hangs until its hook ends it.
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

    /// Keeps the clock from moving [by itself](Self::auto_advancing) until the result is dropped, which any thread may do.
    ///
    /// For what is under way and is not a thread under the clock: one that is being started, an answer from a server.
    pub fn hold(&self) -> Hold {
        Hold { _awake: presence::Hold::new(&self.shared.mock), clock: self.clone() }
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

    /// Moves the clock to the next timer, whoever waits or does not; `false` if there is none. Otherwise as
    /// [`advance`](Self::advance).
    ///
    /// For executors that tell when they are idle. A runtime of tokio with one thread does so before it parks:
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
    /// It parks too while it waits for a socket, or for a thread of its own: let such a wait be over before limits count, or
    /// the clock runs away from it, as tokio's does.
    pub fn advance_to_next(&self) -> bool {
        let moved = mock::advance_to_next(&self.shared.mock, || true);
        self.moved();
        moved
    }

    /// This thread's latest reading is not the latest any more.
    fn moved(&self) {
        if TestEnv::current().mock().is_some_and(|mock| Arc::ptr_eq(mock, &self.shared.mock)) {
            Thread::with(test_hooks::set);
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

/// Keeps a [`MockClock`] from moving by itself for as long as it is there: see [`MockClock::hold`].
#[must_use = "it ends when it is dropped"]
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
