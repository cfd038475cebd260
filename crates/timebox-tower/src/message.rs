use std::borrow::Cow;

use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body;
use timebox::{Limit, Timebox};

use crate::body::TimeoutBody;
use crate::propagation::Malformed;
use crate::scope::RequestScope;

/// A request, as the layer sees it.
///
/// HTTP requests are `Call`s, and so are plain values such as `String`. For a request type of your own an empty `impl`
/// will do.
///
/// # Examples
///
/// ```
/// use std::borrow::Cow;
/// use timebox_tower::{Call, Reply, RequestScope};
///
/// struct Lookup(String);
/// struct Found(u32);
///
/// impl Call for Lookup {
///     fn label(&self) -> Option<Cow<'static, str>> {
///         Some(format!("lookup {}", self.0).into())
///     }
/// }
///
/// impl Reply for Found {
///     type Scoped = Self;
///
///     fn scoped(self, _scope: RequestScope) -> Self {
///         self // the scope of the request ends here
///     }
///
///     fn unscoped(self) -> Self {
///         self
///     }
/// }
/// # assert_eq!(Lookup("x".to_owned()).label().unwrap(), "lookup x");
/// # assert_eq!(Found(1).unscoped().0, 1);
/// ```
pub trait Call {
    /// The label of the request's scope. For an HTTP request, this is the method and the route. The route is axum's
    /// `MatchedPath` (feature `axum`), or else the path without the query.
    fn label(&self) -> Option<Cow<'static, str>> {
        None
    }

    /// Whether [`label`](Self::label) returns this label. The layer asks this for most requests. Without an `impl` of
    /// your own it makes the label anew.
    fn has_label(&self, label: Option<&str>) -> bool {
        self.label().as_deref() == label
    }

    /// Adds the fields that [reports](crate::TimeoutLayer::warn_after) show. For an HTTP request these are the method,
    /// the path, the peer and the request id.
    fn describe(&self, timebox: Timebox) -> Timebox {
        timebox
    }

    /// The headers in which a deadline may [travel](crate::TimeoutLayer::propagate). `None` if the request has no
    /// headers.
    fn headers(&self) -> Option<&HeaderMap> {
        None
    }

    /// The limit that an outer layer has set for this request. It replaces the limit of
    /// [`TimeoutLayer`](crate::TimeoutLayer). For an HTTP request, [`ProfileLayer::limit`](crate::ProfileLayer::limit)
    /// sets it, with the feature `profile`.
    fn limit(&self) -> Option<Limit> {
        None
    }

    /// Whether nobody will read the body of the response. For an HTTP request: `true` if the method is `HEAD`.
    fn is_bodiless(&self) -> bool {
        false
    }
}

/// A response, which may take the scope of its request along.
///
/// HTTP responses are `Reply`s: the scope lives on in the [body](TimeoutBody). Plain values are `Reply`s, too: the
/// scope ends as soon as the value is there.
pub trait Reply: Sized {
    /// The response of the limited service.
    type Scoped;

    /// Turns a response that the service gave in time into a response that keeps `scope`. Produce the rest of the
    /// response in `scope`.
    fn scoped(self, scope: RequestScope) -> Self::Scoped;

    /// Makes a response that has no scope: the service's response to an exempt request, or the layer's answer to a
    /// request that was not done in time.
    fn unscoped(self) -> Self::Scoped;

    /// The response to a request whose deadline cannot be read. If it is `None`, the deadline is ignored, and the
    /// service is called.
    fn refusal(malformed: &Malformed) -> Option<Self::Scoped> {
        let _ = malformed;
        None
    }
}

impl<B> Call for Request<B> {
    fn label(&self) -> Option<Cow<'static, str>> {
        let (method, route) = (self.method().as_str(), route(self));
        let mut label = String::with_capacity(method.len() + 1 + route.len());
        label.extend([method, " ", route]);
        Some(label.into())
    }

    fn has_label(&self, label: Option<&str>) -> bool {
        let method = self.method().as_str();
        label.and_then(|label| label.strip_prefix(method)?.strip_prefix(' ')) == Some(route(self))
    }

    fn describe(&self, timebox: Timebox) -> Timebox {
        let mut described = timebox.field("method", self.method()).field("path", self.uri().path());
        #[cfg(feature = "axum")]
        if let Some(axum::extract::ConnectInfo(peer)) = self.extensions().get::<PeerInfo>() {
            described = described.field("peer", peer);
        }
        if let Some(id) = self.headers().get("x-request-id") {
            described = described.field("request id", String::from_utf8_lossy(id.as_bytes()));
        }
        described
    }

    fn headers(&self) -> Option<&HeaderMap> {
        Some(self.headers())
    }

    #[cfg(feature = "profile")]
    fn limit(&self) -> Option<Limit> {
        self.extensions().get::<crate::profile::ProfileLimit>().map(|limit| limit.0.clone())
    }

    fn is_bodiless(&self) -> bool {
        self.method() == Method::HEAD
    }
}

#[cfg(feature = "axum")]
type PeerInfo = axum::extract::ConnectInfo<std::net::SocketAddr>;

fn route<B>(request: &Request<B>) -> &str {
    #[cfg(feature = "axum")]
    if let Some(matched) = request.extensions().get::<axum::extract::MatchedPath>() {
        return matched.as_str();
    }
    request.uri().path()
}

impl<B: Body> Reply for Response<B> {
    type Scoped = Response<TimeoutBody<B>>;

    fn scoped(self, mut scope: RequestScope) -> Self::Scoped {
        if scope.0.left.is_none() {
            scope.0.left = if has_no_body(self.status()) { Some(0) } else { content_length(&self) };
        }
        self.map(|body| TimeoutBody::scoped(body, scope))
    }

    fn unscoped(self) -> Self::Scoped {
        self.map(TimeoutBody::unscoped)
    }

    fn refusal(malformed: &Malformed) -> Option<Self::Scoped> {
        Some(malformed.response::<()>().map(|()| TimeoutBody::empty()))
    }
}

fn has_no_body(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// The length of the body in bytes, if that is known. Once a server has sent that many bytes, it may drop the body
/// without a poll for its end.
fn content_length<B: Body>(response: &Response<B>) -> Option<u64> {
    response.body().size_hint().exact().or_else(|| {
        let header = response.headers().get(http::header::CONTENT_LENGTH)?;
        header.to_str().ok()?.parse().ok()
    })
}

macro_rules! plain {
    ($($type:ty)+) => { $(
        impl Call for $type {}

        impl Reply for $type {
            type Scoped = Self;

            fn scoped(self, _: RequestScope) -> Self {
                self
            }

            fn unscoped(self) -> Self {
                self
            }
        }
    )+ };
}

plain!(() bool char u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64 String &'static str Vec<u8>);
