use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{self as unix, UnixListener, UnixStream};
use std::panic::Location;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};

use super::descriptor::{Descriptor, Mode};
use crate::interrupt::call::in_innermost;
use crate::interrupt::poller::Poller;
use crate::scope::Scope;
use crate::sync::os;
use crate::time::{NEVER, nanos};

/// Connects to the first address that answers. Tries for no longer than the scope lasts.
///
/// The addresses share the time that is left: with two addresses and one second left, the first address may take half a
/// second. The last address may take all the rest. The stream is a plain one in blocking mode; wrap it in
/// [`Timed`](super::Timed). Outside of all scopes this is [`TcpStream::connect`].
///
/// The system resolves a name, and nothing can interrupt that. If a name server does not answer, the resolver gives
/// up after its own limit (often ten seconds), and only then does this call fail. If that is too long, pass
/// addresses, or resolve the name in [`abandon`](crate::abandon()).
///
/// # Errors
///
/// The error of the resolver, or of the last address. If the scope is over: an error of the kind
/// [`TimedOut`](io::ErrorKind::TimedOut) with the [`TimeoutError`](crate::TimeoutError) inside. If the resolver or the
/// last address has failed, that failure is the source of the `TimeoutError`.
///
/// # Examples
///
/// ```
/// use std::net::TcpListener;
/// use std::time::Duration;
///
/// let listener = TcpListener::bind("127.0.0.1:0").unwrap();
/// let address = listener.local_addr().unwrap();
/// let stream = timebox::timeout(Duration::from_secs(1), || timebox::io::connect(address)).unwrap();
/// assert_eq!(stream.peer_addr().unwrap(), address);
/// ```
#[track_caller]
pub fn connect(addresses: impl ToSocketAddrs) -> io::Result<TcpStream> {
    let location = Location::caller();
    in_innermost(|scope| {
        let Some(scope) = scope else { return TcpStream::connect(addresses) };
        scope.checkpoint_at(location)?;
        let addresses = resolve(Some(scope), location, addresses)?;
        let poller = Poller::new(Some(scope), location)?;
        let mut outcome = Err(io::Error::new(io::ErrorKind::InvalidInput, "no address to connect to"));
        for (tried, address) in addresses.iter().enumerate() {
            scope.check_by_clock(location)?;
            outcome = connect_to(address, &poller, end_of_share(scope, addresses.len() - tried))?;
            if outcome.is_ok() {
                break;
            }
        }
        outcome.map_err(|error| unless_over(Some(scope), location, error))
    })
}

pub(super) fn resolve(
    scope: Option<&Scope>,
    location: &'static Location<'static>,
    name: impl ToSocketAddrs,
) -> io::Result<Vec<SocketAddr>> {
    match name.to_socket_addrs() {
        Ok(addresses) => Ok(addresses.collect()),
        Err(error) => Err(unless_over(scope, location, error)),
    }
}

/// Returns `error`. If the scope is over by now, returns the scope's error instead, with `error` as its source.
fn unless_over(scope: Option<&Scope>, location: &'static Location<'static>, error: io::Error) -> io::Error {
    match scope {
        Some(scope) if scope.check_by_clock(location).is_err() => {
            scope.interrupted(location, Some(error.into())).into()
        }
        _ => error,
    }
}

/// The time at which the attempt at the next address must end. `addresses` is the number of addresses that are left,
/// including the next address. Each of them gets the same share of the time. [`NEVER`] for the last address, because
/// the scope ends that attempt. [`NEVER`] also if the scope has no deadline.
fn end_of_share(scope: &Scope, addresses: usize) -> u64 {
    match scope.remaining() {
        Some(left) if addresses > 1 => {
            let share = nanos(left) / u64::try_from(addresses).unwrap_or(u64::MAX);
            os::monotonic_nanos().saturating_add(share)
        }
        _ => NEVER,
    }
}

/// Connects to one address. `Err` ends all attempts. `Ok(Err(_))` ends only this attempt, so the next address may be
/// tried.
fn connect_to(address: &SocketAddr, poller: &Poller<'_>, until: u64) -> io::Result<io::Result<TcpStream>> {
    let stream = match begin(address) {
        Ok(stream) => stream,
        Err(error) => return Ok(Err(error)),
    };
    if !poller.wait(&[(stream.as_fd(), PollFlags::OUT)], until)?.has(0) {
        return Ok(Err(io::ErrorKind::TimedOut.into()));
    }
    if let Some(error) = stream.take_error()? {
        return Ok(Err(error));
    }
    stream.set_nonblocking(false)?;
    Ok(Ok(stream))
}

fn begin(address: &SocketAddr) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let stream = TcpStream::from(socket(family)?);
    stream.set_nonblocking(true)?;
    match rustix::net::connect(&stream, address) {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(stream),
        Err(error) => Err(error.into()),
    }
}

/// Makes a socket with the flags that std sets.
#[cfg(not(target_vendor = "apple"))]
fn socket(family: AddressFamily) -> io::Result<OwnedFd> {
    use rustix::net::{SocketFlags, socket_with};
    Ok(socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

#[cfg(target_vendor = "apple")]
fn socket(family: AddressFamily) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    rustix::net::sockopt::set_socket_nosigpipe(&socket, true)?;
    Ok(socket)
}

/// Accepts a connection. Waits for a connection no longer than the scope lasts.
///
/// If several threads accept from one listener, the listener must be non-blocking: otherwise a thread blocks beyond its
/// scope if another thread takes the connection. This function waits for a connection in both modes. The stream is a
/// plain one in blocking mode. Outside of all scopes this is the listener's own `accept`.
///
/// # Errors
///
/// The errors of the listener. If the scope is over: an error of the kind [`TimedOut`](io::ErrorKind::TimedOut), with
/// the [`TimeoutError`](crate::TimeoutError) inside.
///
/// # Examples
///
/// ```
/// use std::io::ErrorKind;
/// use std::net::TcpListener;
/// use std::time::Duration;
/// use timebox::io::accept;
///
/// let listener = TcpListener::bind("127.0.0.1:0").unwrap();
/// let error = timebox::timeout(Duration::from_millis(20), || accept(&listener)).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::TimedOut);
/// ```
#[track_caller]
pub fn accept<L: Listener>(listener: &L) -> io::Result<(L::Stream, L::Address)> {
    let at = Descriptor {
        fd: listener.as_fd(),
        is_socket: true,
        is_terminal: false,
        location: Location::caller(),
    };
    at.call(PollFlags::IN, Mode::Polled, |_| listener.accept_one(Sealed))
}

/// A listener for [`accept`]: a [`TcpListener`] or a [`UnixListener`].
pub trait Listener: AsFd {
    /// The connection.
    type Stream;
    /// The address of the peer.
    type Address;

    #[doc(hidden)]
    fn accept_one(&self, _: Sealed) -> io::Result<(Self::Stream, Self::Address)>;
}

/// The argument that seals [`Listener`]. Other crates can neither name nor make a `Sealed`, so they cannot implement
/// the trait or call its method.
#[derive(Debug)]
#[non_exhaustive]
#[allow(unnameable_types)]
pub struct Sealed;

impl Listener for TcpListener {
    type Stream = TcpStream;
    type Address = SocketAddr;

    fn accept_one(&self, _: Sealed) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, address) = self.accept()?;
        // On some systems the stream is non-blocking if the listener is non-blocking.
        stream.set_nonblocking(false)?;
        Ok((stream, address))
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;
    type Address = unix::SocketAddr;

    fn accept_one(&self, _: Sealed) -> io::Result<(UnixStream, unix::SocketAddr)> {
        let (stream, address) = self.accept()?;
        stream.set_nonblocking(false)?;
        Ok((stream, address))
    }
}
