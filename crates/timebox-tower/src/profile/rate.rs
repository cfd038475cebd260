//! How many profiles there may be in a minute.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const MINUTE: Duration = Duration::from_secs(60);

/// Clones count together.
#[derive(Clone, Debug)]
pub(super) struct Rate {
    per_minute: u32,
    /// When the last ones were, oldest first: at most `per_minute`.
    last: Arc<Mutex<VecDeque<Instant>>>,
}

impl Rate {
    pub(super) fn new(per_minute: u32) -> Self {
        Self { per_minute, last: Arc::default() }
    }

    /// Counts one more, or tells how long to wait for it.
    pub(super) fn take(&self, now: Instant) -> Result<(), Duration> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        while last.front().is_some_and(|first| now.saturating_duration_since(*first) >= MINUTE) {
            last.pop_front();
        }
        if last.len() < self.per_minute as usize {
            last.push_back(now);
            return Ok(());
        }
        Err(last.front().map_or(MINUTE, |first| MINUTE.saturating_sub(now.saturating_duration_since(*first))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_minute_has_more_than_its_number() {
        let (rate, start) = (Rate::new(2), Instant::now());
        let at = |seconds| rate.take(start + Duration::from_secs(seconds));
        assert_eq!(at(0), Ok(()));
        assert_eq!(at(50), Ok(()));
        assert_eq!(at(55), Err(Duration::from_secs(5)));
        assert_eq!(at(60), Ok(()));
        assert_eq!(at(109), Err(Duration::from_secs(1)));
        assert_eq!(at(110), Ok(()));
    }

    #[test]
    fn none_is_none() {
        assert_eq!(Rate::new(0).take(Instant::now()), Err(MINUTE));
    }
}
