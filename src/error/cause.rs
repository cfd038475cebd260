/// Why a scope is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum Cause {
    /// The scope's deadline passed.
    Deadline,
    /// The [`Quota`](crate::Quota) with which the scope was entered is spent.
    Quota,
    /// A token was cancelled: the scope's own, or one that was given with [`cancel_on`](crate::Timebox::cancel_on).
    Cancelled,
}
