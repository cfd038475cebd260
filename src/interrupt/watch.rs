//! Waiting for file descriptors, no longer than a scope lasts.

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

/// Some systems take no longer timeout than a few weeks.
const LONGEST: Duration = Duration::from_secs(3600);

/// Waits, as often as asked, on behalf of a scope; without one, of nobody.
pub(super) struct Watch<'s> {
    scope: Option<&'s Scope>,
    location: &'static Location<'static>,
    bell: Option<Bell<'s>>,
}

/// Which of the descriptors are ready: a bit for each.
#[derive(Clone, Copy)]
pub(super) struct Ready(u32);

impl Ready {
    pub(super) fn has(self, index: usize) -> bool {
        self.0 >> index & 1 != 0
    }
}

impl<'s> Watch<'s> {
    pub(super) fn new(scope: Option<&'s Scope>, location: &'static Location<'static>) -> io::Result<Self> {
        let bell = scope.map_or(Ok(None), Bell::hang)?;
        Ok(Self { scope, location, bell })
    }

    /// Waits until one of the descriptors is ready, or until this time on the system's clock if none is.
    ///
    /// Fails as soon as the scope is over: also if it is before it waits.
    pub(super) fn wait(&self, fds: &[(BorrowedFd<'_>, PollFlags)], until: u64) -> io::Result<Ready> {
        let mut polled: Vec<_> =
            fds.iter().map(|&(fd, events)| PollFd::from_borrowed_fd(fd, events)).collect();
        if let Some(bell) = &self.bell {
            polled.push(PollFd::new(&bell.rope.reader, PollFlags::IN));
        }
        // Under a mock clock the bell is rung at the deadline: it has nothing to do with the time that passes.
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
            let left = Duration::from_nanos(end.saturating_sub(now)).min(LONGEST);
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

/// What wakes somebody who waits: only where there is a node, by which the scope could be cancelled, or a mock clock.
struct Bell<'s> {
    rope: Arc<Rope>,
    node: Option<(&'s Arc<Node>, usize)>,
    timer: Option<Timer>,
}

/// A pipe. Both ends live as long as anybody may pull: else that would raise SIGPIPE.
struct Rope {
    reader: PipeReader,
    writer: PipeWriter,
    /// A forked child has the same pipe.
    made_in: Process,
}

impl<'s> Bell<'s> {
    fn hang(scope: &'s Scope) -> io::Result<Option<Self>> {
        let node = scope.visible().find_map(Scope::existing_node);
        let due = if clock::is_mocked() { Thread::with(|thread| scope.effective(thread)) } else { NEVER };
        if node.is_none() && due == NEVER {
            return Ok(None);
        }
        let (reader, writer) = io::pipe()?;
        let rope = Arc::new(Rope { reader, writer, made_in: Process::current() });
        let waker = Waker::from(Arc::clone(&rope));
        // If it is over, the wait does not begin.
        let node = node.and_then(|node| Some((node, node.add_waker(&waker)?)));
        let timer = (due != NEVER).then(|| thread::schedule_on(&TestEnv::current(), due, waker));
        Ok(Some(Self { rope, node, timer }))
    }
}

impl Drop for Bell<'_> {
    fn drop(&mut self) {
        if let Some((node, key)) = self.node {
            node.remove_waker(key);
        }
        if let Some(timer) = self.timer {
            timer.cancel();
        }
    }
}

impl Wake for Rope {
    fn wake(self: Arc<Self>) {
        if self.made_in.is_current() {
            // Twice at most, so there is room; and if not, it has been pulled.
            let _pulled = (&self.writer).write(&[0]);
        }
    }
}
