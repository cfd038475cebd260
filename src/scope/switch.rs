use crate::watchdog;

/// Whether limits are in force. [`set_enabled`] switches them off and on.
pub fn is_enabled() -> bool {
    let settings = watchdog::global().settings();
    if let Some(limits) = settings.limits() {
        return limits;
    }
    let off = std::env::var_os("TIMEBOX_DISABLE").is_some_and(|value| !value.is_empty() && value != "0");
    // Has no effect if `set_enabled` was called meanwhile: the setting of `set_enabled` stays in force.
    settings.init_limits(!off);
    settings.limits().unwrap_or(true)
}

/// Switches limits on or off, for work with a debugger. While limits are off, new scopes and new tokens have no limit
/// of their own. Tokens can be cancelled, and shields end, as usual.
///
/// `TIMEBOX_DISABLE=1` in the environment switches limits off from the start. The variable is read one time, when the
/// first limit begins.
///
/// ```standalone_crate
/// use std::time::Duration;
///
/// timebox::set_enabled(false);
/// assert_eq!(timebox::timeout_value(Duration::ZERO, || "no limit").unwrap(), "no limit");
/// ```
pub fn set_enabled(enabled: bool) {
    watchdog::global().settings().set_limits(enabled);
}
