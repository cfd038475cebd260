//! Blocking input and output that ends with its scope (feature `io`, on Unix).
//!
//! [`Timed`] wraps a stream, or whatever has a file descriptor. Its reads and writes wait no longer than the scope
//! lasts, and are woken when the scope is cancelled; they fail with the kind [`TimedOut`](io::ErrorKind::TimedOut) and
//! the [`TimeoutError`](crate::TimeoutError) inside. The stream stays open, and a single [`read`](Read::read) that fails has
//! taken nothing: what comes later can still be read. Calls that read or write several times are another matter: see
//! [half a frame](#half-a-frame).
//!
//! ```
//! use std::io::{ErrorKind, Read, Write};
//! use std::os::unix::net::UnixStream;
//! use std::time::Duration;
//! use timebox::TimeoutError;
//! use timebox::io::Timed;
//!
//! let (mut peer, stream) = UnixStream::pair().unwrap();
//! let mut stream = Timed::new(stream);
//! let mut buffer = [0; 16];
//! let error = timebox::timeout(Duration::from_millis(20), || stream.read(&mut buffer)).unwrap_err();
//! assert_eq!(error.kind(), ErrorKind::TimedOut);
//! assert!(error.downcast::<TimeoutError>().unwrap().is_timeout());
//!
//! peer.write_all(b"late").unwrap();
//! assert_eq!(stream.read(&mut buffer).unwrap(), 4);
//! ```
//!
//! [`connect`] and [`accept`] do the same for connections, [`recv_from`](Timed::recv_from) and [`send_to`](Timed::send_to)
//! for datagrams. A descriptor that this crate knows nothing of is waited for with [`readable`] and [`writable`].
//!
//! # Half a frame
//!
//! A limit may pass when half of a frame has come. [`read_exact`](Read::read_exact) then fails, and the half is gone: the
//! next reader finds the stream in the middle of a frame, takes its rest for a beginning, and is wrong from then on. So keep
//! the half *outside* of the limit. Of std's methods, those that append to a buffer of the caller's leave in it what they have
//! read before an error: `take(n)` with [`read_to_end`](Read::read_to_end), and
//! [`read_until`](std::io::BufRead::read_until), where the `BufReader` is outside of the limit too.
//!
//! ```
//! use std::io::{self, ErrorKind, Read, Write};
//! use std::os::unix::net::UnixStream;
//! use std::time::Duration;
//! use timebox::io::Timed;
//! use timebox::timeout;
//!
//! /// A connection whose frames are of four bytes.
//! struct Frames {
//!     stream: Timed<UnixStream>,
//!     /// What has come of the next frame.
//!     half: Vec<u8>,
//! }
//!
//! impl Frames {
//!     fn next(&mut self) -> io::Result<Vec<u8>> {
//!         let missing = 4 - self.half.len();
//!         (&self.stream).take(missing as u64).read_to_end(&mut self.half)?;
//!         if self.half.len() < 4 {
//!             return Err(ErrorKind::UnexpectedEof.into());
//!         }
//!         Ok(std::mem::take(&mut self.half))
//!     }
//! }
//!
//! let (mut peer, stream) = UnixStream::pair().unwrap();
//! let mut frames = Frames { stream: Timed::new(stream), half: Vec::new() };
//! peer.write_all(b"la").unwrap();
//! let error = timeout(Duration::from_millis(20), || frames.next()).unwrap_err();
//! assert_eq!(error.kind(), ErrorKind::TimedOut);
//!
//! peer.write_all(b"teNEXT").unwrap();
//! assert_eq!(frames.next().unwrap(), b"late"); // with `read_exact` it would be "teNE"
//! ```
//!
//! What is written is the same: after a [`write_all`](Write::write_all) that failed nobody knows how much of it is on its way.
//! Where the connection is to be used again, write with [`write`](Write::write) and keep the rest:
//!
//! ```
//! use std::collections::VecDeque;
//! use std::io::{self, Write};
//!
//! /// Sends what is left to be sent; after an error, that is what was not.
//! fn send(mut stream: impl Write, rest: &mut VecDeque<u8>) -> io::Result<()> {
//!     while !rest.is_empty() {
//!         let written = stream.write(rest.make_contiguous())?;
//!         rest.drain(..written);
//!     }
//!     Ok(())
//! }
//! # use std::io::Read;
//! # let (mut peer, stream) = std::os::unix::net::UnixStream::pair().unwrap();
//! # let stream = timebox::io::Timed::new(stream);
//! # let mut rest: VecDeque<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
//! # let limit = std::time::Duration::from_millis(20);
//! # let error = timebox::timeout(limit, || send(&stream, &mut rest)).unwrap_err();
//! # assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
//! # let reader = std::thread::spawn(move || {
//! #     let mut all = Vec::new();
//! #     peer.read_to_end(&mut all).map(|_| all)
//! # });
//! # send(&stream, &mut rest).unwrap();
//! # drop(stream);
//! # let all = reader.join().unwrap().unwrap();
//! # assert!(all.len() == 1_000_000 && all.iter().enumerate().all(|(n, &byte)| byte == n as u8));
//! ```
//!
//! Or give the connection up after any error, as a pool does.
//!
//! # Limitations
//!
//! - **Files** are always ready: a read from a disk that is dead cannot be interrupted.
//! - **Terminals** are written to a byte at a time: they do not tell how much room there is. On one that makes two bytes of
//!   a newline, and has room for one, that newline waits.
//! - **Opening a FIFO** waits for somebody to open its other end. Open it for reading and writing: that does not wait.
//! - **Name resolution** cannot be interrupted: see [`connect`].
//! - **Two threads reading from one pipe**, or accepting from one listener, may both be told that it is ready. The one that
//!   finds nothing there any more blocks, unless the descriptor is non-blocking. A socket that is read from has no such
//!   trouble.
//! - A timeout set on the socket itself (`set_read_timeout`) counts outside of scopes only.
//!
//! # Locks and channels
//!
//! They need no wrapper, since their timed waits can be given what the scope has left. A wait in slices is ended by the
//! deadline on time, and by a cancellation within a slice:
//!
//! ```
//! use std::time::Duration;
//!
//! /// How long to wait before looking at the scope again.
//! fn slice() -> timebox::Result<Duration> {
//!     timebox::checkpoint()?;
//!     let slice = Duration::from_millis(10);
//!     Ok(timebox::remaining().map_or(slice, |left| left.min(slice)))
//! }
//!
//! fn lock<T>(mutex: &parking_lot::Mutex<T>) -> timebox::Result<parking_lot::MutexGuard<'_, T>> {
//!     loop {
//!         if let Some(guard) = mutex.try_lock_for(slice()?) {
//!             return Ok(guard);
//!         }
//!     }
//! }
//!
//! /// `None` if nobody will send any more.
//! fn receive<T>(receiver: &std::sync::mpsc::Receiver<T>) -> timebox::Result<Option<T>> {
//!     use std::sync::mpsc::RecvTimeoutError;
//!     loop {
//!         match receiver.recv_timeout(slice()?) {
//!             Ok(value) => return Ok(Some(value)),
//!             Err(RecvTimeoutError::Disconnected) => return Ok(None),
//!             Err(RecvTimeoutError::Timeout) => {}
//!         }
//!     }
//! }
//!
//! /// Waits until the number is not 0.
//! fn arrived(pair: &(std::sync::Mutex<u32>, std::sync::Condvar)) -> timebox::Result<u32> {
//!     let (number, changed) = pair;
//!     let mut number = number.lock().unwrap();
//!     while *number == 0 {
//!         number = changed.wait_timeout(number, slice()?).unwrap().0;
//!     }
//!     Ok(*number)
//! }
//!
//! let limit = Duration::from_millis(20);
//! let mutex = parking_lot::Mutex::new(7);
//! let held = mutex.lock();
//! assert!(timebox::timeout(limit, || lock(&mutex).map(drop)).unwrap_err().is_timeout());
//! drop(held);
//! assert_eq!(timebox::timeout(limit, || lock(&mutex).map(|guard| *guard)).unwrap(), 7);
//!
//! let (sender, receiver) = std::sync::mpsc::channel();
//! assert!(timebox::timeout(limit, || receive(&receiver)).unwrap_err().is_timeout());
//! sender.send(7).unwrap();
//! assert_eq!(timebox::timeout(limit, || receive(&receiver)).unwrap(), Some(7));
//!
//! let pair = Default::default();
//! assert!(timebox::timeout(limit, || arrived(&pair)).unwrap_err().is_timeout());
//! ```
//!
//! Where that is not soon enough, or wakes too often, have the scope tell. With crossbeam's channels a hook sends to a
//! second one:
//!
//! ```
//! use std::time::Duration;
//! use crossbeam_channel::{Receiver, bounded, select};
//! use timebox::{Hook, on_cancel, timeout};
//!
//! fn receive<T>(receiver: &Receiver<T>) -> timebox::Result<Option<T>> {
//!     let (over, is_over) = bounded(1);
//!     let _told = on_cancel(Hook::inline(move || over.try_send(())));
//!     select! {
//!         recv(receiver) -> value => return Ok(value.ok()),
//!         recv(is_over) -> _ => {}
//!     }
//!     // It is over: this fails.
//!     timebox::checkpoint()?;
//!     Ok(None)
//! }
//!
//! let (sender, receiver) = bounded(1);
//! let error = timeout(Duration::from_millis(20), || receive(&receiver)).unwrap_err();
//! assert!(error.is_timeout());
//! sender.send(7).unwrap();
//! assert_eq!(timeout(Duration::from_secs(5), || receive(&receiver)).unwrap(), Some(7));
//! ```

mod datagram;
mod net;
mod ready;

use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::Location;

use rustix::event::PollFlags;
use rustix::net::{RecvFlags, SendFlags, recv, send, sockopt};
use rustix::pipe::PIPE_BUF;

use super::in_innermost;
use super::watch::Watch;
use crate::time::NEVER;
pub use net::{Listener, accept, connect};
pub use ready::{readable, writable};

/// A stream whose reads and writes end with the scope.
///
/// It is for sockets, pipes and terminals, and whatever else has a file descriptor on which one can wait. Outside every
/// scope its calls are the plain ones. Inside, each is an interruption point; it waits even if the descriptor is
/// non-blocking, is not ended by a signal, and what is ready is read or written even though the deadline passes
/// meanwhile.
///
/// It reads from the descriptor itself, past any buffer that the stream has: a `BufReader` goes around it, not into it. A
/// `&Timed` reads and writes too, so several threads can.
///
/// A call that reads or writes several times (`read_exact`, `read_to_string`, `write_all`) may have done a part when the scope
/// ends it: see [half a frame](self#half-a-frame).
///
/// # Examples
///
/// ```
/// use std::io::{BufRead, BufReader, ErrorKind, Write};
/// use std::time::Duration;
/// use timebox::io::Timed;
///
/// let (reader, mut writer) = std::io::pipe().unwrap();
/// // The buffer is outside of the limit, and so keeps the half of a line.
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
    inner: S,
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

    /// The stream, as it was before, but for what was read from it and written to it.
    pub fn into_inner(self) -> S {
        self.inner
    }

    fn at(&self, location: &'static Location<'static>) -> At<'_> {
        At { fd: self.inner.as_fd(), is_socket: self.is_socket, is_terminal: self.is_terminal, location }
    }
}

impl<S: AsFd> AsFd for Timed<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

/// The methods that std would make of `read` and `write` are here for the place of who calls them.
macro_rules! stream {
    ($stream:ty) => {
        impl<S: AsFd> Read for $stream {
            #[track_caller]
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.at(Location::caller()).read(buffer)
            }

            /// Fills the buffer. **If the scope ends it, what was read before is lost to later reads**: it is in the buffer,
            /// without a count. How to keep it: [half a frame](self#half-a-frame).
            #[track_caller]
            fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
                self.at(Location::caller()).read_exact(buffer)
            }

            /// Reads to the end of the file. If the scope ends it, what was read before is in the buffer.
            #[track_caller]
            fn read_to_end(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
                self.at(Location::caller()).read_to_end(buffer)
            }

            /// Reads to the end of the file. **If the scope ends it, what was read before is lost**, unlike with `read_to_end`.
            #[track_caller]
            fn read_to_string(&mut self, buffer: &mut String) -> io::Result<usize> {
                self.at(Location::caller()).read_to_string(buffer)
            }
        }

        impl<S: AsFd> Write for $stream {
            #[track_caller]
            fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
                self.at(Location::caller()).write(buffer)
            }

            /// Writes all of the buffer. **If the scope ends it, a part has been written, and nobody knows how much**: write with
            /// `write`, which tells, or give the connection up. See [half a frame](self#half-a-frame).
            #[track_caller]
            fn write_all(&mut self, buffer: &[u8]) -> io::Result<()> {
                self.at(Location::caller()).write_all(buffer)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
    };
}

stream!(Timed<S>);
stream!(&Timed<S>);

/// A descriptor, and the place of who makes a call on it.
struct At<'a> {
    fd: BorrowedFd<'a>,
    is_socket: bool,
    is_terminal: bool,
    location: &'static Location<'static>,
}

/// How a call is made.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    /// It may block.
    Plain,
    /// With a flag that says not to block. `O_NONBLOCK` will not do: others who have the socket would be told too.
    WithoutWaiting,
    /// On what is ready.
    Ready,
    /// There is nothing to read or write, and so nothing to wait for.
    Nothing,
}

impl At<'_> {
    /// Makes a call on the descriptor once it can be made without blocking.
    fn call<R>(
        &self,
        events: PollFlags,
        manner: Manner,
        mut attempt: impl FnMut(Manner) -> io::Result<R>,
    ) -> io::Result<R> {
        in_innermost(|scope| {
            let Some(scope) = scope else { return attempt(Manner::Plain) };
            scope.checkpoint_at(self.location)?;
            if matches!(manner, Manner::WithoutWaiting | Manner::Nothing)
                && let Some(result) = unless_blocked(attempt(manner))
            {
                return result;
            }
            let watch = Watch::new(Some(scope), self.location)?;
            loop {
                watch.wait(&[(self.fd, events)], NEVER)?;
                if let Some(result) = unless_blocked(attempt(manner)) {
                    return result;
                }
            }
        })
    }
}

fn unless_blocked<R>(result: io::Result<R>) -> Option<io::Result<R>> {
    match &result {
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => None,
        _ => Some(result),
    }
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let manner = if buffer.is_empty() {
            Manner::Nothing
        } else if self.is_socket {
            Manner::WithoutWaiting
        } else {
            Manner::Ready
        };
        self.call(PollFlags::IN, manner, |manner| {
            Ok(match manner {
                _ if buffer.is_empty() => 0,
                Manner::WithoutWaiting => recv(self.fd, &mut *buffer, RecvFlags::DONTWAIT)?.0,
                _ => rustix::io::read(self.fd, &mut *buffer)?,
            })
        })
    }
}

/// Other systems than Apple's know it as a flag; there it is set on the socket, which std does.
#[cfg(not(target_vendor = "apple"))]
const NO_SIGNAL: SendFlags = SendFlags::NOSIGNAL;
#[cfg(target_vendor = "apple")]
const NO_SIGNAL: SendFlags = SendFlags::empty();

impl Write for At<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        // Apple's systems ignore the flag in `send`.
        let has_flag = self.is_socket && !cfg!(target_vendor = "apple");
        // To a socket an empty one may be a message.
        let manner = if buffer.is_empty() && !self.is_socket {
            Manner::Nothing
        } else if has_flag {
            Manner::WithoutWaiting
        } else {
            Manner::Ready
        };
        self.call(PollFlags::OUT, manner, |manner| {
            // There is room for so much in what is ready; more would block until all of it is written. A terminal is
            // ready as soon as there is room at all.
            let most = match manner {
                Manner::Nothing => return Ok(0),
                Manner::Ready if self.is_terminal => 1,
                Manner::Ready => PIPE_BUF,
                Manner::Plain | Manner::WithoutWaiting => usize::MAX,
            };
            let buffer = &buffer[..buffer.len().min(most)];
            let dont_wait = match manner {
                Manner::WithoutWaiting => SendFlags::DONTWAIT,
                _ => SendFlags::empty(),
            };
            Ok(if self.is_socket {
                send(self.fd, buffer, NO_SIGNAL | dont_wait)?
            } else {
                rustix::io::write(self.fd, buffer)?
            })
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

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
