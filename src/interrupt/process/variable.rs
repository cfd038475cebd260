//! The environment variable that tells a command its deadline.

use std::env;
use std::ffi::OsString;
use std::process::Command;

use crate::time::Deadline;

/// Calls `start` with the variable set in the command. If the command has an earlier deadline in the variable already, its own
/// or one that it inherits from this program, that one stays.
pub(super) fn with_deadline<R>(
    command: &mut Command,
    deadline: Deadline,
    start: impl FnOnce(&mut Command) -> R,
) -> R {
    let Some(value) = deadline.to_env() else { return start(command) };
    let before = variable(command);
    let is_earlier = |value: &OsString| Deadline::parse_env(value).is_ok_and(|before| before <= deadline);
    // An earlier one is set too: a command with `env_clear`, which a `Command` does not tell, would not inherit it.
    command.env(Deadline::VARIABLE, before.clone().filter(is_earlier).unwrap_or(value));
    let started = start(command);
    // A `Command` cannot forget a variable. So from now on it passes on what it would have inherited.
    match before {
        Some(before) => command.env(Deadline::VARIABLE, before),
        None => command.env_remove(Deadline::VARIABLE),
    };
    started
}

/// The value that the command would have in the variable.
fn variable(command: &Command) -> Option<OsString> {
    let mut own = command.get_envs().filter(|(name, _)| *name == Deadline::VARIABLE);
    match own.next() {
        Some((_, value)) => value.map(OsString::from),
        None => env::var_os(Deadline::VARIABLE),
    }
}
