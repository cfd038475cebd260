use std::borrow::Cow;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use timebox::{Limit, Timebox, TimeoutError};
use tower_layer::Layer;

use crate::answer::{Fail, GrpcStatus, Respond};
use crate::propagation::Propagation;
use crate::service::TimeoutService;
use crate::settings::Settings;

/// Limits each request of a service: the handler, and the body of its response.
///
/// The scope of a request begins with the call of the service, and ends with the last frame of the body. In between,
/// the scope is open in the service's `call`, in each poll of its future, and in each poll of the body. So it is open
/// in handlers, extractors, and nested layers. [`timebox::handle`] takes the scope to other tasks and threads.
///
/// When time is up, code that checks gets a typed error where it stands. A future that is pending is dropped. With a
/// [`grace`](Self::grace) it is not dropped yet: its awaits give it the error, and it answers by itself. If there is no
/// answer from the handler, the service fails with its own error type, which must be `From<TimeoutError>`, or answers
/// as [`respond_with`](Self::respond_with) says.
///
/// **A client that goes away** cancels the scope, for the reason [`CLIENT_GONE`](crate::CLIENT_GONE): the server drops the future,
/// and the tasks and threads that have entered the scope by a handle stop.
///
/// Two times do not count towards the limit. The first is the wait in the service's `poll_ready`, for example for a
/// concurrency limit inside. The second is what comes after `101 Switching Protocols`. A websocket is a task of its
/// own: limit it with [`timebox::future`].
///
/// The type of the requests, `Req`, follows from the closures or from the service. So one layer is for one type of
/// requests.
///
/// # Examples
///
/// Under axum:
///
/// ```
/// use std::time::Duration;
/// use axum::extract::Request;
/// use axum::http::StatusCode;
/// use axum::response::IntoResponse;
/// use axum::{Router, routing::get};
/// use timebox_tower::TimeoutLayer;
///
/// let limit = TimeoutLayer::new(Duration::from_secs(5))
///     .exempt(|request: &Request| request.uri().path() == "/health")
///     .respond_with(|error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response());
///
/// let app: Router = Router::new().route("/users/{id}", get(|| async { "user" })).layer(limit);
/// # let _ = app;
/// ```
///
/// Around any service. The service of this example has the error `BoxError`:
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use std::time::Duration;
/// use timebox::TimeoutError;
/// use timebox_tower::TimeoutLayer;
/// use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
///
/// let service = ServiceBuilder::new().layer(TimeoutLayer::new(Duration::from_millis(20))).service(service_fn(
///     |name: String| async move {
///         timebox::future::sleep(Duration::from_secs(60)).await?;
///         Ok::<_, BoxError>(format!("hello {name}"))
///     },
/// ));
/// let error = service.oneshot("world".to_owned()).await.unwrap_err();
/// assert!(TimeoutError::find(&*error).unwrap().is_timeout());
/// # });
/// ```
#[must_use = "a layer does nothing until it is put around a service"]
pub struct TimeoutLayer<Req, A = Fail> {
    pub(crate) settings: Settings<Req>,
    pub(crate) answer: A,
}

impl<Req> TimeoutLayer<Req> {
    /// Limits each request. With `Limit::NONE` the layer still gives each request a scope. So
    /// [reports](Self::warn_after) and [deadlines that travel](Self::propagate) still work, and the scope is still
    /// cancelled if the client goes away.
    #[track_caller]
    pub fn new(limit: impl Into<Limit>) -> Self {
        Self { settings: Settings::new(limit.into(), Location::caller()), answer: Fail }
    }
}

impl<Req, A> TimeoutLayer<Req, A> {
    /// Sets the limit of each request, in place of the limit that [`new`](Self::new) got. The closure may return a
    /// `Duration`, an `Option<Duration>`, or whatever else is a [`Limit`].
    ///
    /// ```
    /// use std::time::Duration;
    /// use http::Request;
    /// use timebox_tower::TimeoutLayer;
    ///
    /// let limit = Duration::from_secs(5);
    /// let layer = TimeoutLayer::new(limit).limit_with(move |request: &Request<String>| {
    ///     if request.uri().path().starts_with("/export/") { 10 * limit } else { limit }
    /// });
    /// # let _ = layer;
    /// ```
    pub fn limit_with<L: Into<Limit>>(mut self, limit: impl Fn(&Req) -> L + Send + Sync + 'static) -> Self {
        self.settings.limit_with = Some(Arc::new(move |request| limit(request).into()));
        self
    }

    /// Sets the label of each request. Errors and reports show it. Without this, the label is the one that the request
    /// [has by itself](crate::Call::label): the method and the route.
    pub fn label_with<L: Into<Cow<'static, str>>>(
        mut self,
        label: impl Fn(&Req) -> L + Send + Sync + 'static,
    ) -> Self {
        self.settings.label_with = Some(Arc::new(move |request| label(request).into()));
        self
    }

    /// Requests for which the closure returns `true` get no scope from this layer. A second call exempts further
    /// requests.
    pub fn exempt(mut self, is_exempt: impl Fn(&Req) -> bool + Send + Sync + 'static) -> Self
    where
        Req: 'static,
    {
        self.settings.exempt = Some(match self.settings.exempt.take() {
            Some(before) => Arc::new(move |request| before(request) || is_exempt(request)),
            None => Arc::new(is_exempt),
        });
        self
    }

    /// Sets how long a handler is polled after its time is up, so that it can roll back and answer by itself. Its
    /// response is sent, however late. If the client goes away, the handler's future is dropped without a grace.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.settings.grace = grace;
        self
    }

    /// Sets how long the body of a response may be silent between two frames. The limit on the whole still holds. The
    /// time during which the client does not read does not count.
    ///
    /// ```
    /// use std::time::Duration;
    /// use timebox::Limit;
    /// use timebox_tower::TimeoutLayer;
    ///
    /// // Events without end, but never 30 seconds of silence.
    /// let events = TimeoutLayer::<http::Request<String>>::new(Limit::NONE).idle(Duration::from_secs(30));
    /// # let _ = events;
    /// ```
    pub fn idle(mut self, duration: Duration) -> Self {
        self.settings.idle = Some(duration);
        self
    }

    /// Reports each request that takes longer than this, with [its fields](crate::Call::describe): the method, the path
    /// without the query, the peer, and `x-request-id`. (The peer needs the feature `axum`, and axum's `ConnectInfo`.)
    /// No other header is shown. [`timebox_with`](Self::timebox_with) adds other fields.
    ///
    /// Reports go where the [policy](timebox::report::Policy) says. With the limit `Limit::NONE` the layer only
    /// reports:
    ///
    /// ```
    /// use std::time::Duration;
    /// use axum::{Router, routing::get};
    /// use timebox::Limit;
    /// use timebox_tower::{TimeoutLayer, respond};
    ///
    /// let slow = TimeoutLayer::new(Limit::NONE)
    ///     .warn_after(Duration::from_secs(1))
    ///     .respond_with(respond::gateway_timeout()); // only if the scope is cancelled from elsewhere
    /// let app: Router = Router::new().route("/", get(|| async { "hello" })).layer(slow);
    /// # let _ = app;
    /// ```
    #[cfg(feature = "report")]
    pub fn warn_after(mut self, duration: Duration) -> Self {
        self.settings.warn_after = Some(duration);
        self
    }

    /// Sets whatever else a [`Timebox`] can set, for each request: a field, a token for the shutdown of the server.
    ///
    /// ```
    /// use std::time::Duration;
    /// use http::Request;
    /// use timebox::CancellationToken;
    /// use timebox_tower::TimeoutLayer;
    ///
    /// let shutdown = CancellationToken::new();
    /// let layer = TimeoutLayer::new(Duration::from_secs(5)).timebox_with(
    ///     move |request: &Request<String>, timebox| {
    ///         let agent = request.headers().get("user-agent");
    ///         timebox.cancel_on(&shutdown).field("user agent", format_args!("{agent:?}"))
    ///     },
    /// );
    /// # let _ = layer;
    /// ```
    pub fn timebox_with(mut self, with: impl Fn(&Req, Timebox) -> Timebox + Send + Sync + 'static) -> Self {
        self.settings.timebox_with = Some(Arc::new(with));
        self
    }

    /// Lets a client say in a header how long it waits. The client's deadline counts if it is earlier than that of the
    /// limit. So a client cannot lengthen its time. A request whose header cannot be read is answered at once, without
    /// a call of the service: with `400 Bad Request`, or with gRPC's `INVALID_ARGUMENT`.
    pub fn propagate(mut self, propagation: Propagation) -> Self {
        self.settings.propagation = Some(propagation);
        self
    }

    /// If a request is not done in time, answers with what the closure returns, instead of an error. So the error type
    /// of the service stays as it is, and axum's `Router::layer` needs no `HandleErrorLayer`.
    ///
    /// The answer is a response of the service's own type. [`respond`](crate::respond) has ready-made answers.
    ///
    /// A streamed body whose time is up ends with an error: the status has been sent by then.
    pub fn respond_with<Res>(
        self,
        respond: impl Fn(&TimeoutError) -> Res + Send + Sync + 'static,
    ) -> TimeoutLayer<Req, Respond<Res>> {
        TimeoutLayer { settings: self.settings, answer: Respond::new(respond) }
    }

    /// If a request is not done in time, answers with gRPC's status `DEADLINE_EXCEEDED`; or with `CANCELLED` if the
    /// scope was cancelled. A streamed body ends with this status in its trailers.
    pub fn respond_with_grpc_status(self) -> TimeoutLayer<Req, GrpcStatus> {
        TimeoutLayer { settings: self.settings, answer: GrpcStatus }
    }
}

impl<S, Req, A: Clone> Layer<S> for TimeoutLayer<Req, A> {
    type Service = TimeoutService<S, Req, A>;

    fn layer(&self, inner: S) -> Self::Service {
        TimeoutService::new(inner, self.clone())
    }
}

impl<Req, A: Clone> Clone for TimeoutLayer<Req, A> {
    fn clone(&self) -> Self {
        Self { settings: self.settings.clone(), answer: self.answer.clone() }
    }
}

impl<Req, A: fmt::Debug> fmt::Debug for TimeoutLayer<Req, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { settings, answer } = self;
        f.debug_struct("TimeoutLayer").field("settings", settings).field("answer", answer).finish()
    }
}
