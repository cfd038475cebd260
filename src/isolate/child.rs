//! The program's side: children, idle ones and busy ones.

use std::collections::BTreeMap;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::panic::Location;
use std::path::Path;
use std::process::{self, Command};

use rustix::process::{Pid, Signal};

use super::error::Error;
use super::serve::ask;
use super::wire::{self, Answer, Request};
use crate::scope::Scope;
use crate::sync::signal::signal_with_group;
use crate::sync::{ForkMutex, SetOnce, fork, os};
use crate::time::nanos;
use crate::token::Hook;

/// So many of a function are kept while they have nothing to do.
const KEPT: usize = 4;

/// Children without a call, by the name of their function.
type Idle = BTreeMap<&'static str, Vec<Child>>;

fn idle() -> &'static ForkMutex<Idle> {
    static IDLE: SetOnce<ForkMutex<Idle>> = SetOnce::new();
    IDLE.get_or_init(|| ForkMutex::new(Idle::new()))
}

/// A process of ours, the leader of its group. Dropped, it is killed and reaped.
pub(super) struct Child {
    process: process::Child,
    reaped: bool,
    line: UnixStream,
    function: &'static str,
    generation: u32,
    /// Whether it has said that there is an entry.
    greeted: bool,
}

/// Kills a process and its group. Returns `false`, and does nothing, if it was reaped: its number may belong to another process.
/// In a forked child it was never a child.
fn kill(pid: Pid) -> bool {
    let is_ours = os::has_ended(pid).is_ok();
    if is_ours {
        signal_with_group(pid, true, Signal::KILL);
    }
    is_ours
}

impl Child {
    /// One that waits for a call of the function.
    pub(super) fn idle_or_new(function: &'static str, memory: Option<u64>) -> io::Result<Self> {
        loop {
            // A list that was locked during a fork is lost: then a child is started.
            let kept = idle().lock().and_then(|mut idle| idle.get_mut(function)?.pop());
            match kept {
                None => return Self::start(function, memory),
                Some(child) if child.generation == fork::generation() => {
                    // One that has ended meanwhile is dropped.
                    if matches!(os::has_ended(child.pid()), Ok(false)) {
                        return Ok(child);
                    }
                }
                // The parent's.
                Some(child) => std::mem::forget(child),
            }
        }
    }

    fn start(function: &'static str, memory: Option<u64>) -> io::Result<Self> {
        let (line, theirs) = UnixStream::pair()?;
        let program = std::env::current_exe()?;
        // What runs, though its file may have been replaced or deleted.
        let file = if cfg!(target_os = "linux") { Path::new("/proc/self/exe") } else { &program };
        let mut command = Command::new(file);
        command.arg0(&program).process_group(0);
        ask(&mut command, theirs.into(), memory.unwrap_or(0))?;
        let process = command.spawn()?;
        Ok(Self { process, reaped: false, line, function, generation: fork::generation(), greeted: false })
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    /// Kills and reaps it.
    fn end(&mut self) -> io::Result<process::ExitStatus> {
        if !std::mem::replace(&mut self.reaped, true) {
            kill(self.pid());
        }
        self.process.wait()
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
        let (pid, line) = (self.pid(), &self.line);
        let hook = Hook::inline(|| {
            if kill(pid) {
                // What it has forked may hold the other end.
                let _ = line.shutdown(Shutdown::Both);
            }
        });
        let called = scope.outcome_at(hook.once(), location, || {
            if !std::mem::replace(&mut self.greeted, true) {
                wire::read(line)?;
            }
            wire::write(line, &request)?;
            wire::read(line)
        })?;
        match called.value {
            // It came in time, or together with the deadline.
            Ok(answer) => {
                let answer = wire::parse(&answer)?;
                if called.fires == 0 && !matches!(answer, Answer::Over) {
                    self.keep();
                }
                Ok(answer)
            }
            Err(_) if called.fires > 0 => {
                drop(self);
                Err(scope.interrupted(location, None).into())
            }
            // It has closed the line, so that its end has begun: how it ends is settled.
            Err(_) => Err(Error::Died(self.end()?)),
        }
    }

    fn keep(self) {
        let Some(mut idle) = idle().lock() else { return };
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
            let _ = self.end();
        }
    }
}
