//! Which clock a timer follows. It is tokio's if that is paused, or has been; else the clock of this crate.

use std::time::Duration;

use ::tokio::time::Instant;

use crate::time::{clock, nanos};

/// Stands in for a time that an `Instant` cannot hold.
const FAR: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 30);

/// In the place of `tokio::time::pause`, if tokio's feature `test-util` is off.
#[allow(dead_code, reason = "it is hidden by tokio's own")]
fn pause() -> bool {
    false
}

/// Whether the clock of tokio can be paused: whether its feature `test-util` is on. Without it, nothing below is compiled in.
const CAN_BE_PAUSED: bool = {
    #[allow(unused_imports, clippy::wildcard_imports, reason = "a `pause` of tokio hides the one above")]
    use ::tokio::time::*;

    returns_nothing(pause)
};

const fn returns_nothing<R>(_: fn() -> R) -> bool {
    size_of::<R>() == 0
}

/// Whether tokio's clock is paused, or has been. Then its own timers decide, since it moves its clock only for these.
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

/// The instant that is `duration` after `start`, or far away if there is none.
pub(super) fn add(start: Instant, duration: Duration) -> Instant {
    start.checked_add(duration).or_else(|| start.checked_add(FAR)).unwrap_or(start)
}
