use std::sync::atomic::{AtomicU8, Ordering};

const UNKNOWN: u8 = 0;
const ON: u8 = 1;
const OFF: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(UNKNOWN);

/// Whether limits are in force; see [`set_enabled`].
#[inline(always)]
pub fn is_enabled() -> bool {
    // Relaxed: a switch for the future, nothing is published through it.
    STATE.load(Ordering::Relaxed) == ON || is_enabled_slow()
}

#[cold]
fn is_enabled_slow() -> bool {
    if STATE.load(Ordering::Relaxed) == UNKNOWN {
        let off = std::env::var_os("TIMEBOX_DISABLE").is_some_and(|value| !value.is_empty() && value != "0");
        let state = if off { OFF } else { ON };
        // A call of `set_enabled` meanwhile wins.
        let _ = STATE.compare_exchange(UNKNOWN, state, Ordering::Relaxed, Ordering::Relaxed);
    }
    STATE.load(Ordering::Relaxed) == ON
}

/// Switches limits on or off, for work with a debugger. While off, new scopes have no limit of their own; tokens
/// still cancel, and shields are bounded all the same.
///
/// `TIMEBOX_DISABLE=1` in the environment does the same from the start (read when the first scope is opened). The idea
/// is interruptingcow's.
///
/// ```standalone_crate
/// use std::time::Duration;
///
/// timebox::set_enabled(false);
/// assert_eq!(timebox::timeout_value(Duration::ZERO, || "no limit").unwrap(), "no limit");
/// ```
pub fn set_enabled(enabled: bool) {
    STATE.store(if enabled { ON } else { OFF }, Ordering::Relaxed);
}
