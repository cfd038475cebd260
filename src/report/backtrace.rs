//! The stack of the calling thread, taken by std, for systems on which [`stack::own`](super::stack::own) cannot copy
//! the stack.
//!
//! Std gives the frames of a backtrace only as text, and does not promise the form of this text. A line that is not
//! understood is skipped.

use std::backtrace::Backtrace;

use super::contents::{Frame, Stack};
use super::foreign::is_foreign;

/// A stack whose functions have no names yet. It takes some microseconds to make, and [`resolve`](Self::resolve) takes
/// some milliseconds to find the names.
#[derive(Debug)]
pub(super) struct OwnStack(Backtrace);

impl OwnStack {
    pub(super) fn take() -> Self {
        Self(Backtrace::force_capture())
    }

    pub(super) fn resolve(&self) -> Stack {
        // The alternate form has the addresses, and the whole paths.
        parse(&format!("{:#}", self.0))
    }
}

/// Reads the text of a backtrace. Each frame has a line with number, address and name. Most frames have a second line
/// with the place.
fn parse(text: &str) -> Stack {
    let mut frames: Vec<Frame> = Vec::new();
    let mut addresses = Vec::new();
    for line in text.lines() {
        let line = line.trim_start();
        if let Some(place) = line.strip_prefix("at ") {
            if let Some(frame) = frames.last_mut() {
                (frame.file, frame.line) = parse_place(place);
            }
        } else if let Some((address, function)) = parse_function(line) {
            frames.push(Frame { offset: address, ..Frame::with_name(without_hash(function)) });
            addresses.push(address);
        }
    }
    for (at, frame) in frames.iter_mut().enumerate() {
        // Frames with the same address are one call. All of them but the outermost were inlined into the outermost.
        frame.inlined = addresses.get(at + 1) == Some(&addresses[at]);
        frame.foreign = is_foreign(&frame.function, frame.file.as_deref(), "");
    }
    Stack { frames, truncated: false, approximate: false }
}

/// Parses a line such as `12:     0x5581ab3f - name`. `None` for any other line.
fn parse_function(line: &str) -> Option<(u64, &str)> {
    let (number, rest) = line.split_once(": ")?;
    number.parse::<u32>().ok()?;
    let (address, function) = rest.trim_start().split_once(" - ")?;
    let address = u64::from_str_radix(address.strip_prefix("0x")?, 16).ok()?;
    Some((address, function))
}

/// Parses `/path/to/file.rs:12:5`. The column may be missing, and even the line.
fn parse_place(place: &str) -> (Option<String>, Option<u32>) {
    let split = |text: &str| {
        let (head, number) = text.rsplit_once(':')?;
        Some((head.to_owned(), number.parse::<u32>().ok()?))
    };
    let Some((head, last)) = split(place) else { return (Some(place.to_owned()), None) };
    match split(&head) {
        Some((file, line)) => (Some(file), Some(line)),
        None => (Some(head), Some(last)),
    }
}

/// Removes the hash at the end of a name. Legacy mangling adds such a hash.
fn without_hash(function: &str) -> &str {
    match function.rsplit_once("::h") {
        Some((name, hash)) if hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => name,
        _ => function,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backtrace_is_read() {
        let stack = parse(
            "   0:     0x55d0c6b1f2a0 - app::inner::{{closure}}::h0123456789abcdef\n\
             \x20                              at /home/me/app/src/main.rs:12:5\n\
             \x20  1:     0x55d0c6b1f2a0 - app::outer\n\
             \x20  2:     0x55d0c6b1f300 - <tokio::time::Sleep as core::future::future::Future>::poll\n\
             \x20                              at C:\\tokio\\sleep.rs:7\n\
             \x20 10:                0x0 - <unknown>\n\
             a line that says nothing\n",
        );
        let frames: Vec<_> = stack
            .frames
            .iter()
            .map(|frame| (&*frame.function, frame.file.as_deref(), frame.line, frame.inlined, frame.foreign))
            .collect();
        assert_eq!(
            frames,
            [
                ("app::inner::{{closure}}", Some("/home/me/app/src/main.rs"), Some(12), true, false),
                ("app::outer", None, None, false, false),
                (
                    "<tokio::time::Sleep as core::future::future::Future>::poll",
                    Some("C:\\tokio\\sleep.rs"),
                    Some(7),
                    false,
                    true
                ),
                ("<unknown>", None, None, false, false),
            ]
        );
    }

    #[test]
    fn the_own_stack_has_this_function() {
        let stack = OwnStack::take().resolve();
        let names: Vec<_> = stack.frames.iter().map(|frame| &*frame.function).collect();
        assert!(names.iter().any(|name| name.ends_with("the_own_stack_has_this_function")), "{names:?}");
    }
}
