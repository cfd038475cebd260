use std::panic::Location;
use std::task::{Context, Poll};
use std::time::Duration;

use http::HeaderMap;
use timebox::future::PollScope;
use timebox::{Timebox, TimeoutError};

/// If the future or the streamed body of a request is dropped before its end, the request's scope is cancelled for this
/// [reason](TimeoutError::reason). A server drops them as soon as the client closes the connection or resets the
/// stream.
///
/// A layer around may drop them, too: for a timeout of its own, or, as `ProfileLayer` does, because it answers with
/// something else. A service cannot tell this from a client that went away.
pub const CLIENT_GONE: &str = "the client went away";

/// If a [`TimeoutBody`](crate::TimeoutBody) that was made by hand is dropped before its end, its scope is cancelled for
/// this [reason](TimeoutError::reason).
pub const BODY_DROPPED: &str = "the body was dropped before its end";

const SILENT: &str = "the body was silent for too long";

/// The scope of a request: open in each poll of the service's future, and of the response's body.
///
/// You need it only to implement [`Reply`](crate::Reply) for a response of your own. If it is dropped, the scope ends,
/// and is not cancelled.
///
/// # Examples
///
/// A response whose rest comes as a future:
///
/// ```
/// use std::future::Future;
/// use std::pin::Pin;
/// use std::task::{Context, Poll};
/// use std::time::Duration;
/// use timebox::TimeoutError;
/// use timebox_tower::{Reply, RequestScope, TimeoutLayer};
/// use tower::{BoxError, Layer, ServiceExt, service_fn};
///
/// struct Later(Pin<Box<dyn Future<Output = String> + Send>>);
///
/// struct Limited {
///     rest: Option<Later>,
///     scope: Option<RequestScope>,
/// }
///
/// impl Reply for Later {
///     type Scoped = Limited;
///
///     fn scoped(self, scope: RequestScope) -> Limited {
///         Limited { rest: Some(self), scope: Some(scope) }
///     }
///
///     fn unscoped(self) -> Limited {
///         Limited { rest: Some(self), scope: None }
///     }
/// }
///
/// impl Future for Limited {
///     type Output = Result<String, TimeoutError>;
///
///     fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
///         let Self { rest, scope } = self.get_mut();
///         let Some(Later(future)) = rest else { return Poll::Pending };
///         let polled = match scope {
///             Some(scope) => scope.poll(cx, |cx| future.as_mut().poll(cx)),
///             None => future.as_mut().poll(cx).map(Ok),
///         };
///         if polled.is_ready() {
///             match scope {
///                 Some(scope) => scope.enter(|| *rest = None).unwrap_or_default(),
///                 None => *rest = None,
///             }
///         }
///         polled
///     }
/// }
///
/// impl Drop for Limited {
///     fn drop(&mut self) {
///         let Self { rest, scope } = self;
///         if let (Some(scope), true) = (scope, rest.is_some()) {
///             scope.abandon(|| *rest = None); // the client has gone away
///         }
///     }
/// }
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let service = TimeoutLayer::new(Duration::from_secs(5)).layer(service_fn(async |name: String| {
///     let rest = async move { format!("hello {name}, limited: {}", timebox::remaining().is_some()) };
///     Ok::<_, BoxError>(Later(Box::pin(rest)))
/// }));
/// let limited = service.oneshot("world".to_owned()).await.unwrap();
/// assert_eq!(limited.await.unwrap(), "hello world, limited: true");
/// # });
/// ```
#[derive(Debug)]
pub struct RequestScope(pub(crate) Box<State>);

#[derive(Debug)]
pub(crate) struct State {
    scope: PollScope,
    location: &'static Location<'static>,
    /// The reason with which the scope is cancelled if the work is dropped before its end.
    reason: &'static str,
    /// Whether a poll has begun and has not returned. If a poll panics, this stays `true`. Then a drop of the work does
    /// not cancel the scope.
    polling: bool,
    /// How long the body may be silent between two frames.
    pub(crate) idle: Option<Duration>,
    /// The scope that limits the wait for the next frame. It is made in the first poll after a frame.
    silence: Option<Box<PollScope>>,
    /// Whether the body will not be read: the request was a `HEAD`.
    pub(crate) bodiless: bool,
    /// If the time of the body is up, the body ends with the trailers that this function makes. If this is `None`, the
    /// body ends with the error.
    pub(crate) trailers: Option<fn(&TimeoutError) -> HeaderMap>,
}

impl RequestScope {
    pub(crate) fn new(timebox: Timebox, location: &'static Location<'static>, reason: &'static str) -> Self {
        let scope = PollScope::new(timebox, location);
        let (idle, silence, trailers) = (None, None, None);
        let polling = false;
        Self(Box::new(State { scope, location, reason, polling, idle, silence, bodiless: false, trailers }))
    }

    /// Calls `poll` in the scope. The deadline is checked only after that, so an output is returned even if it is late.
    /// If `poll` returns `Pending`, the task will be woken at the deadline.
    ///
    /// # Errors
    ///
    /// A [`TimeoutError`] if `poll` returns `Pending` after the deadline and the [grace](crate::TimeoutLayer::grace).
    /// Then drop the future in [`enter`](Self::enter), and do not poll it again.
    pub fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<Result<T, TimeoutError>> {
        self.0.polling = true;
        let polled = self.0.scope.poll(cx, poll);
        self.0.polling = false;
        polled
    }

    pub(crate) fn poll_frame<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<Result<T, TimeoutError>> {
        let Some(idle) = self.0.idle else { return self.poll(cx, poll) };
        let location = self.0.location;
        let begin = || Box::new(PollScope::new(Timebox::new(idle).label("silence of the body"), location));
        let mut silence = self.0.silence.take();
        let polled = self.poll(cx, |cx| {
            // If the request's scope is over, no scope can begin in it, so the silence is not limited. A frame that is
            // ready is still sent, and the grace limits the wait for the next frame.
            if silence.is_none() && timebox::remaining().is_none_or(|left| !left.is_zero()) {
                silence = Some(begin());
            }
            match &mut silence {
                Some(silence) => silence.poll(cx, &mut poll),
                None => poll(cx).map(Ok),
            }
        });
        self.0.silence = silence.filter(|_| polled.is_pending());
        polled.map(|result| result?)
    }

    /// Runs a block in the scope. Use this for code that is no poll: for example, to drop a future that is done.
    ///
    /// # Errors
    ///
    /// A [`TimeoutError`] if [`checkpoint_or_unwind`](timebox::checkpoint_or_unwind) unwound the block.
    pub fn enter<R>(&mut self, block: impl FnOnce() -> R) -> Result<R, TimeoutError> {
        self.0.scope.enter(|_| block())
    }

    /// Drops the rest of the response before its end, in the scope. First cancels the scope, so that tasks and threads
    /// that entered the scope by a handle stop.
    pub fn abandon(&mut self, drop: impl FnOnce()) {
        // `polling` is still `true` if a poll has panicked. Then the drop does not mean that the client has gone away.
        let reason = (!self.0.polling).then_some(self.0.reason);
        self.end(reason, drop);
    }

    /// Drops the work in the scope. Called after a poll has returned an error. If the scope is not over, the error came
    /// from the limit on silence, so the scope is cancelled first.
    pub(crate) fn fail(&mut self, drop: impl FnOnce()) {
        self.end(Some(SILENT), drop);
    }

    fn end(&mut self, reason: Option<&'static str>, drop: impl FnOnce()) {
        // `enter` gives an error only if a `checkpoint_or_unwind` unwinds the drop. Nobody needs this error.
        let _ = self.0.scope.enter(|scope| {
            if let Some(reason) = reason
                && !scope.is_expired()
            {
                scope.token().cancel_with(reason);
            }
            drop();
        });
    }
}
