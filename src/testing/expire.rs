use std::panic::Location;

use super::probe::{Injector, Where, inject, returned};

/// Runs a body in which the innermost scope expires at the `number`-th interruption point, counted from 1.
///
/// An interruption point is where code lets itself be stopped: a [`checkpoint`](crate::checkpoint) or
/// [`checkpoint_or_unwind`](crate::checkpoint_or_unwind), a [`require`](crate::require), a [`sleep`](crate::sleep()), an
/// [interruptible call](crate::interruptible()), the entry of a scope; and each time the future of a scope is pending.
/// [`is_expired`](crate::is_expired) is none, nor is the [`checkpoint`](crate::CancellationToken::checkpoint) of a token.
/// Where no scope is open, the one expires that this function opens around the body, which has no limit of its own.
///
/// The scope expires as at its deadline: its hooks have run when the point is passed on, its token says so, and it stays
/// over. Inside a [`shield`](crate::shield()) the scope around the shield expires, as it could at any time: that point
/// passes, and the next one outside fails; the hooks that the shield has held up have run when it is left. For a shield's
/// own limit see [`expire_in_shields_at`]. Where a [handle](crate::Handle) is entered, it is the handle's scope that
/// expires, be it a shield's.
///
/// A body that has fewer points runs to its end. [`for_each_checkpoint`](super::for_each_checkpoint()) finds out how many
/// there are.
///
/// # Panics
///
/// If [`checkpoint_or_unwind`](crate::checkpoint_or_unwind) unwinds the body where no scope is open in it; and if the
/// body was not run, since a scope around is over.
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

/// As [`expire_at_checkpoint`], except that in a shield it is the innermost scope in it that expires, and be it the
/// shield itself.
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

/// Runs a body in which each scope with this [label](crate::Timebox::label) expires, at the first interruption point in
/// it.
///
/// # Panics
///
/// As [`expire_at_checkpoint`].
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
