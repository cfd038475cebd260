use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, IsTerminal, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::Location;

use rustix::net::sockopt;

use super::descriptor::Descriptor;

/// A stream whose reads and writes end with the scope.
///
/// `Timed` wraps sockets, pipes, terminals, and everything else with a file descriptor that can be polled. Outside of
/// all scopes, a read or write is a plain system call. In a scope:
///
/// - each call is an interruption point;
/// - a call waits even if the descriptor is non-blocking, and a signal does not end the wait;
/// - data that is ready is read or written even if the deadline passes during the call.
///
/// `Timed` reads from the descriptor and bypasses the stream's own buffer. So put a `BufReader` around `Timed`, and
/// not the other way round. A `&Timed` reads and writes too, so several threads can share a `Timed`.
///
/// The scope can end a call that reads or writes several times (`read_exact`, `read_to_string`, `write_all`) after a
/// part of the work: see [half a frame](crate::io#half-a-frame).
///
/// # Examples
///
/// ```
/// use std::io::{BufRead, BufReader, ErrorKind, Write};
/// use std::time::Duration;
/// use timebox::io::Timed;
///
/// let (reader, mut writer) = std::io::pipe().unwrap();
/// // The buffer is outside of the limit, so it keeps half a line.
/// let mut reader = BufReader::new(Timed::new(reader));
/// let mut line = String::new();
/// writer.write_all(b"one\ntw").unwrap();
/// reader.read_line(&mut line).unwrap();
/// assert_eq!(std::mem::take(&mut line), "one\n");
///
/// let error = timebox::timeout(Duration::from_millis(20), || reader.read_line(&mut line)).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::TimedOut);
///
/// writer.write_all(b"o\n").unwrap();
/// reader.read_line(&mut line).unwrap();
/// assert_eq!(line, "two\n");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Timed<S> {
    pub(super) inner: S,
    is_socket: bool,
    is_terminal: bool,
}

impl<S: AsFd> Timed<S> {
    /// Wraps a stream, or a reference to one.
    pub fn new(inner: S) -> Self {
        let is_socket = sockopt::socket_type(&inner).is_ok();
        let is_terminal = !is_socket && inner.as_fd().is_terminal();
        Self { inner, is_socket, is_terminal }
    }

    /// The stream.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Unwraps the stream.
    pub fn into_inner(self) -> S {
        self.inner
    }

    pub(super) fn descriptor(&self, location: &'static Location<'static>) -> Descriptor<'_> {
        Descriptor {
            fd: self.inner.as_fd(),
            is_socket: self.is_socket,
            is_terminal: self.is_terminal,
            location,
        }
    }
}

impl<S: AsFd> AsFd for Timed<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

/// Implements `Read` and `Write`, also the methods that have defaults in std. The defaults call `read` or `write` from
/// std, so an error would not name the user's call as its place.
macro_rules! stream {
    ($stream:ty) => {
        impl<S: AsFd> Read for $stream {
            #[track_caller]
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.descriptor(Location::caller()).read(buffer)
            }

            /// Fills the buffer. **If the scope ends the call, the bytes read so far are lost to later reads**: they
            /// are in the buffer, but nothing says how many they are. See [half a frame](crate::io#half-a-frame) for
            /// how to keep them.
            #[track_caller]
            fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
                self.descriptor(Location::caller()).read_exact(buffer)
            }

            /// Reads to the end of the file. If the scope ends the call, the bytes read so far are in the buffer.
            #[track_caller]
            fn read_to_end(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
                self.descriptor(Location::caller()).read_to_end(buffer)
            }

            /// Reads to the end of the file. **If the scope ends the call, the bytes read so far are lost**;
            /// `read_to_end` keeps them.
            #[track_caller]
            fn read_to_string(&mut self, buffer: &mut String) -> io::Result<usize> {
                self.descriptor(Location::caller()).read_to_string(buffer)
            }

            #[track_caller]
            fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
                self.descriptor(Location::caller()).read_vectored(buffers)
            }
        }

        impl<S: AsFd> Write for $stream {
            #[track_caller]
            fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
                self.descriptor(Location::caller()).write(buffer)
            }

            /// Writes the whole buffer. **If the scope ends the call, an unknown part of the buffer has been written.**
            /// Use `write`, which returns the number of bytes, or close the connection. See [half a
            /// frame](crate::io#half-a-frame).
            #[track_caller]
            fn write_all(&mut self, buffer: &[u8]) -> io::Result<()> {
                self.descriptor(Location::caller()).write_all(buffer)
            }

            #[track_caller]
            fn write_fmt(&mut self, text: fmt::Arguments<'_>) -> io::Result<()> {
                self.descriptor(Location::caller()).write_fmt(text)
            }

            #[track_caller]
            fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
                self.descriptor(Location::caller()).write_vectored(buffers)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
    };
}

stream!(Timed<S>);
stream!(&Timed<S>);

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_socket_without_the_flag_is_waited_for_first() {
        let (ours, mut peer) = UnixStream::pair().unwrap();
        let mut ours = Timed { inner: ours, is_socket: false, is_terminal: false };
        let limit = Duration::from_millis(20);
        let error = crate::timeout(limit, || ours.write_all(&vec![7; 16 << 20])).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let error = crate::timeout(limit, || ours.read(&mut [0])).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        peer.write_all(b"x").unwrap();
        assert_eq!(crate::timeout(limit * 1000, || ours.read(&mut [0])).unwrap(), 1);
    }
}
