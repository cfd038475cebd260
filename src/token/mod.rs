//! Cancellation: tokens and hooks, and the nodes that stand behind them.

#[cfg(not(timebox_loom))]
mod guards;
#[cfg(not(timebox_loom))]
mod handles;
pub(crate) mod hook;
#[cfg(all(test, timebox_loom))]
mod model;
pub(crate) mod node;
#[cfg(not(timebox_loom))]
mod registration;
mod result;
#[cfg(not(timebox_loom))]
mod waits;

#[cfg(not(timebox_loom))]
pub use guards::{DropGuard, DropGuardRef};
#[cfg(not(timebox_loom))]
pub use handles::CancellationToken;
pub use hook::Hook;
#[cfg(not(timebox_loom))]
pub use registration::Registration;
pub use result::HookResult;
#[cfg(not(timebox_loom))]
pub use waits::{Cancelled, CancelledOwned, RunUntilCancelled};
