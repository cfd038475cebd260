//! Blocking input and output that ends with its scope (feature `io`, on Unix).
//!
//! [`Timed`] wraps a stream, or anything else with a file descriptor. Its reads and writes wait no longer than the
//! scope lasts. When the scope expires or is cancelled, they fail with an error of the kind
//! [`TimedOut`](io::ErrorKind::TimedOut) that has the [`TimeoutError`](crate::TimeoutError) inside. The stream stays
//! open. A single [`read`](Read::read) that fails has taken no bytes, so none are lost. Calls that read or write
//! several times may lose bytes: see [half a frame](#half-a-frame).
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
//! [`connect`], [`accept`], [`recv_from`](Timed::recv_from) and [`send_to`](Timed::send_to) also wait no longer than
//! the scope lasts. [`readable`] and [`writable`] wait for any other descriptor.
//!
//! # Half a frame
//!
//! A limit may pass when half of a frame has arrived. [`read_exact`](Read::read_exact) then fails, and the half is
//! lost: the next read begins in the middle of a frame, and every frame from then on is wrong. So keep the half
//! *outside* of the limit. Two of std's methods append to the caller's buffer, and after an error the buffer has the
//! bytes that were read until then: `take(n)` with [`read_to_end`](Read::read_to_end), and
//! [`read_until`](std::io::BufRead::read_until) if the `BufReader` is outside of the limit too.
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
//!     /// The bytes of the next frame that have arrived.
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
//! The same holds for writes: after a [`write_all`](Write::write_all) that failed, nothing says how many bytes were
//! sent. To use the connection again, call [`write`](Write::write) and keep the bytes that it has not written:
//!
//! ```
//! use std::collections::VecDeque;
//! use std::io::{self, Write};
//!
//! /// Sends `rest`. After an error, `rest` has the bytes that were not sent.
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
//! Or close the connection after any error, as connection pools do.
//!
//! # Limitations
//!
//! - **Files** are always ready for `poll`, so nothing interrupts a read from a dead disk.
//! - **Terminals** do not say how much room they have, so a write sends one byte at a time. Some terminals turn a
//!   newline into two bytes. If such a terminal has room for one byte only, the write of a newline blocks.
//! - **Opening a FIFO** waits until another process opens the other end. Open it for reading and writing: that does
//!   not wait.
//! - **Name resolution** cannot be interrupted: see [`connect`].
//! - **Two threads that read from one pipe**, or accept from one listener, may both find it ready. The slower thread
//!   blocks, unless the descriptor is non-blocking. Reads from a socket do not have this problem.
//! - A timeout of the socket itself (`set_read_timeout`) counts only outside of scopes.
//!
//! # Locks and channels
//!
//! Locks and channels need no wrapper: give their timed waits the time that is left in the scope. Wait in slices:
//! then the wait ends at the deadline, and at most one slice after a cancellation:
//!
//! ```
//! use std::time::Duration;
//!
//! /// The time to wait before the next checkpoint.
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
//! /// `None` if all senders are gone.
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
//! If the end of a slice comes too late, or the slices wake the thread too often, use a hook. With crossbeam's
//! channels, the hook sends to a second channel:
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
//!     // The scope is over, so this fails.
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
