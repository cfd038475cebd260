/// The instant that never comes, in nanoseconds.
pub(crate) const NEVER: u64 = u64::MAX;

/// A duration in nanoseconds; [`NEVER`] if the duration is too long for a `u64` (584 years).
#[cfg_attr(not(debug_assertions), inline(always))]
pub(crate) fn nanos(duration: std::time::Duration) -> u64 {
    let (seconds, nanos) = (duration.as_secs(), u64::from(duration.subsec_nanos()));
    if seconds > u64::from(u32::MAX) {
        // This rare case is not in a function of its own: a call may unwind, so the compiler could not keep the
        // caller's values in registers.
        return seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
    }
    // No overflow: 2^32 seconds are less than 2^62 nanoseconds.
    seconds.wrapping_mul(1_000_000_000).wrapping_add(nanos)
}

#[cfg(all(test, not(timebox_loom)))]
mod tests {
    use super::{NEVER, nanos};
    use std::time::Duration;

    #[test]
    fn a_duration_of_more_than_five_centuries_never_ends() {
        let longest = Duration::from_nanos(NEVER);
        assert_eq!(nanos(longest), NEVER);
        assert_eq!(nanos(Duration::from_nanos(NEVER - 1)), NEVER - 1);
        for beyond in [longest + Duration::from_nanos(1), Duration::from_secs(1 << 35), Duration::MAX] {
            assert_eq!(nanos(beyond), NEVER);
        }
        assert_eq!(nanos(Duration::new(1 << 32, 5)), (1 << 32) * 1_000_000_000 + 5);
    }
}
