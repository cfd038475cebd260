//! Hooks: actions that unblock a foreign call when its scope is over.
//!
//! [`Callback`](crate::sync::callback) keeps the promise that a hook ends with its registration. This module decides
//! where a hook runs, when it fires again, and what it escalates to.

mod builder;
mod entry;
mod result;

pub use builder::Hook;
pub(crate) use entry::{DefaultRepeat, Entry};
pub use result::HookResult;
