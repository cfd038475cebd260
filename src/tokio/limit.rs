use ::tokio::time::Instant;

use super::time::clock;
use crate::time::{Deadline, Limit};

/// While tokio's clock is paused, the limit is the time from tokio's `Instant::now()` until the instant.
impl From<Instant> for Limit {
    fn from(instant: Instant) -> Self {
        Deadline::from_nanos(clock::of_instant(instant)).into()
    }
}
