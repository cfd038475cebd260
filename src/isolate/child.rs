//! The program's side: children, idle ones and busy ones.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::panic::Location;
use std::process::{self, Command, Stdio};
use std::sync::Arc;

use super::Error;
use super::frame::{self, Answer, Request};
use super::serve::ASKED;
use crate::scope::Scope;
use crate::sync::{Mutex, fork, lock};
use crate::time::nanos;
use crate::token::Hook;

/// So many of a function are kept while they have nothing to do.
const KEPT: usize = 4;

/// By the name of their function. Those from before a fork are the parent's.
static IDLE: Mutex<BTreeMap<&'static str, Vec<Child>>> = Mutex::new(BTreeMap::new());

/// A process of ours. Dropped, it is killed and reaped.
pub(super) struct Child {
    process: Arc<Process>,
    line: UnixStream,
    function: &'static str,
    generation: u32,
    /// Whether it has said that there is an entry.
    greeted: bool,
}

struct Process(Mutex<process::Child>);

impl Process {
    /// With all of its group. Does nothing to one that was reaped, whose number may be another's.
    fn kill(&self) {
        let mut child = lock(&self.0);
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        let group = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
        let killed =
            group.map(|group| rustix::process::kill_process_group(group, rustix::process::Signal::KILL));
        if !matches!(killed, Some(Ok(()))) {
            // It is on its way out all the same.
            let _ = child.kill();
        }
    }

    fn reap(&self) -> io::Result<process::ExitStatus> {
        self.kill();
        lock(&self.0).wait()
    }
}

impl Child {
    /// One that waits for a call of the function.
    pub(super) fn idle_or_new(function: &'static str, memory: Option<u64>) -> io::Result<Self> {
        loop {
            let idle = lock(&IDLE).get_mut(function).and_then(Vec::pop);
            match idle {
                None => return Self::start(function, memory),
                Some(child) if child.generation == fork::generation() => return Ok(child),
                // The parent's.
                Some(child) => std::mem::forget(child),
            }
        }
    }

    fn start(function: &'static str, memory: Option<u64>) -> io::Result<Self> {
        let (line, theirs) = UnixStream::pair()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.env(ASKED, memory.unwrap_or(0).to_string());
        command.stdin(Stdio::from(OwnedFd::from(theirs))).process_group(0);
        let process = Arc::new(Process(Mutex::new(command.spawn()?)));
        Ok(Self { process, line, function, generation: fork::generation(), greeted: false })
    }

    /// Has a function called. The child is kept for another call, unless it is gone.
    pub(super) fn call(
        mut self,
        scope: &Scope,
        location: &'static Location<'static>,
        function: &str,
        argument: &[u8],
    ) -> Result<Answer, Error> {
        let left = scope.remaining().map(nanos);
        let request = Request { function, left, argument };
        let process = Arc::clone(&self.process);
        let hook = Hook::inline(move || process.kill()).once();
        let called = scope.outcome_at(hook, location, || {
            if !std::mem::replace(&mut self.greeted, true) {
                frame::read(&self.line)?;
            }
            frame::write(&self.line, &request)?;
            frame::read(&self.line)
        })?;
        match called.value {
            // It came in time, or together with the deadline.
            Ok(answer) => {
                let answer = frame::parse(&answer)?;
                if called.fires == 0 {
                    self.keep();
                }
                Ok(answer)
            }
            Err(_) if called.fires > 0 => {
                self.process.reap()?;
                Err(scope.interrupted(location, None).into())
            }
            Err(_) => Err(Error::Died(lock(&self.process.0).wait()?)),
        }
    }

    fn keep(self) {
        let mut idle = lock(&IDLE);
        let same = idle.entry(self.function).or_default();
        if same.len() < KEPT {
            same.push(self);
        } else {
            // It is killed and reaped: not under the lock.
            drop(idle);
            drop(self);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.generation == fork::generation() {
            // Whether it could be reaped changes nothing any more.
            let _ = self.process.reap();
        }
    }
}
