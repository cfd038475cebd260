//! Testing the failure path (feature `testing`).
//!
//! A timeout path that no test has run is a guess. Here are tests of it that take no time, do not flake, and leave no
//! checkpoint out:
//!
//! - [`MockClock`]: time that moves when the test says so.
//! - [`expire_at_checkpoint`] and [`expire_at`]: a scope expires at one place.
//! - [`for_each_checkpoint`]: at every place in turn.
//! - [`assert_checkpoints`]: fails where a checkpoint is missing.
//!
//! [`testing::future`](mod@future) has the same for futures.

mod clock;
mod expire;
pub mod future;
mod gaps;
mod probe;
mod sweep;

pub use clock::MockClock;
pub use expire::{expire_at, expire_at_checkpoint, expire_in_shields_at};
pub use gaps::assert_checkpoints;
pub use sweep::{Outcome, Point, Report, for_each_checkpoint, try_for_each_checkpoint};
