//! The process group of a command.

/// In which process group a command runs: who ends with it, and what a terminal does to it.
///
/// # Examples
///
/// ```
/// use std::process::Command;
/// use timebox::process::{Group, Run};
///
/// // One that must never ask for a password: it has no terminal to ask at.
/// let mut command = Command::new("sh");
/// command.args(["-c", "exec 2> /dev/null; read password < /dev/tty"]);
/// let status = Run::new(&mut command).group(Group::Session).status().unwrap();
/// assert!(!status.success());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Group {
    /// One of its own, in this program's session: the default. What the command starts ends with it. To a terminal it is in
    /// the background: Ctrl-C does not reach it, and it is suspended when it reads from the terminal or sets it. That is an
    /// error at once: [`Why::Suspended`](super::Why::Suspended).
    ///
    /// A command that makes itself a session before it begins (`pre_exec` with `setsid`) may do so.
    #[default]
    Own,
    /// One of its own, in a session of its own, which has no terminal: to open `/dev/tty` fails. What the command starts
    /// ends with it.
    Session,
    /// This program's, as with [`Command::spawn`]. The command can read from the terminal and set it, Ctrl-C reaches it as it
    /// reaches this program, and Ctrl-Z suspends both. Only the command itself is told to end: **what it has started is
    /// not**.
    Foreground,
}
