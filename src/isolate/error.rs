//! Why a call in a child process has no result.

use std::process::ExitStatus;

use crate::error::TimeoutError;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The scope is over; the child is gone.
    #[error("{0}")]
    Timeout(#[from] TimeoutError),
    /// `main` does not call [`entry`], or does not name this function to it.
    #[error(
        "`{0}` cannot be isolated: `timebox::isolate::entry` must be called at the beginning of `main`, with it"
    )]
    NoEntry(&'static str),
    /// The child ended in the middle of the call: it crashed, ran out of memory, or was killed by somebody else.
    #[error("the child process died in the middle of the call ({0})")]
    Died(ExitStatus),
    /// The function panicked. The child goes on.
    #[error("the isolated function panicked: {0}")]
    Panicked(String),
    /// The argument or the result could not be serialised.
    #[error("cannot be sent: {0}")]
    Codec(String),
    /// The child could not be started, or not be talked to; or the call is made from within an isolated function.
    #[error("the child process: {0}")]
    Io(#[from] std::io::Error),
}

impl Error {
    /// The error of the scope, if that is why.
    pub fn timeout(&self) -> Option<&TimeoutError> {
        if let Self::Timeout(error) = self { Some(error) } else { None }
    }
}
