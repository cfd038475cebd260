//! A child, the leader of its process group.
//!
//! Invariant: as long as signals may be sent the child is not reaped, dead or alive. So its number, which is that of the
//! group too, belongs to nobody else.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::panic::Location;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Output};
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::interrupt::watch::Watch;
use crate::sync::os;
use crate::time::{NEVER, nanos};

/// How long to wait for a process that was killed. One that a dead disk or driver holds does not die.
const DYING: Duration = Duration::from_secs(5);
/// Where the system does not tell of a child's end, how long until it is asked again: doubling from the first.
const PAUSES: (Duration, Duration) = (Duration::from_micros(500), Duration::from_millis(16));

/// How much is read at a time.
const CHUNK: usize = 64 << 10;
/// A pipe holds no more, unless the administrator says so.
const PIPE_SIZE: usize = 1 << 20;

pub(super) struct Group {
    child: Child,
    pid: Pid,
    /// Ready when the child has ended.
    ending: Option<OwnedFd>,
    /// When the child was seen to have ended.
    ended: Option<u64>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    /// What came out of them.
    kept: [Vec<u8>; 2],
    chunk: Box<[u8]>,
    /// Reaped, or given up.
    settled: bool,
}

impl Group {
    pub(super) fn spawn(command: &mut Command) -> io::Result<Self> {
        let mut child = command.process_group(0).spawn()?;
        // It would wait for what nobody writes.
        drop(child.stdin.take());
        let pid = Pid::from_child(&child);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let chunk = vec![0; if stdout.is_some() || stderr.is_some() { CHUNK } else { 0 }].into();
        let kept = Default::default();
        Ok(Self { child, pid, ending: notice(pid), ended: None, stdout, stderr, kept, chunk, settled: false })
    }

    /// Reads what there is until the child has ended and the pipes are closed. Others may hold them for so long after its
    /// end; and all of it lasts until `until` at most.
    pub(super) fn attend(&mut self, watch: &Watch<'_>, linger: Duration, until: u64) -> io::Result<()> {
        let mut pause = PAUSES.0;
        // What is in the pipes already is read, however late that is.
        let mut overtime = PIPE_SIZE / CHUNK;
        loop {
            if self.ended.is_some() && self.stdout.is_none() && self.stderr.is_none() {
                return Ok(());
            }
            let until = self.ended.map_or(NEVER, |at| at.saturating_add(nanos(linger))).min(until);
            let asks = self.ended.is_none() && self.ending.is_none();
            let next = if asks { os::monotonic_nanos().saturating_add(nanos(pause)) } else { NEVER };
            let sources = [
                self.stdout.as_ref().map(AsFd::as_fd),
                self.stderr.as_ref().map(AsFd::as_fd),
                self.ending.as_ref().filter(|_| self.ended.is_none()).map(AsFd::as_fd),
            ];
            let fds: Vec<_> = sources.iter().flatten().map(|&fd| (fd, PollFlags::IN)).collect();
            let ready = watch.wait(&fds, until.min(next))?;
            let mut index = 0;
            let [out, err, end] = sources.map(|source| {
                index += usize::from(source.is_some());
                source.is_some() && ready.has(index - 1)
            });
            if out {
                take(&mut self.stdout, &mut self.chunk, &mut self.kept[0])?;
            }
            if err {
                take(&mut self.stderr, &mut self.chunk, &mut self.kept[1])?;
            }
            if end || asks && has_ended(self.pid) {
                self.ended = Some(os::monotonic_nanos());
            }
            if until <= os::monotonic_nanos() {
                overtime -= 1;
                if overtime == 0 || !(out || err || end) {
                    return Ok(());
                }
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// After the child has ended.
    pub(super) fn reap(mut self) -> io::Result<Output> {
        let status = self.child.wait()?;
        self.settled = true;
        let [stdout, stderr] = std::mem::take(&mut self.kept);
        Ok(Output { status, stdout, stderr })
    }

    /// Ends the group.
    pub(super) fn stop(
        mut self,
        location: &'static Location<'static>,
        grace: Duration,
        linger: Duration,
    ) -> (Option<ExitStatus>, [Vec<u8>; 2]) {
        let within = |limit| os::monotonic_nanos().saturating_add(nanos(limit));
        self.signal(Signal::TERM);
        // One that is stopped would not hear of it.
        self.signal(Signal::CONT);
        if let Ok(watch) = Watch::new(None, location) {
            // Nothing that fails here keeps it from being killed.
            let _read = self.attend(&watch, Duration::MAX, within(grace));
            self.signal(Signal::KILL);
            let _read = self.attend(&watch, linger, within(DYING));
        }
        self.settled = self.ended.is_some();
        let status = if self.settled { self.child.wait().ok() } else { None };
        self.settled = true;
        (status, std::mem::take(&mut self.kept))
    }

    fn signal(&self, signal: Signal) {
        // The child may have gone to another group.
        if kill_process_group(self.pid, signal).is_err() || signal == Signal::KILL {
            let _sent = kill_process(self.pid, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.settled {
            self.signal(Signal::KILL);
            let _reaped = self.child.wait();
        }
    }
}

/// Reads once; at the end of the file the pipe is closed.
fn take<P: Read>(pipe: &mut Option<P>, chunk: &mut [u8], into: &mut Vec<u8>) -> io::Result<()> {
    match pipe.as_mut().map_or(Ok(0), |pipe| pipe.read(chunk)) {
        Ok(0) => *pipe = None,
        Ok(length) => into.extend_from_slice(&chunk[..length]),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// What is ready when the process has ended; `None` where there is no such thing.
fn notice(pid: Pid) -> Option<OwnedFd> {
    #[cfg(target_os = "linux")]
    return rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok();
    #[cfg(not(target_os = "linux"))]
    {
        let _ = pid;
        None
    }
}

/// Whether it has; it is not reaped. A child that cannot be waited for is gone.
fn has_ended(pid: Pid) -> bool {
    os::has_ended(pid).unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(command: &mut Command) -> Group {
        let mut group = Group::spawn(command.stdout(std::process::Stdio::piped())).unwrap();
        group.ending = None;
        group
    }

    #[test]
    fn where_the_system_does_not_tell_of_an_end_it_is_asked() {
        let watch = Watch::new(None, Location::caller()).unwrap();
        let mut hello = group(Command::new("echo").arg("hello"));
        hello.attend(&watch, Duration::MAX, NEVER).unwrap();
        let output = hello.reap().unwrap();
        assert!(output.status.success());
        assert_eq!(output.stdout, b"hello\n");

        let (status, _) =
            group(Command::new("sleep").arg("1000")).stop(Location::caller(), DYING, Duration::MAX);
        assert!(status.is_some_and(|status| !status.success()));
    }

    #[test]
    fn what_is_in_the_pipe_is_read_however_late() {
        let watch = Watch::new(None, Location::caller()).unwrap();
        let mut group = group(Command::new("head").args(["-c", "60000", "/dev/zero"]));
        while !has_ended(group.pid) {
            std::thread::yield_now();
        }
        group.attend(&watch, Duration::ZERO, 0).unwrap();
        assert_eq!(group.reap().unwrap().stdout.len(), 60_000);
    }
}
