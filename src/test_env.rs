//! The test environment. A test can replace the real clock by a mock clock, and can add a probe, which is called at
//! each interruption point. Without the feature `testing` there is only the real environment.
//!
//! A thread is *in* an environment while it runs a test's closure, polls a future that was made in the environment, or
//! has entered a handle that was made in the environment. Scopes, tokens, quotas and futures keep the environment that
//! they were made in.

#[cfg(feature = "testing")]
pub(crate) use on::{Entered, Mock, Probe, TestSetup, Verdict, is_entered};
#[cfg(feature = "testing")]
use std::sync::Arc;

/// The environment of scopes, tokens, quotas and futures. By default it is the real environment: the real clock, and no
/// probe.
#[derive(Clone, Default)]
pub(crate) struct TestEnv {
    #[cfg(feature = "testing")]
    setup: Option<Arc<TestSetup>>,
}

impl std::fmt::Debug for TestEnv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestEnv").field("has_real_clock", &self.has_real_clock()).finish_non_exhaustive()
    }
}

impl TestEnv {
    #[inline]
    pub(crate) fn current() -> Self {
        #[cfg(feature = "testing")]
        if is_entered() {
            return on::current();
        }
        Self::default()
    }

    /// A fast check. `false`: this thread is in the real environment. `true`: it may be in a test environment.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn is_in_force() -> bool {
        #[cfg(feature = "testing")]
        return is_entered();
        #[cfg(not(feature = "testing"))]
        false
    }

    /// The time on this environment's clock. `now` is the time on the calling thread's clock. If the two clocks are the
    /// same, no clock is read, and the result is `now`.
    #[inline]
    #[cfg_attr(not(feature = "testing"), allow(clippy::unused_self))]
    pub(crate) fn reading(&self, now: u64) -> u64 {
        #[cfg(feature = "testing")]
        if !self.shares_clock(&Self::current()) {
            return self.now();
        }
        now
    }

    /// Whether both environments have the same clock, so that their times can be compared.
    #[inline]
    #[cfg_attr(not(feature = "testing"), allow(clippy::unused_self))]
    pub(crate) fn shares_clock(&self, other: &Self) -> bool {
        #[cfg(feature = "testing")]
        return self.mock().map(Arc::as_ptr) == other.mock().map(Arc::as_ptr);
        #[cfg(not(feature = "testing"))]
        {
            let _ = other;
            true
        }
    }

    #[inline]
    #[cfg_attr(not(feature = "testing"), allow(clippy::unused_self))]
    pub(crate) fn is_real(&self) -> bool {
        #[cfg(feature = "testing")]
        return self.setup.is_none();
        #[cfg(not(feature = "testing"))]
        true
    }

    /// Whether the environment's clock is the real clock. The watchdog does not notice deadlines on a mock clock.
    #[inline]
    #[cfg_attr(not(feature = "testing"), allow(clippy::unused_self))]
    pub(crate) fn has_real_clock(&self) -> bool {
        #[cfg(feature = "testing")]
        return self.mock().is_none();
        #[cfg(not(feature = "testing"))]
        true
    }
}

#[cfg(feature = "testing")]
mod on {
    use std::cell::{Cell, RefCell};
    use std::panic::{Location, RefUnwindSafe, UnwindSafe};
    use std::sync::Arc;

    use super::TestEnv;
    use crate::sync::{AtomicU64, AtomicUsize, Mutex, Ordering, ThreadKey, os};

    #[derive(Clone, Default)]
    pub(crate) struct TestSetup {
        /// The mock clock; `None` if the clock is the real one.
        pub(crate) mock: Option<Arc<Mock>>,
        /// The thread on which a sleep moves the mock clock; `None` if the clock moves by itself.
        pub(crate) moved_by: Option<ThreadKey>,
        pub(crate) probe: Option<Arc<dyn Probe>>,
    }

    /// A clock that stands still unless a test, or a `Move`, moves it.
    #[derive(Debug)]
    pub(crate) struct Mock {
        now: AtomicU64,
        pub(crate) presence: Mutex<Presence>,
        /// The time to which the move in progress must go on, if work that the move has set off asks for it
        /// (`watchdog/mock/tracking.rs`). 0 if no work has asked.
        asked: AtomicU64,
        /// The thread that moves the clock holds this lock, so that one thread moves it at a time.
        pub(crate) turn: Mutex<()>,
        /// The clock's number. `watchdog/mock/clocks.rs` keeps the clock's timers under this number.
        pub(crate) id: u32,
    }

    /// A clock that moves by itself moves only while no thread under it is awake.
    #[derive(Debug, Default)]
    pub(crate) struct Presence {
        /// How many threads and `Hold`s (`scope/presence.rs`) count as awake.
        pub(crate) awake: usize,
        /// How often `awake` has grown. From this number a `Move` learns that a thread has woken up, even if that
        /// thread sleeps again.
        pub(crate) woken: u64,
        pub(crate) movers: usize,
        /// Whether a `Move` is submitted or running. A `Move` is a task that moves the clock while no thread is awake.
        pub(crate) moves: bool,
        /// The last awake thread sets this if it falls asleep while there is a `Move`. Then the `Move` tries to move
        /// the clock once more before it ends.
        pub(crate) look_again: bool,
    }

    /// A test tool that is called at each point where code can be interrupted.
    pub(crate) trait Probe: Send + Sync + UnwindSafe + RefUnwindSafe {
        fn reached(&self, location: &'static Location<'static>) -> Verdict;
        /// Running code begins a wait (`begins` is `true`), or has ended its wait. A wait needs no interruption points
        /// inside, because it can be interrupted at any time.
        fn waits(&self, location: &'static Location<'static>, begins: bool);
        /// Whether the probe makes scopes expire. If so, code that releases suspended hooks (the end of a shield, for
        /// example) waits until the due hooks have run, as `expire_at_checkpoint` promises.
        fn injects(&self) -> bool;
    }

    #[derive(Clone, Debug)]
    pub(crate) enum Verdict {
        Pass,
        /// One scope expires: the innermost scope if `in_shields` is `true`, otherwise the innermost scope outside of
        /// all shields.
        Expire {
            /// The id of the scope that the test tool has opened around the body. The scopes around that scope do not
            /// expire.
            outermost: u64,
            in_shields: bool,
        },
        /// All scopes with this label that are open at the point expire.
        ExpireLabelled(Arc<str>),
    }

    impl Mock {
        pub(crate) fn new(now: u64) -> Self {
            static NEXT: AtomicUsize = AtomicUsize::new(0);
            // Relaxed: the numbers need only be unique.
            let id = u32::try_from(NEXT.fetch_add(1, Ordering::Relaxed)).unwrap_or(u32::MAX);
            Self {
                now: AtomicU64::new(now),
                presence: Mutex::default(),
                asked: AtomicU64::new(0),
                turn: Mutex::new(()),
                id,
            }
        }

        pub(crate) fn now(&self) -> u64 {
            // Acquire: pairs with the Release in `move_to`. A thread that reads the new time sees all that happened
            // before the move.
            self.now.load(Ordering::Acquire)
        }

        /// Moves the clock to `time`, but never back, and never to `NEVER` (`u64::MAX`).
        pub(crate) fn move_to(&self, time: u64) {
            self.now.fetch_max(time.min(u64::MAX - 1), Ordering::Release);
        }

        /// Begins a move. Clears the time that work of an earlier move has asked for.
        pub(crate) fn begin(&self) {
            self.asked.store(0, Ordering::Relaxed);
        }

        /// Asks the move in progress to go on to `time`.
        pub(crate) fn ask(&self, time: u64) {
            // Relaxed: only tracked work calls this. The thread that moves the clock reads `asked` again and again
            // until that work is done. So it sees `time` sooner or later.
            self.asked.fetch_max(time, Ordering::Relaxed);
        }

        pub(crate) fn asked(&self) -> u64 {
            self.asked.load(Ordering::Relaxed)
        }
    }

    thread_local!(static CURRENT: RefCell<TestEnv> = const { RefCell::new(TestEnv { setup: None }) });

    // `ENTERED` has no destructor, so the destructors of other thread-locals can use it.
    thread_local!(static ENTERED: Cell<u32> = const { Cell::new(0) });

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn is_entered() -> bool {
        ENTERED.get() != 0
    }

    #[cold]
    #[inline(never)]
    pub(super) fn current() -> TestEnv {
        CURRENT.try_with(|current| current.borrow().clone()).unwrap_or_default()
    }

    /// A guard: while it exists, the thread is in an environment. The drop puts the thread back into `before`.
    #[must_use]
    pub(crate) struct Entered {
        before: TestEnv,
    }

    impl Drop for Entered {
        fn drop(&mut self) {
            let before = std::mem::take(&mut self.before);
            // `replace` returns the environment that the thread leaves. It is dropped only after the borrow of
            // `CURRENT` has ended, so its drop may use `CURRENT`.
            let _left = CURRENT.try_with(|current| current.replace(before));
            ENTERED.set(ENTERED.get() - 1);
        }
    }

    impl TestEnv {
        pub(crate) fn of(setup: TestSetup) -> Self {
            Self { setup: Some(Arc::new(setup)) }
        }

        pub(crate) fn enter(&self) -> Entered {
            ENTERED.set(ENTERED.get() + 1);
            let before = CURRENT.try_with(|current| current.replace(self.clone())).unwrap_or_default();
            Entered { before }
        }

        pub(crate) fn is_same(&self, other: &Self) -> bool {
            self.setup.as_ref().map(Arc::as_ptr) == other.setup.as_ref().map(Arc::as_ptr)
        }

        pub(crate) fn setup(&self) -> Option<&TestSetup> {
            self.setup.as_deref()
        }

        pub(crate) fn mock(&self) -> Option<&Arc<Mock>> {
            self.setup.as_ref()?.mock.as_ref()
        }

        /// Whether a test makes scopes expire in this environment.
        pub(crate) fn injects(&self) -> bool {
            self.setup().and_then(|setup| setup.probe.as_ref()).is_some_and(|probe| probe.injects())
        }

        pub(crate) fn now(&self) -> u64 {
            self.mock().map_or_else(os::monotonic_nanos, |mock| mock.now())
        }
    }
}
