use std::fmt;
use std::panic::{Location, RefUnwindSafe, UnwindSafe};
#[cfg(feature = "profile")]
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use super::config::{Extras, Options};
use super::frame::{Scope, innermost};
use super::run::run_within;
use crate::error::{ScopeInfo, TimeoutError};
#[cfg(feature = "profile")]
use crate::thread::ProfileId;
use crate::thread::Thread;
#[cfg(feature = "profile")]
use crate::thread::visit::Visit;
use crate::time::{Deadline, Limit, NEVER, clock};
use crate::token::CancellationToken;
use crate::token::node::{Node, NodeSpec};

/// Carries a scope to another thread or task.
///
/// A spawned thread or task inherits no scope. Pass a handle to the thread or task, and enter the scope there. Then the
/// work is over as soon as the scope is over, and the errors of the work name the scope.
///
/// A handle outlives its scope. The handle is over once the deadline of the scope has passed, or the scope is
/// cancelled.
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
#[doc(alias("context", "spawn", "propagate"))]
#[derive(Clone)]
pub struct Handle {
    node: Arc<Node>,
    /// The profile in which the handle was made. Work that enters the handle is counted in this profile.
    #[cfg(feature = "profile")]
    profile: ProfileId,
}

impl UnwindSafe for Handle {}
impl RefUnwindSafe for Handle {}

/// A handle to the innermost scope. Outside every scope it is a root handle, which is over only if its token is
/// cancelled.
///
/// Call this on the thread where the scope is open, and move the handle to the thread that does the work. Do not call
/// this inside `rayon::scope` or `ThreadPool::install`: their closures run on a thread of the pool, where the scope is
/// not open.
///
/// # Examples
///
/// Work on items in parallel, with rayon. A parallel iterator calls its closure many times, so each call enters the
/// scope:
///
/// ```
/// use rayon::prelude::*;
/// use std::time::Duration;
/// use timebox::{Limit, TimeoutError, checkpoint, timeout};
///
/// fn thumbnail(image: u32) -> Result<u32, TimeoutError> {
///     checkpoint()?;
///     Ok(image * image)
/// }
///
/// let images: Vec<u32> = (0..1000).collect();
/// let thumbnails = timeout(Duration::from_secs(60), || -> timebox::Result<Vec<u32>> {
///     let handle = timebox::handle();
///     images.par_iter().map(|&image| handle.enter(Limit::NONE, |_| thumbnail(image))).collect()
/// });
/// assert_eq!(thumbnails.unwrap().len(), 1000);
/// ```
///
/// For a job of a thread pool, `std::thread::spawn` or `spawn_blocking` use [`Handle::wrap`].
#[track_caller]
pub fn handle() -> Handle {
    let location = Location::caller();
    let node = Thread::with(|thread| innermost(thread, |scope| scope.map(|scope| Arc::clone(scope.node()))));
    Handle::of(node.unwrap_or_else(|| root_node(location)))
}

fn root_node(location: &'static Location<'static>) -> Arc<Node> {
    Node::new(None, NodeSpec::token(ScopeInfo::at(location), clock::now()))
}

impl Handle {
    /// A handle outside of every scope, for work that outlives the code that asked for it: a load that several callers
    /// share, a refresh of a cache.
    ///
    /// Work that enters this handle sees none of the scopes that are open where the work runs. The handle is over only
    /// if its [token](Self::token) is cancelled.
    ///
    /// # Examples
    ///
    /// Two callers share a load. Without the root handle, the hooks of the load would fire as soon as one caller gives
    /// up, and would end the load for both.
    ///
    /// ```
    /// # pollster::block_on(async {
    /// use std::time::Duration;
    /// use futures::FutureExt;
    /// use futures::channel::oneshot;
    /// use timebox::{Handle, TimeoutError, future};
    ///
    /// let (server, answer) = oneshot::channel();
    /// let load = async { Ok::<_, TimeoutError>(answer.await.expect("the server answers")) };
    /// let load = Handle::root().enter_future(Duration::from_secs(60), load).shared();
    ///
    /// // The first caller gives up; the second has time.
    /// assert!(future::timeout(Duration::from_millis(5), load.clone()).await.is_err());
    /// server.send("loaded").unwrap();
    /// assert_eq!(future::timeout(Duration::from_secs(60), load).await.unwrap(), "loaded");
    /// # });
    /// ```
    #[track_caller]
    pub fn root() -> Self {
        Self {
            node: root_node(Location::caller()),
            #[cfg(feature = "profile")]
            profile: ProfileId::NONE,
        }
    }

    /// A handle to the scope of this node. The handle has the profile in which the calling thread is now.
    fn of(node: Arc<Node>) -> Self {
        Self {
            node,
            #[cfg(feature = "profile")]
            profile: Visit::current(),
        }
    }

    /// Runs a block on this thread, in a scope within the handle's scope. The scopes that are open on this thread do
    /// not limit the block.
    ///
    /// # Errors
    ///
    /// The errors of the body; and a [`TimeoutError`] if the body was not started.
    #[track_caller]
    pub fn enter<T, E>(
        &self,
        limit: impl Into<Limit>,
        body: impl FnOnce(&Scope) -> Result<T, E>,
    ) -> Result<T, E>
    where
        E: From<TimeoutError>,
    {
        self.enter_at(&limit.into(), Location::caller(), body)
    }

    fn enter_at<T, E>(
        &self,
        limit: &Limit,
        location: &'static Location<'static>,
        body: impl FnOnce(&Scope) -> Result<T, E>,
    ) -> Result<T, E>
    where
        E: From<TimeoutError>,
    {
        #[cfg(feature = "profile")]
        let _visit = Visit::of_handle(self.profile, ptr::from_ref(&self).addr());
        let result = run_within(&self.node, limit, None, location, body);
        result.unwrap_or_else(|error| Err(E::from(error)))
    }

    /// Makes a closure that runs `body` in a scope within the handle's scope, on the thread that calls the closure. Use
    /// it for `std::thread::spawn`, `spawn_blocking`, rayon, or a thread pool: these would run a plain closure outside
    /// every scope.
    ///
    /// The scope is entered when the closure is called. If the handle's scope is over by then, `body` is not started.
    ///
    /// # Errors
    ///
    /// The closure returns the errors of the body; and a [`TimeoutError`] if the body was not started.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use timebox::{checkpoint, timeout};
    ///
    /// fn count() -> timebox::Result<()> {
    ///     loop {
    ///         checkpoint()?;
    ///     }
    /// }
    ///
    /// let result = timeout(Duration::from_millis(20), || {
    ///     let job = timebox::handle().wrap(count);
    ///     std::thread::spawn(job).join().expect("no panic")
    /// });
    /// assert!(result.unwrap_err().is_timeout());
    /// ```
    #[doc(alias("spawn", "spawn_blocking", "rayon", "pool"))]
    #[track_caller]
    pub fn wrap<F, T, E>(&self, body: F) -> impl FnOnce() -> Result<T, E> + use<F, T, E>
    where
        F: FnOnce() -> Result<T, E>,
        E: From<TimeoutError>,
    {
        let (handle, location) = (self.clone(), Location::caller());
        move || handle.enter_at(&Limit::NONE, location, |_| body())
    }

    /// Like [`wrap`](Self::wrap), but for a body whose output is not a `Result`.
    ///
    /// # Errors
    ///
    /// The closure returns a [`TimeoutError`] if the body was not started, or was unwound by a checkpoint.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use timebox::timeout;
    ///
    /// fn count() -> u64 {
    ///     let mut rounds = 0;
    ///     while !timebox::is_expired() {
    ///         rounds += 1;
    ///     }
    ///     rounds
    /// }
    ///
    /// let rounds = timeout(Duration::from_millis(100), || {
    ///     let job = timebox::handle().wrap_value(count);
    ///     std::thread::spawn(job).join().expect("no panic")
    /// });
    /// assert!(rounds.unwrap() > 0);
    /// ```
    #[doc(alias("spawn", "spawn_blocking", "rayon", "pool"))]
    #[track_caller]
    pub fn wrap_value<F, T>(&self, body: F) -> impl FnOnce() -> Result<T, TimeoutError> + use<F, T>
    where
        F: FnOnce() -> T,
    {
        self.wrap(move || Ok(body()))
    }

    /// The earliest deadline of the handle's scope, of the scopes around that scope, and of the tokens that end one of
    /// them.
    pub fn deadline(&self) -> Deadline {
        Deadline::from_nanos(self.node.expires_at())
    }

    /// The time left until the [deadline](Self::deadline); `None` if there is no deadline. Once the handle's scope or a
    /// scope around it is over, for whatever cause, this is zero.
    pub fn remaining(&self) -> Option<Duration> {
        if self.is_expired() {
            return Some(Duration::ZERO);
        }
        let now = self.node.env.reading(clock::now());
        let deadline = self.node.expires_at();
        (deadline != NEVER).then(|| Duration::from_nanos(deadline.saturating_sub(now)))
    }

    /// Whether the handle's scope or a scope around it is over, for whatever cause.
    pub fn is_expired(&self) -> bool {
        self.token().is_cancelled()
    }

    /// The token of the handle's scope.
    pub fn token(&self) -> CancellationToken {
        CancellationToken::of(Arc::clone(&self.node))
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    pub(super) fn set_within(&self, options: &mut Options) {
        options.within = Some(Arc::clone(&self.node));
        #[cfg(feature = "profile")]
        {
            options.profile = self.profile;
        }
    }

    /// The configuration of a scope that is entered by this handle, with nothing else set.
    pub(crate) fn extras(&self) -> Extras {
        let mut extras = Extras::default();
        self.set_within(&mut extras.options);
        extras
    }
}

#[allow(clippy::missing_fields_in_debug)] // the number of a profile tells nobody anything
impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("scope", &self.node.info())
            .field("is_over", &self.node.is_over())
            .finish()
    }
}

impl Scope {
    /// A handle to this scope. The free function [`handle`] makes a handle to the innermost scope.
    pub fn handle(&self) -> Handle {
        Handle::of(Arc::clone(self.node()))
    }
}
