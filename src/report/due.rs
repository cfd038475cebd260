//! When the scopes of a thread are due for a report.

use super::look::Event;
use crate::scope::ScopeCopy;
use crate::sync::{AtomicU64, Ordering};
use crate::time::NEVER;
use crate::watchdog::NO_WARNING;

/// The durations of the policy in force, in nanoseconds. The watchdog reads them here. So it never owns a policy, whose
/// last owner drops the user's sinks.
struct Durations {
    warn: AtomicU64,
    overdue: AtomicU64,
    stuck: AtomicU64,
}

static DURATIONS: Durations = Durations {
    warn: AtomicU64::new(NO_WARNING),
    overdue: AtomicU64::new(NEVER),
    stuck: AtomicU64::new(NEVER),
};

// Relaxed for all durations: a look during a change of the policy may follow the old or the new policy.
fn get(duration: &AtomicU64) -> u64 {
    duration.load(Ordering::Relaxed)
}

pub(super) fn overdue_after() -> u64 {
    get(&DURATIONS.overdue)
}

pub(super) fn set(warn: u64, overdue: u64, stuck: u64) {
    DURATIONS.warn.store(warn, Ordering::Relaxed);
    DURATIONS.overdue.store(overdue, Ordering::Relaxed);
    DURATIONS.stuck.store(stuck, Ordering::Relaxed);
}

/// Whether the policy has an `on_stuck`.
pub(super) fn has_stuck() -> bool {
    get(&DURATIONS.stuck) != NEVER
}

/// The events that may be reported about the scope, in their order, and when each is due; [`NEVER`] if it is not
/// reported.
pub(super) fn times(scope: &ScopeCopy, is_outermost: bool) -> impl Iterator<Item = (Event, u64)> {
    let own = scope.own();
    let warn = match scope.warn_after {
        NEVER if is_outermost => get(&DURATIONS.warn),
        NEVER => NO_WARNING,
        warn => warn,
    };
    let slow = scope.entered.saturating_add(warn);
    let overdue = if scope.overdue_after == NEVER { overdue_after() } else { scope.overdue_after };
    let after = |duration: u64| if own == NEVER { NEVER } else { own.saturating_add(duration) };
    [
        (Event::Slow, if warn < NO_WARNING && slow < own { slow } else { NEVER }),
        (Event::Expired, own),
        (Event::Overdue, after(overdue)),
        (Event::Stuck, after(get(&DURATIONS.stuck))),
    ]
    .into_iter()
}

/// The time of the scope's next report; `NEVER` if there will be none. `told` are the events that were reported.
pub(super) fn next_time(scope: &ScopeCopy, told: u8, now: u64) -> u64 {
    let left = times(scope, true).filter(|&(event, _)| event as u8 & told == 0);
    left.map(|(_, at)| at).filter(|&at| at > now).min().unwrap_or(NEVER)
}
