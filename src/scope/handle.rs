use std::fmt;
use std::panic::{Location, RefUnwindSafe, UnwindSafe};
use std::sync::Arc;

use super::frame::{Around, Kind, innermost};
use super::staged::{present, under};
use super::{Extras, Scope, admit, enter};
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
    node.map_or_else(|| Handle::root_at(location), |node| Handle { node })
}

impl Handle {
    /// A handle outside of every scope, for work that outlives the code that asked for it: a load that several callers
    /// share, a refresh of a cache.
    ///
    /// What is entered by it sees none of the scopes that are open where it runs. It is never over, unless its
    /// [token](Self::token) is cancelled.
    ///
    /// # Examples
    ///
    /// A load that two callers share. Polled in the scope of the first caller alone, it would end with that.
    ///
    /// ```
    /// # pollster::block_on(async {
    /// use std::time::Duration;
    /// use futures::FutureExt;
    /// use timebox::{Handle, future};
    ///
    /// const MS: Duration = Duration::from_millis(1);
    ///
    /// let load = Handle::root().enter_future(60_000 * MS, async {
    ///     future::sleep(50 * MS).await.map_err(|_| "too slow")?;
    ///     Ok::<_, Error>("loaded")
    /// });
    /// # #[derive(Clone, Debug)] struct Error;
    /// # impl From<timebox::TimeoutError> for Error { fn from(_: timebox::TimeoutError) -> Self { Error } }
    /// # impl From<&str> for Error { fn from(_: &str) -> Self { Error } }
    /// let load = load.boxed().shared();
    ///
    /// // The first caller gives up; the second has time.
    /// assert!(future::timeout(5 * MS, load.clone()).await.is_err());
    /// assert_eq!(future::timeout(60_000 * MS, load).await.unwrap(), "loaded");
    /// # });
    /// ```
    #[track_caller]
    pub fn root() -> Self {
        Self::root_at(Location::caller())
    }

    fn root_at(location: &'static Location<'static>) -> Self {
        let info = ScopeInfo { id: ScopeId::next(), label: None, location, limit: None };
        Self { node: Node::new(None, info, clock::now(), NEVER, Cause::Cancelled, false) }
    }

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
        let result = self.run_within(&limit.into(), None, Location::caller(), body);
        result.unwrap_or_else(|error| Err(E::from(error)))
    }

    /// Runs a block on this thread in a scope within the handle's.
    pub(super) fn run_within<R>(
        &self,
        limit: &Limit,
        extras: Option<&Extras>,
        location: &'static Location<'static>,
        body: impl FnOnce(&Scope) -> R,
    ) -> Result<R, TimeoutError> {
        Thread::with(|thread| {
            let _present = present(&self.node.seam);
            let _under = under(thread, &self.node.seam);
            let around = Around::Node(&self.node);
            let admission = admit(thread, limit, extras, location, Kind::Entered, around)
                .map_err(|refused| refused.into_error(thread, extras, around))?;
            enter(thread, admission, extras, body)
        })
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
            .field("scope", &self.node.info)
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
