use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::tokio::time::{Instant, MissedTickBehavior};

use super::alarm::Alarm;
use super::clock::add;

/// A tick that comes later than planned by more than this counts as missed.
const TOLERANCE: Duration = Duration::from_millis(5);

/// Ticks at once, and then once in each period, as tokio's `interval` does.
///
/// # Panics
///
/// If the period is zero, as tokio's.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use timebox::tokio::time::{Duration, interval};
///
/// let mut interval = interval(Duration::from_millis(1));
/// let first = interval.tick().await;
/// assert_eq!(interval.tick().await - first, interval.period());
/// # }
/// ```
#[track_caller]
pub fn interval(period: Duration) -> Interval {
    interval_at(Instant::now(), period)
}

/// Ticks at `start`, and then once in each period, as tokio's `interval_at` does.
///
/// # Panics
///
/// If the period is zero, as tokio's.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use timebox::tokio::time::{Duration, Instant, interval_at};
///
/// let start = Instant::now() + Duration::from_millis(1);
/// let mut interval = interval_at(start, Duration::from_secs(60));
/// assert_eq!(interval.tick().await, start);
/// # }
/// ```
#[track_caller]
pub fn interval_at(start: Instant, period: Duration) -> Interval {
    assert!(!period.is_zero(), "`period` must be non-zero.");
    Interval { alarm: Alarm::at(start), period, behavior: MissedTickBehavior::default() }
}

/// The ticks of [`interval`] and [`interval_at`]. The wait for a tick does not end early when a scope is over: see
/// [`sleep`](super::sleep()).
#[derive(Debug)]
pub struct Interval {
    alarm: Alarm,
    period: Duration,
    behavior: MissedTickBehavior,
}

impl Interval {
    /// Waits for the next tick. Returns the instant for which it was planned.
    ///
    /// # Cancellation safety
    ///
    /// No tick is lost if the future is dropped.
    pub async fn tick(&mut self) -> Instant {
        poll_fn(|cx| self.poll_tick(cx)).await
    }

    /// Polls for the next tick. The tick wakes the task that polled last.
    pub fn poll_tick(&mut self, cx: &mut Context<'_>) -> Poll<Instant> {
        ready!(self.alarm.poll(cx));
        let planned = self.alarm.deadline();
        self.alarm.restart(self.after(planned, Instant::now()));
        Poll::Ready(planned)
    }

    /// When the next tick is due, after a tick that was due at `planned` and came at `now`.
    fn after(&self, planned: Instant, now: Instant) -> Instant {
        let late = now - planned;
        match self.behavior {
            _ if late <= TOLERANCE => add(planned, self.period),
            MissedTickBehavior::Delay => add(now, self.period),
            MissedTickBehavior::Skip => {
                let since = late.as_nanos().checked_rem(self.period.as_nanos()).unwrap_or(0);
                let since = u64::try_from(since).map_or(Duration::ZERO, Duration::from_nanos);
                add(now, self.period.saturating_sub(since))
            }
            MissedTickBehavior::Burst => add(planned, self.period),
        }
    }

    /// The next tick comes one period from now.
    pub fn reset(&mut self) {
        self.reset_after(self.period);
    }

    /// The next tick comes now.
    pub fn reset_immediately(&mut self) {
        self.reset_at(Instant::now());
    }

    /// The next tick comes after this time, and each further tick a period later.
    pub fn reset_after(&mut self, after: Duration) {
        self.reset_at(add(Instant::now(), after));
    }

    /// The next tick comes at this instant, and each further tick a period later.
    pub fn reset_at(&mut self, deadline: Instant) {
        self.alarm.reset(deadline);
    }

    /// What happens after a missed tick.
    pub fn missed_tick_behavior(&self) -> MissedTickBehavior {
        self.behavior
    }

    /// Sets what happens after a missed tick, which is a tick that comes more than 5 ms late.
    pub fn set_missed_tick_behavior(&mut self, behavior: MissedTickBehavior) {
        self.behavior = behavior;
    }

    /// The period.
    pub fn period(&self) -> Duration {
        self.period
    }
}
