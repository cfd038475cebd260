//! Time as the crate counts it: a clock, absolute deadlines, and the limits that become deadlines.

pub(crate) mod clock;
mod deadline;
mod limit;

pub use deadline::Deadline;
pub use limit::Limit;
pub(crate) use limit::{Budget, Kind};

/// The instant that never comes, in nanoseconds.
pub(crate) const NEVER: u64 = u64::MAX;

/// A duration in nanoseconds; [`NEVER`] if it is longer than five centuries.
#[inline]
pub(crate) fn nanos(duration: std::time::Duration) -> u64 {
    match duration.as_secs().checked_mul(1_000_000_000) {
        Some(nanos) => nanos.saturating_add(u64::from(duration.subsec_nanos())),
        None => NEVER,
    }
}
