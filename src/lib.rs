//! Put a cooperative time limit on any block of code, sync or async, and make it fail gracefully.
//!
//! At the deadline the block gets a typed error at the point where it stands, so that `?` unwinds it: locks are
//! released, transactions rolled back, connections left clean. Cooperative: the block is stopped where it asks, and one
//! that never asks runs on.
//!
//! ```
//! use std::time::Duration;
//! use timebox::{Timebox, TimeoutError, checkpoint, timeout, timeout_value};
//!
//! fn count_primes(n: u64) -> Result<usize, TimeoutError> {
//!     let mut count = 0;
//!     for candidate in 2..n {
//!         checkpoint()?; // here the block can be stopped
//!         count += usize::from((2..candidate).all(|d| candidate % d != 0));
//!     }
//!     Ok(count)
//! }
//!
//! let limit = Duration::from_millis(100);
//! assert_eq!(timeout(limit, || count_primes(100)).unwrap(), 25);
//! let error = timeout(limit, || count_primes(u64::MAX)).unwrap_err();
//! assert!(error.is_timeout());
//! assert_eq!(error.limit(), Some(limit));
//!
//! // A block that never asks is waited for, and what it returns counts, unless a late success is refused.
//! let deaf = || std::thread::sleep(2 * limit);
//! assert!(timeout_value(limit, deaf).is_ok());
//! assert!(Timebox::new(limit).strict().run_value(|_| deaf()).unwrap_err().is_timeout());
//! ```
//!
//! The same for a future, on any executor:
//!
//! ```
//! # pollster::block_on(async {
//! use std::time::Duration;
//! use timebox::{TimeoutError, future};
//!
//! let answer = async {
//!     future::sleep(Duration::from_secs(60)).await?;
//!     Ok::<_, TimeoutError>(42)
//! };
//! let error = future::timeout(Duration::from_millis(20), answer).await.unwrap_err();
//! assert!(error.is_timeout());
//! # });
//! ```
//!
//! # E0283: type annotations needed
//!
//! A block that uses `?`, and whose result meets another `?`, must say what its error is: either `?` would take any. The
//! annotation is [`timebox::Result<_>`](Result) where only this crate's functions fail, or else names your own error:
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
//! // Without a second `?` there is nothing to write.
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
//! # The words
//!
//! - A **limit** is what a caller asks for: a duration, an instant, a [quota](Quota), or none.
//! - A **deadline** is the absolute instant that a limit becomes when its scope is entered.
//! - A **scope** is the region of execution that a limit bounds: one call of a closure, or one future.
//! - A scope is **over** when it has expired or was cancelled. (It has *ended* when it was left.)
//! - A **checkpoint** is a place where running code lets itself be stopped.
//! - A **token** is a handle that says whether a scope is over, and can cancel it.
//! - A **hook** is an action taken when a scope is over, to unblock a foreign call.
//! - The **watchdog** is the one background thread that notices deadlines.
//!
//! # How does it stop my code?
//!
//! It asks. There is no signal and no exception thrown from outside: code is stopped at a [`checkpoint`], in a
//! [`sleep`](fn@sleep), at an await, or in a call that a [hook](Hook) can end.
//!
//! | code | what stops it |
//! |---|---|
//! | a loop | [`checkpoint()?`](checkpoint) in it, for the price of a comparison |
//! | a foreign call with a way to interrupt it (`SQLite`, a socket, a child process) | [`interruptible`] with a hook |
//! | reads and writes of sockets and pipes, child processes, regular expressions | the features `io`, `process`, `regex` |
//! | a query on a database server | [`interruptible`] with a hook that cancels it there: see [`recipes`] |
//! | a future | it is dropped where it stands; or it is given a [grace](Timebox::grace), and ends by itself: see [`future`] |
//! | code that cannot return an error (a comparison in a sort) | [`checkpoint_or_unwind`] |
//! | a foreign call with no way to interrupt it, a page fault on a dead disk | nothing |
//!
//! # Limitations
//!
//! - [`timeout`] waits for its body, since the body borrows. Code that never checks, and blocks in no interruptible
//!   call, runs on until it ends by itself.
//! - A body's result wins, however late: an `Ok` is never thrown away. Who wants a late success refused says
//!   [`strict`](Timebox::strict), or ends the body with a checkpoint.
//! - A plain scope whose body returns late, without an error, leaves no trace.
//! - A future that was dropped leaves what it used in the middle: see [`settled`](TimeoutError::settled).
//! - Nothing is inherited by `spawn`, `spawn_blocking`, rayon or a thread pool: a [`Handle`] brings a scope to another
//!   thread or task, by [`wrap`](Handle::wrap) or [`enter_future`](Handle::enter_future). But what a thread runs while
//!   a scope is open on it (tasks of a runtime it drives, jobs it steals) runs inside that scope.
//! - After a `fork` the child starts afresh: timers and hooks from before do not fire there.
//! - Two copies of this crate in one binary do not see each other's scopes.
//!
//! # Nesting
//!
//! A scope's effective deadline is the earliest of its own and those around it. The error names the scope that is over,
//! and when several are, the outermost; inner boundaries pass it through. [`run_or_else`](Timebox::run_or_else) acts on
//! the expiry of its own scope only:
//!
//! ```
//! use std::time::Duration;
//! use timebox::{Timebox, checkpoint, timeout};
//!
//! fn search() -> timebox::Result<&'static str> {
//!     loop {
//!         checkpoint()?;
//!     }
//! }
//!
//! let answer = timeout(Duration::from_secs(5), || {
//!     Timebox::new(Duration::from_millis(10)).run_or_else(|_| search(), |_timed_out| Ok("the cached answer"))
//! });
//! assert_eq!(answer.unwrap(), "the cached answer");
//! ```
//!
//! # What runs behind your back
//!
//! The first scope starts a thread named `timebox-watchdog`, with all signals blocked. It sleeps until the earliest
//! deadline, is woken only for one that is earlier, and ends itself after half a minute with nothing to do. Hooks that
//! may block run on threads named `timebox-hook`, which end after ten idle seconds. A thread named `timebox-deputy`, there only
//! while timers are, takes over from a watchdog that is stuck in an inline hook or in the waker of a task. The crate prints nothing, except
//! for one line before it aborts a process that left its scopes out of order.
//!
//! # Safety and correctness
//!
//! `unsafe` is confined to system calls, to closures lent to hooks, and to the stack of frames and the per-thread words.
//! The watchdog's protocol, hooks and tokens are checked with loom, on the code itself; each promise of the protocol can
//! be broken by a switch, and the models then fail.

// A model uses a part of the crate.
#![cfg_attr(timebox_loom, allow(dead_code, unused_imports, unused_macros))]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![doc(test(attr(deny(warnings))))]
#![warn(clippy::disallowed_methods, clippy::disallowed_macros)]

#[cfg(not(timebox_loom))]
pub mod abandon;
mod error;
#[cfg(not(timebox_loom))]
pub mod future;
#[cfg(not(timebox_loom))]
mod interrupt;
#[cfg(all(unix, feature = "isolate", not(timebox_loom)))]
pub mod isolate;
mod pool;
#[cfg(not(timebox_loom))]
mod quota;
#[cfg(doc)]
pub mod recipes;
#[cfg(not(timebox_loom))]
mod scope;
mod sync;
mod test_env;
#[cfg(feature = "testing")]
pub mod testing;
mod thread;
mod time;
mod token;
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
pub use time::{Deadline, Limit, now};
#[cfg(not(timebox_loom))]
pub use token::{
    CancellationToken, Cancelled, CancelledOwned, DropGuard, DropGuardRef, Registration, RunUntilCancelled,
};
pub use token::{Hook, HookResult};

/// The examples of the README are run too.
#[cfg(all(doctest, unix, feature = "testing", feature = "io", feature = "process"))]
#[doc = include_str!("../README.md")]
mod readme {}
