//! The pipes of a command: its two outputs and its input.
//!
//! This program's ends of the pipes are non-blocking. The command's ends are blocking.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::ioctl_fionbio;

/// The most bytes that one call reads or writes.
pub(super) const CHUNK: usize = 64 << 10;
/// The largest capacity of a pipe, unless the administrator has raised the limit.
const PIPE_SIZE: usize = 1 << 20;

#[derive(Clone, Copy)]
pub(super) struct Cap {
    pub(super) most: usize,
    /// Whether the command is stopped once it has written more than `most` bytes.
    pub(super) stops: bool,
}

impl Cap {
    pub(super) const NONE: Self = Self { most: usize::MAX, stops: false };
}

#[derive(Debug)]
pub(super) struct Kept {
    pub(super) bytes: Vec<u8>,
    /// Whether the command may have written more than is kept.
    pub(super) cut: bool,
}

pub(super) struct Output {
    /// `None` after the end of the file, and if the output is not captured.
    pipe: Option<PipeReader>,
    kept: Vec<u8>,
    cap: Cap,
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

    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Whether a read has found that all writers have closed the pipe. `true` also if there is no pipe.
    pub(super) fn is_closed(&self) -> bool {
        self.pipe.is_none()
    }

    pub(super) fn is_too_much(&self) -> bool {
        self.cap.stops && self.overflowed
    }

    /// Reads once, without blocking. Returns the number of bytes: 0 if there are none now, or if the pipe is closed.
    pub(super) fn read(&mut self, chunk: &mut [u8]) -> io::Result<usize> {
        let Some(pipe) = &mut self.pipe else { return Ok(0) };
        let length = match pipe.read(chunk) {
            Ok(length) => length,
            Err(error) if is_transient(&error) => return Ok(0),
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

    /// Reads what is in the pipe now. Stops after about `PIPE_SIZE` bytes, because a process may go on writing.
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

#[derive(Default)]
pub(super) struct Input<'r> {
    /// `None` if there is no pipe, once all bytes are written, or once the command has closed its end.
    pipe: Option<PipeWriter>,
    source: Option<Box<dyn Read + Send + 'r>>,
    /// Bytes from the source. The first `written` bytes are in the pipe already.
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

    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Writes to the pipe once. The write does not block, but the read from the source before it may block. Closes the
    /// pipe when the source has ended.
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
            // The command has closed its input, as `head` does. This is no error.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.pipe = None,
            Err(error) if is_transient(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
