mod access;
mod future;
mod rate;
mod service;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderName, Response};
use timebox::Limit;
use timebox::report::ProfileReport;
use tower_layer::Layer;

pub use future::ProfileFuture;
pub use service::ProfileService;

use access::Access;
use rate::Rate;

/// Profiles the requests that carry a token, and no others: add a parameter to the URL, and get a picture of that one
/// request.
///
/// The token comes as the query parameter `__profile`, or in the header `x-profile`. Keep it secret. **Who knows the
/// token may see the names of your functions**, and may make the server work. A request without the right token is
/// passed on as it is: the layer only reads its headers and its query. Its client cannot find out whether there is a
/// token.
///
/// The service inside never sees the token: the header, or the parameter of the query, is removed from the request. Put
/// the layer outside of layers that log requests, and outside of [`TimeoutLayer`](crate::TimeoutLayer).
///
/// The answer to a profiled request is its flame graph (`image/svg+xml`), or a table (`text/plain`) without the feature
/// `flamegraph`. The service's own response is dropped unread. So a [`TimeoutLayer`](crate::TimeoutLayer) inside
/// cancels the request's scope, for the reason [`CLIENT_GONE`](crate::CLIENT_GONE). Tasks that have entered the scope
/// by a handle and still work are cancelled, too. With [`store`](Self::store) the client gets the service's response,
/// and a closure gets the profile. The service's errors pass through.
///
/// The profile is that of the service's future, and of the tasks and threads that enter its scopes by a
/// [`Handle`](timebox::Handle): see [`Profile`](timebox::report::Profile). A streamed body is not a part of it. The
/// names of functions are found on a separate thread, `timebox-profile`, so that no thread of the runtime is held up.
///
/// The idea is geordi's, of the makers of Bitbucket.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use axum::{Router, routing::get};
/// use timebox_tower::{ProfileLayer, TimeoutLayer, respond};
///
/// // Off, unless the operator sets the variable. Then: curl 'localhost:3000/?__profile=..' > request.svg
/// let token = std::env::var("PROFILE_TOKEN").unwrap_or_default();
/// let app: Router = Router::new()
///     .route("/", get(|| async { "hello" }))
///     .layer(TimeoutLayer::new(Duration::from_secs(5)).respond_with(respond::gateway_timeout()))
///     .layer(ProfileLayer::new(token).limit(Duration::from_secs(60)));
/// # let _ = app;
/// ```
#[derive(Clone)]
#[must_use = "a layer does nothing until it is put around a service"]
pub struct ProfileLayer {
    settings: Settings,
}

type Store = Arc<dyn Fn(ProfileReport) + Send + Sync>;

#[derive(Clone)]
struct Settings {
    access: Access,
    rate: Rate,
    frequency: Option<u32>,
    limit: Option<Limit>,
    store: Option<Store>,
}

/// An extension of the request: the limit for a profiled request.
#[derive(Clone)]
pub(crate) struct ProfileLimit(pub(crate) Limit);

impl ProfileLayer {
    /// Profiles requests that carry this token. **An empty token switches the layer off.**
    ///
    /// The token is compared as it is written in the URL or the header, without decoding. The comparison takes a time
    /// that tells nothing of the token but its length. Take a token that nobody can guess, of letters and digits: 32
    /// hexadecimal digits of a random number.
    pub fn new(token: impl Into<Cow<'static, str>>) -> Self {
        let access = Access::new(token.into());
        Self { settings: Settings { access, rate: Rate::new(10), frequency: None, limit: None, store: None } }
    }

    /// The header that carries the token: `x-profile` unless set.
    pub fn header(mut self, name: HeaderName) -> Self {
        self.settings.access.header = name;
        self
    }

    /// The query parameter that carries the token: `__profile` unless set.
    pub fn parameter(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.settings.access.parameter = name.into();
        self
    }

    /// Adds a condition. Of the requests with the right token, only those are profiled for which all conditions are
    /// true. The others are passed on, without the token.
    ///
    /// ```
    /// use timebox_tower::ProfileLayer;
    ///
    /// /// What a layer outside of this one has found out about the user.
    /// #[derive(Clone)]
    /// struct Admin;
    ///
    /// let layer = ProfileLayer::new("9f86d081884c7d65").only(|request| request.extensions.get::<Admin>().is_some());
    /// # let _ = layer;
    /// ```
    pub fn only(mut self, is_allowed: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.settings.access.conditions.push(Arc::new(is_allowed));
        self
    }

    /// Sets how many requests may be profiled in any minute, and also at the same time: 10 unless set. Further requests
    /// with the right token are answered with `429 Too Many Requests`. All clones of the layer count together.
    pub fn per_minute(mut self, requests: u32) -> Self {
        self.settings.rate = Rate::new(requests);
        self
    }

    /// Sets the limit of a profiled request. It replaces the limit of the [`TimeoutLayer`](crate::TimeoutLayer) inside.
    /// With a longer limit, the profile also shows what a request does after its usual limit. Prefer a minute to
    /// `Limit::NONE`: without a limit, a request that hangs takes one of the [profiles at a time](Self::per_minute) for
    /// ever.
    pub fn limit(mut self, limit: impl Into<Limit>) -> Self {
        self.settings.limit = Some(limit.into());
        self
    }

    /// Sets how many samples are taken in a second: see [`Profile::frequency`](timebox::report::Profile::frequency).
    pub fn frequency(mut self, hertz: u32) -> Self {
        self.settings.frequency = Some(hertz);
        self
    }

    /// Gives each profile to this closure. The client then gets the service's own response. If the client goes away,
    /// the closure gets the profile up to then.
    ///
    /// The closure is called on a separate thread, where it may block.
    ///
    /// ```
    /// use timebox_tower::ProfileLayer;
    ///
    /// let layer = ProfileLayer::new("9f86d081884c7d65").store(|profile| {
    ///     let name = format!("{:?}.folded", profile.began());
    ///     if let Err(error) = std::fs::write(name, profile.folded()) {
    ///         eprintln!("a profile is lost: {error}");
    ///     }
    /// });
    /// # let _ = layer;
    /// ```
    pub fn store(mut self, store: impl Fn(ProfileReport) + Send + Sync + 'static) -> Self {
        self.settings.store = Some(Arc::new(store));
        self
    }
}

impl<S> Layer<S> for ProfileLayer {
    type Service = ProfileService<S>;

    fn layer(&self, inner: S) -> ProfileService<S> {
        ProfileService::new(inner, self.settings.clone())
    }
}

impl fmt::Debug for ProfileLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.debug(f, "ProfileLayer")
    }
}

impl Settings {
    /// Does not show the token, because it is secret.
    fn debug(&self, f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
        f.debug_struct(name)
            .field("is_on", &self.access.is_on())
            .field("rate", &self.rate)
            .field("frequency", &self.frequency)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

fn drawn<B: From<String>>(report: &ProfileReport) -> Response<B> {
    use http::HeaderValue;
    use http::header::{CACHE_CONTROL, CONTENT_TYPE};

    #[cfg(feature = "flamegraph")]
    let (kind, text) = ("image/svg+xml", report.flame_graph());
    #[cfg(not(feature = "flamegraph"))]
    let (kind, text) = ("text/plain; charset=utf-8", report.to_string());
    let mut response = Response::new(B::from(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn undrawn<B: From<String>>() -> Response<B> {
    let mut response = Response::new(B::from("there is no thread to draw the profile\n".to_owned()));
    *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
    response
}

/// The answer to a request above the rate.
fn refusal<B: From<String>>(wait: Duration) -> Response<B> {
    let seconds = wait.as_secs() + 1;
    let mut response = Response::new(B::from(format!("too many profiles: try again in {seconds} s\n")));
    *response.status_mut() = http::StatusCode::TOO_MANY_REQUESTS;
    response.headers_mut().insert(http::header::RETRY_AFTER, http::HeaderValue::from(seconds));
    response
}

/// The answer to a request from which the token cannot be removed.
fn unclean<B: From<String>>() -> Response<B> {
    let mut response = Response::new(B::from("the token cannot be removed from the query\n".to_owned()));
    *response.status_mut() = http::StatusCode::BAD_REQUEST;
    response
}
