//! Budgets of time that several scopes share.

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::time::Duration;

use crate::error::TimeoutError;
use crate::scope::timeout;
use crate::sync::ForkMutex;
use crate::test_env::TestEnv;
use crate::time::{Budget, Limit, NEVER, clock, nanos};

/// An amount of time to be used up by scopes, one after another, nested or at the same time.
///
/// The first scope to enter sets a deadline of now plus what is left, which all that enter meanwhile share; the last to
/// leave puts back what is left. So time counts once, however many scopes are in it, and does not count between them.
/// Clones share the quota. In a forked child one that other threads were in goes on being used up, as if they still were.
///
/// A scope entered with a spent quota is not started; its error has the cause [`Quota`](crate::Cause::Quota).
///
/// The idea is interruptingcow's.
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

// Numbers that are changed in one step.
impl UnwindSafe for Shared {}
impl RefUnwindSafe for Shared {}

struct Balance {
    /// While nobody is in.
    left: u64,
    /// While somebody is in.
    deadline: u64,
    users: usize,
    /// The clock of who is in.
    env: TestEnv,
}

impl Quota {
    /// A quota of this much time. [`Duration::MAX`] is never used up.
    pub fn new(duration: Duration) -> Self {
        let balance = Balance { left: nanos(duration), deadline: NEVER, users: 0, env: TestEnv::default() };
        Self { shared: Arc::new(Shared(ForkMutex::new(balance))) }
    }

    /// What is left.
    pub fn remaining(&self) -> Duration {
        self.shared.left(clock::now())
    }

    /// Whether nothing is left.
    pub fn is_exhausted(&self) -> bool {
        self.remaining().is_zero()
    }

    /// Runs a block in a scope limited by what is left, as [`timeout`](crate::timeout) does.
    ///
    /// # Errors
    ///
    /// Those of the body; and a [`TimeoutError`] if nothing is left to begin with.
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
        // Lost in a fork, it counts as spent.
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
        // As above.
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
