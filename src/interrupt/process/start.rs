//! How a command is started, and in which process group.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};

use rustix::io::Errno;
use rustix::process::{Pid, getpgid};

use super::lifeline::Lifeline;
use crate::sync::os;

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

/// Starts a command. Returns the child, and whether it leads a process group.
pub(super) fn start(
    command: &mut Command,
    group: Group,
    lifeline: Option<&Lifeline>,
) -> io::Result<(Child, bool)> {
    if !os::keeps_children() {
        return Err(io::Error::other(IGNORED));
    }
    let child = spawn(command, group, lifeline).map_err(|error| cannot_start(command, error))?;
    let pid = Pid::from_child(&child);
    Ok((child, getpgid(Some(pid)) == Ok(pid)))
}

fn spawn(command: &mut Command, group: Group, lifeline: Option<&Lifeline>) -> io::Result<Child> {
    let session = group == Group::Session;
    let spawn = |command: &mut Command| {
        if session || lifeline.is_some() {
            os::spawn_prepared(command, session, lifeline.map(Lifeline::pipe))
        } else {
            command.spawn()
        }
    };
    if group != Group::Own {
        leave_group_as_it_is(command);
        return spawn(command);
    }
    spawn(command.process_group(0)).or_else(|error| {
        // The leader of a group may not become that of a session.
        let may_be_session = error.raw_os_error() == Some(Errno::PERM.raw_os_error());
        if may_be_session && leave_group_as_it_is(command) { spawn(command) } else { Err(error) }
    })
}

/// A command may have been run in a group of its own before, and what that has set cannot be taken back; but the child may
/// be told to go where it is already.
fn leave_group_as_it_is(command: &mut Command) -> bool {
    let own = os::own_process_group();
    if let Some(own) = own {
        command.process_group(own);
    }
    own.is_some()
}

const IGNORED: &str = "this program ignores SIGCHLD, so the system throws away what becomes of its children: the command was \
                       not started";

/// What an error means that says there is no such child.
pub(super) fn explain_lost(error: io::Error) -> io::Error {
    if error.raw_os_error() != Some(Errno::CHILD.raw_os_error()) {
        return error;
    }
    let why = if os::keeps_children() {
        "another part of this program has waited for the command, so how it ended is lost"
    } else {
        "this program ignores SIGCHLD, so how the command ended is lost"
    };
    io::Error::new(error.kind(), why)
}

#[derive(Debug, thiserror::Error)]
#[error("cannot start {program:?}{}: {source}", .directory.as_ref().map_or(String::new(), |path| format!(" in {}", path.display())))]
struct CannotStart {
    program: OsString,
    directory: Option<PathBuf>,
    source: io::Error,
}

fn cannot_start(command: &Command, source: io::Error) -> io::Error {
    let program = command.get_program().to_owned();
    let directory = command.get_current_dir().map(PathBuf::from);
    io::Error::new(source.kind(), CannotStart { program, directory, source })
}
