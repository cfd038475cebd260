use ::tokio::time::Instant;

use super::time::clock;
use crate::time::{Deadline, Limit};

/// While tokio's clock is paused, the limit is as far from now as the instant is from tokio's `Instant::now()`.
impl From<Instant> for Limit {
    fn from(instant: Instant) -> Self {
        Deadline::from_nanos(clock::of_instant(instant)).into()
    }
}
