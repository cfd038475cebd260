//! Child processes that end with their scope (feature `process`, on Unix).
//!
//! [`output`] and [`status`] run a [`Command`] as its methods of the same names do. When the scope is over, the whole
//! process group of the child is told to end (SIGTERM), and what is left of it is killed after a [grace](Run::grace). What it
//! has written until then is in the error. [`Run`] has the choices: the grace, the process group, input, how much is kept.
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
//! in the background: Ctrl-C does not reach it, and a command that reads from the terminal or sets it is suspended, which is
//! told as an error. [`Group`] has other choices. A process that has left the group (a daemon) is not told.
//!
//! Processes that this program may not signal (`sudo`, a program that has become another user) are not waited for: the error
//! [says so](Stopped::refused) at once, and the child is reaped whenever it ends.
//!
//! # The pipes
//!
//! A process that outlives the child may hold its end of the pipes open: `tee` in a shell's `exec > >(tee log)` does, and a
//! daemon. It is waited for as long as the scope lasts, since it may have the rest of what the child has written. If the scope
//! is over before, that is an error like any other, and the group is told to end. For a command that leaves a daemon behind,
//! give the outputs away (`command.stdout(Stdio::null())` and [`status`], or a file), or wait only for [a while](Run::linger):
//! then the result [says](Captured::stdout_cut) that it may be cut.
//!
//! # What else waits for children
//!
//! As long as its group is told to end the child is not reaped, so that its number is nobody else's. So nothing else in the
//! program may wait for *all* children (`waitpid(-1)`), and SIGCHLD must not be ignored: with that a command is not started, and
//! the error says why.

mod group;
mod job;
mod lifeline;
mod outcome;
mod pipes;
mod reaper;
mod run;
mod start;

use std::process::{Command, ExitStatus, Output};

pub use outcome::{Captured, Error, Halted, Stopped, Why};
pub use run::Run;
pub use start::Group;

/// Runs a command to its end and returns what it has written, no longer than the scope lasts.
///
/// As [`Command::output`], except that the command's standard input is what the command says, by default this program's
/// own: [`Stdio::null`](std::process::Stdio::null) is safest, and [`Run::input`] gives it something to read. Both outputs are
/// captured whatever the command says, to their ends. It is left with these settings, and with its own process group.
///
/// # Errors
///
/// [`Error::Stopped`] if the scope is over; [`Error::Io`] if the command could not be started, or not be waited for;
/// [`Error::Halted`] if it is suspended in the background.
///
/// # Examples
///
/// ```
/// use std::process::{Command, Stdio};
/// use std::time::Duration;
/// use timebox::process;
///
/// fn revision() -> Result<String, process::Error> {
///     let mut command = Command::new("echo"); // git rev-parse HEAD, say
///     let output = process::output(command.arg("c0ffee").stdin(Stdio::null()))?;
///     Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
/// }
///
/// let limit = Duration::from_secs(5);
/// assert_eq!(timebox::timeout(limit, revision).unwrap(), "c0ffee");
///
/// let error = process::output(&mut Command::new("no-such-program")).unwrap_err();
/// assert!(error.to_string().starts_with("cannot start \"no-such-program\": "));
/// ```
#[track_caller]
pub fn output(command: &mut Command) -> Result<Output, Error> {
    Run::new(command).output().map(Output::from)
}

/// Runs a command to its end, no longer than the scope lasts.
///
/// As [`Command::status`]. The command is left with its own process group.
///
/// # Errors
///
/// As [`output`].
///
/// # Examples
///
/// ```
/// use std::process::Command;
/// use std::time::Duration;
/// use timebox::process;
///
/// let mut quick = Command::new("sh");
/// quick.args(["-c", "exit 3"]);
/// let status = timebox::timeout(Duration::from_secs(5), || process::status(&mut quick)).unwrap();
/// assert_eq!(status.code(), Some(3));
///
/// let mut slow = Command::new("sleep");
/// slow.arg("1000");
/// let error = timebox::timeout(Duration::from_millis(50), || process::status(&mut slow)).unwrap_err();
/// assert!(error.timeout().unwrap().is_timeout());
/// ```
#[track_caller]
pub fn status(command: &mut Command) -> Result<ExitStatus, Error> {
    Run::new(command).status()
}
