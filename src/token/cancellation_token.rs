//! The token that users hold.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::panic::{Location, RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::time::Duration;

use super::hook::HookResult;
use super::node::{Node, NodeSpec};
use crate::error::{Cause, Chain, RaiseContext, ScopeInfo, TimeoutError};
use crate::test_env::TestEnv;
use crate::time::{Deadline, NEVER, clock};
use crate::watchdog;
use crate::watchdog::slots::Thread;

/// A handle that says whether something is over, and can cancel it.
///
/// It is that of a scope ([`token`](crate::token)), or stands alone ([`new`](Self::new)); clones share one state,
/// and a [child](Self::child_token) is over when its parent is. The token of a scope outlives it: it is over when
/// the deadline that the scope had passes, or when it is cancelled.
///
/// The methods are named as in tokio-util, with what that one lacks: a [cause](Self::cause), a
/// [reason](Self::cancel_with), [hooks](Self::on_cancel) and [checkpoints](Self::checkpoint). It needs no runtime.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use timebox::{CancellationToken, Timebox};
///
/// let shutdown = CancellationToken::new();
/// shutdown.cancel_with("deploying");
/// let error = Timebox::new(Duration::from_secs(5))
///     .cancel_on(&shutdown)
///     .run(|scope| -> timebox::Result<()> { scope.checkpoint() })
///     .unwrap_err();
/// assert!(error.is_cancelled());
/// assert_eq!(error.reason(), Some("deploying"));
/// ```
#[doc(alias("StopToken", "StopSource", "CancelToken"))]
#[derive(Clone)]
pub struct CancellationToken {
    node: Arc<Node>,
}

impl UnwindSafe for CancellationToken {}
impl RefUnwindSafe for CancellationToken {}

impl CancellationToken {
    /// A token that is over only when it is cancelled.
    #[track_caller]
    pub fn new() -> Self {
        Self::at(Location::caller())
    }

    /// A token that is over when this one is, and can be cancelled by itself.
    ///
    /// What errors that name it tell of its age counts from when the parent was made, or its scope entered.
    ///
    /// ```
    /// use timebox::CancellationToken;
    ///
    /// let server = CancellationToken::new();
    /// let (connection, other) = (server.child_token(), server.child_token());
    /// connection.cancel();
    /// assert!(!other.is_cancelled());
    /// server.cancel();
    /// assert!(other.is_cancelled());
    /// ```
    #[track_caller]
    pub fn child_token(&self) -> Self {
        Self::beneath(Some(&self.node), Location::caller())
    }

    pub(crate) fn at(location: &'static Location<'static>) -> Self {
        Self::beneath(None, location)
    }

    fn beneath(parent: Option<&Arc<Node>>, location: &'static Location<'static>) -> Self {
        let info = ScopeInfo::at(location);
        // To read the clock would double the price of a child, which counts from when its parent was made.
        let parents = parent.filter(|parent| parent.env.shares_clock(&TestEnv::current()));
        let entered = parents.map_or_else(clock::now, |parent| parent.entered);
        Self { node: Node::new(parent, NodeSpec::token(info, entered)) }
    }

    pub(crate) fn of(node: Arc<Node>) -> Self {
        Self { node }
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Cancels it and everything beneath, unless it is over already.
    ///
    /// When it returns, every token and scope beneath says that it is over. Tasks that wait are woken by this call;
    /// hooks run on other threads.
    ///
    /// It takes locks, so it must not be called in a signal handler, where it may hang; `recipes::signals` is about what to
    /// do instead.
    pub fn cancel(&self) {
        self.node.cancel(None);
    }

    /// Cancels it as [`cancel`](Self::cancel) does, with a reason that errors show. Whether this call did: it did not if
    /// the token was over before, a deadline that has passed included.
    ///
    /// ```
    /// use timebox::CancellationToken;
    ///
    /// let token = CancellationToken::new();
    /// assert!(token.cancel_with("deploying"));
    /// assert!(!token.cancel_with("too late"));
    /// assert_eq!(token.checkpoint().unwrap_err().reason(), Some("deploying"));
    /// ```
    pub fn cancel_with(&self, reason: impl Into<Cow<'static, str>>) -> bool {
        self.node.cancel(Some(reason.into().into()))
    }

    /// Whether it is over, for whatever cause.
    #[inline]
    pub fn is_cancelled(&self) -> bool {
        // The watchdog may be late: now and then the clock is asked.
        self.node.is_over()
            || (self.node.deadline <= watchdog::global().reached() && self.node.env.has_real_clock())
            || (Thread::with(Thread::is_clock_due) && self.is_over_by_clock())
    }

    #[cold]
    fn is_over_by_clock(&self) -> bool {
        Thread::with(|thread| {
            let now = thread.look(|| self.node.expires_at());
            // From then on it says so without the clock.
            let is_over = self.node.expire(now);
            thread.end_look();
            is_over
        })
    }

    /// Why it is over; `None` if it is not. Once it is over this does not change, whatever ends later around it.
    ///
    /// Of several causes the earliest counts, and of several at once that of the outermost token or scope.
    ///
    /// ```
    /// use timebox::{CancellationToken, Cause};
    ///
    /// let token = CancellationToken::new();
    /// assert_eq!(token.cause(), None);
    /// token.cancel();
    /// assert_eq!(token.cause(), Some(Cause::Cancelled));
    /// ```
    pub fn cause(&self) -> Option<Cause> {
        if !self.node.expire(clock::now()) {
            return None;
        }
        // What ended it may have been lost in a fork.
        Some(self.node.origin().map_or(Cause::Cancelled, |origin| origin.termination.cause))
    }

    /// The reason given to [`cancel_with`](Self::cancel_with), if it is over by a cancel that had one. As its
    /// [cause](Self::cause) it does not change.
    ///
    /// ```
    /// use timebox::CancellationToken;
    ///
    /// let shutdown = CancellationToken::new();
    /// let worker = shutdown.child_token();
    /// worker.cancel_with("idle");
    /// shutdown.cancel_with("deploying");
    /// assert_eq!(worker.reason().as_deref(), Some("idle"));
    /// ```
    pub fn reason(&self) -> Option<Cow<'static, str>> {
        if !self.node.expire(clock::now()) {
            return None;
        }
        let origin = self.node.origin()?;
        Some(Cow::Owned(origin.termination.reason.as_ref()?.to_string()))
    }

    /// When it is over at the latest: the earliest deadline of its own and of all that end it; [`Deadline::NEVER`] if only a
    /// cancel can end it. Of one that is over, since when it is.
    ///
    /// ```
    /// use std::time::Duration;
    /// use timebox::{CancellationToken, Deadline};
    ///
    /// let request = CancellationToken::after(Duration::from_secs(5));
    /// assert_eq!(request.child_token().deadline(), request.deadline());
    /// assert_eq!(CancellationToken::new().deadline(), Deadline::NEVER);
    /// ```
    pub fn deadline(&self) -> Deadline {
        let env = &self.node.env;
        let over = self.node.over_since(env);
        Deadline::from_nanos(over.unwrap_or_else(|| self.node.expires_at()))
    }

    /// The time left until it is over at the latest, zero once it is, for whatever cause; `None` if only a cancel can end
    /// it.
    ///
    /// ```
    /// use std::time::Duration;
    /// use timebox::CancellationToken;
    ///
    /// let token = CancellationToken::after(Duration::from_secs(5));
    /// assert!(token.remaining().unwrap() <= Duration::from_secs(5));
    /// token.cancel();
    /// assert_eq!(token.remaining(), Some(Duration::ZERO));
    /// assert_eq!(CancellationToken::new().remaining(), None);
    /// ```
    pub fn remaining(&self) -> Option<Duration> {
        let deadline = self.deadline().as_nanos();
        let now = self.node.env.reading(clock::now());
        (deadline != NEVER).then(|| Duration::from_nanos(deadline.saturating_sub(now)))
    }

    /// Fails once it is over. For code that has the token but no scope, on another thread for example.
    ///
    /// # Errors
    ///
    /// A [`TimeoutError`] that names the outermost scope or token that is over by now, which may have ended later than the
    /// one that this is over [by](Self::cause).
    #[track_caller]
    #[inline]
    pub fn checkpoint(&self) -> Result<(), TimeoutError> {
        if !self.is_cancelled() {
            return Ok(());
        }
        self.error(Location::caller()).map_or(Ok(()), Err)
    }

    #[cold]
    fn error(&self, location: &'static Location<'static>) -> Option<TimeoutError> {
        let now = clock::now();
        if !self.node.expire(now) {
            return None;
        }
        let mut chain = Chain::new(self.node.chain_link(now));
        if let Some(parent) = self.node.parent() {
            parent.add_to_chain(&mut chain, now);
        }
        Some(chain.into_error(RaiseContext::at(location, now)))
    }
}

impl Default for CancellationToken {
    #[track_caller]
    fn default() -> Self {
        Self::new()
    }
}

/// Equal tokens share one state: cancelling one always cancels the other.
impl PartialEq for CancellationToken {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.node, &other.node)
    }
}

impl Eq for CancellationToken {}

/// Equal tokens have equal hashes.
impl Hash for CancellationToken {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.node).hash(state);
    }
}

impl fmt::Debug for CancellationToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("CancellationToken");
        debug.field("is_cancelled", &self.node.is_over());
        if self.node.deadline != NEVER {
            let left = self.node.deadline.saturating_sub(self.node.env.reading(clock::now()));
            debug.field("deadline_in", &Duration::from_nanos(left));
        }
        debug.finish_non_exhaustive()
    }
}

impl HookResult for CancellationToken {
    fn into_failure(self) -> Option<String> {
        None
    }
}
