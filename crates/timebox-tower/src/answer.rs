use std::fmt::{self, Write as _};
use std::sync::Arc;

use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{HeaderName, Response};
use timebox::TimeoutError;

/// What the caller gets if the time of a request is up: an error, or a response.
#[diagnostic::on_unimplemented(
    message = "the service's error `{E}` cannot hold a timeout",
    note = "answer instead: `TimeoutLayer::new(limit).respond_with(|error| ..)`, as under axum's `Router::layer`; or give the \
            service an error that is `From<timebox::TimeoutError>`, such as tower's `BoxError`"
)]
pub trait Answer<Res, E>: sealed::Sealed {
    #[doc(hidden)]
    fn answer(&self, error: TimeoutError) -> Result<Res, E>;
    #[doc(hidden)]
    fn trailers(&self) -> Option<fn(&TimeoutError) -> HeaderMap> {
        None
    }
}

mod sealed {
    #[expect(unnameable_types, reason = "it keeps the trait for the answers of this crate")]
    pub trait Sealed {}
    impl Sealed for super::Fail {}
    impl<Res> Sealed for super::Respond<Res> {}
    impl Sealed for super::GrpcStatus {}
}

/// The service fails. Its error type must be `From<TimeoutError>`, as `tower::BoxError` is.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Fail;

/// The service answers with the response that a closure makes of the error: see
/// [`TimeoutLayer::respond_with`](crate::TimeoutLayer::respond_with).
pub struct Respond<Res>(Arc<dyn Fn(&TimeoutError) -> Res + Send + Sync>);

/// The service answers with a status of gRPC: see
/// [`TimeoutLayer::respond_with_grpc_status`](crate::TimeoutLayer::respond_with_grpc_status).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct GrpcStatus;

#[diagnostic::do_not_recommend]
impl<Res, E: From<TimeoutError>> Answer<Res, E> for Fail {
    fn answer(&self, error: TimeoutError) -> Result<Res, E> {
        Err(E::from(error))
    }
}

impl<Res> Respond<Res> {
    pub(crate) fn new(respond: impl Fn(&TimeoutError) -> Res + Send + Sync + 'static) -> Self {
        Self(Arc::new(respond))
    }
}

impl<Res, E> Answer<Res, E> for Respond<Res> {
    fn answer(&self, error: TimeoutError) -> Result<Res, E> {
        Ok((self.0)(&error))
    }
}

impl<Res> Clone for Respond<Res> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<Res> fmt::Debug for Respond<Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Respond").finish_non_exhaustive()
    }
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

impl<B: Default, E> Answer<Response<B>, E> for GrpcStatus {
    fn answer(&self, error: TimeoutError) -> Result<Response<B>, E> {
        let mut response = Response::new(B::default());
        *response.headers_mut() = grpc_status(&error);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        Ok(response)
    }

    fn trailers(&self) -> Option<fn(&TimeoutError) -> HeaderMap> {
        Some(grpc_status)
    }
}

fn grpc_status(error: &TimeoutError) -> HeaderMap {
    let code = if error.is_cancelled() { "1" } else { "4" }; // CANCELLED, DEADLINE_EXCEEDED
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(GRPC_STATUS, HeaderValue::from_static(code));
    if let Ok(message) = HeaderValue::from_str(&percent_encoded(&error.to_string())) {
        headers.insert(GRPC_MESSAGE, message);
    }
    headers
}

/// The text as gRPC wants it in `grpc-message`. Printable ASCII stays as it is, except the percent sign. All other
/// bytes are escaped.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::percent_encoded;

    #[test]
    fn a_message_is_printable_ascii() {
        assert_eq!(percent_encoded("100 % of 2 µs\n"), "100 %25 of 2 %C2%B5s%0A");
    }
}
