//! The side of the program that calls: it starts children, calls functions in them, and keeps idle children.

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
use super::serve::prepare;
use super::wire::{self, Answer, Request};
use crate::scope::Scope;
use crate::sync::fork::Process;
use crate::sync::signal::signal_with_group;
use crate::sync::{ForkMutex, SetOnce, os};
use crate::time::nanos;
use crate::token::Hook;

/// How many idle children of one function are kept, at most.
const MAX_IDLE: usize = 4;

/// Idle children, by the name of their function.
type Idle = BTreeMap<&'static str, Vec<Child>>;

fn idle() -> &'static ForkMutex<Idle> {
    static IDLE: SetOnce<ForkMutex<Idle>> = SetOnce::new();
    IDLE.get_or_init(|| ForkMutex::new(Idle::new()))
}

/// A child process, which leads a process group. Dropping this value kills and reaps the process.
pub(super) struct Child {
    process: process::Child,
    reaped: bool,
    stream: UnixStream,
    function: &'static str,
    /// The process that started the child. A fork of that process must neither use nor kill the child.
    made_in: Process,
    /// Whether the child's greeting has been read. The greeting says that `main` calls `entry`.
    greeted: bool,
}

/// Kills a child process and its group. Returns `false`, and kills nothing, if `pid` is no child of this process:
/// either the child was reaped, and `pid` may be another process by now, or this process was forked from the child's
/// parent.
fn kill(pid: Pid) -> bool {
    let is_ours = os::has_ended(pid).is_ok();
    if is_ours {
        signal_with_group(pid, true, Signal::KILL);
    }
    is_ours
}

impl Child {
    pub(super) fn idle_or_new(function: &'static str, memory: Option<u64>) -> io::Result<Self> {
        loop {
            // `lock` returns `None` if a fork has lost the lock of the list. Then a new child is started.
            let kept = idle().lock().and_then(|mut idle| idle.get_mut(function)?.pop());
            match kept {
                None => return Self::start(function, memory),
                Some(child) if child.made_in.is_current() => {
                    // A child that has ended while it was idle is dropped here, and the loop tries another idle child.
                    if matches!(os::has_ended(child.pid()), Ok(false)) {
                        return Ok(child);
                    }
                }
                // The child belongs to the process that forked this one, so this process leaves the child alone.
                Some(child) => std::mem::forget(child),
            }
        }
    }

    fn start(function: &'static str, memory: Option<u64>) -> io::Result<Self> {
        let (stream, theirs) = UnixStream::pair()?;
        let program = std::env::current_exe()?;
        // On Linux this is the running program even if its file was replaced or deleted.
        let file = if cfg!(target_os = "linux") { Path::new("/proc/self/exe") } else { &program };
        let mut command = Command::new(file);
        command.arg0(&program).process_group(0);
        prepare(&mut command, theirs.into(), memory.unwrap_or(0))?;
        let process = command.spawn()?;
        Ok(Self { process, reaped: false, stream, function, made_in: Process::current(), greeted: false })
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    /// Kills and reaps the child.
    fn end(&mut self) -> io::Result<process::ExitStatus> {
        if !std::mem::replace(&mut self.reaped, true) {
            kill(self.pid());
        }
        self.process.wait()
    }

    /// Calls the function in the child. A child that answers in time is kept for a later call.
    pub(super) fn call(
        mut self,
        scope: &Scope,
        location: &'static Location<'static>,
        function: &str,
        argument: &[u8],
    ) -> Result<Answer, Error> {
        let left = scope.remaining().map(nanos);
        let request = Request { function, left, argument };
        let (pid, stream) = (self.pid(), &self.stream);
        let hook = Hook::inline(|| {
            if kill(pid) {
                // A process that the child has forked may hold the child's end of the stream open. Then the kill alone
                // does not end the read.
                let _ = stream.shutdown(Shutdown::Both);
            }
        });
        let called = scope.outcome_at(hook.once(), location, || {
            if !std::mem::replace(&mut self.greeted, true) {
                wire::read(stream)?;
            }
            wire::write(stream, &request)?;
            wire::read(stream)
        })?;
        match called.value {
            // The hook may fire although the answer has come. Then the child was killed, so it is not kept.
            Ok(answer) => {
                let answer = wire::parse(&answer)?;
                if called.fires == 0 && !matches!(answer, Answer::TimedOut) {
                    self.keep();
                }
                Ok(answer)
            }
            Err(_) if called.fires > 0 => {
                drop(self);
                Err(scope.interrupted(location, None).into())
            }
            // The child itself has closed the stream, because the child is ending. Its exit status is already fixed, so
            // the kill in `end` does not change the status.
            Err(_) => Err(Error::Died(self.end()?)),
        }
    }

    /// Keeps the child for a later call. Ends the child if enough children are kept, or if a fork has lost the lock of
    /// the list.
    fn keep(self) {
        let Some(mut idle) = idle().lock() else { return };
        let same = idle.entry(self.function).or_default();
        if same.len() < MAX_IDLE {
            same.push(self);
        } else {
            // Unlock first: killing and reaping the child takes time.
            drop(idle);
            drop(self);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.made_in.is_current() {
            // `end` fails if other code has reaped the child. Then nothing is left to do.
            let _ = self.end();
        }
    }
}
