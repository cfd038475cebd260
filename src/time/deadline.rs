use std::fmt;
use std::time::{Duration, Instant};

use super::clock;
use super::nanos::{NEVER, nanos};

/// An absolute instant on the monotonic clock, or never.
///
/// All arithmetic saturates to [`NEVER`](Self::NEVER). Deadlines are ordered by time.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use timebox::Deadline;
///
/// let deadline = Deadline::after(Duration::from_secs(5));
/// assert!(!deadline.has_passed());
/// assert!(deadline.remaining().unwrap() <= Duration::from_secs(5));
/// assert_eq!(deadline.min(Deadline::NEVER), deadline);
/// assert_eq!(Deadline::after(Duration::MAX), Deadline::NEVER);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deadline(u64);

impl Deadline {
    /// The deadline that never passes.
    pub const NEVER: Deadline = Deadline(NEVER);

    /// The deadline that is `duration` from now.
    pub fn after(duration: Duration) -> Self {
        Self(clock::now().saturating_add(nanos(duration)))
    }

    /// The deadline at this instant. If the instant is in the past, the deadline has already passed.
    pub fn at(instant: Instant) -> Self {
        Self(clock::of_instant(instant))
    }

    /// The time left: zero once the deadline has passed, and `None` if it never passes.
    pub fn remaining(self) -> Option<Duration> {
        (self.0 != NEVER).then(|| Duration::from_nanos(self.0.saturating_sub(clock::now())))
    }

    /// Whether the deadline has passed.
    pub fn has_passed(self) -> bool {
        self.0 != NEVER && self.0 <= clock::now()
    }

    /// The earlier of the two deadlines.
    pub fn min(self, other: Deadline) -> Deadline {
        Ord::min(self, other)
    }

    /// The deadline as an instant, for calls that wait until an instant; `None` if the deadline never passes.
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    /// use timebox::Deadline;
    ///
    /// let instant = Instant::now() + Duration::from_secs(1);
    /// let deadline = Deadline::at(instant);
    /// assert!(deadline.to_instant().unwrap() >= instant);
    /// assert_eq!(Deadline::NEVER.to_instant(), None);
    /// ```
    pub fn to_instant(self) -> Option<Instant> {
        clock::to_instant(self.0)
    }

    #[cfg(all(unix, feature = "process"))]
    pub(crate) fn sooner_by(self, duration: Duration) -> Self {
        if self == Self::NEVER { self } else { Self(self.0.saturating_sub(nanos(duration))) }
    }

    pub(crate) const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    pub(crate) const fn as_nanos(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == NEVER {
            return f.write_str("Deadline(never)");
        }
        let now = clock::now();
        match self.0.checked_sub(now) {
            Some(left) => write!(f, "Deadline(in {:?})", Duration::from_nanos(left)),
            None => write!(f, "Deadline({:?} ago)", Duration::from_nanos(now.saturating_sub(self.0))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_to_never() {
        assert_eq!(Deadline::after(Duration::MAX), Deadline::NEVER);
        assert_eq!(Deadline::after(Duration::from_secs(u64::MAX)), Deadline::NEVER);
        assert_eq!(nanos(Duration::new(u64::MAX, 999_999_999)), NEVER);
        assert_eq!(nanos(Duration::new(1, 5)), 1_000_000_005);
    }

    #[test]
    #[allow(clippy::disallowed_methods)]
    fn equal_instants_are_equal_deadlines_and_never_early() {
        let instant = Instant::now() + Duration::from_secs(3);
        assert_eq!(Deadline::at(instant), Deadline::at(instant));
        assert!(Deadline::at(instant).to_instant().unwrap() >= instant);
        let past = instant.checked_sub(Duration::from_secs(4));
        assert!(past.is_none_or(|past| Deadline::at(past).has_passed()));
    }
}
