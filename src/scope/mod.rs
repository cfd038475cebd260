//! Scopes: frames on the stack of a thread, entry, checkpoints, and the scope of a future between its polls.
//!
//! No module outside this folder knows the fields of a frame.

pub(crate) mod await_over;
mod builder;
mod cancel;
pub(crate) mod checkpoint;
mod cold_box;
mod config;
mod entry;
mod frame;
mod handle;
pub(crate) mod interrupted;
#[cfg(feature = "report")]
pub(crate) mod observe;
#[cfg(feature = "testing")]
pub(crate) mod presence;
mod run;
mod shield;
mod sleep;
mod spec;
mod suspended;
mod switch;
pub(crate) mod test_hooks;
mod unwind;
mod wait;
#[cfg(feature = "report")]
pub(crate) mod watched;

pub use builder::Timebox;
pub use cancel::{on_cancel, token};
#[cfg(panic = "unwind")]
pub use checkpoint::checkpoint_or_unwind;
pub use checkpoint::{checkpoint, deadline, is_expired, remaining, require};
pub(crate) use config::Extras;
pub(crate) use entry::Rejected;
pub use frame::Scope;
#[cfg(feature = "report")]
pub(crate) use frame::copy::{ReadMemory, ScopeCopies, ScopeCopy};
pub(crate) use frame::errors::error_at;
#[cfg(feature = "report")]
pub(crate) use frame::looks::{STUCK_POLL, is_watched};
pub(crate) use frame::{Entered, innermost, run as run_entered};
pub use handle::{Handle, handle};
pub(crate) use run::run_any;
pub use run::{timeout, timeout_value, with_timeout};
pub use shield::shield;
pub(crate) use shield::{HeldOffHooks, longest};
pub use sleep::sleep;
#[cfg(feature = "report")]
pub(crate) use spec::Kind as ScopeKind;
pub(crate) use suspended::SuspendedScope;
pub use switch::{is_enabled, set_enabled};
pub(crate) use wait::WaitLimit;
