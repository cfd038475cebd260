//! Why a command did not run to its end.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use super::captured::TextOrBytes;
use super::pipes::Kept;
use crate::error::TimeoutError;

/// Why a command did not come to its end.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// It could not be started (the error names it), or not be waited for, or its input could not be read.
    Io(io::Error),
    /// It was stopped, or not started, since the scope was over.
    Stopped(Stopped),
    /// It was stopped though the scope was not over: [`why`](Halted::why) tells.
    Halted(Halted),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => fmt::Display::fmt(error, f),
            Self::Stopped(stopped) => fmt::Display::fmt(stopped, f),
            Self::Halted(halted) => fmt::Display::fmt(halted, f),
        }
    }
}

impl StdError for Error {
    /// Each variant stands for the error in it, whose source it has. But a timeout that a reader of the input has returned is
    /// the `io::Error`'s content, not its source.
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Io(error) => match error.get_ref() {
                Some(held) if TimeoutError::find(held).is_some() => Some(held),
                _ => error.source(),
            },
            Self::Stopped(stopped) => stopped.source(),
            Self::Halted(halted) => halted.source(),
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Error {
    /// Why the command was stopped, if the scope was over.
    pub fn timeout(&self) -> Option<&TimeoutError> {
        match self {
            Self::Stopped(stopped) => Some(&stopped.timeout),
            Self::Io(_) | Self::Halted(_) => None,
        }
    }
}

impl From<TimeoutError> for Error {
    fn from(timeout: TimeoutError) -> Self {
        Self::Stopped(Stopped {
            timeout,
            status: None,
            stdout: Vec::new(),
            stdout_cut: false,
            stderr: Vec::new(),
            stderr_cut: false,
            suspended: None,
            refused: false,
        })
    }
}

/// What a command has done before it was stopped.
#[derive(Clone)]
#[non_exhaustive]
pub struct Stopped {
    /// Why it was stopped.
    pub timeout: TimeoutError,
    /// What it has written so far, if that was captured.
    pub stdout: Vec<u8>,
    /// Whether that is not all that was written: more came than is kept, or somebody outside of the group, or not to be
    /// killed, still holds the pipe.
    pub stdout_cut: bool,
    /// What it has written so far, if that was captured.
    pub stderr: Vec<u8>,
    /// As [`stdout_cut`](Self::stdout_cut).
    pub stderr_cut: bool,
    /// How it ended; `None` if it was not started, may not be signalled, or would not die. It is reaped whenever it ends.
    pub status: Option<ExitStatus>,
    /// The signal by which it was suspended when the scope was over, if it was: it has not used its time.
    pub suspended: Option<i32>,
    /// Whether the command, or a process that it has started, may not be signalled by this program, and so runs on: it is
    /// another user's.
    pub refused: bool,
}

/// What a command has done before it was stopped although the scope was not over.
#[derive(Clone)]
#[non_exhaustive]
pub struct Halted {
    /// Why it was stopped.
    pub why: Why,
    /// As [`Stopped::stdout`].
    pub stdout: Vec<u8>,
    /// As [`Stopped::stdout_cut`].
    pub stdout_cut: bool,
    /// As [`Stopped::stderr`].
    pub stderr: Vec<u8>,
    /// As [`Stopped::stdout_cut`].
    pub stderr_cut: bool,
    /// As [`Stopped::status`].
    pub status: Option<ExitStatus>,
    /// As [`Stopped::refused`].
    pub refused: bool,
}

/// Why a command was stopped although the scope was not over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Why {
    /// It has written more than [it may](super::Run::max_output).
    #[non_exhaustive]
    TooMuchOutput {
        /// How many bytes each output may have.
        most: usize,
    },
    /// The system has suspended it, since it has read from the terminal (SIGTTIN) or set it (SIGTTOU) from the background,
    /// where nobody would have it go on: see [`Group`](super::Group).
    #[non_exhaustive]
    Suspended {
        /// By which signal.
        signal: i32,
    },
}

/// A command that was stopped, as far as it could be.
pub(super) struct StoppedJob {
    /// `None` if the command has not ended.
    pub(super) status: Option<ExitStatus>,
    pub(super) stdout: Kept,
    pub(super) stderr: Kept,
    pub(super) suspended: Option<i32>,
    pub(super) refused: bool,
}

impl Stopped {
    pub(super) fn new(timeout: TimeoutError, job: StoppedJob) -> Self {
        let StoppedJob { status, stdout, stderr, suspended, refused } = job;
        Self {
            timeout,
            stdout: stdout.bytes,
            stdout_cut: stdout.cut,
            stderr: stderr.bytes,
            stderr_cut: stderr.cut,
            status,
            suspended,
            refused,
        }
    }
}

impl Halted {
    pub(super) fn new(why: Why, job: StoppedJob) -> Self {
        let StoppedJob { status, stdout, stderr, refused, .. } = job;
        Self {
            why,
            stdout: stdout.bytes,
            stdout_cut: stdout.cut,
            stderr: stderr.bytes,
            stderr_cut: stderr.cut,
            status,
            refused,
        }
    }
}

impl fmt::Debug for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { timeout, stdout, stdout_cut, stderr, stderr_cut, status, suspended, refused } = self;
        f.debug_struct("Stopped")
            .field("timeout", timeout)
            .field("stdout", &TextOrBytes(stdout))
            .field("stdout_cut", stdout_cut)
            .field("stderr", &TextOrBytes(stderr))
            .field("stderr_cut", stderr_cut)
            .field("status", status)
            .field("suspended", suspended)
            .field("refused", refused)
            .finish()
    }
}

impl fmt::Debug for Halted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { why, stdout, stdout_cut, stderr, stderr_cut, status, refused } = self;
        f.debug_struct("Halted")
            .field("why", why)
            .field("stdout", &TextOrBytes(stdout))
            .field("stdout_cut", stdout_cut)
            .field("stderr", &TextOrBytes(stderr))
            .field("stderr_cut", stderr_cut)
            .field("status", status)
            .field("refused", refused)
            .finish()
    }
}

/// As std writes it: with the signal's name.
fn suspension(signal: i32) -> ExitStatus {
    ExitStatus::from_raw(signal << 8 | 0x7f)
}

/// How it ended, in parentheses.
fn write_end(f: &mut fmt::Formatter<'_>, status: Option<ExitStatus>, refused: bool) -> fmt::Result {
    match status {
        Some(status) => write!(f, " ({status})")?,
        None => f.write_str(" (it has not ended)")?,
    }
    if refused {
        f.write_str("; what may not be signalled by this program runs on")?;
    }
    Ok(())
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.status.is_none() && !self.refused {
            return f.write_str("the command was not started, or could not be stopped");
        }
        f.write_str(if self.status.is_some() {
            "the command was stopped"
        } else {
            "the command could not be stopped"
        })?;
        write_end(f, self.status, self.refused)?;
        if let Some(signal) = self.suspended {
            write!(f, "; before that it was suspended: {}", suspension(signal))?;
        }
        Ok(())
    }
}

impl StdError for Stopped {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.timeout)
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooMuchOutput { most } => write!(f, "the command has written more than {most} bytes"),
            Self::Suspended { signal } => {
                let suspension = suspension(signal);
                write!(
                    f,
                    "the command was suspended, since it uses the terminal in the background: {suspension}"
                )
            }
        }
    }
}

impl fmt::Display for Halted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.why)?;
        write_end(f, self.status, self.refused)
    }
}

impl StdError for Halted {}
