use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::deadline::Deadline;

/// The limit that a caller asks for: a duration, an instant, a quota, or none.
///
/// A limit becomes a [`Deadline`] when its scope is entered, not before.
///
/// # Examples
///
/// ```
/// use std::time::{Duration, Instant};
/// use timebox::{Deadline, Limit, Quota};
///
/// let _ = Limit::from(Duration::from_secs(2));
/// let _ = Limit::from(Instant::now());
/// let _ = Limit::from(Deadline::after(Duration::from_secs(2)));
/// let _ = Limit::from(&Quota::new(Duration::from_secs(2)));
/// let _ = Limit::from(None::<Duration>); // the same as Limit::NONE
/// ```
#[derive(Clone)]
pub struct Limit(Kind);

#[derive(Clone)]
pub(crate) enum Kind {
    None,
    After(Duration),
    At(Deadline),
    Budget(Arc<dyn Budget>),
}

/// Time that several scopes share. Each scope to which `enter` gave a deadline calls `leave` exactly once.
pub(crate) trait Budget: Send + Sync + UnwindSafe + RefUnwindSafe {
    /// A scope begins to use the time, at `now`. Returns the deadline of the shared time; `None` if no time is left.
    fn enter(&self, now: u64) -> Option<u64>;
    fn leave(&self);
    fn left(&self, now: u64) -> Duration;
}

impl Limit {
    /// The scope has no limit of its own: only the scopes around it limit it.
    pub const NONE: Limit = Limit(Kind::None);

    pub(crate) fn budget(budget: Arc<dyn Budget>) -> Self {
        Self(Kind::Budget(budget))
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn kind(&self) -> &Kind {
        &self.0
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn into_duration(self) -> Result<Duration, Limit> {
        match self.0 {
            Kind::After(duration) => Ok(duration),
            kind => Err(Limit(kind)),
        }
    }
}

impl From<Duration> for Limit {
    #[inline]
    fn from(duration: Duration) -> Self {
        Self(Kind::After(duration))
    }
}

impl From<Instant> for Limit {
    fn from(instant: Instant) -> Self {
        Self(Kind::At(Deadline::at(instant)))
    }
}

impl From<Deadline> for Limit {
    fn from(deadline: Deadline) -> Self {
        Self(Kind::At(deadline))
    }
}

impl<L: Into<Limit>> From<Option<L>> for Limit {
    fn from(limit: Option<L>) -> Self {
        limit.map_or(Limit::NONE, Into::into)
    }
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::None => f.write_str("Limit(none)"),
            Kind::After(duration) => write!(f, "Limit({duration:?})"),
            Kind::At(deadline) => write!(f, "Limit({deadline:?})"),
            Kind::Budget(_) => f.write_str("Limit(quota)"),
        }
    }
}
