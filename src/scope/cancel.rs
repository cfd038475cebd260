//! Tokens and hooks of the scopes that are open on this thread.

use std::panic::Location;
use std::sync::Arc;

use super::frame::{Scope, innermost};
use super::switch::is_enabled;
use crate::error::{Cause, ScopeInfo};
use crate::thread::Thread;
use crate::time::{Kind, Limit, NEVER, clock, nanos};
use crate::token::node::{HookOwner, Node, NodeSpec};
use crate::token::{CancellationToken, Hook, Registration};

/// Runs `hook` once the innermost scope is over. The hook ends with the scope, or when the registration is dropped.
///
/// The hook fires once, unless it was made with [`Hook::every`]. It runs on the watchdog or on a thread for hooks. If
/// the scope is already over, the hook runs on this thread before this call returns. Outside every scope the hook never
/// fires.
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
        innermost(thread, |scope| match scope {
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
    let node = Thread::with(|thread| innermost(thread, |scope| scope.map(|scope| scope.node().clone())));
    node.map_or_else(|| CancellationToken::at(location), CancellationToken::of)
}

impl Scope {
    /// Like the free function [`on_cancel`], but for this scope.
    pub fn on_cancel(&self, hook: impl Into<Hook<'static>>) -> Registration {
        self.register(hook.into())
    }

    fn register(&self, hook: Hook<'static>) -> Registration {
        // If this scope is over, `Registration::new` runs the hook, which is foreign code. If the hook left this scope,
        // the frame would be used after its end. So the frame is held: leaving it aborts.
        let _held = self.hold();
        let over = Thread::with(|thread| self.is_over_by_clock(thread));
        Registration::new(self.node(), over, hook, HookOwner::Scope)
    }

    /// The token of this scope. It outlives the scope.
    pub fn token(&self) -> CancellationToken {
        CancellationToken::of(self.node().clone())
    }
}

impl CancellationToken {
    /// A token that is over once a limit has passed, or once it is cancelled.
    ///
    /// If the limit is a [`Quota`](crate::Quota), the token is over after the time that the quota has left now. The
    /// token spends nothing of the quota.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use timebox::{CancellationToken, Cause, Timebox};
    ///
    /// let request = CancellationToken::after(Duration::from_millis(20));
    /// let error = Timebox::new(Duration::from_secs(5))
    ///     .cancel_on(&request)
    ///     .run(|scope| scope.sleep(Duration::from_secs(1)))
    ///     .unwrap_err();
    /// assert!(error.is_timeout());
    /// assert_eq!(error.limit(), Some(Duration::from_millis(20)));
    /// assert_eq!(request.cause(), Some(Cause::Deadline));
    /// ```
    #[track_caller]
    pub fn after(limit: impl Into<Limit>) -> Self {
        let limit = limit.into();
        let now = clock::now();
        let (deadline, duration, cause) = match limit.kind() {
            Kind::After(duration) => (now.saturating_add(nanos(*duration)), Some(*duration), Cause::Deadline),
            Kind::At(deadline) => (deadline.as_nanos(), None, Cause::Deadline),
            Kind::Budget(budget) => {
                let left = budget.left(now);
                (now.saturating_add(nanos(left)), Some(left), Cause::Quota)
            }
            Kind::None => (NEVER, None, Cause::Deadline),
        };
        let deadline = if is_enabled() { deadline } else { NEVER };
        let info = ScopeInfo { limit: duration, ..ScopeInfo::at(Location::caller()) };
        let node = Node::new(None, NodeSpec { info, entered: now, deadline, cause, reparentable: false });
        // If the limit has passed already, the token is over from the start.
        node.expire(now);
        Self::of(node)
    }

    /// Runs `hook` once the token is over. The hook runs on the watchdog ([`Hook::inline`]) or on a thread for hooks,
    /// never on the thread that cancels. If the token is already over, the hook runs on this thread before this call
    /// returns.
    ///
    /// The hook fires once, unless it was made with [`Hook::every`]. If the token belongs to a scope that is open on
    /// this thread, the hook does not fire inside a [`shield`](super::shield()) in that scope, but after the shield.
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
        let owner = if is_open_here(node) { HookOwner::OwnToken } else { HookOwner::Token };
        Registration::new(node, over, hook.into(), owner)
    }
}

/// Whether a scope on this thread's stack has this node, even if a shield or an entered handle hides that scope.
fn is_open_here(node: &Arc<Node>) -> bool {
    Thread::with(|thread| {
        innermost(thread, |scope| {
            let mut nodes = scope.into_iter().flat_map(Scope::stack).filter_map(Scope::existing_node);
            nodes.any(|open| Arc::ptr_eq(open, node))
        })
    })
}
