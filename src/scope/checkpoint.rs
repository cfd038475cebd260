//! The questions that running code asks: is my scope over, and how long is left?

use std::panic::Location;
use std::time::Duration;

use super::frame::{Scope, innermost};
use super::test_hooks::point;
use crate::error::{RaiseContext, TimeoutError};
use crate::test_env::TestEnv;
use crate::thread::Thread;
use crate::time::{Deadline, NEVER, clock, nanos};
use crate::token::node::Node;
use crate::watchdog;

type Place = &'static Location<'static>;

#[cold]
#[inline(never)]
pub(crate) fn is_over_by_clock(thread: &Thread) -> bool {
    innermost(thread, |scope| match scope {
        Some(scope) => scope.is_over_by_clock(thread),
        None => {
            thread.look(|| NEVER);
            false
        }
    })
}

#[cfg_attr(not(debug_assertions), inline(always))]
pub(crate) fn is_over(thread: &Thread) -> bool {
    !thread.is_quiet() && is_over_by_clock(thread)
}

#[cold]
#[inline(never)]
fn interrupt(thread: &Thread, location: Place) -> Result<(), TimeoutError> {
    point(thread, location);
    if !is_over_by_clock(thread) {
        return Ok(());
    }
    innermost(thread, |scope| match scope {
        Some(scope) => Err(scope.error(RaiseContext::at(location, clock::now()))),
        None => Ok(()),
    })
}

/// Fails once the innermost scope is over: the place where running code lets itself be stopped.
///
/// A checkpoint costs next to nothing: it counts down, compares two words, and reads a flag. In a vectorised loop call
/// it only once for each chunk of a thousand cheap steps: a check in the loop itself keeps the compiler from
/// vectorising. Outside every scope a checkpoint returns `Ok`.
///
/// # Errors
///
/// A [`TimeoutError`] that names the outermost scope that is over. Every later checkpoint fails too.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use timebox::{checkpoint, timeout};
///
/// let result = timeout(Duration::from_millis(5), || -> timebox::Result<u64> {
///     let mut n = 0_u64;
///     loop {
///         checkpoint()?;
///         n = n.wrapping_add(1);
///     }
/// });
/// assert!(result.unwrap_err().is_timeout());
/// ```
#[doc(alias("check", "is_cancelled", "yield_point"))]
#[track_caller]
#[inline]
pub fn checkpoint() -> Result<(), TimeoutError> {
    let location = Location::caller();
    Thread::with(|thread| if thread.is_quiet() { Ok(()) } else { interrupt(thread, location) })
}

/// Unwinds the stack once the innermost scope is over, for code that cannot return a `Result`.
///
/// The scope that is over catches the unwinding, and fails with the error. If that scope is not on this stack (or not
/// in this poll), another scope of this stack catches the unwinding: the innermost scope that a
/// [`Handle`](crate::Handle) entered. If there is none, the outermost scope catches it. The panic hook is not called.
///
/// This function does nothing while the thread is panicking, or if no scope of this stack would catch the unwinding.
///
/// Prefer [`checkpoint`]: unwinding poisons std's mutexes, aborts in frames of other languages, and exists only where
/// the program is built with `panic = "unwind"`.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// let mut numbers: Vec<u64> = (0..1000).rev().collect();
/// let result = timebox::timeout_value(Duration::from_millis(5), || {
///     numbers.sort_by(|a, b| loop {
///         timebox::checkpoint_or_unwind(); // a comparison cannot fail
/// #       if false { break a.cmp(b); }
///     });
/// });
/// assert!(result.unwrap_err().is_timeout());
/// ```
#[cfg(panic = "unwind")]
#[track_caller]
#[inline]
pub fn checkpoint_or_unwind() {
    let location = Location::caller();
    Thread::with(|thread| {
        if !thread.is_quiet() {
            unwind(thread, location);
        }
    });
}

#[cfg(panic = "unwind")]
#[cold]
#[inline(never)]
fn unwind(thread: &Thread, location: Place) {
    if std::thread::panicking() {
        // Perhaps this check had to read the clock. It does not, so the next check must read it.
        thread.look_again();
        return;
    }
    point(thread, location);
    if !is_over_by_clock(thread) {
        return;
    }
    innermost(thread, |scope| {
        let Some(scope) = scope else { return };
        let error = scope.error(RaiseContext::at(location, clock::now()));
        if let Some(catcher) = scope.catcher(&error) {
            let catcher = std::ptr::from_ref(catcher).addr();
            std::panic::resume_unwind(Box::new(super::unwind::Unwind { error, catcher }));
        }
    });
}

/// Whether the innermost scope is over, for whatever cause. Outside every scope it is false.
///
/// ```
/// use std::time::Duration;
///
/// let rounds = timebox::timeout_value(Duration::from_millis(5), || {
///     let mut rounds = 0_u64;
///     while !timebox::is_expired() {
///         rounds += 1;
///     }
///     rounds
/// });
/// assert!(rounds.unwrap() > 0);
/// ```
#[inline]
pub fn is_expired() -> bool {
    Thread::with(is_over)
}

/// The time left until the innermost scope's effective deadline; `None` if there is no deadline. Zero once the scope is
/// over, for whatever cause.
///
/// ```
/// use std::time::Duration;
///
/// assert_eq!(timebox::remaining(), None);
/// timebox::timeout_value(Duration::from_secs(2), || {
///     assert!(timebox::remaining().unwrap() <= Duration::from_secs(2));
/// }).unwrap();
/// ```
pub fn remaining() -> Option<Duration> {
    deadline().remaining()
}

/// The effective deadline of the innermost scope. It is the earliest deadline of this scope, of the scopes around it,
/// and of the tokens with which one of these scopes [ends](crate::Timebox::cancel_on). If a cancel came earlier, it is
/// the time of the cancel.
///
/// ```
/// use std::time::Duration;
/// use timebox::Deadline;
///
/// assert_eq!(timebox::deadline(), Deadline::NEVER);
/// timebox::timeout_value(Duration::from_secs(2), || {
///     let outer = timebox::deadline();
///     timebox::timeout_value(Duration::from_secs(5), || {
///         assert_eq!(timebox::deadline(), outer);
///     }).unwrap();
/// }).unwrap();
/// ```
pub fn deadline() -> Deadline {
    Thread::with(|thread| innermost(thread, |scope| scope.map_or(Deadline::NEVER, Scope::deadline)))
}

/// Fails now if less than `duration` is left: there is no use in starting what cannot be finished.
///
/// The error names the scope with the earliest deadline. The failure does not end that scope. Outside every scope the
/// call returns `Ok`.
///
/// # Errors
///
/// A [`TimeoutError`], with an overshoot of zero unless the scope is over.
///
/// ```
/// use std::time::Duration;
///
/// let result = timebox::timeout(Duration::from_secs(1), || -> timebox::Result<()> {
///     timebox::require(Duration::from_millis(1))?;
///     timebox::require(Duration::from_secs(60))
/// });
/// let error = result.unwrap_err();
/// assert_eq!(error.overshoot(), Duration::ZERO);
/// ```
#[track_caller]
pub fn require(duration: Duration) -> Result<(), TimeoutError> {
    let location = Location::caller();
    Thread::with(|thread| {
        innermost(thread, |scope| scope.map_or(Ok(()), |scope| scope.require_at(duration, location)))
    })
}

impl Scope {
    /// Reads the clock, and returns whether this scope is over.
    pub(crate) fn is_over_by_clock(&self, thread: &Thread) -> bool {
        let node = self.nearest_node();
        // The watchdog ends the node a little later than the deadline of a linked token. So this check compares the
        // token's deadline (in `expires_at`) with the clock.
        let mut ended_at = NEVER;
        let deadline = self.armed(thread);
        let now = thread.look(|| {
            ended_at = node.map_or(NEVER, Node::expires_at);
            deadline.min(ended_at)
        });
        let expired = deadline <= now;
        if expired {
            // Records that this time has been reached. Otherwise a later check that does not read the clock would not
            // see the expiry.
            watchdog::global().reach(now);
        }
        if let Some(node) = node {
            if expired || ended_at <= node.env.reading(now) {
                node.expire(now);
            }
            thread.end_look();
        }
        expired || node.is_some_and(|node| node.is_over())
    }

    fn over_since(&self) -> u64 {
        self.nearest_node().and_then(|node| node.over_since(&TestEnv::current())).unwrap_or(NEVER)
    }

    fn is_flagged(&self) -> bool {
        self.nearest_node().is_some_and(|node| node.is_over())
    }

    /// Reads the clock, and fails if this scope is over.
    #[inline]
    pub(crate) fn check_by_clock(&self, location: Place) -> Result<(), TimeoutError> {
        if !Thread::with(|thread| self.is_over_by_clock(thread)) {
            return Ok(());
        }
        Err(self.error(RaiseContext::at(location, clock::now())))
    }

    /// A checkpoint that always reads the clock.
    pub(crate) fn checkpoint_at(&self, location: Place) -> Result<(), TimeoutError> {
        Thread::with(|thread| point(thread, location));
        self.check_by_clock(location)
    }

    /// Whether this scope is over. Does not read the clock if the thread's deadline and the flag suffice to say "no".
    #[inline]
    fn is_over(&self) -> bool {
        Thread::with(|thread| {
            if self.is_innermost(thread) {
                return is_over(thread);
            }
            // The watchdog notices only the thread's deadline, which is the innermost scope's. The watchdog may miss
            // the deadline of this scope in two cases: the thread's deadline has been reached, or the thread's deadline
            // is later than this scope's (as in a shield). So in these cases this check reads the clock.
            let watched = thread.deadline.get();
            let quiet = !thread.is_clock_due()
                && watched > watchdog::global().reached()
                && watched <= self.armed(thread)
                && !self.is_flagged();
            !quiet && self.is_over_by_clock(thread)
        })
    }

    /// Like the free function [`checkpoint`], but for this scope and the scopes around it.
    #[track_caller]
    #[inline]
    pub fn checkpoint(&self) -> Result<(), TimeoutError> {
        // Outside the closure below: inside it, `Location::caller` would return a place in this function.
        let location = Location::caller();
        Thread::with(|thread| point(thread, location));
        if !self.is_over() {
            return Ok(());
        }
        Err(self.error(RaiseContext::at(location, clock::now())))
    }

    /// Like the free function [`checkpoint_or_unwind`], but for this scope and the scopes around it.
    #[cfg(panic = "unwind")]
    #[track_caller]
    pub fn checkpoint_or_unwind(&self) {
        if std::thread::panicking() {
            return;
        }
        let location = Location::caller();
        Thread::with(|thread| point(thread, location));
        if !self.is_over() {
            return;
        }
        let error = self.error(RaiseContext::at(location, clock::now()));
        Thread::with(|thread| {
            innermost(thread, |innermost| {
                if let Some(catcher) = innermost.and_then(|innermost| innermost.catcher(&error)) {
                    let catcher = std::ptr::from_ref(catcher).addr();
                    std::panic::resume_unwind(Box::new(super::unwind::Unwind { error, catcher }));
                }
            });
        });
    }

    /// Like the free function [`is_expired`], but for this scope and the scopes around it.
    #[inline]
    pub fn is_expired(&self) -> bool {
        self.is_over()
    }

    /// Like the free function [`remaining`], but for this scope and the scopes around it.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline().remaining()
    }

    /// Like the free function [`deadline`], but for this scope and the scopes around it.
    pub fn deadline(&self) -> Deadline {
        let effective = Thread::with(|thread| self.effective(thread));
        Deadline::from_nanos(effective.min(self.over_since()))
    }

    /// Like the free function [`require`], but for this scope and the scopes around it.
    #[track_caller]
    pub fn require(&self, duration: Duration) -> Result<(), TimeoutError> {
        self.require_at(duration, Location::caller())
    }

    fn require_at(&self, duration: Duration, location: Place) -> Result<(), TimeoutError> {
        Thread::with(|thread| point(thread, location));
        self.check_by_clock(location)?;
        let effective = Thread::with(|thread| self.effective(thread));
        let now = clock::now();
        let left = effective.saturating_sub(now);
        if effective == NEVER || left >= nanos(duration) {
            return Ok(());
        }
        Err(self.error_of_lack(location, now, (duration, Duration::from_nanos(left))))
    }
}
