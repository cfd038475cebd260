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

/// The longest timeout given to `poll`. Some systems reject a timeout of more than a few weeks, so a longer wait
/// calls `poll` several times.
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);

/// Waits for descriptors. If there is a scope, the end of the scope ends the wait too.
pub(super) struct Poller<'s> {
    scope: Option<&'s Scope>,
    location: &'static Location<'static>,
    wakeup: Option<Wakeup<'s>>,
}

/// The descriptors that are ready: bit `n` stands for the descriptor at index `n`.
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

    /// Waits until a descriptor is ready, or until the system's monotonic clock reads `until`. Fails as soon as the
    /// scope is over, even before the wait begins.
    pub(super) fn wait(&self, fds: &[(BorrowedFd<'_>, PollFlags)], until: u64) -> io::Result<Ready> {
        let mut polled: Vec<_> =
            fds.iter().map(|&(fd, events)| PollFd::from_borrowed_fd(fd, events)).collect();
        if let Some(wakeup) = &self.wakeup {
            polled.push(PollFd::new(&wakeup.pipe.reader, PollFlags::IN));
        }
        // Under a mock clock `poll` cannot wait for the deadline, because `poll` measures real time. The timer of the
        // `Wakeup` ends the wait instead.
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

/// Lets another thread end a wait in `poll`. A wait needs this if it can be cancelled (its scope or an outer scope has
/// a node), or if its deadline is on a mock clock. A deadline on the real clock needs no `Wakeup`, because `poll` has a
/// timeout.
struct Wakeup<'s> {
    pipe: Arc<WakePipe>,
    node: Option<(&'s Arc<Node>, usize)>,
    timer: Option<Timer>,
}

/// The waker of a waiting thread. It writes to a pipe that the thread polls. The waker owns both ends of the pipe,
/// because a write to a pipe without a reader would raise SIGPIPE.
struct WakePipe {
    reader: PipeReader,
    writer: PipeWriter,
    /// The process that made the pipe. A forked child shares the pipe, but must not write to it: the write would wake
    /// the parent.
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
        // `add_waker` returns `None` in two cases. If the node is over, `wait` fails before it waits. If a fork has
        // lost the node's lock, no other thread can wake this thread, and only the deadline ends the wait.
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
            // The write neither blocks nor fails: only the node and the timer write, one byte each, so the pipe has
            // room.
            let _written = (&self.writer).write(&[0]);
        }
    }
}
