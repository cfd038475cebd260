//! The output of a command that has ended.

use std::fmt;
use std::process::{ExitStatus, Output};

use super::pipes::Kept;

/// What a command that came to its end has written.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Captured {
    /// How it ended.
    pub status: ExitStatus,
    /// What it has written to its standard output.
    pub stdout: Vec<u8>,
    /// Whether that is not all: more came than [is kept](super::Run::truncate_output), or somebody who still held the pipe
    /// [was not waited for](super::Run::linger). Without these two settings it never is.
    pub stdout_cut: bool,
    /// What it has written to its standard error.
    pub stderr: Vec<u8>,
    /// As [`stdout_cut`](Self::stdout_cut).
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

/// Shows an output as std's `Output` does: as text if it is UTF-8, and as bytes if not.
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
