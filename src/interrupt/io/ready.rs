use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::Location;

use rustix::event::PollFlags;

use crate::interrupt::call::in_innermost;
use crate::interrupt::poller::Poller;
use crate::time::NEVER;

/// Waits until a descriptor is readable, no longer than the scope lasts. Use it for descriptors that
/// [`Timed`](super::Timed) cannot wrap: a serial port, inotify, a timer, a socket of a C library.
///
/// A descriptor is also readable at the end of the file, if a connection waits to be accepted, and if an error waits
/// to be read. A file on a disk is always readable.
///
/// If other threads or processes read from the same descriptor, one of them may take the data first. So make the
/// descriptor non-blocking, read, and wait only if the read would have blocked, as in the example. Outside of all
/// scopes the wait has no limit.
///
/// # Errors
///
/// If the scope is over, an error of the kind [`TimedOut`](io::ErrorKind::TimedOut) with the
/// [`TimeoutError`](crate::TimeoutError) inside.
///
/// # Examples
///
/// ```
/// use std::io::{self, ErrorKind};
/// use std::os::unix::net::UnixDatagram;
/// use std::time::Duration;
/// use timebox::io::readable;
/// use timebox::timeout;
///
/// /// Like `socket.recv`, no longer than the scope lasts.
/// fn receive(socket: &UnixDatagram, buffer: &mut [u8]) -> io::Result<usize> {
///     loop {
///         match socket.recv(buffer) {
///             Err(error) if error.kind() == ErrorKind::WouldBlock => readable(socket)?,
///             result => return result,
///         }
///     }
/// }
///
/// let (ours, peer) = UnixDatagram::pair().unwrap();
/// ours.set_nonblocking(true).unwrap();
/// let mut buffer = [0; 8];
/// let error = timeout(Duration::from_millis(20), || receive(&ours, &mut buffer)).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::TimedOut);
/// peer.send(b"hello").unwrap();
/// assert_eq!(timeout(Duration::from_secs(5), || receive(&ours, &mut buffer)).unwrap(), 5);
/// ```
#[track_caller]
pub fn readable(fd: impl AsFd) -> io::Result<()> {
    wait(fd.as_fd(), PollFlags::IN, Location::caller())
}

/// Waits until a descriptor is writable, no longer than the scope lasts. In all else this is like [`readable`].
///
/// A writable descriptor may have no room for all the bytes of a write. If the descriptor is blocking, such a write
/// blocks.
///
/// # Errors
///
/// The errors of [`readable`].
///
/// # Examples
///
/// ```
/// use std::io::{ErrorKind, Read, Write};
/// use std::os::unix::net::UnixStream;
/// use std::time::Duration;
/// use timebox::io::writable;
/// use timebox::timeout;
///
/// let (mut ours, mut peer) = UnixStream::pair().unwrap();
/// ours.set_nonblocking(true).unwrap();
/// while ours.write(&[0; 4096]).is_ok() {}
/// let error = timeout(Duration::from_millis(20), || writable(&ours)).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::TimedOut);
///
/// let reader = std::thread::spawn(move || peer.read_to_end(&mut Vec::new()));
/// timeout(Duration::from_secs(5), || writable(&ours)).unwrap();
/// # drop(ours);
/// # reader.join().unwrap().unwrap();
/// ```
#[track_caller]
pub fn writable(fd: impl AsFd) -> io::Result<()> {
    wait(fd.as_fd(), PollFlags::OUT, Location::caller())
}

fn wait(fd: BorrowedFd<'_>, events: PollFlags, location: &'static Location<'static>) -> io::Result<()> {
    in_innermost(|scope| {
        if let Some(scope) = scope {
            scope.checkpoint_at(location)?;
        }
        Poller::new(scope, location)?.wait(&[(fd, events)], NEVER)?;
        Ok(())
    })
}
