//! Child processes that end with their scope (feature `process`, on Unix).
//!
//! [`output`] and [`status`] run a [`Command`] as its methods of the same names do. When the scope is over, the whole
//! process group of the child is told to end (SIGTERM), and killed after a [grace](Run::grace). What it has written until
//! then is in the error.
//!
//! ```
//! use std::process::Command;
//! use std::time::Duration;
//! use timebox::process::{self, Error};
//! use timebox::timeout;
//!
//! let mut hello = Command::new("echo");
//! let output = timeout(Duration::from_secs(5), || process::output(hello.arg("hello"))).unwrap();
//! assert_eq!(output.stdout, b"hello\n");
//!
//! let mut endless = Command::new("sh");
//! endless.args(["-c", "echo begun; sleep 1000 & wait"]);
//! let error = timeout(Duration::from_millis(100), || process::output(&mut endless)).unwrap_err();
//! let Error::Stopped(stopped) = error else { panic!("{error}") };
//! assert!(stopped.timeout.is_timeout());
//! assert_eq!(stopped.stdout, b"begun\n");
//! ```
//!
//! # The group
//!
//! The child leads a process group of its own, so that the processes it has started can be told with it. To a terminal it is
//! in the background: Ctrl-C does not reach it, and it is stopped if it reads from the terminal. A process that has left
//! the group (a daemon) is not told.
//!
//! # The pipes
//!
//! A process that outlives the child may hold its end of the pipes open. Once the child has ended, such a process is given
//! a [while](Run::linger) to write the rest; what it writes later is lost, and it is left alone. If the scope is over
//! before, that is an error like any other, and the group is told to end.

mod child;

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::panic::Location;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use super::in_innermost;
use super::watch::Watch;
use crate::error::TimeoutError;
use crate::time::NEVER;
use child::Group;

/// Runs a command to its end and returns what it has written, no longer than the scope lasts.
///
/// As [`Command::output`], except that the command's standard input is what the command says, by default this process's
/// own: [`Stdio::null`] is safest. Both outputs are captured whatever the command says. It is left with these settings,
/// and with its own process group.
///
/// # Errors
///
/// [`Error::Stopped`] if the scope is over, [`Error::Io`] if the command could not be started, or not be waited for.
#[track_caller]
pub fn output(command: &mut Command) -> Result<Output, Error> {
    Run::new(command).output()
}

/// Runs a command to its end, no longer than the scope lasts.
///
/// As [`Command::status`]. The command is left with its own process group.
///
/// # Errors
///
/// As [`output`].
#[track_caller]
pub fn status(command: &mut Command) -> Result<ExitStatus, Error> {
    Run::new(command).status()
}

/// How to run a command.
///
/// # Examples
///
/// ```
/// use std::process::Command;
/// use std::time::Duration;
/// use timebox::process::{Error, Run};
///
/// let mut stubborn = Command::new("sh");
/// stubborn.args(["-c", "trap '' TERM; echo begun; while :; do sleep 1; done"]);
/// let result = timebox::timeout(Duration::from_millis(100), || {
///     Run::new(&mut stubborn).grace(Duration::from_millis(50)).output()
/// });
/// assert!(matches!(result, Err(Error::Stopped(stopped)) if stopped.status.is_some()));
/// ```
#[derive(Debug)]
#[must_use = "nothing is run before `output` or `status`"]
pub struct Run<'c> {
    command: &'c mut Command,
    grace: Duration,
    linger: Duration,
}

impl<'c> Run<'c> {
    /// With a grace of a second, and half a second for what holds the pipes.
    pub fn new(command: &'c mut Command) -> Self {
        Self { command, grace: Duration::from_secs(1), linger: Duration::from_millis(500) }
    }

    /// How long after SIGTERM the group is killed. Once the child has ended and nobody holds its pipes, what remains of the
    /// group is killed at once.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// How long after the end of the child its pipes are read, if others still hold them.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// As the function [`output`].
    #[track_caller]
    pub fn output(self) -> Result<Output, Error> {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        self.run(Location::caller())
    }

    /// As the function [`status`].
    #[track_caller]
    pub fn status(self) -> Result<ExitStatus, Error> {
        Ok(self.run(Location::caller())?.status)
    }

    fn run(self, location: &'static Location<'static>) -> Result<Output, Error> {
        in_innermost(|scope| {
            if let Some(scope) = scope {
                scope.checkpoint_at(location)?;
            }
            let watch = Watch::new(scope, location)?;
            let mut group = Group::spawn(self.command)?;
            let Err(error) = group.attend(&watch, self.linger, NEVER) else {
                return Ok(group.reap()?);
            };
            match error.downcast::<TimeoutError>() {
                Ok(timeout) => {
                    let (status, [stdout, stderr]) = group.stop(location, self.grace, self.linger);
                    Err(Error::Stopped(Stopped { timeout, stdout, stderr, status }))
                }
                Err(error) => Err(Error::Io(error)),
            }
        })
    }
}

/// Why a command did not come to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It could not be started, or not be waited for.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It was stopped, or not started, since the scope was over.
    #[error(transparent)]
    Stopped(Stopped),
}

/// What a command has done before it was stopped.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stopped {
    /// Why it was stopped.
    pub timeout: TimeoutError,
    /// What it has written so far, if that was captured.
    pub stdout: Vec<u8>,
    /// What it has written so far, if that was captured.
    pub stderr: Vec<u8>,
    /// How it ended; `None` if it was not started, or would not die.
    pub status: Option<ExitStatus>,
}

impl Error {
    /// Why the command was stopped, if it was.
    pub fn timeout(&self) -> Option<&TimeoutError> {
        match self {
            Self::Stopped(stopped) => Some(&stopped.timeout),
            Self::Io(_) => None,
        }
    }
}

impl From<TimeoutError> for Error {
    fn from(timeout: TimeoutError) -> Self {
        Self::Stopped(Stopped { timeout, stdout: Vec::new(), stderr: Vec::new(), status: None })
    }
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => write!(f, "the command was stopped ({status})"),
            None => f.write_str("the command was not started, or could not be stopped"),
        }
    }
}

impl StdError for Stopped {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.timeout)
    }
}
