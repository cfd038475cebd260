//! The child's side: serves calls until the program closes the stream.

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

/// The environment variable that marks a child. Its value is the identity of the stream, then the memory limit. A limit
/// of 0 means no limit.
const VARIABLE: &str = "TIMEBOX_ISOLATE";

static SERVES: SetOnce<()> = SetOnce::new();

/// Prepares a command, so that its process serves calls over `stream`. The stream becomes the standard input of the
/// process.
pub(super) fn prepare(command: &mut Command, stream: OwnedFd, memory: u64) -> io::Result<()> {
    command.env(VARIABLE, format!("{} {memory}", identity(&stream)?));
    command.stdin(stream);
    Ok(())
}

/// The memory limit (0 for none), if this process was started as a child. `None` if this process is no child.
///
/// A process that an isolated function starts inherits the variable, but not the stream. So that process does not count
/// as a child.
pub(super) fn memory_limit_of_child() -> Option<u64> {
    let value = std::env::var(VARIABLE).ok()?;
    let (stream, memory) = value.split_once(' ')?;
    if identity(io::stdin()).ok()? == stream { memory.parse().ok() } else { None }
}

/// Whether this process is a child that has begun to serve calls.
pub(super) fn serves() -> bool {
    SERVES.get().is_some()
}

fn identity(file: impl AsFd) -> io::Result<String> {
    let metadata = File::from(file.as_fd().try_clone_to_owned()?).metadata()?;
    Ok(format!("{}:{}", metadata.dev(), metadata.ino()))
}

/// Serves calls from the stream, which is the standard input. Ends this process once the program has closed the stream
/// or has ended.
pub(super) fn serve(functions: &[&dyn Function], memory: u64) -> ! {
    SERVES.get_or_init(|| ());
    let ended = limit_memory(memory).and_then(|()| {
        let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        // The stream was the standard input. The function, and processes that it starts, must not read from the stream,
        // so the standard input becomes `/dev/null`. (The clone of the stream is closed on exec.)
        os::replace_stdin(File::open("/dev/null")?.as_fd())?;
        // The first message is empty. It tells the program that the child's `main` calls `entry`.
        wire::write(&stream, &())?;
        let requests = requests(stream.try_clone()?)?;
        for request in requests {
            wire::write(&stream, &answer(functions, &wire::parse(&request)?))?;
        }
        Ok(())
    });
    std::process::exit(i32::from(ended.is_err()))
}

/// Reads the requests on a thread of its own. If the program ends, the stream is closed, and this thread ends the child
/// at once, even during a call.
fn requests(stream: UnixStream) -> io::Result<mpsc::Receiver<Vec<u8>>> {
    let (send, requests) = mpsc::channel();
    os::spawn("timebox-isolate", move || {
        while let Ok(request) = wire::read(&stream) {
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
        return Answer::Codec(format!("there is no function `{}`", request.function));
    };
    let limit: Limit = request.left.map(Duration::from_nanos).into();
    let call = AssertUnwindSafe(|| timeout_value(limit, || function.call(request.argument)));
    match catch_unwind(call) {
        Ok(Ok(Ok(result))) => Answer::Returned(result),
        Ok(Ok(Err(message))) => Answer::Codec(message),
        Ok(Err(error)) if error.is_timeout() => Answer::TimedOut,
        // The scope was cancelled. Only the function itself can have cancelled it.
        Ok(Err(error)) => Answer::Panicked(error.to_string()),
        Err(payload) => Answer::Panicked(panic_message(&*payload).unwrap_or("without a message").to_owned()),
    }
}

fn limit_memory(bytes: u64) -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    if bytes == 0 {
        return Ok(());
    }
    Ok(setrlimit(Resource::As, Rlimit { current: Some(bytes), maximum: Some(bytes) })?)
}
