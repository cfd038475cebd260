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

mod connection;
mod datagram;
mod descriptor;
mod ready;
mod timed;

pub use connection::{Listener, accept, connect};
pub use ready::{readable, writable};
pub use timed::Timed;

#[cfg(doc)] // for the links above
use std::io::{self, Read, Write};
