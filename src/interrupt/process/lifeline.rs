//! Kills a command when this program ends, even if this program is killed.
//!
//! This program starts a shell and holds one end of a pipe. The shell reads from the other end. When this program has
//! ended, the pipe closes, and the shell kills the command, with its group if the command leads one. The shell is in a
//! group of its own, so signals from a terminal do not reach the shell.
//!
//! This program reaps the command only after it has killed the shell. Until then no other process can get the command's
//! number, so the shell cannot kill another process. There is one exception: this program is killed just after the
//! command has ended. Then the system reaps the command, another process may get its number, and the shell may kill
//! that process.

use std::io::{self, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

const SCRIPT: &str = "trap '' HUP INT QUIT TERM
read -r target || exit
read -r never || kill -s KILL -- \"$target\"";

pub(super) struct Lifeline {
    shell: Child,
    pipe: PipeWriter,
}

impl Lifeline {
    /// Starts the shell. The command is started afterwards, and its number then goes through the pipe.
    pub(super) fn new() -> io::Result<Self> {
        let (reader, pipe) = io::pipe()?;
        let shell = Command::new("/bin/sh")
            .args(["-c", SCRIPT])
            .current_dir("/")
            .stdin(reader)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!("cannot start the shell that watches over this program: {error}"),
                )
            })?;
        Ok(Self { shell, pipe })
    }

    /// The pipe to the shell. The child writes its own number to this pipe before `exec`. If this program wrote the
    /// number, it could be killed between `fork` and the write, and then nothing would kill the command. The child
    /// holds the pipe open until `exec`, so the shell gets the number before it finds the pipe closed.
    pub(super) fn pipe(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        // The shell must end before the pipe closes: otherwise the shell would kill the command. `kill` fails only if
        // the shell has ended already.
        let _killed = self.shell.kill();
        let _reaped = self.shell.wait();
    }
}
