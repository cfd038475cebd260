//! Running a block in a scope.

use std::panic::Location;
use std::sync::Arc;

use super::config::Extras;
use super::entry::{Attachments, Prepared, try_enter, try_enter_duration};
use super::frame::{self, Scope};
use super::spec::{Kind, Parent};
use super::test_hooks::{enter_env, present};
use super::unwind::caught;
use crate::error::TimeoutError;
use crate::thread::Thread;
#[cfg(feature = "profile")]
use crate::thread::visit::Visit;
use crate::time::Limit;
use crate::token::node::Node;

/// Runs a block under a limit.
///
/// The block stops where it checks: at a [`checkpoint`](super::checkpoint), in a [`sleep`](super::sleep()), or in an
/// [`interruptible`](crate::interruptible) call. There the block gets a typed error, and `?` returns from the block in
/// the usual way: locks are released, transactions rolled back, files closed. A value that the block returns is
/// returned unchanged, however late.
///
/// `timeout` waits until its body returns, since the body may borrow from the caller. So code that never checks runs
/// on. [`Timebox::strict`](super::Timebox::strict) refuses a value that comes late.
///
/// The output of the body must be a `Result` (E0308 if it is not). For any other output use [`timeout_value`].
///
/// Around a `block_on`, `timeout` stops the futures of this crate, and code that checks. For any other future use
/// [`future::timeout`](crate::future::timeout).
///
/// # Errors
///
/// The errors of the body; and a [`TimeoutError`] if the body was not started, because no time was left. The error type
/// of the body must be `From<TimeoutError>`. If it is not (E0277), as in a foreign library, use [`timeout_value`]:
/// `timeout_value(limit, || text.parse::<u32>())??`. If the compiler cannot tell the error type (E0283), write it down,
/// [as the front page shows](crate#e0283-type-annotations-needed): [`timebox::Result<_>`](crate::Result) is the short
/// form for the error of this crate.
///
/// # Panics
///
/// A panic of the body passes through.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use timebox::{TimeoutError, checkpoint, timeout};
///
/// fn primes_below(n: u64) -> Result<usize, TimeoutError> {
///     timeout(Duration::from_secs(1), || {
///         let mut count = 0;
///         for candidate in 2..n {
///             checkpoint()?;
///             count += usize::from((2..candidate).all(|d| candidate % d != 0));
///         }
///         Ok(count)
///     })
/// }
///
/// assert_eq!(primes_below(100).unwrap(), 25);
/// assert!(primes_below(u64::MAX).unwrap_err().is_timeout());
/// ```
#[doc(alias("time_limit", "with_deadline", "fail_after", "move_on_after", "WithTimeout", "WithDeadline"))]
#[track_caller]
#[inline]
pub fn timeout<T, E>(limit: impl Into<Limit>, body: impl FnOnce() -> Result<T, E>) -> Result<T, E>
where
    E: From<TimeoutError>,
{
    with_timeout(limit, |_| body())
}

/// Runs a block under a limit, as [`timeout`] does, and passes the scope to the block.
///
/// # Errors
///
/// The errors of [`timeout`].
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// let result = timebox::with_timeout(Duration::from_secs(1), |scope| -> timebox::Result<_> {
///     scope.checkpoint()?;
///     Ok(scope.remaining())
/// });
/// assert!(result.unwrap() <= Some(Duration::from_secs(1)));
/// ```
#[track_caller]
#[inline]
pub fn with_timeout<T, E>(limit: impl Into<Limit>, body: impl FnOnce(&Scope) -> Result<T, E>) -> Result<T, E>
where
    E: From<TimeoutError>,
{
    run(limit.into(), Location::caller(), body, |error| Err(E::from(error)))
}

/// Runs a block under a limit, for a block whose output is not a `Result`. For a `Result` use [`timeout`].
///
/// # Errors
///
/// Fails only if the body was not started, or was unwound by [`checkpoint_or_unwind`](super::checkpoint_or_unwind).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// let sum = timebox::timeout_value(Duration::from_secs(1), || (1..=100).sum::<u32>());
/// assert_eq!(sum.unwrap(), 5050);
/// assert!(!timebox::timeout_value(Duration::ZERO, || ()).unwrap_err().started());
/// ```
#[track_caller]
#[inline]
pub fn timeout_value<T>(limit: impl Into<Limit>, body: impl FnOnce() -> T) -> Result<T, TimeoutError> {
    run(limit.into(), Location::caller(), |_| Ok(body()), Err)
}

/// Runs a body in a scope of its own. If the body was not started or was unwound, `fail` makes the result.
///
/// Without `fail`, this would return two nested `Result`s. To repack them would cost as much as a scope.
#[cfg_attr(not(debug_assertions), inline(always))]
fn run<R>(
    limit: Limit,
    location: &'static Location<'static>,
    body: impl FnOnce(&Scope) -> R,
    fail: impl Fn(TimeoutError) -> R,
) -> R {
    match limit.into_duration() {
        Ok(duration) => Thread::with(|thread| {
            let Prepared { spec, effective } = match try_enter_duration(thread, duration, location) {
                Ok(prepared) => prepared,
                Err(rejected) => return fail(rejected.into_error(thread, None, Parent::Thread)),
            };
            let mut frame = Scope::new(spec, thread);
            match frame::open(thread, &mut frame, effective, None, false, body) {
                Ok(result) => result,
                Err(payload) => fail(caught(&frame, payload)),
            }
        }),
        Err(limit) => run_any(&limit, None, location, body).unwrap_or_else(fail),
    }
}

pub(crate) fn run_any<R>(
    limit: &Limit,
    extras: Option<&Extras>,
    location: &'static Location<'static>,
    body: impl FnOnce(&Scope) -> R,
) -> Result<R, TimeoutError> {
    if let Some(node) = extras.and_then(|extras| extras.options.within.as_ref()) {
        #[cfg(feature = "profile")]
        let _visit = extras.and_then(|extras| {
            Visit::of_handle(extras.options.profile, std::ptr::from_ref(&location).addr())
        });
        return run_within(node, limit, extras, location, body);
    }
    Thread::with(|thread| run_beneath(thread, Parent::Thread, limit, extras, location, body))
}

pub(super) fn run_within<R>(
    node: &Arc<Node>,
    limit: &Limit,
    extras: Option<&Extras>,
    location: &'static Location<'static>,
    body: impl FnOnce(&Scope) -> R,
) -> Result<R, TimeoutError> {
    Thread::with(|thread| {
        let _present = present(&node.env);
        let _guard = enter_env(thread, &node.env);
        run_beneath(thread, Parent::Node(node), limit, extras, location, body)
    })
}

fn run_beneath<R>(
    thread: &Thread,
    parent: Parent<'_>,
    limit: &Limit,
    extras: Option<&Extras>,
    location: &'static Location<'static>,
    body: impl FnOnce(&Scope) -> R,
) -> Result<R, TimeoutError> {
    let kind = if let Parent::Thread = parent { Kind::Block } else { Kind::Entered };
    let (prepared, attachments) = try_enter(thread, limit, extras, location, kind, parent)
        .map_err(|rejected| rejected.into_error(thread, extras, parent))?;
    let Prepared { spec, effective } = prepared;
    let Attachments { node, spending: _spending } = attachments;
    let mut frame = Scope::new(spec, thread);
    frame.set_node(node);
    let result = frame::open(thread, &mut frame, effective, extras, false, body);
    result.map_err(|payload| caught(&frame, payload))
}
