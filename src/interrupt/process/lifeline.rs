//! Has a command end with this program, however that ends.
//!
//! A shell waits at the other end of a pipe that only this program holds. When the program is gone, killed or not, the pipe
//! closes, and the shell kills the command's group. It is none of that group, nor of the program's: what a terminal sends to
//! those does not reach it. While the program lives it is ended before the command is reaped, so it never has the number of
//! somebody else.

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
    /// One that is tied to nobody yet.
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

    /// Where the command's child writes who is to be killed. It does so itself, before it begins: between its birth and what
    /// this program could write the program may be killed. And as long as it has not begun it holds the pipe open.
    pub(super) fn pipe(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        // Before the pipe is closed. That it has ended by itself already is no matter.
        let _killed = self.shell.kill();
        let _reaped = self.shell.wait();
    }
}
