use super::look::Event;
use crate::scope::ScopeCopy;
use crate::sync::{AtomicU64, Ordering};
use crate::time::NEVER;
use crate::watchdog::NO_WARNING;

/// The durations of the policy in force, in nanoseconds. The watchdog reads these copies and never owns a policy,
/// because the last owner of a policy drops the user's sinks.
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

// Relaxed for all durations: while the policy changes, the watchdog may see durations of the old and of the new policy.
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

pub(super) fn has_stuck() -> bool {
    get(&DURATIONS.stuck) != NEVER
}

/// Each event that can be reported about the scope, and the time at which it is due. The time is [`NEVER`] if the event
/// is not reported.
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

/// The first time after `now` at which the watchdog must report an event of the scope; `NEVER` if there is none. `told`
/// is a set of [`Event`]s, as bits: the events that were reported before.
pub(super) fn next_time(scope: &ScopeCopy, told: u8, now: u64) -> u64 {
    let left = times(scope, true).filter(|&(event, _)| event as u8 & told == 0);
    left.map(|(_, at)| at).filter(|&at| at > now).min().unwrap_or(NEVER)
}
