use std::fmt;
use std::io::{Cursor, Read};
use std::panic::Location;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use super::captured::Captured;
use super::error::{Error, Halted, Stopped, Why};
use super::group::Group;
use super::job::{Attended, Job, Plan};
use super::pipes::Cap;
use super::variable::with_deadline;
use crate::error::TimeoutError;
use crate::interrupt::call::in_innermost;
use crate::interrupt::poller::Poller;
use crate::scope::Scope;
use crate::time::Deadline;

/// Runs a command to its end and returns its output, no longer than the scope lasts.
///
/// Like [`Command::output`]. But a command that sets no standard input gets this program's own.
/// [`Stdio::null`](std::process::Stdio::null) is safest; [`Run::input`] passes bytes.
///
/// Both outputs are always captured, until all processes have closed them. The call changes the `Command`: its later
/// runs capture the outputs too, and have a process group of their own.
///
/// # Errors
///
/// - [`Error::Stopped`] if the scope is over.
/// - [`Error::Io`] if the command could not be started or waited for.
/// - [`Error::Halted`] if the system suspended the command in the background.
///
/// # Examples
///
/// ```
/// use std::process::{Command, Stdio};
/// use std::time::Duration;
/// use timebox::process;
///
/// fn revision() -> Result<String, process::Error> {
///     let mut command = Command::new("echo"); // git rev-parse HEAD, say
///     let output = process::output(command.arg("c0ffee").stdin(Stdio::null()))?;
///     Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
/// }
///
/// let limit = Duration::from_secs(5);
/// assert_eq!(timebox::timeout(limit, revision).unwrap(), "c0ffee");
///
/// let error = process::output(&mut Command::new("no-such-program")).unwrap_err();
/// assert!(error.to_string().starts_with("cannot start \"no-such-program\": "));
/// ```
#[track_caller]
pub fn output(command: &mut Command) -> Result<Output, Error> {
    Run::new(command).output().map(Output::from)
}

/// Runs a command to its end, no longer than the scope lasts.
///
/// Like [`Command::status`]. The call changes the `Command`: its later runs have a process group of their own.
///
/// # Errors
///
/// The errors of [`output`].
///
/// # Examples
///
/// ```
/// use std::process::Command;
/// use std::time::Duration;
/// use timebox::process;
///
/// let mut quick = Command::new("sh");
/// quick.args(["-c", "exit 3"]);
/// let status = timebox::timeout(Duration::from_secs(5), || process::status(&mut quick)).unwrap();
/// assert_eq!(status.code(), Some(3));
///
/// let mut slow = Command::new("sleep");
/// slow.arg("1000");
/// let error = timebox::timeout(Duration::from_millis(50), || process::status(&mut slow)).unwrap_err();
/// assert!(error.timeout().unwrap().is_timeout());
/// ```
#[track_caller]
pub fn status(command: &mut Command) -> Result<ExitStatus, Error> {
    Run::new(command).status()
}

/// Options of a run: the grace, the process group, the input, and how much output is kept.
///
/// # Examples
///
/// ```
/// use std::process::Command;
/// use std::time::Duration;
/// use timebox::process::{Error, Run};
///
/// let mut stubborn = Command::new("sh");
/// stubborn.args(["-c", "trap '' TERM; echo begun; while :; do sleep 1; done"]);
/// let result = timebox::timeout(Duration::from_millis(100), || {
///     Run::new(&mut stubborn).grace(Duration::from_millis(50)).output()
/// });
/// assert!(matches!(result, Err(Error::Stopped(stopped)) if stopped.status.is_some()));
/// ```
#[must_use = "nothing is run before `output` or `status`"]
pub struct Run<'c> {
    command: &'c mut Command,
    plan: Plan<'c>,
    grace: Duration,
    linger: Duration,
    allowance: Duration,
    tells_deadline: bool,
}

impl<'c> Run<'c> {
    /// A run with the defaults: the grace is one second, and the call waits for the whole output and keeps it.
    pub fn new(command: &'c mut Command) -> Self {
        let plan = Plan { group: Group::default(), dies_with_parent: false, input: None, cap: Cap::NONE };
        Self {
            command,
            plan,
            grace: Duration::from_secs(1),
            linger: Duration::MAX,
            allowance: Duration::ZERO,
            tells_deadline: true,
        }
    }

    /// The time between SIGTERM and SIGKILL, for all processes of the group, such as a shell and the processes that the
    /// shell has started. The grace ends early if all these processes have ended.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::process::Command;
    /// use std::time::Duration;
    /// use timebox::process::{Error, Run};
    ///
    /// // The shell dies at once; the worker needs a moment to clean up.
    /// let worker = "trap 'sleep 0.1; echo clean; exit' TERM; echo begun; while :; do sleep 0.01; done";
    /// let mut command = Command::new("sh");
    /// command.args(["-c", r#"sh -c "$0"; true"#, worker]);
    /// let result = timebox::timeout(Duration::from_millis(300), || {
    ///     Run::new(&mut command).grace(Duration::from_secs(10)).output()
    /// });
    /// let Err(Error::Stopped(stopped)) = result else { panic!("{result:?}") };
    /// assert_eq!(stopped.stdout, b"begun\nclean\n");
    /// ```
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// How long the outputs are read after the child has ended, if other processes still hold them open. By default
    /// the outputs are read as long as the scope lasts, so that no output is lost. Set a limit for a command that
    /// leaves a daemon behind: the daemon never closes the outputs.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::process::Command;
    /// use std::time::Duration;
    /// use timebox::process::Run;
    ///
    /// let mut start = Command::new("sh");
    /// start.args(["-c", "sleep 2 & echo started"]); // the sleep stands for a daemon
    /// let output = Run::new(&mut start).linger(Duration::from_millis(50)).output().unwrap();
    /// assert_eq!(output.stdout, b"started\n");
    /// assert!(output.stdout_cut, "the daemon may write more");
    /// ```
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// How much earlier the command's [deadline](super#the-deadline) is than the scope's, so that the command can end
    /// by itself before it is signalled. The default is zero.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::process::Command;
    /// use std::time::Duration;
    /// use timebox::process::Run;
    ///
    /// let mut worker = Command::new("sh");
    /// worker.args(["-c", "echo $TIMEBOX_DEADLINE"]);
    /// let output = timebox::timeout(Duration::from_secs(60), || {
    ///     Run::new(&mut worker).allowance(Duration::from_secs(50)).output()
    /// });
    /// let left = String::from_utf8(output.unwrap().stdout).unwrap();
    /// let (nanos, _reading) = left.split_once('@').unwrap();
    /// assert!(nanos.parse::<u64>().unwrap() <= 10_000_000_000);
    /// ```
    pub fn allowance(mut self, allowance: Duration) -> Self {
        self.allowance = allowance;
        self
    }

    /// Does not set the environment variable [`TIMEBOX_DEADLINE`](crate::Deadline::VARIABLE). This is for a daemon that
    /// outlives the scope. If this program itself has inherited the variable, `env_remove` keeps the variable from the
    /// daemon. The scope limits this call all the same.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::process::Command;
    /// use std::time::Duration;
    /// use timebox::Deadline;
    /// use timebox::process::Run;
    ///
    /// let mut daemon = Command::new("sh");
    /// daemon.args(["-c", "echo $TIMEBOX_DEADLINE"]).env_remove(Deadline::VARIABLE);
    /// let output = timebox::timeout(Duration::from_secs(60), || {
    ///     Run::new(&mut daemon).without_deadline().output()
    /// });
    /// assert_eq!(output.unwrap().stdout, b"\n");
    /// ```
    pub fn without_deadline(mut self) -> Self {
        self.tells_deadline = false;
        self
    }

    /// The process group of the command. By default the command has a group of its own.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::process::Command;
    /// use timebox::process::{Group, Run};
    ///
    /// let mut editor = Command::new("true"); // vi, say: it sets the terminal
    /// let status = Run::new(&mut editor).group(Group::Foreground).status().unwrap();
    /// assert!(status.success());
    /// ```
    pub fn group(mut self, group: Group) -> Self {
        self.plan.group = group;
        self
    }

    /// Kills the command if this program ends first, even by Ctrl-C, a crash or SIGKILL. If the command has its own
    /// group, the whole group is killed. There is no grace.
    ///
    /// A second process watches this program: a `/bin/sh`, which must exist. A forked copy of this program counts as
    /// this program until the copy calls `exec`. So the command is killed when this program and all such copies have
    /// ended.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::process::Command;
    /// use timebox::process::Run;
    ///
    /// let mut command = Command::new("echo");
    /// let output = Run::new(command.arg("hello")).die_with_parent().output().unwrap();
    /// assert_eq!(output.stdout, b"hello\n");
    /// ```
    pub fn die_with_parent(mut self) -> Self {
        self.plan.dies_with_parent = true;
        self
    }

    /// Passes bytes to the command's standard input. It is no error if the command does not read all the bytes.
    ///
    /// The run changes the `Command`: afterwards its standard input is empty.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::process::Command;
    /// use timebox::process::Run;
    ///
    /// let output = Run::new(&mut Command::new("sort")).input("b\na\n").output().unwrap();
    /// assert_eq!(output.stdout, b"a\nb\n");
    /// ```
    pub fn input(self, bytes: impl AsRef<[u8]> + Send + 'c) -> Self {
        self.input_from(Cursor::new(bytes))
    }

    /// Like [`input`](Self::input), with bytes from a reader. If the reader fails, the command is stopped, and the
    /// call returns the reader's error.
    ///
    /// The calling thread reads from the reader, and also reads the outputs and waits for the end of the scope. A
    /// reader that blocks delays all of this. So pass a file, socket or pipe to [`Command::stdin`] instead, or wrap
    /// it in [`io::Timed`](crate::io::Timed) (feature `io`), whose reads end with the scope.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::Read;
    /// use std::process::Command;
    /// use timebox::process::Run;
    ///
    /// let noise = std::io::repeat(b'x').take(1_000_000);
    /// let output = Run::new(Command::new("wc").arg("-c")).input_from(noise).output().unwrap();
    /// assert_eq!(output.stdout.trim_ascii(), b"1000000");
    /// ```
    pub fn input_from(mut self, reader: impl Read + Send + 'c) -> Self {
        self.plan.input = Some(Box::new(reader));
        self
    }

    /// Stops the command if it writes more than `most` bytes to one of its outputs. The call then fails with
    /// [`Error::Halted`]. By default there is no such limit, and the whole output is kept in memory.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::process::Command;
    /// use timebox::process::{Error, Run};
    ///
    /// let error = Run::new(&mut Command::new("yes")).max_output(1000).output().unwrap_err();
    /// let Error::Halted(halted) = error else { panic!("{error}") };
    /// assert!(halted.stdout.len() == 1000 && halted.stdout_cut);
    /// assert_eq!(halted.why.to_string(), "the command has written more than 1000 bytes");
    /// ```
    pub fn max_output(mut self, most: usize) -> Self {
        self.plan.cap = Cap { most, stops: true };
        self
    }

    /// Keeps the first `most` bytes of each output, and drops the rest. If bytes of the standard output were dropped,
    /// [`stdout_cut`](Captured::stdout_cut) is set. This option and [`max_output`](Self::max_output) replace each
    /// other: the last call counts.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::process::Command;
    /// use timebox::process::Run;
    ///
    /// let mut noisy = Command::new("head");
    /// noisy.args(["-c", "5000000", "/dev/zero"]);
    /// let output = Run::new(&mut noisy).truncate_output(1000).output().unwrap();
    /// assert!(output.status.success());
    /// assert!(output.stdout.len() == 1000 && output.stdout_cut);
    /// ```
    pub fn truncate_output(mut self, most: usize) -> Self {
        self.plan.cap = Cap { most, stops: false };
        self
    }

    /// Like the function [`output`](super::output), with these options.
    ///
    /// # Errors
    ///
    /// The errors of the function [`output`](super::output), and [`Error::Halted`] if the command writes too much
    /// output.
    #[track_caller]
    pub fn output(self) -> Result<Captured, Error> {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        self.run(Location::caller())
    }

    /// Like the function [`status`](super::status), with these options. An output that the command redirects to a
    /// pipe is read and dropped.
    ///
    /// # Errors
    ///
    /// The errors of the function [`status`](super::status).
    #[track_caller]
    pub fn status(mut self) -> Result<ExitStatus, Error> {
        self.plan.cap = Cap { most: 0, stops: false };
        Ok(self.run(Location::caller())?.status)
    }

    fn run(self, location: &'static Location<'static>) -> Result<Captured, Error> {
        let Self { command, plan, grace, linger, allowance, tells_deadline } = self;
        in_innermost(|scope| {
            if let Some(scope) = scope {
                scope.checkpoint_at(location)?;
            }
            let poller = Poller::new(scope, location)?;
            let (most, has_input) = (plan.cap.most, plan.input.is_some());
            if has_input {
                command.stdin(Stdio::piped());
            }
            let deadline = scope.filter(|_| tells_deadline).map_or(Deadline::NEVER, Scope::deadline);
            let deadline = deadline.sooner_by(allowance);
            let started = with_deadline(command, deadline, |command| Job::start(command, plan, location));
            if has_input {
                // Undoes `Stdio::piped()`. Otherwise the next run of this command would get a pipe to which nobody
                // writes.
                command.stdin(Stdio::null());
            }
            let mut job = started?;
            let why = match job.attend(&poller, linger) {
                Ok(Attended::Ended) => return Ok(job.reap()?),
                Ok(Attended::TooMuchOutput) => Why::TooMuchOutput { most },
                Ok(Attended::Suspended(signal)) => Why::Suspended { signal },
                Err(error) => {
                    let stopped = job.stop(location, grace);
                    return Err(match error.downcast::<TimeoutError>() {
                        Ok(timeout) => Error::Stopped(Stopped::new(timeout, stopped)),
                        Err(error) => Error::Io(error),
                    });
                }
            };
            Err(Error::Halted(Halted::new(why, job.stop(location, grace))))
        })
    }
}

impl fmt::Debug for Run<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run")
            .field("command", &self.command)
            .field("group", &self.plan.group)
            .field("grace", &self.grace)
            .field("linger", &self.linger)
            .field("allowance", &self.allowance)
            .finish_non_exhaustive()
    }
}
