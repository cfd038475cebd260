//! Functions that run in a child process, which is killed at the deadline (feature `isolate`): a last resort that leaves
//! nothing behind.
//!
//! For code that cannot be interrupted, must not go on, and takes and gives plain data: an expression of a stranger, a
//! parser in C, a solver. The child is this very program, started again, so [`entry`] must stand **at the beginning of
//! `main`**: there a child begins to serve, and never goes on. It is kept from call to call; a call costs some
//! microseconds and two copies of the data, and one that has to start a child about a millisecond. What the function
//! touches besides its argument (statics, files, the working directory) is the child's own, or shared with care; its
//! standard input is empty. The data is serialised without a look at the limit: hundreds of megabytes take seconds.
//!
//! At the deadline the child, and all of its process group, is killed, so nothing of it is cleaned up: temporary files
//! stay. The next call starts another.
//!
//! ```no_run
//! use std::time::Duration;
//! use timebox::isolate::{Isolated, entry, isolate};
//!
//! static COUNT: Isolated<String, usize> = Isolated::new("count", |text| {
//!     text.chars().filter(|char| char.is_alphabetic()).count() // stands for a library that cannot be stopped
//! });
//!
//! fn main() -> Result<(), timebox::isolate::Error> {
//!     entry(&[&COUNT]); // before everything else
//!
//!     let count = isolate(Duration::from_secs(1), &COUNT, &"a1b2".to_owned())?;
//!     assert_eq!(count, 2);
//!     Ok(())
//! }
//! ```

mod child;
mod frame;
mod serve;

use std::convert::Infallible;
use std::fmt;
use std::panic::Location;
use std::process::ExitStatus;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::TimeoutError;
use crate::scope::run_any;
use crate::sync::SetOnce;
use crate::time::Limit;
use child::Child;
use frame::Answer;

/// A function that can run in a child process.
///
/// Make it a `static`, and name it to [`entry`].
pub struct Isolated<A, R> {
    name: &'static str,
    memory: Option<u64>,
    function: fn(A) -> R,
}

impl<A, R> Isolated<A, R> {
    /// A function, under a name that no other has.
    pub const fn new(name: &'static str, function: fn(A) -> R) -> Self {
        Self { name, memory: None, function }
    }

    /// The child may have so many bytes of address space at most; a call that needs more ends it, with
    /// [`Error::Died`]. The program itself counts.
    pub const fn memory_limit(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }
}

impl<A, R> fmt::Debug for Isolated<A, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Isolated")
            .field("name", &self.name)
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
}

/// What [`entry`] takes: every [`Isolated`] whose types can be sent.
pub trait Function: sealed::Call + Sync {}

impl<A: DeserializeOwned, R: Serialize> Function for Isolated<A, R> {}

#[allow(unnameable_types)] // nobody else is to implement it
mod sealed {
    /// A function as the child sees it.
    pub trait Call {
        fn name(&self) -> &'static str;
        /// Takes and gives serialised data.
        fn call(&self, argument: &[u8]) -> Result<Vec<u8>, String>;
    }
}

impl<A: DeserializeOwned, R: Serialize> sealed::Call for Isolated<A, R> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn call(&self, argument: &[u8]) -> Result<Vec<u8>, String> {
        let argument = postcard::from_bytes(argument).map_err(|error| error.to_string())?;
        postcard::to_stdvec(&(self.function)(argument)).map_err(|error| error.to_string())
    }
}

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

/// The functions that were named to `entry`.
static NAMED: SetOnce<Vec<&'static str>> = SetOnce::new();

/// Must stand at the beginning of `main`: in a child process it serves calls, and does not return.
///
/// In the program itself it notes the functions, and returns at once. The first call counts.
///
/// # Examples
///
/// ```standalone_crate
/// use std::time::Duration;
/// use timebox::isolate::{Isolated, entry, isolate};
///
/// static DOUBLE: Isolated<u32, u32> = Isolated::new("double", |n| 2 * n);
/// static REVERSE: Isolated<String, String> = Isolated::new("reverse", |text| text.chars().rev().collect());
///
/// fn main() {
///     entry(&[&DOUBLE, &REVERSE]); // all of them, before everything else
///
///     let second = Duration::from_secs(1);
///     # let second = 60 * second;
///     assert_eq!(isolate(second, &DOUBLE, &21).unwrap(), 42);
///     assert_eq!(isolate(second, &REVERSE, &"emit".to_owned()).unwrap(), "time");
/// }
/// ```
pub fn entry(functions: &[&dyn Function]) {
    if let Some(memory) = serve::asked_to_serve() {
        serve::serve(functions, memory);
    }
    NAMED.get_or_init(|| functions.iter().map(|function| function.name()).collect());
}

/// Runs a function in a child process, which is killed at the deadline. A last resort: see the [module](self).
///
/// The function runs in a scope of its own there, with the time that is left; so code in it that checks ends by itself.
///
/// # Errors
///
/// See [`Error`].
///
/// # Examples
///
/// ```standalone_crate
/// use std::time::Duration;
/// use timebox::isolate::{Error, Isolated, entry, isolate};
///
/// /// Looks at no scope, and cannot be interrupted.
/// static SEARCH: Isolated<u64, u64> = Isolated::new("search", |from| (from..).find(|&n| n < from).unwrap_or(0));
///
/// fn main() {
///     entry(&[&SEARCH]);
///
///     match isolate(Duration::from_millis(100), &SEARCH, &7) {
///         Err(Error::Timeout(error)) => assert!(error.is_timeout()), // and the child is gone
///         result => panic!("{result:?}"),
///     }
/// }
/// ```
#[track_caller]
pub fn isolate<A, R>(limit: impl Into<Limit>, function: &Isolated<A, R>, argument: &A) -> Result<R, Error>
where
    A: Serialize,
    R: DeserializeOwned,
{
    let location = Location::caller();
    if serve::serves() {
        let nested = "an isolated function cannot be called from within an isolated function";
        return Err(std::io::Error::new(std::io::ErrorKind::Unsupported, nested).into());
    }
    // In a child whose `main` has no entry this is where the program ends up; it must not start another.
    if serve::asked_to_serve().is_some() || !NAMED.get().is_some_and(|named| named.contains(&function.name)) {
        return Err(Error::NoEntry(function.name));
    }
    let argument = postcard::to_stdvec(argument).map_err(|error| Error::Codec(error.to_string()))?;
    run_any(&limit.into(), None, location, |scope| {
        scope.checkpoint_at(location)?;
        let child = Child::idle_or_new(function.name, function.memory)?;
        match child.call(scope, location, function.name, &argument)? {
            Answer::Returned(result) => {
                postcard::from_bytes(&result).map_err(|error| Error::Codec(error.to_string()))
            }
            Answer::Panicked(message) => Err(Error::Panicked(message)),
            Answer::Unreadable(message) => Err(Error::Codec(message)),
            Answer::Over => {
                // The child measures the time by itself, and may be a little ahead.
                let Ok(()) = scope.wait_with(location, |_| Ok::<_, Infallible>(()));
                Err(scope.interrupted(location, None).into())
            }
        }
    })?
}
