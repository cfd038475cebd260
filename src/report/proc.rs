use std::fs::File;
use std::io::{BufRead, BufReader, Read};

/// How much of a file is read, at most. A table of sockets has about 150 bytes for each socket.
const MOST_BYTES: u64 = 4 << 20;

/// The lines of a file, up to `MOST_BYTES`. There are none if the file cannot be opened. Bytes that are no UTF-8 are
/// replaced.
pub(super) fn lines(path: &str) -> impl Iterator<Item = String> {
    let file = File::open(path).ok();
    let mut file = file.map(|file| BufReader::with_capacity(64 << 10, file.take(MOST_BYTES)));
    std::iter::from_fn(move || {
        let mut line = Vec::new();
        let read = file.as_mut()?.read_until(b'\n', &mut line).ok()?;
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        (read > 0).then(|| String::from_utf8_lossy(line).into_owned())
    })
}

pub(super) fn line(path: &str) -> Option<String> {
    lines(path).next()
}

/// The value of a field in a file with a field `NAME:<tab>VALUE` on each line.
pub(super) fn field(path: &str, name: &str) -> Option<String> {
    lines(path).find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned()))
}
