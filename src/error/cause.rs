//! Why a scope is over.

/// Why a scope is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum Cause {
    /// Its deadline passed.
    Deadline,
    /// The [`Quota`](crate::Quota) it was entered with is spent.
    Quota,
    /// Its token was cancelled, or one named with [`cancel_on`](crate::Timebox::cancel_on).
    Cancelled,
}
