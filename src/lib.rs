//! timebox
mod error;
#[cfg(not(timebox_loom))]
pub mod future;
#[cfg(not(timebox_loom))]
mod interrupt;
#[cfg(not(timebox_loom))]
mod quota;
#[cfg(not(timebox_loom))]
mod scope;
mod sync;
mod time;
mod token;
mod watchdog;

pub use error::{Cause, Result, ScopeId, ScopeInfo, TimeoutError};
#[cfg(not(timebox_loom))]
pub use interrupt::{Outcome, interruptible, interruptible_outcome};
#[cfg(not(timebox_loom))]
pub use quota::Quota;
#[cfg(not(timebox_loom))]
pub use scope::{
    Handle, Scope, Timebox, checkpoint, checkpoint_or_unwind, deadline, handle, is_enabled, is_expired, on_cancel, remaining,
    require, set_enabled, shield, sleep, timeout, timeout_value, token, with_timeout,
};
pub use time::{Deadline, Limit};
#[cfg(not(timebox_loom))]
pub use token::{Cancelled, CancelledOwned, CancellationToken, DropGuard, Registration, RunUntilCancelled};
pub use token::Hook;
