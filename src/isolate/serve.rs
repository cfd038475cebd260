//! The child: it serves calls until the program closes the line.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use super::function::Function;
use super::wire::{self, Answer, Request};
use crate::scope::timeout_value;
use crate::sync::{SetOnce, os, panic_message};
use crate::time::Limit;

/// Set for children: which file the line is, and the memory they may have, or 0.
const ASKED: &str = "TIMEBOX_ISOLATE";

/// Set in a child, before its first call.
static SERVES: SetOnce<()> = SetOnce::new();

/// Has a program, started with this line as its standard input, serve.
pub(super) fn ask(command: &mut Command, line: OwnedFd, memory: u64) -> io::Result<()> {
    command.env(ASKED, format!("{} {memory}", identity(&line)?));
    command.stdin(line);
    Ok(())
}

/// Whether this process is to serve, and its memory limit; 0 for none.
///
/// What the function starts inherits the variable, but not the line.
pub(super) fn asked_to_serve() -> Option<u64> {
    let asked = std::env::var(ASKED).ok()?;
    let (line, memory) = asked.split_once(' ')?;
    if identity(io::stdin()).ok()? == line { memory.parse().ok() } else { None }
}

/// Whether this is a child: what runs in it is an isolated function.
pub(super) fn serves() -> bool {
    SERVES.get().is_some()
}

/// What no other open file has.
fn identity(file: impl AsFd) -> io::Result<String> {
    let metadata = File::from(file.as_fd().try_clone_to_owned()?).metadata()?;
    Ok(format!("{}:{}", metadata.dev(), metadata.ino()))
}

/// The line is the standard input, so far: a socket.
pub(super) fn serve(functions: &[&dyn Function], memory: u64) -> ! {
    SERVES.get_or_init(|| ());
    let ended = limit_memory(memory).and_then(|()| {
        let line = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        // It is between us two: the function, and what it starts, read nothing. (The clone is closed on exec.)
        os::replace_stdin(File::open("/dev/null")?.as_fd())?;
        // Says that there is an entry.
        wire::write(&line, &())?;
        let requests = requests(line.try_clone()?)?;
        for request in requests {
            wire::write(&line, &answer(functions, &wire::parse(&request)?))?;
        }
        Ok(())
    });
    std::process::exit(i32::from(ended.is_err()))
}

/// A thread reads them, so that the child ends with the program in the middle of a call too.
fn requests(line: UnixStream) -> io::Result<mpsc::Receiver<Vec<u8>>> {
    let (send, requests) = mpsc::channel();
    os::spawn("timebox-isolate", move || {
        while let Ok(request) = wire::read(&line) {
            if send.send(request).is_err() {
                break;
            }
        }
        std::process::exit(0);
    })?;
    Ok(requests)
}

fn answer(functions: &[&dyn Function], request: &Request<'_>) -> Answer {
    let Some(function) = functions.iter().find(|function| function.name() == request.function) else {
        return Answer::Unreadable(format!("there is no function `{}`", request.function));
    };
    let limit: Limit = request.left.map(Duration::from_nanos).into();
    let call = AssertUnwindSafe(|| timeout_value(limit, || function.call(request.argument)));
    match catch_unwind(call) {
        Ok(Ok(Ok(result))) => Answer::Returned(result),
        Ok(Ok(Err(message))) => Answer::Unreadable(message),
        Ok(Err(error)) if error.is_timeout() => Answer::Over,
        // It has cancelled its own scope.
        Ok(Err(error)) => Answer::Panicked(error.to_string()),
        Err(payload) => Answer::Panicked(panic_message(&*payload).unwrap_or("without a message").to_owned()),
    }
}

/// Where the system knows no such limit, there is none.
fn limit_memory(bytes: u64) -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    if bytes == 0 {
        return Ok(());
    }
    Ok(setrlimit(Resource::As, Rlimit { current: Some(bytes), maximum: Some(bytes) })?)
}
