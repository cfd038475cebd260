//! The child: it serves calls until the program closes the line.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::Duration;

use super::Function;
use super::frame::{self, Answer, Request};
use crate::scope::timeout_value;
use crate::sync::os;
use crate::time::Limit;

/// Set for children: the memory they may have, or 0.
pub(super) const ASKED: &str = "TIMEBOX_ISOLATE";

/// Whether this process is to serve, and its memory limit; 0 for none.
pub(super) fn asked_to_serve() -> Option<u64> {
    std::env::var(ASKED).ok()?.parse().ok()
}

/// The line is the standard input, so far: a socket.
pub(super) fn serve(functions: &[&dyn Function], memory: u64) -> ! {
    let ended = limit_memory(memory).and_then(|()| {
        let line = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        // It is between us two: the function, and what it starts, read nothing. (The clone is closed on exec.)
        os::replace_stdin(File::open("/dev/null")?.as_fd())?;
        // Says that there is an entry.
        frame::write(&line, &())?;
        let requests = requests(line.try_clone()?)?;
        for request in requests {
            frame::write(&line, &answer(functions, &frame::parse(&request)?))?;
        }
        Ok(())
    });
    std::process::exit(i32::from(ended.is_err()))
}

/// A thread reads them, so that the child ends with the program in the middle of a call too.
fn requests(line: UnixStream) -> io::Result<mpsc::Receiver<Vec<u8>>> {
    let (send, requests) = mpsc::channel();
    os::spawn("timebox-isolate", move || {
        while let Ok(request) = frame::read(&line) {
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
        // It is over there too, which the program will see by itself.
        Ok(Err(error)) => Answer::Panicked(error.to_string()),
        Err(payload) => {
            let text = payload.downcast_ref::<&str>().copied();
            let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
            Answer::Panicked(text.unwrap_or("without a message").to_owned())
        }
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
