//! Scopes of blocks: entering them, what they are given on entry, and what is done in them.

mod builder;
pub(crate) mod checkpoint;
mod entry;
pub(crate) mod frame;
mod handle;
pub(crate) mod over;
#[cfg(feature = "testing")]
pub(crate) mod presence;
mod shield;
mod sleep;
pub(crate) mod suspended;
mod switch;
pub(crate) mod test_hooks;

use std::any::Any;
use std::panic::{Location, resume_unwind};
use std::sync::Arc;

use crate::error::TimeoutError;
use crate::thread::Thread;
use crate::time::{Limit, clock};
use crate::token::node::{Node, Tie};
use crate::token::{CancellationToken, Hook, Registration};

pub(crate) use builder::Extras;
pub use builder::Timebox;
#[cfg(panic = "unwind")]
pub use checkpoint::checkpoint_or_unwind;
pub use checkpoint::{checkpoint, deadline, is_expired, remaining, require};
use entry::try_enter_duration;
pub(crate) use entry::{Prepared, Rejected, Spending, linked_node, try_enter, try_enter_poll, wait_terms};
pub use frame::Scope;
pub use handle::{Handle, handle};
pub use shield::shield;
pub(crate) use shield::{HeldOffHooks, longest};
pub use sleep::sleep;
pub use switch::{is_enabled, set_enabled};

/// Runs a block under a limit.
///
/// The block is stopped where it lets itself be stopped: at a [`checkpoint`], in a [`sleep`](sleep()), in an
/// [`interruptible`](crate::interruptible) call. There it gets a typed error, so that `?` unwinds it: locks are
/// released, transactions rolled back, files closed. What the block returns is returned unchanged, however late.
///
/// `timeout` waits for its body, since the body borrows: code that never checks runs on. [`Timebox::strict`] refuses what
/// comes of it.
///
/// The body's output must be a `Result` (E0308 says where it is not); where it is none use [`timeout_value`].
///
/// Around a `block_on` it stops the futures of this crate and what checks; for any other future use
/// [`future::timeout`](crate::future::timeout).
///
/// # Errors
///
/// Those of the body; and a [`TimeoutError`] if the body was not started, because there was no time left to begin
/// with. The body's error type must be `From<TimeoutError>`; where it is not (E0277), as of a foreign library, put
/// [`timeout_value`] around: `timeout_value(limit, || text.parse::<u32>())??`. Where the compiler
/// cannot tell the error type (E0283), write it down, [as the front page shows](crate#e0283-type-annotations-needed):
/// [`timebox::Result<_>`](crate::Result) is short for ours.
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

/// Runs a block under a limit, as [`timeout`] does, with the scope in hand.
///
/// # Errors
///
/// As [`timeout`].
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

/// Runs a block that is not a `Result` under a limit. For one that is, see [`timeout`].
///
/// # Errors
///
/// Fails only if the body was not started, or was unwound by [`checkpoint_or_unwind`].
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

/// Runs a body in a scope of its own.
///
/// `fail` makes the result of a body that was not started or was unwound: one `Result`, not two nested ones, whose
/// repacking costs as much as a scope.
#[cfg_attr(not(debug_assertions), inline(always))]
fn run<R>(
    limit: Limit,
    location: &'static Location<'static>,
    body: impl FnOnce(&Scope) -> R,
    fail: impl Fn(TimeoutError) -> R,
) -> R {
    match limit.into_duration() {
        Ok(duration) => Thread::with(|thread| {
            let (terms, effective) = match try_enter_duration(thread, duration, location) {
                Ok(admitted) => admitted,
                Err(error) => return fail(error),
            };
            let mut frame = terms.frame(thread);
            match frame::open(thread, &mut frame, effective, None, false, body) {
                Ok(result) => result,
                Err(payload) => fail(caught(&frame, payload)),
            }
        }),
        Err(limit) => run_any(&limit, None, location, body).unwrap_or_else(fail),
    }
}

/// Runs a body in a scope of its own, with whatever limit and extras.
pub(crate) fn run_any<R>(
    limit: &Limit,
    extras: Option<&Extras>,
    location: &'static Location<'static>,
    body: impl FnOnce(&Scope) -> R,
) -> Result<R, TimeoutError> {
    if let Some(handle) = extras.and_then(|extras| extras.options.handle.as_ref()) {
        return handle.run_within(limit, extras, location, body);
    }
    Thread::with(|thread| {
        let around = frame::Parent::Thread;
        let admission = try_enter(thread, limit, extras, location, frame::Kind::Block, around)
            .map_err(|refused| refused.into_error(thread, extras, around))?;
        enter(thread, admission, extras, body)
    })
}

/// Runs a body in a scope that was admitted.
fn enter<R>(
    thread: &Thread,
    admission: Prepared,
    extras: Option<&Extras>,
    body: impl FnOnce(&Scope) -> R,
) -> Result<R, TimeoutError> {
    let Prepared { terms, effective, node, spending: _spending } = admission;
    let mut frame = terms.frame(thread);
    frame.set_node(node);
    let result = frame::open(thread, &mut frame, effective, extras, false, body);
    result.map_err(|payload| caught(&frame, payload))
}

/// An unwinding that [`checkpoint_or_unwind`] began.
#[derive(Debug)]
pub(crate) struct Unwind {
    pub(crate) error: TimeoutError,
    /// The address of the frame that stops it.
    pub(crate) catcher: usize,
}

/// Stops an unwinding that is meant for this scope; any other panic goes on.
#[cold]
#[inline(never)]
pub(crate) fn caught(scope: &Scope, payload: Box<dyn Any + Send>) -> TimeoutError {
    if !is_meant_for(scope, &*payload) {
        resume_unwind(payload);
    }
    match payload.downcast::<Unwind>() {
        Ok(unwind) => unwind.error,
        Err(payload) => resume_unwind(payload),
    }
}

/// Whether a panic is an unwinding that this scope stops.
pub(crate) fn is_meant_for(scope: &Scope, payload: &(dyn Any + Send)) -> bool {
    payload.downcast_ref::<Unwind>().is_some_and(|unwind| unwind.catcher == std::ptr::from_ref(scope).addr())
}

/// Has `hook` run once the innermost scope is over. It dies with the scope, or when the registration is dropped.
///
/// It fires one time unless made with [`Hook::every`], on the watchdog or a runner thread; on a scope that is over
/// already it runs on this thread before this returns. Outside every scope it never fires.
///
/// ```
/// use std::sync::atomic::{AtomicBool, Ordering};
/// use std::sync::Arc;
/// use std::time::Duration;
/// use timebox::Hook;
///
/// let stop = Arc::new(AtomicBool::new(false));
/// let flag = stop.clone();
/// timebox::timeout_value(Duration::from_millis(5), || {
///     let _registration = timebox::on_cancel(Hook::inline(move || flag.store(true, Ordering::Relaxed)));
///     while !stop.load(Ordering::Relaxed) {} // a library that knows nothing but its own flag
/// }).unwrap();
/// ```
pub fn on_cancel(hook: impl Into<Hook<'static>>) -> Registration {
    let hook = hook.into();
    Thread::with(|thread| {
        frame::innermost(thread, |scope| match scope {
            Some(scope) => scope.register(hook),
            None => Registration::inert(),
        })
    })
}

/// The token of the innermost scope; outside every scope a fresh one.
///
/// ```
/// use std::time::Duration;
///
/// let error = timebox::timeout(Duration::from_secs(5), || -> timebox::Result<()> {
///     let token = timebox::token();
///     std::thread::spawn(move || token.cancel_with("not needed any more"));
///     timebox::sleep(Duration::from_secs(4))
/// });
/// assert_eq!(error.unwrap_err().reason(), Some("not needed any more"));
/// ```
#[track_caller]
pub fn token() -> CancellationToken {
    let location = Location::caller();
    let node =
        Thread::with(|thread| frame::innermost(thread, |scope| scope.map(|scope| scope.node().clone())));
    node.map_or_else(|| CancellationToken::at(location), CancellationToken::of)
}

impl Scope {
    /// As the free function [`on_cancel`], for this scope.
    pub fn on_cancel(&self, hook: impl Into<Hook<'static>>) -> Registration {
        self.register(hook.into())
    }

    fn register(&self, hook: Hook<'static>) -> Registration {
        // If it is over the hook runs here.
        let _held = self.hold();
        let over = Thread::with(|thread| self.is_over_by_clock(thread));
        Registration::new(self.node(), over, hook, Tie::Scope)
    }

    /// The token of this scope. It outlives the scope.
    pub fn token(&self) -> CancellationToken {
        CancellationToken::of(self.node().clone())
    }
}

impl CancellationToken {
    /// Has `hook` run once this is over. It runs on the watchdog ([`Hook::inline`]) or a runner thread, never on
    /// the thread that cancels; on a token that is over already it runs on this thread before this returns.
    ///
    /// It fires one time unless it was made with [`Hook::every`]. One that code in a scope makes on the token of that scope,
    /// or of one around it, does not fire inside a [`shield`](shield()) of that code, but afterwards.
    ///
    /// ```
    /// use std::sync::mpsc;
    /// use timebox::CancellationToken;
    ///
    /// let token = CancellationToken::new();
    /// let (send, receive) = mpsc::channel();
    /// let registration = token.on_cancel(move || send.send("over"));
    /// token.cancel();
    /// assert_eq!(receive.recv(), Ok("over"));
    /// # drop(registration);
    /// ```
    pub fn on_cancel(&self, hook: impl Into<Hook<'static>>) -> Registration {
        let node = self.node();
        let over = node.is_over() || node.expire(clock::now());
        let tie = if is_open_here(node) { Tie::OwnToken } else { Tie::Token };
        Registration::new(node, over, hook.into(), tie)
    }
}

/// Whether this is the node of a scope that is open on this thread, hidden or not.
fn is_open_here(node: &Arc<Node>) -> bool {
    Thread::with(|thread| {
        frame::innermost(thread, |scope| {
            let mut nodes = scope.into_iter().flat_map(Scope::stack).filter_map(Scope::existing_node);
            nodes.any(|open| Arc::ptr_eq(open, node))
        })
    })
}
