use std::fmt;
use std::panic::{Location, RefUnwindSafe, UnwindSafe};
use std::sync::Arc;

use super::frame::{Around, Kind, innermost};
use super::staged::under;
use super::{Scope, admit, enter};
use crate::error::{Cause, ScopeId, ScopeInfo, TimeoutError};
use crate::time::{Limit, NEVER, clock};
use crate::token::CancellationToken;
use crate::token::node::Node;
use crate::watchdog::slots::Thread;

/// Carries a scope to another thread or task.
///
/// Nothing is inherited by `spawn`. What runs elsewhere on behalf of a scope enters it by a handle: then it is over
/// when the scope is, and its errors name the scope.
///
/// A handle outlives its scope: it is over when the deadline that the scope had passes, or when it is cancelled.
///
/// # Examples
///
/// ```
/// use std::thread;
/// use std::time::Duration;
/// use timebox::{TimeoutError, timeout};
///
/// let result = timeout(Duration::from_millis(20), || -> Result<(), TimeoutError> {
///     let handle = timebox::handle();
///     thread::scope(|threads| {
///         let worker = threads.spawn(|| {
///             handle.enter(None::<Duration>, |scope| -> Result<(), TimeoutError> {
///                 loop {
///                     scope.checkpoint()?;
///                 }
///             })
///         });
///         worker.join().expect("no panic")
///     })
/// });
/// assert!(result.unwrap_err().is_timeout());
/// ```
#[derive(Clone)]
pub struct Handle {
    node: Arc<Node>,
}

impl UnwindSafe for Handle {}
impl RefUnwindSafe for Handle {}

/// A handle to the innermost scope; outside every scope a root, which is never over unless its token is cancelled.
#[track_caller]
pub fn handle() -> Handle {
    let location = Location::caller();
    let node = Thread::with(|thread| innermost(thread, |scope| scope.map(|scope| Arc::clone(scope.node()))));
    let node = node.unwrap_or_else(|| {
        let info = ScopeInfo { id: ScopeId::next(), label: None, location, limit: None };
        Node::new(None, info, clock::now(), NEVER, Cause::Cancelled, false)
    });
    Handle { node }
}

impl Handle {
    /// Runs a block on this thread in a scope within the handle's. The scopes that are open on this thread do not
    /// count in it.
    ///
    /// # Errors
    ///
    /// Those of the body; and a [`TimeoutError`] if the body was not started.
    #[track_caller]
    pub fn enter<T, E>(
        &self,
        limit: impl Into<Limit>,
        body: impl FnOnce(&Scope) -> Result<T, E>,
    ) -> Result<T, E>
    where
        E: From<TimeoutError>,
    {
        let limit = limit.into();
        let location = Location::caller();
        let result = Thread::with(|thread| {
            let _under = under(thread, &self.node.seam);
            let admission = admit(thread, &limit, None, location, Kind::Entered, Around::Node(&self.node))?;
            enter(thread, admission, None, body)
        });
        result.unwrap_or_else(|error| Err(E::from(error)))
    }

    /// The token of the scope.
    pub fn token(&self) -> CancellationToken {
        CancellationToken::of(Arc::clone(&self.node))
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("scope", &self.node.info())
            .field("is_over", &self.node.is_over())
            .finish()
    }
}

impl Scope {
    /// As the free function [`handle`], to this scope.
    pub fn handle(&self) -> Handle {
        Handle { node: Arc::clone(self.node()) }
    }
}
