use std::borrow::Borrow;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::fd::AsFd;
use std::panic::Location;

use rustix::event::PollFlags;
use rustix::net::{RecvFlags, SendFlags, recv, recvfrom, send, sendto};

use super::connection::resolve;
use super::descriptor::Mode;
use super::timed::Timed;
use crate::interrupt::call::in_innermost;

/// Calls for datagrams, if the stream is a [`UdpSocket`], a reference to one, or an `Arc` of one. A datagram that has
/// arrived is received even if the deadline passes during the call. A call that fails because the scope is over has
/// taken no datagram.
impl<S: AsFd + Borrow<UdpSocket>> Timed<S> {
    /// Like [`UdpSocket::recv_from`], no longer than the scope lasts.
    ///
    /// # Errors
    ///
    /// The socket's error; or, if the scope is over, an error of the kind [`TimedOut`](io::ErrorKind::TimedOut) with
    /// the [`TimeoutError`](crate::TimeoutError) inside.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::ErrorKind;
    /// use std::net::UdpSocket;
    /// use std::time::Duration;
    /// use timebox::io::Timed;
    /// use timebox::timeout;
    ///
    /// let socket = Timed::new(UdpSocket::bind("127.0.0.1:0").unwrap());
    /// let mut buffer = [0; 512];
    /// let error = timeout(Duration::from_millis(20), || socket.recv_from(&mut buffer)).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::TimedOut);
    ///
    /// let ours = socket.get_ref().local_addr().unwrap();
    /// timeout(Duration::from_secs(5), || socket.send_to(b"hello", ours)).unwrap();
    /// let (length, from) = timeout(Duration::from_secs(5), || socket.recv_from(&mut buffer)).unwrap();
    /// assert_eq!((&buffer[..length], from), (&b"hello"[..], ours));
    /// ```
    #[track_caller]
    pub fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.receive(Location::caller(), |flags| {
            let (_, length, from) = recvfrom(&self.inner, &mut *buffer, flags)?;
            let from =
                from.ok_or(io::Error::new(io::ErrorKind::InvalidData, "a datagram without a sender"))?;
            Ok((length, SocketAddr::try_from(from)?))
        })
    }

    /// Like [`UdpSocket::recv`], no longer than the scope lasts. The socket must be connected.
    ///
    /// # Errors
    ///
    /// The errors of [`recv_from`](Self::recv_from).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::UdpSocket;
    /// use std::time::Duration;
    /// use timebox::io::Timed;
    ///
    /// let (ours, peer) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    /// ours.connect(peer.local_addr().unwrap()).unwrap();
    /// peer.connect(ours.local_addr().unwrap()).unwrap();
    ///
    /// let mut buffer = [0; 512];
    /// let length = timebox::timeout(Duration::from_secs(5), || {
    ///     Timed::new(&ours).send(b"hello")?;
    ///     Timed::new(&peer).recv(&mut buffer)
    /// });
    /// assert_eq!(length.unwrap(), 5);
    /// ```
    #[track_caller]
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.receive(Location::caller(), |flags| Ok(recv(&self.inner, &mut *buffer, flags)?.0))
    }

    /// Like [`UdpSocket::send_to`], no longer than the scope lasts. If the address is a name, the system resolves the
    /// name, and nothing can interrupt that: see [`connect`](super::connect).
    ///
    /// # Errors
    ///
    /// The errors of [`recv_from`](Self::recv_from), and the errors of the resolver.
    ///
    /// # Examples
    ///
    /// See [`recv_from`](Self::recv_from).
    #[track_caller]
    pub fn send_to(&self, buffer: &[u8], address: impl ToSocketAddrs) -> io::Result<usize> {
        let location = Location::caller();
        let address = in_innermost(|scope| {
            if let Some(scope) = scope {
                scope.check_by_clock(location)?;
            }
            let first = resolve(scope, location, address)?.into_iter().next();
            first.ok_or(io::Error::new(io::ErrorKind::InvalidInput, "no address to send to"))
        })?;
        self.transmit(location, |flags| Ok(sendto(&self.inner, buffer, flags, &address)?))
    }

    /// Like [`UdpSocket::send`], no longer than the scope lasts. The socket must be connected.
    ///
    /// # Errors
    ///
    /// The errors of [`recv_from`](Self::recv_from).
    ///
    /// # Examples
    ///
    /// See [`recv`](Self::recv).
    #[track_caller]
    pub fn send(&self, buffer: &[u8]) -> io::Result<usize> {
        self.transmit(Location::caller(), |flags| Ok(send(&self.inner, buffer, flags)?))
    }

    fn receive<R>(
        &self,
        location: &'static Location<'static>,
        mut call: impl FnMut(RecvFlags) -> io::Result<R>,
    ) -> io::Result<R> {
        self.descriptor(location).call(PollFlags::IN, Mode::DontWait, |mode| {
            call(if mode == Mode::DontWait { RecvFlags::DONTWAIT } else { RecvFlags::empty() })
        })
    }

    fn transmit<R>(
        &self,
        location: &'static Location<'static>,
        mut call: impl FnMut(SendFlags) -> io::Result<R>,
    ) -> io::Result<R> {
        // Apple's systems ignore `MSG_DONTWAIT` in `send`, so a `poll` must come before the call.
        let mode = if cfg!(target_vendor = "apple") { Mode::Polled } else { Mode::DontWait };
        self.descriptor(location).call(PollFlags::OUT, mode, |mode| {
            call(if mode == Mode::DontWait { SendFlags::DONTWAIT } else { SendFlags::empty() })
        })
    }
}
