//! Answers for [`TimeoutLayer::respond_with`](crate::TimeoutLayer::respond_with), with an empty body.
//!
//! For a body of your own pass a closure.

use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderValue, Response, StatusCode};
use timebox::TimeoutError;

/// `503 Service Unavailable`, with the header `Retry-After`, in whole seconds, rounded up: this server has too much to
/// do.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use timebox_tower::{TimeoutLayer, respond};
///
/// let layer = TimeoutLayer::new(Duration::from_secs(5))
///     .respond_with(respond::service_unavailable(Duration::from_secs(30)));
/// # let _: TimeoutLayer<http::Request<String>, timebox_tower::Respond<http::Response<String>>> = layer;
/// ```
pub fn service_unavailable<B: Default>(
    retry_after: Duration,
) -> impl Fn(&TimeoutError) -> Response<B> + Clone + Send + Sync + 'static {
    let seconds = retry_after.as_secs().saturating_add(u64::from(retry_after.subsec_nanos() > 0));
    move |_| {
        let mut response = status(StatusCode::SERVICE_UNAVAILABLE);
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        response
    }
}

/// `504 Gateway Timeout`: a server on which this server relies was too slow.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use timebox_tower::{TimeoutLayer, respond};
///
/// let layer = TimeoutLayer::new(Duration::from_secs(5)).respond_with(respond::gateway_timeout());
/// # let _: TimeoutLayer<http::Request<String>, timebox_tower::Respond<http::Response<String>>> = layer;
/// ```
pub fn gateway_timeout<B: Default>() -> impl Fn(&TimeoutError) -> Response<B> + Clone + Send + Sync + 'static
{
    |_| status(StatusCode::GATEWAY_TIMEOUT)
}

fn status<B: Default>(status: StatusCode) -> Response<B> {
    let mut response = Response::new(B::default());
    *response.status_mut() = status;
    response
}
