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

mod captured;
mod error;
mod group;
mod job;
mod lifeline;
mod pipes;
mod reaper;
mod run;
mod start;
mod survivors;

pub use captured::Captured;
pub use error::{Error, Halted, Stopped, Why};
pub use group::Group;
pub use run::{Run, output, status};

#[cfg(doc)] // for the links above
use std::process::Command;
