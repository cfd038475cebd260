use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};

use rustix::io::Errno;
use rustix::process::{Pid, getpgid};

use super::group::Group;
use super::lifeline::Lifeline;
use crate::sync::os;

/// Returns the child, and whether the child leads a process group.
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
        // `setsid` fails with EPERM in the leader of a group, and a `pre_exec` of the command may call `setsid`. So the
        // second attempt makes no group before `setsid` makes one.
        let may_be_session = error.raw_os_error() == Some(Errno::PERM.raw_os_error());
        if may_be_session && leave_group_as_it_is(command) { spawn(command) } else { Err(error) }
    })
}

/// Undoes the `process_group(0)` of an earlier run. A `Command` has no way to unset the group. So this sets the group
/// of this program, in which every child starts. Returns `false` if that group has no number in this process namespace.
fn leave_group_as_it_is(command: &mut Command) -> bool {
    let own = os::own_process_group();
    if let Some(own) = own {
        command.process_group(own);
    }
    own.is_some()
}

const IGNORED: &str = "this program ignores SIGCHLD, so the system discards how its children end: the command was \
                       not started";

/// Replaces the error `ECHILD` (no such child) by an error that says how the child was lost. Returns any other error
/// unchanged.
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
