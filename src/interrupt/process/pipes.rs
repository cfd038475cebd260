//! The pipes of a command: what it writes is read as it comes, what it is given is written as it takes it.
//!
//! This program's ends of them are non-blocking, of which the command sees nothing: it has the other ends.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::ioctl_fionbio;

/// How much is read or written at a time.
pub(super) const CHUNK: usize = 64 << 10;
/// A pipe holds no more, unless the administrator says so.
const PIPE_SIZE: usize = 1 << 20;

/// How much of an output is kept.
#[derive(Clone, Copy)]
pub(super) struct Cap {
    pub(super) most: usize,
    /// Whether the command is stopped when it writes more.
    pub(super) stops: bool,
}

impl Cap {
    pub(super) const NONE: Self = Self { most: usize::MAX, stops: false };
}

/// What was kept of an output, and whether that is less than what was written.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) bytes: Vec<u8>,
    pub(super) cut: bool,
}

/// What a command writes to its standard output, or error.
pub(super) struct Output {
    /// Until the end of the file.
    pipe: Option<PipeReader>,
    kept: Vec<u8>,
    cap: Cap,
    /// More has come than is kept.
    overflowed: bool,
}

impl Default for Output {
    fn default() -> Self {
        Self { pipe: None, kept: Vec::new(), cap: Cap::NONE, overflowed: false }
    }
}

impl Output {
    pub(super) fn new(pipe: Option<impl Into<OwnedFd>>, cap: Cap) -> io::Result<Self> {
        let pipe = pipe.map(|pipe| PipeReader::from(pipe.into()));
        if let Some(pipe) = &pipe {
            ioctl_fionbio(pipe, true)?;
        }
        Ok(Self { pipe, cap, ..Self::default() })
    }

    /// What to wait on for more.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Whether nobody can write to it any more.
    pub(super) fn is_closed(&self) -> bool {
        self.pipe.is_none()
    }

    /// Whether so much has come that the command is to be stopped.
    pub(super) fn is_too_much(&self) -> bool {
        self.cap.stops && self.overflowed
    }

    /// Reads once, if there is something to read. Returns how much it was.
    pub(super) fn read(&mut self, chunk: &mut [u8]) -> io::Result<usize> {
        let Some(pipe) = &mut self.pipe else { return Ok(0) };
        let length = match pipe.read(chunk) {
            Ok(length) => length,
            Err(error) if is_for_now(&error) => return Ok(0),
            Err(error) => return Err(error),
        };
        if length == 0 {
            self.pipe = None;
        }
        let room = self.cap.most - self.kept.len();
        self.overflowed |= length > room;
        let kept = &chunk[..length.min(room)];
        if self.kept.try_reserve(kept.len()).is_err() {
            (self.cap.most, self.overflowed) = (self.kept.len(), true);
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.kept.extend_from_slice(kept);
        Ok(length)
    }

    /// Reads what is in the pipe already.
    pub(super) fn drain(&mut self, chunk: &mut [u8]) -> io::Result<()> {
        let mut left = PIPE_SIZE;
        while left > 0 {
            match self.read(chunk)? {
                0 => break,
                length => left = left.saturating_sub(length),
            }
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Kept {
        Kept { bytes: self.kept, cut: self.overflowed || self.pipe.is_some() }
    }
}

/// What a command reads from its standard input.
#[derive(Default)]
pub(super) struct Input<'r> {
    /// Until all of it is written, or the command reads no more.
    pipe: Option<PipeWriter>,
    source: Option<Box<dyn Read + Send + 'r>>,
    /// Read from the source, and written as far as `written`.
    chunk: Vec<u8>,
    written: usize,
}

impl<'r> Input<'r> {
    pub(super) fn new(
        pipe: Option<impl Into<OwnedFd>>,
        source: Option<Box<dyn Read + Send + 'r>>,
    ) -> io::Result<Self> {
        let pipe = pipe.map(|pipe| PipeWriter::from(pipe.into()));
        if let Some(pipe) = &pipe {
            ioctl_fionbio(pipe, true)?;
        }
        Ok(Self { pipe, source, ..Self::default() })
    }

    /// What to wait on for room.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Writes once; at the end of the source the pipe is closed.
    pub(super) fn write(&mut self) -> io::Result<()> {
        let (Some(pipe), Some(source)) = (&mut self.pipe, &mut self.source) else { return Ok(()) };
        if self.written == self.chunk.len() {
            self.chunk.resize(CHUNK, 0);
            self.written = 0;
            let read = loop {
                match source.read(&mut self.chunk) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    read => break read,
                }
            };
            self.chunk.truncate(*read.as_ref().unwrap_or(&0));
            if read? == 0 {
                self.pipe = None;
                return Ok(());
            }
        }
        match pipe.write(&self.chunk[self.written..]) {
            Ok(length) => self.written += length,
            // It wants no more, which is its own affair: `head` has what it needs.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.pipe = None,
            Err(error) if is_for_now(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

fn is_for_now(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
