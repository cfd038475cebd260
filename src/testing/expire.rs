use std::panic::Location;

use super::probe::{Injector, Where, inject, returned};

/// Runs a body in which the innermost scope expires at the `number`-th interruption point, counted from 1.
///
/// An interruption point is a place where code can be stopped: a [`checkpoint`](crate::checkpoint) or
/// [`checkpoint_or_unwind`](crate::checkpoint_or_unwind), a [`require`](crate::require), a [`sleep`](crate::sleep()),
/// an [interruptible call](crate::interruptible()), the entry of a scope, or a poll that leaves the future of a scope
/// pending. [`is_expired`](crate::is_expired) is no interruption point, and neither is a token's
/// [`checkpoint`](crate::CancellationToken::checkpoint). This function opens a scope without a limit around the body.
/// That scope expires if the body has no scope open at the point.
///
/// The scope expires as at its deadline: its hooks run before the body goes on, its token is cancelled, and it stays
/// over. Inside a [`shield`](crate::shield()), the scope around the shield expires: the point itself passes, the next
/// point outside of the shield fails, and the hooks that the shield has held back run at the end of the shield.
/// [`expire_in_shields_at`] lets the shield itself expire. Inside an entered [handle](crate::Handle), the handle's
/// scope expires, even if that scope is a shield.
///
/// If the body has fewer points, it runs to its end. [`for_each_checkpoint`](super::for_each_checkpoint()) counts a
/// body's points.
///
/// # Panics
///
/// If [`checkpoint_or_unwind`](crate::checkpoint_or_unwind) unwinds the whole body, because the body has no scope open
/// there. Or if the body was not run because an outer scope was over.
///
/// # Examples
///
/// ```
/// use timebox::testing::expire_at_checkpoint;
/// use timebox::{TimeoutError, checkpoint};
///
/// let mut steps = 0;
/// let result = expire_at_checkpoint(3, || -> Result<(), TimeoutError> {
///     loop {
///         checkpoint()?;
///         steps += 1;
///     }
/// });
/// assert!(result.unwrap_err().is_timeout());
/// assert_eq!(steps, 2);
/// ```
#[track_caller]
pub fn expire_at_checkpoint<R>(number: usize, body: impl FnOnce() -> R) -> R {
    expire(Where::At { number, in_shields: false }, Location::caller(), body)
}

/// Like [`expire_at_checkpoint`], but inside a shield the innermost scope expires, even if that scope is the shield
/// itself.
///
/// ```
/// use std::time::Duration;
/// use timebox::testing::expire_in_shields_at;
/// use timebox::{TimeoutError, checkpoint, shield};
///
/// let result: Result<(), TimeoutError> = expire_in_shields_at(1, || {
///     assert!(shield(Duration::from_secs(60), checkpoint).is_err());
///     checkpoint()
/// });
/// assert!(result.is_ok());
/// ```
#[track_caller]
pub fn expire_in_shields_at<R>(number: usize, body: impl FnOnce() -> R) -> R {
    expire(Where::At { number, in_shields: true }, Location::caller(), body)
}

/// Runs a body in which each scope with this [label](crate::Timebox::label) expires at its first interruption point.
///
/// # Panics
///
/// For the reasons of [`expire_at_checkpoint`].
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use timebox::testing::expire_at;
/// use timebox::{Timebox, checkpoint};
///
/// let minute = Duration::from_secs(60);
/// let answer = expire_at("query", || {
///     checkpoint()?;
///     Timebox::new(minute).label("query").run_or_else(|_| checkpoint().map(|()| "fresh"), |_| Ok("stale"))
/// });
/// assert_eq!(answer.unwrap(), "stale");
/// ```
#[track_caller]
pub fn expire_at<R>(label: &str, body: impl FnOnce() -> R) -> R {
    expire(Where::In(label.into()), Location::caller(), body)
}

#[track_caller]
fn expire<R>(place: Where, location: &'static Location<'static>, body: impl FnOnce() -> R) -> R {
    returned(inject(&Injector::new(place), location, body))
}
