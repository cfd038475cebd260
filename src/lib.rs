//! Cooperative time limits for any block of code, sync or async.
//!
//! At its deadline the code gets a typed error where it stands, and `?` passes the error up: locks are released,
//! transactions rolled back, connections left clean. Cooperative means that code stops only in certain places: at a
//! [`checkpoint`], in a [`sleep`](fn@sleep), at an `await`, or in a call that a [`Hook`] interrupts.
//!
//! ```
//! use std::time::Duration;
//! use timebox::{Timebox, checkpoint, timeout, timeout_value};
//!
//! fn count_primes(below: u64) -> timebox::Result<usize> {
//!     let mut count = 0;
//!     for n in 2..below {
//!         checkpoint()?; // here a limit can stop it
//!         count += usize::from((2..n).all(|d| n % d != 0));
//!     }
//!     Ok(count)
//! }
//!
//! let limit = Duration::from_millis(100);
//! assert_eq!(timeout(limit, || count_primes(100)).unwrap(), 25);
//! let error = timeout(limit, || count_primes(u64::MAX)).unwrap_err();
//! assert!(error.is_timeout() && error.limit() == Some(limit));
//!
//! // A limit that does nothing is silent: this block never asks, so it runs on, and its late value counts.
//! let deaf = || std::thread::sleep(2 * limit);
//! assert!(timeout_value(limit, deaf).is_ok());
//! // `strict` refuses a late value.
//! assert!(Timebox::new(limit).strict().run_value(|_| deaf()).unwrap_err().is_timeout());
//! ```
//!
//! The same for a future, on any executor:
//!
//! ```
//! use std::time::Duration;
//! use timebox::future;
//!
//! async fn answer() -> timebox::Result<u32> {
//!     future::sleep(Duration::from_secs(60)).await?;
//!     Ok(42)
//! }
//!
//! let error = pollster::block_on(future::timeout(Duration::from_millis(20), answer())).unwrap_err();
//! assert!(error.is_timeout());
//! ```
//!
//! **The [guide] has a page for each task**: [how a limit stops code](guide::stopping), [requests](guide::requests),
//! [errors](guide::errors), [threads and `spawn_blocking`](guide::threads), [cleanup](guide::cleanup),
//! [retries and shared futures](guide::retries), [cancel, Ctrl-C, shutdown](guide::cancellation), [I/O and
//! processes](guide::io), [databases](recipes), [tests](guide::testing), [slow code](guide::slow), [coming from tokio's
//! `timeout` and others](guide::coming_from). Before you use the crate, read its [limitations](guide::limitations).
//!
//! # Which function?
//!
//! | to | use |
//! |---|---|
//! | limit a block | [`timeout`]; [`timeout_value`] if it returns no `Result`; [`with_timeout`] to see its [`Scope`] |
//! | limit a future | [`future::timeout`], [`future::timeout_value`] |
//! | limit each call of a function | [`#[timeboxed]`](guide::stopping#whole-functions), with the feature `macros` |
//! | set a label, a grace, a fallback, a token, or refuse late values | [`Timebox`] |
//! | be stopped, in a loop | [`checkpoint`] |
//! | be stopped, in a foreign call | [`interruptible`] with a [`Hook`]; [`on_cancel`] |
//! | wait | [`sleep`](fn@sleep), [`future::sleep`] |
//! | ask how much time is left | [`remaining`], [`deadline`], [`require`], [`is_expired`] |
//! | wait for a future without dropping it at the limit | [`future::wait`] |
//! | reach another thread or task | [`handle`]; [`Handle::root`] for work that outlives its caller |
//! | cancel | [`CancellationToken`], [`token`] |
//! | share a budget | [`Quota`] |
//! | clean up after the limit | [`shield`], [`future::shield`], [`Timebox::grace`] |
//! | find out why code is slow, and where it hangs | a [policy of reports](guide::slow), with the feature `report` |
//! | leave behind code that cannot be stopped | [`abandon`](fn@abandon); the feature `isolate` |
//!
//! The free functions act on the innermost scope of the thread, or of the future that is being polled. Outside every
//! scope they let the code pass.
//!
//! # The words
//!
//! | word | meaning |
//! |---|---|
//! | limit | what a caller asks for: a duration, an instant, a [quota](Quota), or none |
//! | deadline | the instant on the monotonic clock that a limit becomes when its scope is entered |
//! | scope | the region of execution that a limit bounds: one call of a closure, or one future |
//! | over | said of a scope: expired or cancelled, whether the scope has been left or not |
//! | checkpoint | a place where running code lets itself be stopped |
//! | token | a handle that says whether a scope is over, and can cancel it |
//! | hook | an action that unblocks a foreign call once the scope is over |
//! | watchdog | the one [background thread](guide::background_threads) that notices deadlines |
//!
//! # E0283: type annotations needed
//!
//! A block that uses `?` needs its error type from somewhere. The block has the type if a function returns the result
//! of the call as it is, or if you write `let r: timebox::Result<_> = timeout(..)`. A second `?`, a `match`, `if let`,
//! `unwrap_err` or `is_ok` does not give the type: then the compiler says E0283, or E0282 at the variable. Write
//! the type at the block: [`timebox::Result<_>`](Result) if only this crate's functions fail in the block, or else your
//! own type. For the closures of [`Handle::wrap`] and [`Handle::enter`], write the type in the same place.
//!
//! ```
//! use std::error::Error;
//! use std::fs::read_to_string;
//! use std::time::Duration;
//! use timebox::{TimeoutError, checkpoint, future, timeout};
//!
//! #[derive(Debug, thiserror::Error)]
//! enum MyError {
//!     #[error("{0}")]
//!     Timeout(#[from] TimeoutError),
//!     #[error("reading: {0}")]
//!     Io(#[from] std::io::Error),
//! }
//! const LIMIT: Duration = Duration::from_secs(5);
//!
//! // The function returns the result as it is: there is nothing to write.
//! fn last() -> Result<u32, MyError> {
//!     timeout(LIMIT, || { checkpoint()?; Ok(1) })
//! }
//! fn ours() -> Result<u32, MyError> {
//!     Ok(timeout(LIMIT, || -> timebox::Result<_> { checkpoint()?; Ok(1) })?)
//! }
//! fn own(path: &str) -> Result<usize, MyError> {
//!     let text = timeout(LIMIT, || -> Result<_, MyError> { checkpoint()?; Ok(read_to_string(path)?) })?;
//!     Ok(text.len())
//! }
//! fn with_anyhow(path: &str) -> anyhow::Result<usize> {
//!     let text = timeout(LIMIT, || -> anyhow::Result<_> { checkpoint()?; Ok(read_to_string(path)?) })?;
//!     Ok(text.len())
//! }
//! fn boxed(path: &str) -> Result<usize, Box<dyn Error>> {
//!     let text = timeout(LIMIT, || -> Result<_, Box<dyn Error>> { checkpoint()?; Ok(read_to_string(path)?) })?;
//!     Ok(text.len())
//! }
//! // An async block has no place for its type: its last `Ok` has.
//! async fn in_async() -> Result<u32, MyError> {
//!     let one = future::timeout(LIMIT, async { future::sleep(Duration::ZERO).await?; Ok::<_, MyError>(1) }).await?;
//!     Ok(one)
//! }
//! # assert_eq!((last().unwrap(), ours().unwrap()), (1, 1));
//! # assert_eq!(pollster::block_on(in_async()).unwrap(), 1);
//! # assert!(own("/").is_err() && with_anyhow("/").is_err() && boxed("/").is_err());
//! ```
//!
//! # Safety and correctness
//!
//! `unsafe` is confined to system calls, to calls of PCRE2, to closures lent to hooks, to the stack of scopes, and to
//! the words that each thread publishes. Each `unsafe` block names the invariant that it rests on.
//!
//! A proof of the protocol between threads and watchdog stands beside the protocol's code. A model checker (loom) runs
//! that code, and the code of hooks and tokens. Each promise has a switch that breaks the code on purpose, and the
//! check then fails. Miri runs the tests that it can. One test makes SQLite statements end at thousands of instants
//! around their deadline. It shows that no late interrupt hits the next statement.

// A loom model uses only a part of the crate.
#![cfg_attr(timebox_loom, allow(dead_code, unused_imports, unused_macros))]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![doc(test(attr(deny(warnings))))]
#![cfg_attr(not(test), warn(clippy::disallowed_methods, clippy::disallowed_macros))]

#[cfg(all(feature = "macros", not(timebox_loom)))]
#[doc(hidden)]
pub mod __private;
#[cfg(not(timebox_loom))]
pub mod abandon;
mod error;
#[cfg(not(timebox_loom))]
pub mod future;
#[cfg(any(doc, doctest))]
pub mod guide;
#[cfg(not(timebox_loom))]
mod interrupt;
#[cfg(all(unix, feature = "isolate", not(timebox_loom)))]
pub mod isolate;
mod pool;
#[cfg(not(timebox_loom))]
mod quota;
#[cfg(doc)]
pub mod recipes;
#[cfg(all(feature = "report", not(timebox_loom)))]
pub mod report;
#[cfg(not(timebox_loom))]
mod scope;
mod sync;
mod test_env;
#[cfg(feature = "testing")]
pub mod testing;
mod thread;
mod time;
mod token;
#[cfg(all(feature = "tokio", not(timebox_loom)))]
pub mod tokio;
mod watchdog;

#[cfg(not(timebox_loom))]
pub use abandon::{Saturated, abandon, abandoned};
pub use error::{Cause, HookFailure, Result, ScopeId, ScopeInfo, TimeoutError};
#[cfg(all(unix, feature = "io", not(timebox_loom)))]
pub use interrupt::io;
#[cfg(all(unix, feature = "process", not(timebox_loom)))]
pub use interrupt::process;
#[cfg(not(timebox_loom))]
#[cfg(all(feature = "regex", not(timebox_loom)))]
pub use interrupt::regex;
#[cfg(not(timebox_loom))]
pub use interrupt::{Outcome, interruptible, interruptible_outcome};
#[cfg(all(unix, feature = "isolate", not(timebox_loom)))]
pub use isolate::isolate;
#[cfg(not(timebox_loom))]
pub use quota::Quota;
#[cfg(all(panic = "unwind", not(timebox_loom)))]
pub use scope::checkpoint_or_unwind;
#[cfg(not(timebox_loom))]
pub use scope::{
    Handle, Scope, Timebox, checkpoint, deadline, handle, is_enabled, is_expired, on_cancel, remaining,
    require, set_enabled, shield, sleep, timeout, timeout_value, token, with_timeout,
};
#[cfg(any(timebox_loom, timebox_mutants))]
#[doc(hidden)]
pub use sync::mutants;
pub use time::{Deadline, InvalidDeadline, Limit, now};
#[cfg(feature = "macros")]
#[doc = include_str!("timeboxed.md")]
#[doc(inline)]
pub use timebox_macros::timeboxed;
#[cfg(not(timebox_loom))]
pub use token::{
    CancellationToken, Cancelled, CancelledOwned, DropGuard, DropGuardRef, Registration, RunUntilCancelled,
};
pub use token::{Hook, HookResult};

/// Makes doc tests of the README's examples.
#[cfg(all(doctest, feature = "report", feature = "testing"))]
#[doc = include_str!("../README.md")]
mod readme {}
