//! Bounds how many profiles begin in a minute, and how many run at the same time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const MINUTE: Duration = Duration::from_secs(60);

/// Clones count together.
#[derive(Clone, Debug)]
pub(super) struct Rate {
    per_minute: u32,
    profiles: Arc<Mutex<Profiles>>,
}

#[derive(Debug, Default)]
struct Profiles {
    /// When the profiles of the last minute began, oldest first.
    last: VecDeque<Instant>,
    /// Each permit has a clone. So the number of clones tells how many profiles run.
    running: Arc<()>,
}

#[derive(Debug)]
pub(super) struct Permit {
    _running: Arc<()>,
}

impl Rate {
    pub(super) fn new(per_minute: u32) -> Self {
        Self { per_minute, profiles: Arc::default() }
    }

    /// Counts one more profile. `Err` if there are too many: how long to wait before the next try.
    pub(super) fn take(&self, now: Instant) -> Result<Permit, Duration> {
        let mut profiles = self.profiles.lock().unwrap_or_else(PoisonError::into_inner);
        let Profiles { last, running } = &mut *profiles;
        while last.front().is_some_and(|first| now.saturating_duration_since(*first) >= MINUTE) {
            last.pop_front();
        }
        let most = self.per_minute as usize;
        if last.len() < most && Arc::strong_count(running) <= most {
            last.push_back(now);
            return Ok(Permit { _running: Arc::clone(running) });
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
        let at = |seconds| rate.take(start + Duration::from_secs(seconds)).map(drop);
        assert_eq!(at(0), Ok(()));
        assert_eq!(at(50), Ok(()));
        assert_eq!(at(55), Err(Duration::from_secs(5)));
        assert_eq!(at(60), Ok(()));
        assert_eq!(at(109), Err(Duration::from_secs(1)));
        assert_eq!(at(110), Ok(()));
    }

    #[test]
    fn no_more_than_its_number_run_at_a_time() {
        let (rate, start) = (Rate::new(2), Instant::now());
        let mut running = vec![rate.take(start).unwrap(), rate.clone().take(start).unwrap()];
        assert_eq!(rate.take(start + MINUTE).unwrap_err(), MINUTE);
        running.pop();
        running.push(rate.take(start + MINUTE).unwrap());
        assert!(rate.take(start + 2 * MINUTE).is_err());
    }

    #[test]
    fn none_is_none() {
        assert_eq!(Rate::new(0).take(Instant::now()).unwrap_err(), MINUTE);
    }
}
