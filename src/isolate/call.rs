use std::convert::Infallible;
use std::panic::Location;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::child::Child;
use super::error::Error;
use super::function::{Function, Isolated};
use super::serve;
use super::wire::Answer;
use crate::scope::run_any;
use crate::sync::SetOnce;
use crate::time::Limit;

/// The names of the functions that were passed to `entry`.
static NAMED: SetOnce<Vec<&'static str>> = SetOnce::new();

/// Serves calls if this process is a child, and then never returns. Call `entry` at the beginning of `main`.
///
/// In the program itself `entry` stores the functions' names, and returns at once. Only the first call counts.
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
///     entry(&[&DOUBLE, &REVERSE]); // all functions, before everything else
///
///     let second = Duration::from_secs(1);
///     # let second = 60 * second;
///     assert_eq!(isolate(second, &DOUBLE, &21).unwrap(), 42);
///     assert_eq!(isolate(second, &REVERSE, &"emit".to_owned()).unwrap(), "time");
/// }
/// ```
pub fn entry(functions: &[&dyn Function]) {
    if let Some(memory) = serve::memory_limit_of_child() {
        serve::serve(functions, memory);
    }
    NAMED.get_or_init(|| functions.iter().map(|function| function.name()).collect());
}

/// Runs a function in a child process, which is killed at the deadline. A last resort: see the
/// [module](mod@crate::isolate).
///
/// In the child the function runs in a scope with the time that is left. So a checkpoint in the function can end the
/// call without a kill.
///
/// # Errors
///
/// The variants of [`Error`] are the ways in which a call fails.
///
/// # Examples
///
/// ```standalone_crate
/// use std::time::Duration;
/// use timebox::isolate::{Error, Isolated, entry, isolate};
///
/// /// Has no checkpoint, and cannot be interrupted.
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
    // This process may be a child whose `main` does not call `entry`. If it started a child of its own, that child
    // would do the same, without end. So the call fails here.
    if serve::memory_limit_of_child().is_some()
        || !NAMED.get().is_some_and(|named| named.contains(&function.name))
    {
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
            Answer::Codec(message) => Err(Error::Codec(message)),
            Answer::TimedOut => {
                // The child measures the time itself, so the call may time out a little before our deadline. The error
                // must not come before our deadline, so this waits for the deadline.
                let Ok(()) = scope.wait_with(location, |_| Ok::<_, Infallible>(()));
                Err(scope.interrupted(location, None).into())
            }
        }
    })?
}
