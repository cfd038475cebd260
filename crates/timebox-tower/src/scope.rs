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
    /// The limit on silence, if there is one.
    silence: Option<Box<Silence>>,
    /// How many bytes of the body are still to come, if that is known.
    pub(crate) left: Option<u64>,
    /// If the time of the body is up, the body ends with the trailers that this function makes. If this is `None`, the
    /// body ends with the error.
    pub(crate) trailers: Option<fn(&TimeoutError) -> HeaderMap>,
    /// Whether the scope belongs to a request. If not, it belongs to a body that was made by hand.
    of_request: bool,
    /// Whether a poll has begun and has not returned. If a poll panics, this stays `true`. Then a drop of the work does
    /// not cancel the scope.
    polling: bool,
}

#[derive(Debug)]
struct Silence {
    /// How long the body may be silent between two frames.
    limit: Duration,
    location: &'static Location<'static>,
    /// The scope that limits the wait for the next frame. It is made in the first poll after a frame.
    scope: Option<PollScope>,
}

impl RequestScope {
    #[inline]
    pub(crate) fn new(scope: PollScope, trailers: Option<fn(&TimeoutError) -> HeaderMap>) -> Self {
        let (silence, left, of_request, polling) = (None, None, true, false);
        Self(Box::new(State { scope, silence, left, trailers, of_request, polling }))
    }

    pub(crate) fn of_body(scope: PollScope) -> Self {
        let mut scope = Self::new(scope, None);
        scope.0.of_request = false;
        scope
    }

    pub(crate) fn limit_silence(&mut self, limit: Duration, location: &'static Location<'static>) {
        self.0.silence = Some(Box::new(Silence { limit, location, scope: None }));
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

    /// [`poll`](Self::poll), but not generic. So the polls of a request run the same code (except with a limit on
    /// silence). In a server, code that has not run for a while has left the processor's cache, and to fetch it takes
    /// longer than a call.
    #[inline(never)]
    pub(crate) fn poll_work(
        &mut self,
        cx: &mut Context<'_>,
        poll: &mut dyn FnMut(&mut Context<'_>) -> Poll<()>,
    ) -> Poll<Result<(), TimeoutError>> {
        self.poll(cx, poll)
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        poll: &mut dyn FnMut(&mut Context<'_>) -> Poll<()>,
    ) -> Poll<Result<(), TimeoutError>> {
        match self.0.silence.take() {
            None => self.poll_work(cx, poll),
            Some(mut silence) => {
                let polled = self.poll(cx, |cx| silence.poll(cx, poll));
                silence.scope = silence.scope.filter(|_| polled.is_pending());
                self.0.silence = Some(silence);
                polled.map(|result| result?)
            }
        }
    }

    /// Runs a block in the scope. Use this for code that is no poll: for example, to drop a future that is done.
    ///
    /// # Errors
    ///
    /// A [`TimeoutError`] if [`checkpoint_or_unwind`](timebox::checkpoint_or_unwind) unwound the block.
    pub fn enter<R>(&mut self, block: impl FnOnce() -> R) -> Result<R, TimeoutError> {
        self.0.scope.enter(|_| block())
    }

    /// [`enter`](Self::enter), but not generic: see [`poll_work`](Self::poll_work).
    #[inline(never)]
    pub(crate) fn run(&mut self, block: &mut dyn FnMut()) -> Result<(), TimeoutError> {
        self.enter(block)
    }

    /// Drops the rest of the response before its end, in the scope. First cancels the scope, so that tasks and threads
    /// that entered the scope by a handle stop.
    pub fn abandon(&mut self, drop: impl FnOnce()) {
        // `polling` is still `true` if a poll has panicked. Then the drop does not mean that the client has gone away.
        let reason = if self.0.of_request { CLIENT_GONE } else { BODY_DROPPED };
        let reason = (!self.0.polling).then_some(reason);
        self.end(reason, drop);
    }

    /// Drops the work in the scope. Called after a poll has returned an error. If the scope is not over, the error came
    /// from the limit on silence, so the scope is cancelled first.
    #[cold]
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

impl Silence {
    #[inline(never)]
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        poll: &mut dyn FnMut(&mut Context<'_>) -> Poll<()>,
    ) -> Poll<Result<(), TimeoutError>> {
        // If the request's scope is over, no scope can begin in it, so the silence is not limited. A frame that is
        // ready is still sent, and the grace limits the wait for the next frame.
        if self.scope.is_none() && timebox::remaining().is_none_or(|left| !left.is_zero()) {
            let timebox = Timebox::new(self.limit).label("silence of the body");
            self.scope = Some(PollScope::new(timebox, self.location));
        }
        match &mut self.scope {
            Some(scope) => scope.poll(cx, poll),
            None => poll(cx).map(Ok),
        }
    }
}
