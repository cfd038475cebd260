use std::borrow::Cow;
use std::fmt::{Display, Write as _};
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use super::config::{Extras, Options};
use super::frame::Scope;
use super::handle::Handle;
use super::run::run_any;
use crate::error::TimeoutError;
use crate::time::Limit;
use crate::token::CancellationToken;
use crate::token::node::Node;

/// The builder of a scope: a limit, and settings such as a label or a grace.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use timebox::Timebox;
///
/// // Five seconds, of which the last half second is kept for the answer.
/// let answer = Timebox::new(Duration::from_secs(5))
///     .label("request")
///     .run(|_| {
///         Timebox::new(None::<Duration>)
///             .label("query")
///             .reserve(Duration::from_millis(500))
///             .run_or_else(|scope| scope.checkpoint().map(|()| "fresh"), |_timed_out| Ok("stale"))
///     });
/// assert_eq!(answer.unwrap(), "fresh");
/// ```
///
/// Each run enters a scope of its own. So a configured `Timebox` can be kept and cloned, in a client or a retry loop:
///
/// ```
/// use std::time::Duration;
/// use timebox::Timebox;
///
/// let attempt = Timebox::new(Duration::from_secs(1)).label("attempt");
/// for _ in 0..3 {
///     attempt.clone().run(|scope| scope.checkpoint()).unwrap();
/// }
/// ```
#[doc(alias("CancelScope", "Builder", "context"))]
#[derive(Clone, Debug)]
#[must_use = "a timebox does nothing until something is run in it"]
pub struct Timebox {
    limit: Limit,
    options: Options,
}

impl Scope {
    /// Returns the result of the body. But if the scope is [`strict`](Timebox::strict) and over, an `Ok` is too late:
    /// it is dropped here, inside the scope, and the scope's error is returned.
    #[inline]
    pub(crate) fn in_time<T, E: From<TimeoutError>>(
        &self,
        location: &'static Location<'static>,
        result: Result<T, E>,
    ) -> Result<T, E> {
        if self.extras().is_some_and(|extras| extras.options.strict) && result.is_ok() {
            self.checkpoint_at(location)?;
        }
        result
    }
}

/// A guard. Its drop stores the scope's node in `node`, so that the node is there even if the body unwinds.
struct KeepsNode<'a> {
    scope: &'a Scope,
    node: &'a mut Option<Arc<Node>>,
}

impl Drop for KeepsNode<'_> {
    fn drop(&mut self) {
        *self.node = self.scope.existing_node().cloned();
    }
}

impl Timebox {
    /// A scope with this limit.
    pub fn new(limit: impl Into<Limit>) -> Self {
        Self { limit: limit.into(), options: Options::default() }
    }

    pub(crate) fn into_parts(self) -> (Limit, Extras) {
        let Self { limit, options } = self;
        let extras = Extras::new(&limit, options);
        (limit, extras)
    }

    /// A name, shown in errors and reports. An empty name counts as none.
    pub fn label(mut self, label: impl Into<Cow<'static, str>>) -> Self {
        self.options.label = Some(label.into()).filter(|label| !label.is_empty());
        self
    }

    /// Keeps time for later steps: this scope ends at least `duration` before the deadline of the scopes around it.
    pub fn reserve(mut self, duration: Duration) -> Self {
        self.options.reserve = duration;
        self
    }

    /// How long a future is still polled after the scope is over, so that it can end by itself before it is dropped.
    ///
    /// A block is never dropped: it ends at its next checkpoint. So the grace of a block ([`run`](Self::run)) is for
    /// the futures in the block: those that the block polls in a `block_on`, and those that its handles entered.
    ///
    /// ```
    /// use std::time::Duration;
    /// use timebox::{Timebox, TimeoutError, future};
    ///
    /// async fn transfer() -> Result<&'static str, TimeoutError> {
    ///     match future::sleep(Duration::from_secs(60)).await {
    ///         Ok(()) => Ok("done"),
    ///         Err(_) => Ok("rolled back"),
    ///     }
    /// }
    ///
    /// let limited = Timebox::new(Duration::from_millis(100)).grace(Duration::from_secs(5));
    /// let outcome = limited.run(|_| pollster::block_on(future::timeout(Duration::from_secs(60), transfer())));
    /// assert_eq!(outcome.unwrap(), "rolled back");
    /// ```
    pub fn grace(mut self, duration: Duration) -> Self {
        self.options.grace = duration;
        self
    }

    /// Enters the scope within the scopes of the handle, instead of the scopes of this thread or poll. This is
    /// [`Handle::enter`] or [`Handle::enter_future`] with all that a builder can set.
    ///
    /// The graces of the handle's scopes hold for the new scope too.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// use std::time::Duration;
    /// use timebox::{Timebox, future};
    ///
    /// let request = Timebox::new(Duration::from_millis(20)).grace(Duration::from_secs(1));
    /// let result = request.run_future(async {
    ///     // A task of its own. It belongs to the request, and ends with that.
    ///     let query = Timebox::new(None::<Duration>).label("query").within(&timebox::handle());
    ///     let task = tokio::spawn(query.run_future(async {
    ///         let work = future::sleep(Duration::from_secs(60)).await;
    ///         // roll back
    ///         work
    ///     }));
    ///     task.await.expect("no panic")
    /// });
    /// assert!(result.await.unwrap_err().settled());
    /// # });
    /// ```
    pub fn within(mut self, handle: &Handle) -> Self {
        handle.set_within(&mut self.options);
        self
    }

    /// The scope is also over when this token is over. Each call adds a token.
    #[doc(alias("with_cancellation_token", "with_cancellation_token_owned", "cancel_on_shutdown"))]
    pub fn cancel_on(mut self, token: &CancellationToken) -> Self {
        self.options.tokens.push(token.clone());
        self
    }

    /// Refuses a late success. If a block or future returns a value although its scope is over, the value is dropped
    /// inside the scope, and the call fails with an error that is [settled](TimeoutError::settled). An `Err` is
    /// returned unchanged.
    ///
    /// Without `strict` a finished result is never thrown away, however late. Use `strict` for work whose late result
    /// nobody wants, and that does no harm if it is repeated. `strict` costs one more reading of the clock.
    ///
    /// ```
    /// use std::thread::sleep;
    /// use std::time::Duration;
    /// use timebox::{Timebox, TimeoutError};
    ///
    /// let limited = Timebox::new(Duration::from_millis(10));
    /// let work = || sleep(Duration::from_millis(30)); // asks nobody whether it should stop
    ///
    /// assert!(limited.clone().run_value(|_| work()).is_ok());
    /// let error: TimeoutError = limited.strict().run_value(|_| work()).unwrap_err();
    /// assert!(error.is_timeout() && error.started() && error.settled());
    /// ```
    pub fn strict(mut self) -> Self {
        self.options.strict = true;
        self
    }

    /// A named value for errors and reports of the scope. The value is formatted in this call. `{:#}` and `{:?}` print
    /// the fields of an error, `{}` does not. If two fields have the same name, the later one counts.
    ///
    /// ```
    /// use std::time::Duration;
    /// use timebox::Timebox;
    ///
    /// let sql = String::from("select 1");
    /// let limited = Timebox::new(Duration::ZERO).label("query").field("sql", &sql).field("attempt", 2);
    /// let error = limited.run_value(|_| ()).unwrap_err();
    /// assert!(format!("{error:#}").ends_with("sql = select 1, attempt = 2"));
    /// assert_eq!(error.fields().next(), Some(("sql", "select 1")));
    /// ```
    pub fn field(mut self, name: impl Into<Cow<'static, str>>, value: impl Display) -> Self {
        let mut text = String::new();
        // A `Display` that fails must not cause a panic. The text that it has written so far is kept.
        let _ = write!(text, "{value}");
        self.options.fields.set(name.into(), text);
        self
    }

    /// Reports the scope if it is open for so long: see [`report`](crate::report). For this scope, the time replaces
    /// the policy's [`warn_after`](crate::report::Policy::warn_after), which is only for outermost scopes. This scope
    /// may be inside another. Nothing is reported while no policy is installed.
    ///
    /// ```
    /// use std::time::Duration;
    /// use timebox::Timebox;
    ///
    /// let query = Timebox::new(Duration::from_secs(30)).label("query").warn_after(Duration::from_secs(1));
    /// assert_eq!(query.run_value(|_| 42).unwrap(), 42);
    /// ```
    #[cfg(feature = "report")]
    pub fn warn_after(mut self, duration: Duration) -> Self {
        self.options.warn_after = Some(duration);
        self
    }

    /// Reports the scope once more if it is still open so long after its expiry. For this scope, the time replaces the
    /// policy's [`overdue_after`](crate::report::Policy::overdue_after).
    ///
    /// ```
    /// use std::time::Duration;
    /// use timebox::Timebox;
    ///
    /// let limited = Timebox::new(Duration::from_secs(1)).overdue_after(Duration::from_millis(100));
    /// assert_eq!(limited.run_value(|_| 42).unwrap(), 42);
    /// ```
    #[cfg(feature = "report")]
    pub fn overdue_after(mut self, duration: Duration) -> Self {
        self.options.overdue_after = Some(duration);
        self
    }

    /// Runs a block, as [`with_timeout`](crate::with_timeout) does.
    ///
    /// # Errors
    ///
    /// The errors of the body; and a [`TimeoutError`] if the body was not started, or if its late `Ok` is
    /// [refused](Self::strict).
    #[track_caller]
    pub fn run<T, E>(self, body: impl FnOnce(&Scope) -> Result<T, E>) -> Result<T, E>
    where
        E: From<TimeoutError>,
    {
        let (limit, extras) = self.into_parts();
        let location = Location::caller();
        run_any(&limit, Some(&extras), location, |scope| scope.in_time(location, body(scope)))
            .unwrap_or_else(|error| Err(E::from(error)))
    }

    /// Runs a block whose output is no `Result`, as [`timeout_value`](crate::timeout_value) does.
    ///
    /// # Errors
    ///
    /// A [`TimeoutError`] if the body was not started, if a checkpoint unwound it, or if its late value is
    /// [refused](Self::strict).
    #[track_caller]
    pub fn run_value<T>(self, body: impl FnOnce(&Scope) -> T) -> Result<T, TimeoutError> {
        let (limit, extras) = self.into_parts();
        let location = Location::caller();
        run_any(&limit, Some(&extras), location, |scope| scope.in_time(location, Ok(body(scope))))?
    }

    /// Runs a block, and then a fallback if the block's own time has run out.
    ///
    /// The fallback runs after the scope has been left, in two cases:
    ///
    /// - The body was not started, because this scope itself was over.
    /// - The body failed, and an error that names this scope had been raised. An `Err` of the body is dropped.
    ///
    /// In all other cases the result of the block is returned unchanged, or the error of an outer scope that is over. A
    /// late `Ok` that [`strict`](Self::strict) refuses counts as an `Err`.
    ///
    /// # Errors
    ///
    /// If the fallback runs: its errors. If not: the errors of the body, and the error of an outer scope that is over.
    #[track_caller]
    pub fn run_or_else<T, E>(
        self,
        body: impl FnOnce(&Scope) -> Result<T, E>,
        fallback: impl FnOnce(TimeoutError) -> Result<T, E>,
    ) -> Result<T, E>
    where
        E: From<TimeoutError>,
    {
        let (limit, mut extras) = self.into_parts();
        extras.falls_back = true;
        let location = Location::caller();
        let mut node = None;
        let result = run_any(&limit, Some(&extras), location, |scope| {
            let _keeps = KeepsNode { scope, node: &mut node };
            scope.in_time(location, body(scope))
        });
        let error = match result {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error,
            Err(error) => E::from(error),
        };
        // This takes the last error that named the scope. A node also stores the errors that a token or another thread
        // raised. `extras` does not have these, so the node is asked first.
        match node.and_then(|node| node.take_raised()).or_else(|| extras.take_raised()) {
            Some(timed_out) => {
                drop(error);
                fallback(timed_out)
            }
            None => Err(error),
        }
    }
}
