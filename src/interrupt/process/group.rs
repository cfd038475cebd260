/// The process group of a command. It decides which processes are stopped with the command, and how a terminal treats
/// the command.
///
/// # Examples
///
/// ```
/// use std::process::Command;
/// use timebox::process::{Group, Run};
///
/// // This command can never ask for a password: it has no terminal.
/// let mut command = Command::new("sh");
/// command.args(["-c", "exec 2> /dev/null; read password < /dev/tty"]);
/// let status = Run::new(&mut command).group(Group::Session).status().unwrap();
/// assert!(!status.success());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Group {
    /// The default: a group of its own, in this program's session. Processes that the command starts are stopped with
    /// the command. For a terminal the group is in the background: Ctrl-C does not reach the group, and the system
    /// suspends the command if the command reads from the terminal or changes the terminal's settings. Then the call
    /// fails with [`Why::Suspended`](super::Why::Suspended).
    ///
    /// A `pre_exec` of the command may call `setsid`.
    #[default]
    Own,
    /// A group of its own, in a session of its own. The session has no terminal, so opening `/dev/tty` fails. Processes
    /// that the command starts are stopped with the command.
    Session,
    /// This program's group, as with [`Command::spawn`](std::process::Command::spawn). The command can read from the
    /// terminal and change the terminal's settings. Ctrl-C reaches the command and this program, and Ctrl-Z suspends
    /// both. Only the command itself is stopped; **processes that it has started run on**.
    Foreground,
}
