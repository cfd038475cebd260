//! Cancellation: tokens and hooks, and the nodes that stand behind them.

pub(crate) mod hook;
pub(crate) mod node;
#[cfg(not(timebox_loom))]
mod handles;
#[cfg(all(test, timebox_loom))]
mod model;
#[cfg(not(timebox_loom))]
mod registration;
pub(crate) mod trail;

pub use hook::Hook;
#[cfg(not(timebox_loom))]
pub use handles::{CancellationToken, Cancelled, CancelledOwned, DropGuard, RunUntilCancelled};
#[cfg(not(timebox_loom))]
pub use registration::Registration;
