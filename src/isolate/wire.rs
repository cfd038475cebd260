//! The messages between the program and its child.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request<'a> {
    pub(super) function: &'a str,
    /// The nanoseconds that are left; `None` if there is no limit.
    pub(super) left: Option<u64>,
    #[serde(borrow)]
    pub(super) argument: &'a [u8],
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Returned(Vec<u8>),
    Panicked(String),
    /// The argument or the result could not be serialised.
    Codec(String),
    /// The deadline ended the function.
    TimedOut,
}

fn invalid(error: &postcard::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

pub(super) fn write(mut to: impl Write, message: &impl Serialize) -> io::Result<()> {
    let message = postcard::to_stdvec(message).map_err(|error| invalid(&error))?;
    to.write_all(&(message.len() as u64).to_le_bytes())?;
    to.write_all(&message)
}

pub(super) fn read(mut from: impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 8];
    from.read_exact(&mut length)?;
    let mut message = Vec::new();
    let length = u64::from_le_bytes(length);
    // The buffer grows with the bytes that arrive, so a wrong length allocates no memory.
    let read = from.take(length).read_to_end(&mut message)?;
    if read as u64 == length { Ok(message) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

pub(super) fn parse<'a, T: Deserialize<'a>>(message: &'a [u8]) -> io::Result<T> {
    postcard::from_bytes(message).map_err(|error| invalid(&error))
}
