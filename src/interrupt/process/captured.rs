use std::fmt;
use std::process::{ExitStatus, Output};

use super::pipes::Kept;

/// The exit status and output of a command that ran to its end.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Captured {
    /// The exit status.
    pub status: ExitStatus,
    /// The standard output.
    pub stdout: Vec<u8>,
    /// Whether `stdout` may be incomplete: the command wrote more than [is kept](super::Run::truncate_output), or
    /// another process held the pipe open for longer than [`linger`](super::Run::linger). Always false without these
    /// two options.
    pub stdout_cut: bool,
    /// The standard error.
    pub stderr: Vec<u8>,
    /// Whether `stderr` may be incomplete, for the same reasons as [`stdout_cut`](Self::stdout_cut).
    pub stderr_cut: bool,
}

impl Captured {
    pub(super) fn new(status: ExitStatus, stdout: Kept, stderr: Kept) -> Self {
        Self {
            status,
            stdout: stdout.bytes,
            stdout_cut: stdout.cut,
            stderr: stderr.bytes,
            stderr_cut: stderr.cut,
        }
    }
}

impl From<Captured> for Output {
    fn from(captured: Captured) -> Self {
        Self { status: captured.status, stdout: captured.stdout, stderr: captured.stderr }
    }
}

/// Formats an output like std's `Output`: as text if it is UTF-8, otherwise as bytes.
pub(super) struct TextOrBytes<'a>(pub(super) &'a [u8]);

impl fmt::Debug for TextOrBytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match str::from_utf8(self.0) {
            Ok(text) => fmt::Debug::fmt(text, f),
            Err(_) => fmt::Debug::fmt(self.0, f),
        }
    }
}

impl fmt::Debug for Captured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, stdout, stdout_cut, stderr, stderr_cut } = self;
        f.debug_struct("Captured")
            .field("status", status)
            .field("stdout", &TextOrBytes(stdout))
            .field("stdout_cut", stdout_cut)
            .field("stderr", &TextOrBytes(stderr))
            .field("stderr_cut", stderr_cut)
            .finish()
    }
}
