//! A running command: the child and its pipes. In most cases the child leads a process group.
//!
//! Invariant: the child is not reaped as long as signals may be sent. So no other process or group can get the
//! child's number and receive these signals.

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

/// How long to wait for killed processes to end. A process that is in a call to a dead disk or driver may never end, so
/// the wait needs a limit.
const KILL_WAIT: Duration = Duration::from_secs(5);
/// The shortest and the longest pause between two checks of a process, if no descriptor reports the end of the
/// process. Each pause is twice as long as the pause before.
const PAUSES: (Duration, Duration) = (Duration::from_micros(500), Duration::from_millis(16));
/// The longest pause between two checks whether a child is suspended.
const SUSPENDED_PAUSE: Duration = Duration::from_millis(250);

pub(super) struct Plan<'r> {
    pub(super) group: Group,
    pub(super) dies_with_parent: bool,
    pub(super) input: Option<Box<dyn Read + Send + 'r>>,
    pub(super) cap: Cap,
}

/// How [`Job::attend`] ended: with the command's own end, or with a reason to stop the command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Attended {
    Ended,
    TooMuchOutput,
    Suspended(i32),
}

pub(super) struct Job<'r> {
    /// `None` once the child is reaped, or handed to the reaper.
    child: Option<Child>,
    pid: Pid,
    group: Group,
    /// Whether the child led a process group when it started.
    leads: bool,
    /// A descriptor that is ready when the child has ended.
    pidfd: Option<OwnedFd>,
    /// The time when this thread noticed that the child had ended; `None` before.
    ended: Option<u64>,
    /// Whether other code has reaped the child. If so, the child's number may belong to another process, so no signal
    /// is sent.
    lost: bool,
    suspended: Option<i32>,
    /// Whether the command has a process to which this program may not send signals.
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
        // From here on, a step that fails must stop the child.
        let mut job = Self {
            child: Some(child),
            pid,
            group: plan.group,
            leads,
            pidfd: open_pidfd(pid),
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
                "nothing writes to the command's standard input, which is a pipe: pass it with `Run::input`, or use \
                 `Stdio::null()`",
            ));
        }
        self.chunk = vec![0; if stdout.is_some() || stderr.is_some() { CHUNK } else { 0 }].into();
        self.input = Input::new(stdin, input)?;
        self.stdout = Output::new(stdout, cap)?;
        self.stderr = Output::new(stderr, cap)?;
        Ok(())
    }

    /// Reads the outputs and writes the input until the child has ended and its outputs are closed. If other processes
    /// hold the outputs open, this ends `linger` after the child's end. If the command writes too much, or is suspended
    /// because it used the terminal, this ends at once. `Err` if the scope is over or a pipe fails.
    pub(super) fn attend(&mut self, poller: &Poller<'_>, linger: Duration) -> io::Result<Attended> {
        loop {
            if self.ended.is_some() && self.stdout.is_closed() && self.stderr.is_closed() {
                return Ok(Attended::Ended);
            }
            let until = self.ended.map_or(NEVER, |at| at.saturating_add(nanos(linger)));
            if until <= os::monotonic_nanos() {
                // `linger` has passed. This reads what is in the pipes now, and waits for no more.
                self.drain()?;
                return Ok(Attended::Ended);
            }
            let next = if self.ended.is_some() { NEVER } else { self.next_look() };
            let served = self.serve(poller, None, true, until.min(next))?;
            if self.stdout.is_too_much() || self.stderr.is_too_much() {
                return Ok(Attended::TooMuchOutput);
            }
            if !served && self.ended.is_none() && self.group == Group::Own {
                // A command in the background has used the terminal, so the system has suspended it. No shell will
                // bring it to the foreground, so it would stay suspended for ever.
                if let Some(signal) = suspended_by(self.pid)
                    && [Signal::TTIN, Signal::TTOU].iter().any(|terminal| terminal.as_raw() == signal)
                {
                    return Ok(Attended::Suspended(signal));
                }
            }
        }
    }

    /// The time of the next check of the child, in case no descriptor is ready by then. Each call doubles the pause.
    fn next_look(&mut self) -> u64 {
        let most = if self.pidfd.is_some() { SUSPENDED_PAUSE } else { PAUSES.1 };
        let pause = self.pause.min(most);
        self.pause = pause * 2;
        os::monotonic_nanos().saturating_add(nanos(pause))
    }

    /// Waits until a pipe is ready, or the child has ended, or `member` (another process of the group) has ended. Then
    /// reads and writes the pipes that are ready. Writes no input if `feeds` is `false`. Returns `Ok(false)` if `until`
    /// came first.
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
            (self.pidfd.as_ref().filter(|_| self.ended.is_none()).map(AsFd::as_fd), PollFlags::IN),
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
        if self.ended.is_none() && (end || self.pidfd.is_none()) {
            self.look_for_end();
        }
        Ok(input || stdout || stderr || end || member)
    }

    fn look_for_end(&mut self) {
        let has_ended = os::has_ended(self.pid);
        // `has_ended` fails if other code has reaped the child.
        self.lost = has_ended.is_err();
        if has_ended.unwrap_or(true) {
            self.ended = Some(os::monotonic_nanos());
        }
    }

    fn drain(&mut self) -> io::Result<()> {
        self.stdout.drain(&mut self.chunk)?;
        self.stderr.drain(&mut self.chunk)
    }

    /// Reaps the child and returns its output. If the child has not ended, this waits for its end.
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

    /// Sends SIGTERM to the group, and SIGKILL to the processes that have not ended after the grace. Reads the outputs
    /// meanwhile. The input stays open, because the command would take a closed input for the end of its data.
    pub(super) fn stop(mut self, location: &'static Location<'static>, grace: Duration) -> StoppedJob {
        if self.ended.is_none() {
            self.look_for_end();
        }
        self.suspended = suspended_by(self.pid).filter(|_| self.ended.is_none());
        // `Poller::new` cannot fail without a scope.
        if let Ok(poller) = Poller::new(None, location) {
            self.signal(Signal::TERM);
            // A suspended process acts on SIGTERM only after SIGCONT.
            self.signal(Signal::CONT);
            if !self.await_group(&poller, grace, Survivors::is_surely_none) {
                self.signal(Signal::KILL);
                self.await_group(&poller, KILL_WAIT, Survivors::is_none_or_unknown);
            }
        }
        let _read = self.drain();
        self.lifeline = None;
        let mut status = None;
        if let Some(mut child) = self.child.take() {
            match self.ended {
                Some(_) => status = child.wait().ok(),
                None => reaper::adopt(child),
            }
        }
        let [stdout, stderr] = self.take_outputs();
        StoppedJob { status, stdout, stderr, suspended: self.suspended, refused: self.refused }
    }

    /// Waits until `is_gone` returns `true` for the survivors of the group. Returns `false` if `limit` has passed
    /// first.
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
            // `serve` below returns once this process of the group has ended. Then the loop lists the survivors again.
            let member = if let Survivors::Some(Some(pid)) = survivors { open_pidfd(pid) } else { None };
            let pause = self.pause.min(PAUSES.1);
            self.pause = pause * 2;
            let tells = member.is_some() || self.ended.is_none() && self.pidfd.is_some();
            let next = if tells { NEVER } else { os::monotonic_nanos().saturating_add(nanos(pause)) };
            // If a pipe fails, the processes must be killed all the same. So the error is ignored.
            let _served = self.serve(poller, member.as_ref().map(AsFd::as_fd), false, until.min(next));
        }
    }

    /// Like the function `survivors`. A child that has not ended is a survivor, unless this program may not signal it.
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
        // `reap` and `stop` take the child, so a child is left only if the reader of the input has panicked.
        if self.child.is_some() {
            self.signal(Signal::KILL);
        }
        if let Some(child) = self.child.take() {
            reaper::adopt(child);
        }
    }
}

/// Opens a descriptor that is ready once the process has ended. `None` if the system has no such descriptors, or the
/// call fails.
fn open_pidfd(pid: Pid) -> Option<OwnedFd> {
    #[cfg(target_os = "linux")]
    return rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok();
    #[cfg(not(target_os = "linux"))]
    {
        let _ = pid;
        None
    }
}

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
        hello.pidfd = None;
        assert_eq!(hello.attend(&poller, Duration::MAX).unwrap(), Attended::Ended);
        let captured = hello.reap().unwrap();
        assert!(captured.status.success());
        assert_eq!((&captured.stdout[..], captured.stdout_cut), (&b"hello\n"[..], false));

        let mut endless = job(Command::new("sleep").arg("1000"));
        endless.pidfd = None;
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
        // Once the child is reaped, `has_ended` fails.
        while os::has_ended(pid).is_ok() {
            std::thread::yield_now();
        }
    }
}
