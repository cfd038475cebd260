//! `tokio::time` on the scopes of this crate: a port is a change of the `use` line.
//!
//! ```
//! use std::io;
//! use timebox::tokio::time::{self, Duration}; // was: tokio::time
//!
//! async fn answer() -> io::Result<u32> {
//!     time::sleep(Duration::from_secs(60)).await;
//!     Ok(42)
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let error = match time::timeout(Duration::from_millis(10), answer()).await {
//!     Ok(answer) => answer.unwrap_err(),
//!     Err(elapsed) => io::Error::from(elapsed),
//! };
//! assert_eq!(error.kind(), io::ErrorKind::TimedOut);
//! # }
//! ```
//!
//! Names and outputs are tokio's. [`Instant`], [`Duration`] and [`MissedTickBehavior`] are tokio's own types.
//! [`Timeout`], [`Sleep`], [`Interval`] and [`error::Elapsed`] are types of this crate, with the methods and traits of
//! tokio's types.
//!
//! What a program gains, with no other change: a [`timeout`](timeout()) opens a scope, so
//! [`checkpoint`](crate::checkpoint()), [`handle`](crate::handle()) and [`remaining`](crate::remaining()) work in it;
//! an `Elapsed` tells which limit it was; timers are exact to some microseconds where tokio's are to a millisecond;
//! they fire while the threads of the runtime are blocked, and need no runtime at all.
//!
//! Code that takes a type of tokio's, such as tokio-stream's `IntervalStream`, needs tokio's own.
//!
//! To go further, let a function return this crate's error, and replace `timeout` by
//! [`future::timeout`](crate::future::timeout): the page [coming from tokio](crate::guide::coming_from) has it line by
//! line.
//!
//! # A paused clock
//!
//! With tokio's feature `test-util`, `pause`, `resume` and `advance` are here too: they are tokio's own. A timer that
//! is made, or polled, on a runtime whose clock is or was paused follows that clock, so `start_paused` and auto-advance
//! work as ever. If a task waits for a timer when the clock is paused, the timer goes on by the real clock until its
//! next poll.
//!
//! A scope that `timeout` opens under a paused clock has no deadline until the clock has reached its limit. Until then
//! `remaining` considers only the scopes around it.
//!
//! Under a [`MockClock`](crate::guide::testing) of this crate the timers here follow that clock.

mod alarm;
pub(super) mod clock;
pub mod error;
mod interval;
mod sleep;
mod timeout;

pub use interval::{Interval, interval, interval_at};
pub use sleep::{Sleep, sleep, sleep_until};
pub use timeout::{Timeout, timeout, timeout_at};

#[doc(no_inline)]
pub use ::tokio::time::{Duration, Instant, MissedTickBehavior};
// The other items: `pause`, `resume` and `advance`. They exist only if tokio has its feature `test-util`, and this
// crate cannot see whether it has.
#[allow(
    clippy::wildcard_imports,
    unused_imports,
    unreachable_pub,
    reason = "without that feature there is no rest"
)]
#[doc(no_inline)]
pub use ::tokio::time::*;
