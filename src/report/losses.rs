use crate::sync::fork::PerProcess;
use crate::sync::{AtomicU64, Ordering};

static LOST: PerProcess<AtomicU64> = PerProcess::new(AtomicU64::new(0), || AtomicU64::new(0));

/// How many reports this process has lost, for example because a queue was full, or a sink failed or panicked.
///
/// A report that two sinks lose counts twice. Reports that a [`Policy`](super::Policy) leaves out on purpose do not
/// count: the next report with the same stack says how many they were.
///
/// ```
/// assert_eq!(timebox::report::dropped(), 0);
/// ```
pub fn dropped() -> u64 {
    // Relaxed, here and in `count_one`: no other memory depends on the number.
    LOST.get().load(Ordering::Relaxed)
}

/// Allocates the counter of this process, so that [`count_one`] allocates nothing.
pub(super) fn prepare() {
    LOST.get();
}

pub(super) fn count_one() {
    LOST.get().fetch_add(1, Ordering::Relaxed);
}
