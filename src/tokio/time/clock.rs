//! Which clock a timer follows: tokio's clock if tokio's clock is paused, or was paused before. Otherwise the clock of
//! this crate.

use std::time::Duration;

use ::tokio::time::Instant;

use crate::time::{clock, nanos};

/// Thirty years. Used if the sum of an `Instant` and a duration is too large for an `Instant`.
const FAR: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 30);

/// If tokio has its feature `test-util`, `tokio::time` has a function `pause`, which returns nothing. In
/// `CAN_BE_PAUSED` tokio's function hides this function.
#[allow(dead_code, reason = "it is hidden by tokio's own")]
fn pause() -> bool {
    false
}

/// Whether tokio has its feature `test-util`, without which its clock cannot be paused. If this is `false`, the
/// compiler removes the code for a paused clock.
const CAN_BE_PAUSED: bool = {
    #[allow(unused_imports, clippy::wildcard_imports, reason = "a `pause` of tokio hides the one above")]
    use ::tokio::time::*;

    returns_nothing(pause)
};

const fn returns_nothing<R>(_: fn() -> R) -> bool {
    size_of::<R>() == 0
}

/// Whether tokio's clock is paused, or was paused before. Then the caller must use tokio's own timers: only they make
/// tokio move a paused clock.
pub(super) fn is_tokios() -> bool {
    CAN_BE_PAUSED && !clock::is_mocked() && {
        let before = clock::now_as_instant();
        let now = Instant::now().into_std();
        now < before || clock::now_as_instant() < now
    }
}

/// The time on this thread's clock at which tokio's clock reaches `instant`.
pub(in crate::tokio) fn of_instant(instant: Instant) -> u64 {
    if clock::is_mocked() || is_tokios() {
        return clock::now().saturating_add(nanos(instant - Instant::now()));
    }
    clock::of_instant(instant.into_std())
}

/// The instant that is `duration` after `start`. If that is too late for an `Instant`, the instant 30 years after
/// `start`. If even that is too late, `start`.
pub(super) fn add(start: Instant, duration: Duration) -> Instant {
    start.checked_add(duration).or_else(|| start.checked_add(FAR)).unwrap_or(start)
}
