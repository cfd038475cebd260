//! Child processes that end with their scope (feature `process`, on Unix).
//!
//! [`output`] and [`status`] run a [`Command`] like its methods of the same names. When the scope is over, the
//! child's whole process group receives SIGTERM, and after a [grace](Run::grace) SIGKILL. The error contains the
//! output so far. [`Run`] has the options: the grace, the process group, the input, how much output is kept.
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
//! The child leads a process group of its own, so the signals reach the processes that it has started. For the
//! terminal, this group is in the background: Ctrl-C does not reach it. If the command reads from the terminal or
//! changes the terminal's settings, the system suspends the command, and the call fails. [`Group`] has other choices. A
//! process that has left the group (a daemon) receives no signal.
//!
//! This program may not signal processes of another user (`sudo`), so it cannot stop them. It does not wait for them
//! either: the call fails at once, and the error has [`refused`](Stopped::refused) set. The child is reaped when it
//! ends.
//!
//! # The pipes
//!
//! A process such as a daemon, or `tee` in a shell's `exec > >(tee log)`, may outlive the child and hold the pipes
//! open. Such a process may still write a part of the child's output, so the call waits for it as long as the scope
//! lasts. If the scope is over first, the call fails, and the group is signalled. For a command that leaves a daemon
//! behind, there are two ways. Redirect the outputs, to a file or to `Stdio::null()`, and call [`status`]. Or limit
//! [this wait](Run::linger): then [`stdout_cut`](Captured::stdout_cut) says whether the output may be incomplete.
//!
//! # The deadline
//!
//! In a scope with a deadline, the command gets that deadline in the environment variable
//! [`TIMEBOX_DEADLINE`](crate::Deadline::VARIABLE). A command that uses this crate can so end in time by itself: it
//! reads the variable with [`Deadline::from_env`](crate::Deadline::from_env), and runs its work in a scope with that
//! deadline. [`Run::allowance`] makes the command's deadline earlier, so that the command ends before it is signalled.
//! The variable may already have an earlier deadline, set for this command or inherited by this program: then the
//! earlier deadline stays. Other commands ignore the variable, and pass it on to the processes that they start. A
//! command with `env_clear` or `env_remove` gets the deadline too: [`Run::without_deadline`] leaves the variable to the
//! `Command`.
//!
//! # Other code that waits for children
//!
//! Another process may get the child's number as soon as the child is reaped. So the child is reaped only after the
//! last signal, and no other code in the program may wait for *all* children (`waitpid(-1)`): it could reap the child
//! too early. And the program must not ignore SIGCHLD: if it does, the command is not started, and the error says
//! why.

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
mod variable;

pub use captured::Captured;
pub use error::{Error, Halted, Stopped, Why};
pub use group::Group;
pub use run::{Run, output, status};

#[cfg(doc)] // for the links above
use std::process::Command;
