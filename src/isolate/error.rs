use std::process::ExitStatus;

use crate::error::TimeoutError;

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The scope is over. The child has been killed, or has ended the call by itself.
    #[error("{0}")]
    Timeout(#[from] TimeoutError),
    /// `main` does not call [`entry`](super::entry), or does not pass this function to it.
    #[error(
        "`{0}` cannot be isolated: `timebox::isolate::entry` must be called at the beginning of `main`, with it"
    )]
    NoEntry(&'static str),
    /// The child ended during the call: it crashed, ran out of memory, or was killed by another process.
    #[error("the child process died in the middle of the call ({0})")]
    Died(ExitStatus),
    /// The function panicked, with this message. The child serves later calls.
    #[error("the isolated function panicked: {0}")]
    Panicked(String),
    /// The argument or the result could not be serialised.
    #[error("cannot be sent: {0}")]
    Codec(String),
    /// The child could not be started, or the connection to it failed. Or an isolated function called
    /// [`isolate`](super::isolate), which is not supported.
    #[error("the child process: {0}")]
    Io(#[from] std::io::Error),
}

impl Error {
    /// The scope's error, if this is [`Error::Timeout`].
    pub fn timeout(&self) -> Option<&TimeoutError> {
        if let Self::Timeout(error) = self { Some(error) } else { None }
    }
}
