//! Kills a command when this program ends, in whatever way the program ends.
//!
//! A shell reads from a pipe whose other end only this program holds. When the program has ended, the pipe closes,
//! and the shell kills the command's group. The shell is in a group of its own, so signals from a terminal do not
//! reach it. While the program lives, it ends the shell before it reaps the command; so the shell never kills another
//! process that has got the same number.

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
    /// Starts a shell that does not know its command yet.
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

    /// The pipe to which the child writes its own number before it becomes the command. If this program wrote the
    /// number, it could be killed between the fork and the write. Until the child has become the command, it holds
    /// the pipe open.
    pub(super) fn pipe(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        // Before the pipe closes. An error says that the shell has ended already.
        let _killed = self.shell.kill();
        let _reaped = self.shell.wait();
    }
}
