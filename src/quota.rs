use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::time::Duration;

use crate::error::TimeoutError;
use crate::scope::timeout;
use crate::sync::ForkMutex;
use crate::test_env::TestEnv;
use crate::time::{Budget, Limit, NEVER, clock, nanos};

/// A budget of time that several scopes use up. They may run one after another, nested, or at the same time.
///
/// The first scope that enters sets a deadline: now plus the time that is left. Scopes that enter while the quota is in
/// use share that deadline. The last scope to leave returns the rest to the quota. So time counts once, however many
/// scopes use the quota, and does not count while no scope uses it. Clones share the quota.
///
/// A scope with an exhausted quota does not start. The error has the cause [`Quota`](crate::Cause::Quota).
///
/// In a forked child, a quota that other threads used during the fork counts as in use for ever: those threads are
/// gone, so their scopes are never left.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use timebox::{Quota, checkpoint};
///
/// let quota = Quota::new(Duration::from_millis(30));
/// let mut done = 0;
/// for item in 0..1_000_000_u32 {
///     let result = quota.timeout(|| -> timebox::Result<()> {
///         while std::hint::black_box(item) < 3 || quota.remaining() > Duration::from_millis(1) {
///             checkpoint()?;
///         }
///         Ok(())
///     });
///     if result.is_err() {
///         break;
///     }
///     done += 1;
/// }
/// assert!(done < 1_000_000);
/// ```
#[derive(Clone)]
pub struct Quota {
    shared: Arc<Shared>,
}

struct Shared(ForkMutex<Balance>);

// A panic cannot leave a balance half changed.
impl UnwindSafe for Shared {}
impl RefUnwindSafe for Shared {}

struct Balance {
    /// While no scope uses the quota: the time that is left.
    left: u64,
    /// While scopes use the quota: the deadline.
    deadline: u64,
    users: usize,
    /// The test environment of the scope that set the deadline. The deadline is a time on the clock of this
    /// environment.
    env: TestEnv,
}

impl Quota {
    /// A quota of this much time. A quota of [`Duration::MAX`] is never exhausted.
    pub fn new(duration: Duration) -> Self {
        let balance = Balance { left: nanos(duration), deadline: NEVER, users: 0, env: TestEnv::default() };
        Self { shared: Arc::new(Shared(ForkMutex::new(balance))) }
    }

    /// The time that is left.
    pub fn remaining(&self) -> Duration {
        self.shared.left(clock::now())
    }

    /// Whether no time is left.
    pub fn is_exhausted(&self) -> bool {
        self.remaining().is_zero()
    }

    /// Runs a block like [`timeout`](crate::timeout), with the time that is left as the limit.
    ///
    /// # Errors
    ///
    /// The errors of the body. A [`TimeoutError`] if no time is left at the start.
    #[track_caller]
    pub fn timeout<T, E>(&self, body: impl FnOnce() -> Result<T, E>) -> Result<T, E>
    where
        E: From<TimeoutError>,
    {
        timeout(self, body)
    }
}

impl Balance {
    fn left(&self, now: u64) -> u64 {
        match (self.users, self.deadline) {
            (0, _) => self.left,
            (_, NEVER) => NEVER,
            (_, deadline) => deadline.saturating_sub(self.env.reading(now)),
        }
    }
}

impl Budget for Shared {
    fn enter(&self, now: u64) -> Option<u64> {
        // If a fork has lost the lock, the quota counts as exhausted.
        let mut balance = self.0.lock()?;
        if balance.left(now) == 0 {
            return None;
        }
        if balance.users == 0 {
            balance.deadline = now.saturating_add(balance.left);
            balance.env = TestEnv::current();
        }
        balance.users += 1;
        if balance.env.shares_clock(&TestEnv::current()) {
            return Some(balance.deadline);
        }
        Some(now.saturating_add(balance.left(now)))
    }

    fn leave(&self) {
        let Some(mut balance) = self.0.lock() else { return };
        balance.left = balance.left(clock::now());
        balance.users = balance.users.saturating_sub(1);
    }

    fn left(&self, now: u64) -> Duration {
        // If a fork has lost the lock, the quota counts as exhausted.
        let left = self.0.lock().map_or(0, |balance| balance.left(now));
        if left == NEVER { Duration::MAX } else { Duration::from_nanos(left) }
    }
}

impl From<&Quota> for Limit {
    fn from(quota: &Quota) -> Self {
        Limit::budget(Arc::clone(&quota.shared) as Arc<dyn Budget>)
    }
}

impl fmt::Debug for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quota").field("remaining", &self.remaining()).finish_non_exhaustive()
    }
}
