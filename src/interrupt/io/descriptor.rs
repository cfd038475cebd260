use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::panic::Location;

use rustix::event::PollFlags;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::pipe::PIPE_BUF;

use crate::interrupt::call::in_innermost;
use crate::interrupt::poller::Poller;
use crate::time::NEVER;

/// A descriptor, and the place in the user's code where a call on it is made.
pub(super) struct Descriptor<'a> {
    pub(super) fd: BorrowedFd<'a>,
    pub(super) is_socket: bool,
    pub(super) is_terminal: bool,
    pub(super) location: &'static Location<'static>,
}

/// How a system call is kept from blocking.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Mode {
    /// The call may block, since no scope is open.
    Blocking,
    /// The flag `MSG_DONTWAIT` keeps this one call from blocking. `O_NONBLOCK` is not used, because it would change
    /// the socket for everyone who shares it.
    DontWait,
    /// A `poll` before the call waits until the descriptor is ready.
    Polled,
    /// The buffer is empty, so no system call is made.
    Empty,
}

impl Descriptor<'_> {
    /// Makes a system call as soon as the call does not block. Fails if the scope is over before that. Outside of all
    /// scopes the system call may block.
    pub(super) fn call<R>(
        &self,
        events: PollFlags,
        mode: Mode,
        mut attempt: impl FnMut(Mode) -> io::Result<R>,
    ) -> io::Result<R> {
        in_innermost(|scope| {
            let Some(scope) = scope else { return attempt(Mode::Blocking) };
            scope.checkpoint_at(self.location)?;
            if matches!(mode, Mode::DontWait | Mode::Empty)
                && let Some(result) = unless_blocked(attempt(mode))
            {
                return result;
            }
            let poller = Poller::new(Some(scope), self.location)?;
            loop {
                poller.wait(&[(self.fd, events)], NEVER)?;
                if let Some(result) = unless_blocked(attempt(mode)) {
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

impl Read for Descriptor<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mode = if buffer.is_empty() {
            Mode::Empty
        } else if self.is_socket {
            Mode::DontWait
        } else {
            Mode::Polled
        };
        self.call(PollFlags::IN, mode, |mode| {
            Ok(match mode {
                _ if buffer.is_empty() => 0,
                Mode::DontWait => recv(self.fd, &mut *buffer, RecvFlags::DONTWAIT)?.0,
                _ => rustix::io::read(self.fd, &mut *buffer)?,
            })
        })
    }
}

/// Keeps `send` from raising SIGPIPE. Apple's systems have no such flag, so there std sets an option of the socket for
/// the same purpose.
#[cfg(not(target_vendor = "apple"))]
const NO_SIGNAL: SendFlags = SendFlags::NOSIGNAL;
#[cfg(target_vendor = "apple")]
const NO_SIGNAL: SendFlags = SendFlags::empty();

impl Write for Descriptor<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        // Apple's systems ignore `MSG_DONTWAIT` in `send`, so a `poll` must come before the call.
        let has_flag = self.is_socket && !cfg!(target_vendor = "apple");
        // On a socket, the call is made even with an empty buffer, because an empty buffer may be an empty datagram.
        let mode = if buffer.is_empty() && !self.is_socket {
            Mode::Empty
        } else if has_flag {
            Mode::DontWait
        } else {
            Mode::Polled
        };
        self.call(PollFlags::OUT, mode, |mode| {
            // For `poll`, a pipe is ready if it has room for `PIPE_BUF` bytes, and a terminal if it has room for one
            // byte. A longer write could block, so no longer write is made.
            let most = match mode {
                Mode::Empty => return Ok(0),
                Mode::Polled if self.is_terminal => 1,
                Mode::Polled => PIPE_BUF,
                Mode::Blocking | Mode::DontWait => usize::MAX,
            };
            let buffer = &buffer[..buffer.len().min(most)];
            let dont_wait = match mode {
                Mode::DontWait => SendFlags::DONTWAIT,
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
