//! Why a scope is over.

/// Why a scope is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum Cause {
    /// The scope's deadline passed.
    Deadline,
    /// The [`Quota`](crate::Quota) with which the scope was entered is spent.
    Quota,
    /// The scope's token was cancelled, or a token that was given with [`cancel_on`](crate::Timebox::cancel_on).
    Cancelled,
}
