//! Waits for file descriptors, no longer than a scope lasts.

use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::fd::BorrowedFd;
use std::panic::Location;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::scope::Scope;
use crate::scope::test_hooks::waiting;
use crate::sync::fork::Process;
use crate::sync::os;
use crate::test_env::TestEnv;
use crate::thread::{self, Thread};
use crate::time::{NEVER, clock};
use crate::token::node::Node;
use crate::watchdog::Timer;

/// The longest timeout given to `poll`. Some systems reject one of more than a few weeks.
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);

/// Waits for descriptors in a scope; without a scope nothing ends the wait early. It can be used for several waits.
pub(super) struct Poller<'s> {
    scope: Option<&'s Scope>,
    location: &'static Location<'static>,
    wakeup: Option<Wakeup<'s>>,
}

/// The descriptors that are ready: bit `n` stands for the one at index `n`.
#[derive(Clone, Copy)]
pub(super) struct Ready(u32);

impl Ready {
    pub(super) fn has(self, index: usize) -> bool {
        self.0 >> index & 1 != 0
    }
}

impl<'s> Poller<'s> {
    pub(super) fn new(scope: Option<&'s Scope>, location: &'static Location<'static>) -> io::Result<Self> {
        let wakeup = scope.map_or(Ok(None), Wakeup::register)?;
        Ok(Self { scope, location, wakeup })
    }

    /// Waits until a descriptor is ready, or until the system's clock reads `until`.
    ///
    /// Fails as soon as the scope is over; also if it is over before the wait begins.
    pub(super) fn wait(&self, fds: &[(BorrowedFd<'_>, PollFlags)], until: u64) -> io::Result<Ready> {
        let mut polled: Vec<_> =
            fds.iter().map(|&(fd, events)| PollFd::from_borrowed_fd(fd, events)).collect();
        if let Some(wakeup) = &self.wakeup {
            polled.push(PollFd::new(&wakeup.pipe.reader, PollFlags::IN));
        }
        // A mock clock's deadline says nothing about real time: the wakeup's timer ends the wait there.
        let deadline = match self.scope {
            Some(scope) if !clock::is_mocked() => Thread::with(|thread| scope.effective(thread)),
            _ => NEVER,
        };
        let end = until.min(deadline);
        let _waiting = waiting(self.location);
        loop {
            if let Some(scope) = self.scope {
                scope.check_by_clock(self.location)?;
            }
            let now = os::monotonic_nanos();
            let left = Duration::from_nanos(end.saturating_sub(now)).min(MAX_TIMEOUT);
            let left = if end == NEVER { None } else { Timespec::try_from(left).ok() };
            match poll(&mut polled, left.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let bits = polled.iter().take(fds.len()).enumerate();
            let ready = bits.map(|(i, fd)| u32::from(!fd.revents().is_empty()) << i).sum();
            if ready != 0 || until <= now {
                return Ok(Ready(ready));
            }
        }
    }
}

/// Ends a wait from another thread. A scope needs one only if it can be cancelled (it has a node), or under a mock
/// clock.
struct Wakeup<'s> {
    pipe: Arc<WakePipe>,
    node: Option<(&'s Arc<Node>, usize)>,
    timer: Option<Timer>,
}

/// A pipe that is written to by its waker. It keeps both ends open as long as a waker lives: a write to a pipe
/// without a reader would raise SIGPIPE.
struct WakePipe {
    reader: PipeReader,
    writer: PipeWriter,
    /// The process that made the pipe. A forked child has the same pipe and must not write to it.
    made_in: Process,
}

impl<'s> Wakeup<'s> {
    fn register(scope: &'s Scope) -> io::Result<Option<Self>> {
        let node = scope.visible().find_map(Scope::existing_node);
        let due = if clock::is_mocked() { Thread::with(|thread| scope.effective(thread)) } else { NEVER };
        if node.is_none() && due == NEVER {
            return Ok(None);
        }
        let (reader, writer) = io::pipe()?;
        let pipe = Arc::new(WakePipe { reader, writer, made_in: Process::current() });
        let waker = Waker::from(Arc::clone(&pipe));
        // `add_waker` returns `None` if the node is over; then `wait` fails before it polls.
        let node = node.and_then(|node| Some((node, node.add_waker(&waker)?)));
        let timer = (due != NEVER).then(|| thread::schedule_on(&TestEnv::current(), due, waker));
        Ok(Some(Self { pipe, node, timer }))
    }
}

impl Drop for Wakeup<'_> {
    fn drop(&mut self) {
        if let Some((node, key)) = self.node {
            node.remove_waker(key);
        }
        if let Some(timer) = self.timer {
            timer.cancel();
        }
    }
}

impl Wake for WakePipe {
    fn wake(self: Arc<Self>) {
        if self.made_in.is_current() {
            // The node and the timer write one byte each, so the pipe has room. A full pipe would wake the poll as
            // well.
            let _written = (&self.writer).write(&[0]);
        }
    }
}
