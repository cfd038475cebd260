//! [`TimeoutError`], its parts, and how it is made. The module holds plain values: it uses no scopes, tokens or clocks.

mod cause;
mod chain;
mod display;
mod failure;
mod find;
mod scope;
#[cfg(feature = "serde")]
mod serialize;
mod termination;
mod text;
mod timeout_error;

pub use cause::Cause;
pub(crate) use chain::{Chain, Link, RaiseContext, SharedScope};
pub use failure::HookFailure;
pub(crate) use scope::Fields;
pub use scope::{ScopeId, ScopeInfo};
pub(crate) use termination::{Origin, Termination};
#[cfg(feature = "report")]
pub(crate) use text::{OneLine, Rounded};
pub use timeout_error::TimeoutError;

/// A result whose error is a [`TimeoutError`] unless another type is named.
///
/// A closure that uses `?` needs its error type from somewhere. Write the type down at the closure if nothing else
/// gives it (the compiler then says E0283 or E0282). This alias is a short way to write it down. [The front
/// page](crate#e0283-type-annotations-needed) has examples for your own error types, for anyhow and for async blocks.
///
/// ```
/// use std::time::Duration;
///
/// fn sum(numbers: &[u64]) -> timebox::Result<u64> {
///     let total = timebox::timeout(Duration::from_secs(1), || -> timebox::Result<_> {
///         let mut total = 0;
///         for n in numbers {
///             timebox::checkpoint()?;
///             total += n;
///         }
///         Ok(total)
///     })?;
///     Ok(total)
/// }
/// # assert_eq!(sum(&[1, 2, 3]).unwrap(), 6);
/// ```
pub type Result<T, E = TimeoutError> = std::result::Result<T, E>;
