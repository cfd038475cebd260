//! The environment variable that tells a command its deadline.

use std::env;
use std::ffi::OsString;
use std::process::Command;

use crate::time::Deadline;

/// Sets the command's variable to the deadline, calls `start`, and restores the variable. If the variable already has
/// an earlier deadline (set for the command, or inherited by this program), the earlier deadline stays.
pub(super) fn with_deadline<R>(
    command: &mut Command,
    deadline: Deadline,
    start: impl FnOnce(&mut Command) -> R,
) -> R {
    let Some(value) = deadline.to_env() else { return start(command) };
    let before = variable(command);
    let is_earlier = |value: &OsString| Deadline::parse_env(value).is_ok_and(|before| before <= deadline);
    // If the value from before is an earlier deadline, that value stays. It is set even if this process has the
    // variable: because of `env_clear` the command may not inherit the variable, and a `Command` does not tell whether
    // `env_clear` was called.
    command.env(Deadline::VARIABLE, before.clone().filter(is_earlier).unwrap_or(value));
    let started = start(command);
    // A `Command` cannot forget that a variable was set or removed. So the variable is set to the value from before.
    match before {
        Some(before) => command.env(Deadline::VARIABLE, before),
        None => command.env_remove(Deadline::VARIABLE),
    };
    started
}

/// The value of the variable in the command's environment: the command's own, or inherited.
fn variable(command: &Command) -> Option<OsString> {
    let mut own = command.get_envs().filter(|(name, _)| *name == Deadline::VARIABLE);
    match own.next() {
        Some((_, value)) => value.map(OsString::from),
        None => env::var_os(Deadline::VARIABLE),
    }
}
