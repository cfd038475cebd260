use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use super::captured::TextOrBytes;
use super::pipes::Kept;
use crate::error::TimeoutError;

/// Why a command did not run to its end.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The command could not be started or waited for, or the reader of its input failed. If the start failed, the
    /// error names the command.
    Io(io::Error),
    /// The scope was over, so the command was stopped or not started.
    Stopped(Stopped),
    /// The command was stopped before the scope was over, for the reason in [`why`](Halted::why).
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
    /// The source of the error in the variant. There is one exception: the reader of the input may fail with an
    /// `io::Error` that has a timeout inside. Then the source is the error inside, so that [`TimeoutError::find`]
    /// finds the timeout.
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
    /// The scope's error, if the command was stopped, or not started, because the scope was over.
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

/// A command that was stopped, or not started, because the scope was over.
#[derive(Clone)]
#[non_exhaustive]
pub struct Stopped {
    /// The scope's error.
    pub timeout: TimeoutError,
    /// The standard output so far, if it was captured.
    pub stdout: Vec<u8>,
    /// Whether `stdout` may be incomplete: the command wrote more than is kept, or a process that could not be
    /// stopped still holds the pipe open.
    pub stdout_cut: bool,
    /// The standard error so far, if it was captured.
    pub stderr: Vec<u8>,
    /// Whether `stderr` may be incomplete, for the same reasons as [`stdout_cut`](Self::stdout_cut).
    pub stderr_cut: bool,
    /// The exit status. `None` if the command was not started, or has not ended. A command that has not ended belongs
    /// to another user, or not even SIGKILL ends it. It is reaped when it ends.
    pub status: Option<ExitStatus>,
    /// The signal that suspended the command, if the command was suspended at the end of the scope. A suspended
    /// command does nothing, so a longer limit may not help.
    pub suspended: Option<i32>,
    /// Whether a process runs on because this program may not signal it: the command, or a process that the command
    /// has started. Such a process belongs to another user.
    pub refused: bool,
}

/// A command that was stopped before the scope was over.
#[derive(Clone)]
#[non_exhaustive]
pub struct Halted {
    /// Why the command was stopped.
    pub why: Why,
    /// Like [`Stopped::stdout`].
    pub stdout: Vec<u8>,
    /// Like [`Stopped::stdout_cut`].
    pub stdout_cut: bool,
    /// Like [`Stopped::stderr`].
    pub stderr: Vec<u8>,
    /// Like [`Stopped::stderr_cut`].
    pub stderr_cut: bool,
    /// Like [`Stopped::status`].
    pub status: Option<ExitStatus>,
    /// Like [`Stopped::refused`].
    pub refused: bool,
}

/// Why a command was stopped before the scope was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Why {
    /// The command wrote more than [`max_output`](super::Run::max_output) allows.
    #[non_exhaustive]
    TooMuchOutput {
        /// The limit for each output, in bytes.
        most: usize,
    },
    /// The system suspended the command because the command used the terminal from the background. It read from the
    /// terminal (SIGTTIN) or changed the terminal's settings (SIGTTOU). No shell would resume the command, so the
    /// call stopped it: see [`Group`](super::Group).
    #[non_exhaustive]
    Suspended {
        /// SIGTTIN or SIGTTOU.
        signal: i32,
    },
}

/// A command after the attempt to stop it.
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

/// An exit status that std prints as "stopped", with the signal's name.
fn suspension(signal: i32) -> ExitStatus {
    ExitStatus::from_raw(signal << 8 | 0x7f)
}

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
