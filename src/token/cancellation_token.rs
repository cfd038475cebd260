use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::panic::{Location, RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::time::Duration;

use super::hook::HookResult;
use super::node::Node;
use crate::error::{Cause, Chain, RaiseContext, ScopeInfo, TimeoutError};
use crate::test_env::TestEnv;
use crate::thread::Thread;
use crate::time::{Deadline, NEVER, clock};
use crate::watchdog;

/// Says whether a scope is over, and can cancel it.
///
/// A token belongs to a scope ([`token`](crate::token)), or stands alone ([`new`](Self::new)). Its clones share one
/// state. A [child](Self::child_token) is over once its parent is over. The token of a scope may outlive the scope.
/// Even after the scope has been left, the token is over once the scope's deadline passes or the token is cancelled.
///
/// The methods have the same names as in tokio-util. This token also has a [cause](Self::cause), a
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
    /// A token that is over only once it is cancelled.
    #[track_caller]
    pub fn new() -> Self {
        Self::at(Location::caller())
    }

    /// A token that is over once this token is over. The child can also be cancelled alone.
    ///
    /// In an error that names the child, the [elapsed](TimeoutError::elapsed) time counts from the moment when the
    /// parent was made, or the parent's scope was entered.
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
        // A reading of the clock would double the price of a child. So a child on its parent's clock takes over the
        // parent's `entered`.
        let parents = parent.filter(|parent| parent.env.shares_clock(&TestEnv::current()));
        let entered = parents.map_or_else(clock::now, |parent| parent.entered);
        Self { node: Node::new_token(parent, info, entered) }
    }

    pub(crate) fn of(node: Arc<Node>) -> Self {
        Self { node }
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Cancels the token and all tokens and scopes beneath it, unless the token is over already.
    ///
    /// When the call returns, every token and scope beneath is over. The call itself wakes the tasks that wait. Hooks
    /// run on other threads.
    ///
    /// Do not call `cancel` in a signal handler. It takes locks, so it may hang there. The
    /// [guide](crate::guide::cancellation#not-in-a-signal-handler) has another way.
    pub fn cancel(&self) {
        self.node.cancel(None);
    }

    /// [Cancels](Self::cancel) the token with a reason, which errors show. Returns `true` if this call ended the token,
    /// and `false` if the token was over already.
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

    /// Whether the token is over, for whatever cause.
    #[inline]
    pub fn is_cancelled(&self) -> bool {
        // The watchdog ends the node at its deadline, but may be late. So one call in many reads the clock.
        self.node.is_over()
            || (self.node.deadline <= watchdog::global().reached() && self.node.env.has_real_clock())
            || (Thread::with(Thread::is_clock_due) && self.is_over_by_clock())
    }

    #[cold]
    fn is_over_by_clock(&self) -> bool {
        Thread::with(|thread| {
            let now = thread.look(|| self.node.expires_at());
            // `expire` sets the node's flag, so later calls need not read the clock.
            let is_over = self.node.expire(now);
            thread.end_look();
            is_over
        })
    }

    /// Why the token is over; `None` if the token is not over. Once the token is over, the cause does not change.
    ///
    /// If there are several causes, the earliest counts. If several causes have the same time, the cause of the
    /// outermost token or scope counts.
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
        // A fork may have lost the origin. Then the cause is not known, and a cancel is assumed.
        Some(self.node.origin().map_or(Cause::Cancelled, |origin| origin.termination.cause))
    }

    /// The reason given to [`cancel_with`](Self::cancel_with), if a cancel with a reason has ended the token. Like the
    /// [cause](Self::cause), the reason does not change once the token is over.
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

    /// The time at which the token is over at the latest: the earliest of all deadlines that end the token.
    /// [`Deadline::NEVER`] if only a cancel can end the token. If the token is over already, the time at which it
    /// ended.
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

    /// The time left until the [deadline](Self::deadline). Zero once the token is over; `None` while only a cancel can
    /// end the token.
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

    /// Fails once the token is over. For code that has the token but no scope, for example on another thread.
    ///
    /// # Errors
    ///
    /// A [`TimeoutError`] that names the outermost scope or token that is over by now. The [cause](Self::cause) of this
    /// token may come from another scope or token, which ended earlier.
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
