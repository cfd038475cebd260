//! A command that runs: a child, most often the leader of its process group, and its pipes.
//!
//! Invariant: as long as signals may be sent the child is not reaped, dead or alive. So its number, which is that of the
//! group too, belongs to nobody else.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::Location;
use std::process::{Child, Command};
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};

use super::captured::Captured;
use super::error::StoppedJob;
use super::group::Group;
use super::lifeline::Lifeline;
use super::pipes::{CHUNK, Cap, Input, Kept, Output};
use super::reaper;
use super::start::{explain_lost, start};
use super::survivors::{Survivors, may_be_signalled, survivors};
use crate::interrupt::poller::Poller;
use crate::sync::os;
use crate::sync::signal::signal_with_group;
use crate::time::{NEVER, nanos};

/// How long to wait for processes that were killed. One that a dead disk or driver holds does not die.
const DYING: Duration = Duration::from_secs(5);
/// How long until the system is asked about what it does not tell by itself: doubling from the first.
const PAUSES: (Duration, Duration) = (Duration::from_micros(500), Duration::from_millis(16));
/// The same about a suspended child, which is in less of a hurry.
const LONG_PAUSE: Duration = Duration::from_millis(250);

/// How a command is run.
pub(super) struct Plan<'r> {
    pub(super) group: Group,
    pub(super) dies_with_parent: bool,
    pub(super) input: Option<Box<dyn Read + Send + 'r>>,
    pub(super) cap: Cap,
}

/// How an attended command came to an end, or why it is to be stopped.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Attended {
    Ended,
    TooMuchOutput,
    Suspended(i32),
}

pub(super) struct Job<'r> {
    /// Until it is reaped, or left behind.
    child: Option<Child>,
    pid: Pid,
    group: Group,
    /// Whether it leads a process group.
    leads: bool,
    /// Ready when the child has ended.
    ending: Option<OwnedFd>,
    /// When the child was seen to have ended.
    ended: Option<u64>,
    /// Somebody else has reaped it: its number is nobody's, or a stranger's.
    lost: bool,
    suspended: Option<i32>,
    /// Whether one of its processes may not be signalled.
    refused: bool,
    input: Input<'r>,
    stdout: Output,
    stderr: Output,
    chunk: Box<[u8]>,
    pause: Duration,
    lifeline: Option<Lifeline>,
}

impl<'r> Job<'r> {
    pub(super) fn start(
        command: &mut Command,
        plan: Plan<'r>,
        location: &'static Location<'static>,
    ) -> io::Result<Self> {
        reaper::reap();
        let lifeline = if plan.dies_with_parent { Some(Lifeline::new()?) } else { None };
        let (child, leads) = start(command, plan.group, lifeline.as_ref())?;
        let pid = Pid::from_child(&child);
        // From here on it is ended if something fails.
        let mut job = Self {
            child: Some(child),
            pid,
            group: plan.group,
            leads,
            ending: notice(pid),
            ended: None,
            lost: false,
            suspended: None,
            refused: false,
            input: Input::default(),
            stdout: Output::default(),
            stderr: Output::default(),
            chunk: Box::default(),
            pause: PAUSES.0,
            lifeline,
        };
        if let Err(error) = job.connect(plan.input, plan.cap) {
            job.stop(location, Duration::ZERO);
            return Err(error);
        }
        Ok(job)
    }

    fn connect(&mut self, input: Option<Box<dyn Read + Send + 'r>>, cap: Cap) -> io::Result<()> {
        let Some(child) = &mut self.child else { return Ok(()) };
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        if stdin.is_some() && input.is_none() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the command's standard input is a pipe to which nobody writes: give it with `Run::input`, or none with \
                 `Stdio::null()`",
            ));
        }
        self.chunk = vec![0; if stdout.is_some() || stderr.is_some() { CHUNK } else { 0 }].into();
        self.input = Input::new(stdin, input)?;
        self.stdout = Output::new(stdout, cap)?;
        self.stderr = Output::new(stderr, cap)?;
        Ok(())
    }

    /// Serves the pipes until the child has ended and its outputs are closed. Others may hold those for so long after its
    /// end.
    pub(super) fn attend(&mut self, poller: &Poller<'_>, linger: Duration) -> io::Result<Attended> {
        loop {
            if self.ended.is_some() && self.stdout.is_closed() && self.stderr.is_closed() {
                return Ok(Attended::Ended);
            }
            let until = self.ended.map_or(NEVER, |at| at.saturating_add(nanos(linger)));
            if until <= os::monotonic_nanos() {
                // What is in the pipes already is read, however late that is.
                self.drain()?;
                return Ok(Attended::Ended);
            }
            let next = if self.ended.is_some() { NEVER } else { self.next_look() };
            let served = self.serve(poller, None, true, until.min(next))?;
            if self.stdout.is_too_much() || self.stderr.is_too_much() {
                return Ok(Attended::TooMuchOutput);
            }
            if !served && self.ended.is_none() && self.group == Group::Own {
                // It is in the background for good: nobody will bring it to the foreground.
                if let Some(signal) = suspended_by(self.pid)
                    && [Signal::TTIN, Signal::TTOU].iter().any(|terminal| terminal.as_raw() == signal)
                {
                    return Ok(Attended::Suspended(signal));
                }
            }
        }
    }

    /// When to ask about the child again.
    fn next_look(&mut self) -> u64 {
        let most = if self.ending.is_some() { LONG_PAUSE } else { PAUSES.1 };
        let pause = self.pause.min(most);
        self.pause = pause * 2;
        os::monotonic_nanos().saturating_add(nanos(pause))
    }

    /// Waits for what comes first, and sees to it: the pipes, the end of the child, that of a member of its group. Returns
    /// whether there was anything.
    fn serve(
        &mut self,
        poller: &Poller<'_>,
        member: Option<BorrowedFd<'_>>,
        feeds: bool,
        until: u64,
    ) -> io::Result<bool> {
        let sources = [
            (self.input.fd().filter(|_| feeds), PollFlags::OUT),
            (self.stdout.fd(), PollFlags::IN),
            (self.stderr.fd(), PollFlags::IN),
            (self.ending.as_ref().filter(|_| self.ended.is_none()).map(AsFd::as_fd), PollFlags::IN),
            (member, PollFlags::IN),
        ];
        let fds: Vec<_> = sources.iter().filter_map(|&(fd, events)| Some((fd?, events))).collect();
        let ready = poller.wait(&fds, until)?;
        let mut index = 0;
        let [input, stdout, stderr, end, member] = sources.map(|(fd, _)| {
            index += usize::from(fd.is_some());
            fd.is_some() && ready.has(index - 1)
        });
        if stdout {
            self.stdout.read(&mut self.chunk)?;
        }
        if stderr {
            self.stderr.read(&mut self.chunk)?;
        }
        if input {
            self.input.write()?;
        }
        if self.ended.is_none() && (end || self.ending.is_none()) {
            self.look_for_end();
        }
        Ok(input || stdout || stderr || end || member)
    }

    fn look_for_end(&mut self) {
        let has_ended = os::has_ended(self.pid);
        // A child that cannot be waited for is gone.
        self.lost = has_ended.is_err();
        if has_ended.unwrap_or(true) {
            self.ended = Some(os::monotonic_nanos());
        }
    }

    fn drain(&mut self) -> io::Result<()> {
        self.stdout.drain(&mut self.chunk)?;
        self.stderr.drain(&mut self.chunk)
    }

    /// After the child has ended.
    pub(super) fn reap(mut self) -> io::Result<Captured> {
        self.lifeline = None;
        let Some(mut child) = self.child.take() else { return Err(Errno::CHILD.into()) };
        let status = child.wait().map_err(explain_lost)?;
        let [stdout, stderr] = self.take_outputs();
        Ok(Captured::new(status, stdout, stderr))
    }

    fn take_outputs(&mut self) -> [Kept; 2] {
        [&mut self.stdout, &mut self.stderr].map(|output| std::mem::take(output).finish())
    }

    /// Tells the group to end; kills it when the grace is over. Its outputs are read meanwhile, and its input stays open: its
    /// end would tell a command that it has been given all.
    pub(super) fn stop(mut self, location: &'static Location<'static>, grace: Duration) -> StoppedJob {
        if self.ended.is_none() {
            self.look_for_end();
        }
        self.suspended = suspended_by(self.pid).filter(|_| self.ended.is_none());
        // Without a scope nothing is needed for it.
        if let Ok(poller) = Poller::new(None, location) {
            self.signal(Signal::TERM);
            // One that is suspended would not hear of it.
            self.signal(Signal::CONT);
            if !self.await_group(&poller, grace, Survivors::is_surely_none) {
                self.signal(Signal::KILL);
                self.await_group(&poller, DYING, Survivors::is_none_or_unknown);
            }
        }
        // Nothing that fails here changes anything.
        let _read = self.drain();
        self.lifeline = None;
        let mut status = None;
        if let Some(mut child) = self.child.take() {
            match self.ended {
                Some(_) => status = child.wait().ok(),
                None => reaper::leave(child),
            }
        }
        let [stdout, stderr] = self.take_outputs();
        StoppedJob { status, stdout, stderr, suspended: self.suspended, refused: self.refused }
    }

    /// Waits until nobody is left whom a signal could reach. Returns whether that is so.
    fn await_group(&mut self, poller: &Poller<'_>, limit: Duration, is_gone: fn(&Survivors) -> bool) -> bool {
        let until = os::monotonic_nanos().saturating_add(nanos(limit));
        self.pause = PAUSES.0;
        loop {
            let survivors = self.survivors();
            if is_gone(&survivors) {
                return true;
            }
            if until <= os::monotonic_nanos() {
                return false;
            }
            // Whoever it is, with its end it is time to ask who is left.
            let member = if let Survivors::Some(Some(pid)) = survivors { notice(pid) } else { None };
            let pause = self.pause.min(PAUSES.1);
            self.pause = pause * 2;
            let tells = member.is_some() || self.ended.is_none() && self.ending.is_some();
            let next = if tells { NEVER } else { os::monotonic_nanos().saturating_add(nanos(pause)) };
            // A pipe that cannot be read keeps nobody from being killed.
            let _served = self.serve(poller, member.as_ref().map(AsFd::as_fd), false, until.min(next));
        }
    }

    /// Who is left of the group, its leader included.
    fn survivors(&mut self) -> Survivors {
        if self.lost {
            return Survivors::None;
        }
        if self.ended.is_none() {
            if may_be_signalled(self.pid) {
                return Survivors::Some(None);
            }
            self.refused = true;
        }
        let survivors = if self.leads { survivors(self.pid) } else { Survivors::None };
        self.refused |= survivors == Survivors::NotPermitted;
        survivors
    }

    fn signal(&self, signal: Signal) {
        if self.lost {
            return;
        }
        signal_with_group(self.pid, self.leads, signal);
    }
}

impl Drop for Job<'_> {
    fn drop(&mut self) {
        self.lifeline = None;
        // Only where a reader has panicked.
        if self.child.is_some() {
            self.signal(Signal::KILL);
        }
        if let Some(child) = self.child.take() {
            reaper::leave(child);
        }
    }
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

/// The signal by which a child is suspended, if it is.
fn suspended_by(pid: Pid) -> Option<i32> {
    let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    waitid(WaitId::Pid(pid), options).ok()??.stopping_signal()
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    fn job(command: &mut Command) -> Job<'static> {
        let plan = Plan { group: Group::Own, dies_with_parent: false, input: None, cap: Cap::NONE };
        Job::start(command.stdin(Stdio::null()).stdout(Stdio::piped()), plan, Location::caller()).unwrap()
    }

    #[test]
    fn where_the_system_does_not_tell_of_an_end_it_is_asked() {
        let poller = Poller::new(None, Location::caller()).unwrap();
        let mut hello = job(Command::new("echo").arg("hello"));
        hello.ending = None;
        assert_eq!(hello.attend(&poller, Duration::MAX).unwrap(), Attended::Ended);
        let captured = hello.reap().unwrap();
        assert!(captured.status.success());
        assert_eq!((&captured.stdout[..], captured.stdout_cut), (&b"hello\n"[..], false));

        let mut endless = job(Command::new("sleep").arg("1000"));
        endless.ending = None;
        let remains = endless.stop(Location::caller(), Duration::from_secs(3600));
        assert!(remains.status.is_some_and(|status| !status.success()));
    }

    #[test]
    fn what_is_in_the_pipe_is_read_however_late() {
        let poller = Poller::new(None, Location::caller()).unwrap();
        let mut job = job(Command::new("head").args(["-c", "60000", "/dev/zero"]));
        while !os::has_ended(job.pid).unwrap() {
            std::thread::yield_now();
        }
        job.ended = Some(0);
        assert_eq!(job.attend(&poller, Duration::ZERO).unwrap(), Attended::Ended);
        assert_eq!(job.reap().unwrap().stdout.len(), 60_000);
    }

    #[test]
    fn one_that_a_panic_has_left_is_killed_and_reaped() {
        let job = job(Command::new("sleep").arg("1000"));
        let pid = job.pid;
        drop(job);
        // Its number is free when nobody can wait for it any more.
        while os::has_ended(pid).is_ok() {
            std::thread::yield_now();
        }
    }
}
