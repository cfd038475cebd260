//! The clock of this crate: monotonic, in nanoseconds; or a test's mock clock.

use std::time::Instant;

use super::nanos::{NEVER, nanos};
use crate::sync::{SetOnce, os};

/// The time on the calling thread's clock.
#[inline]
pub(crate) fn now() -> u64 {
    #[cfg(feature = "testing")]
    if crate::test_env::is_entered() {
        return test_now();
    }
    real_now()
}

#[inline]
#[allow(clippy::disallowed_methods)] // one of the places that read `Instant`
pub(crate) fn now_as_instant() -> Instant {
    if is_mocked()
        && let Some(instant) = to_instant(now())
    {
        return instant;
    }
    Instant::now()
}

#[cfg_attr(not(debug_assertions), inline(always))]
pub(crate) fn real_now() -> u64 {
    os::monotonic_nanos()
}

#[cfg(feature = "testing")]
#[cold]
#[inline(never)]
fn test_now() -> u64 {
    crate::test_env::TestEnv::current().now()
}

#[cfg(feature = "testing")]
#[cold]
#[inline(never)]
fn has_mock() -> bool {
    !crate::test_env::TestEnv::current().has_real_clock()
}

/// Whether this thread is under a mock clock. The watchdog does not notice deadlines on a mock clock.
#[cfg_attr(not(debug_assertions), inline(always))]
pub(crate) fn is_mocked() -> bool {
    #[cfg(feature = "testing")]
    return crate::test_env::is_entered() && has_mock();
    #[cfg(not(feature = "testing"))]
    false
}

/// The instant in nanoseconds. Equal instants give the same number, and the number is never earlier than the instant.
pub(crate) fn of_instant(instant: Instant) -> u64 {
    let &(base, base_nanos) = base();
    if let Some(after) = instant.checked_duration_since(base) {
        nanos(after).saturating_add(base_nanos)
    } else {
        base_nanos.saturating_sub(nanos(base.saturating_duration_since(instant)))
    }
}

/// The time as an instant. `None` for [`NEVER`], or if an `Instant` cannot hold the time.
pub(crate) fn to_instant(time: u64) -> Option<Instant> {
    let &(base, base_nanos) = base();
    if time == NEVER {
        return None;
    }
    match time.checked_sub(base_nanos) {
        Some(after) => base.checked_add(std::time::Duration::from_nanos(after)),
        None => base.checked_sub(std::time::Duration::from_nanos(base_nanos.saturating_sub(time))),
    }
}

/// One moment, as an `Instant` and in nanoseconds of the real clock. The two clocks cannot be read at once. So several
/// pairs are read, and the pair whose readings lie closest together is kept.
#[allow(clippy::disallowed_methods)] // compares `Instant` with the real clock
fn base() -> &'static (Instant, u64) {
    static BASE: SetOnce<(Instant, u64)> = SetOnce::new();
    BASE.get_or_init(|| {
        let read = |_| {
            let before = real_now();
            let instant = Instant::now();
            let after = real_now();
            (after.saturating_sub(before), instant, after)
        };
        let first = read(0);
        let (_, instant, after) =
            (1..8).map(read).fold(first, |best, next| if next.0 < best.0 { next } else { best });
        (instant, after)
    })
}
