//! Cancellation: tokens and hooks, and the tree of nodes that they share.

#[cfg(not(timebox_loom))]
mod cancellation_token;
#[cfg(not(timebox_loom))]
mod futures;
#[cfg(not(timebox_loom))]
mod guards;
pub(crate) mod hook;
#[cfg(all(test, timebox_loom))]
mod model;
pub(crate) mod node;
#[cfg(not(timebox_loom))]
mod registration;

#[cfg(not(timebox_loom))]
pub use cancellation_token::CancellationToken;
#[cfg(not(timebox_loom))]
pub use futures::{Cancelled, CancelledOwned, RunUntilCancelled};
#[cfg(not(timebox_loom))]
pub use guards::{DropGuard, DropGuardRef};
pub use hook::{Hook, HookResult};
#[cfg(not(timebox_loom))]
pub use registration::Registration;
