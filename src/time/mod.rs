pub(crate) mod clock;
mod deadline;
mod limit;
mod nanos;
mod variable;

pub use deadline::Deadline;
pub use limit::Limit;
pub(crate) use limit::{Budget, Kind};
pub(crate) use nanos::{NEVER, nanos};
pub use variable::InvalidDeadline;

/// The time on the clock that limits follow. Code that reads the time should call this function, so that a test can
/// replace the clock.
///
/// The result is [`Instant::now`](std::time::Instant::now), or under a mock clock (feature `testing`) the time of the
/// mock clock. So code that measures time with `timebox::now`, such as the age of a cache entry, can be tested without
/// waiting. Do not mix `timebox::now` with the system's clock. [`Instant::elapsed`](std::time::Instant::elapsed) reads
/// the system's clock, so write `timebox::now() - start` instead.
///
/// # Examples
///
/// ```
/// use std::time::{Duration, Instant};
///
/// struct Entry {
///     loaded: Instant,
/// }
///
/// impl Entry {
///     fn is_fresh(&self) -> bool {
///         timebox::now() - self.loaded < Duration::from_secs(60)
///     }
/// }
///
/// assert!(Entry { loaded: timebox::now() }.is_fresh());
/// # #[cfg(feature = "testing")]
/// timebox::testing::MockClock::new().run(|clock| {
///     let entry = Entry { loaded: timebox::now() };
///     clock.advance(Duration::from_secs(60));
///     assert!(!entry.is_fresh());
/// });
/// ```
#[inline]
pub fn now() -> std::time::Instant {
    clock::now_as_instant()
}
