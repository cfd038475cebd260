use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use super::format::Format;
use super::problem::Problem;

/// A header that should hold a deadline, and does not.
///
/// The error does not hold the header's value, which a client chooses: not its length, and not its characters.
///
/// # Examples
///
/// ```
/// use http::{HeaderMap, HeaderValue, Response, StatusCode};
/// use timebox_tower::Propagation;
///
/// let headers = HeaderMap::from_iter([("x-timeout-ms".parse().unwrap(), HeaderValue::from_static("-1"))]);
/// let malformed = Propagation::header("x-timeout-ms").deadline_of(&headers).unwrap_err();
/// assert_eq!(malformed.to_string(), "malformed header x-timeout-ms: expected milliseconds in digits");
///
/// let answer: Response<String> = malformed.response();
/// assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[error("malformed header {header}: {problem}")]
pub struct Malformed {
    header: HeaderName,
    problem: Problem,
    format: Format,
}

impl Malformed {
    pub(super) fn new(header: HeaderName, problem: Problem, format: Format) -> Self {
        Self { header, problem, format }
    }

    /// The name of the header.
    pub fn header(&self) -> &HeaderName {
        &self.header
    }

    /// The answer to a request with this header, with an empty body.
    ///
    /// For [`Propagation::grpc`](crate::Propagation::grpc) it has the gRPC status 3, `INVALID_ARGUMENT`, and this
    /// error's text as the message. For [`Propagation::header`](crate::Propagation::header) it is 400, Bad Request.
    pub fn response<B: Default>(&self) -> Response<B> {
        let mut response = Response::new(B::default());
        if self.format == Format::Grpc {
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from_static("3"));
            // gRPC escapes some characters of a message. The text has none of these.
            if let Ok(message) = HeaderValue::try_from(self.to_string()) {
                headers.insert("grpc-message", message);
            }
        } else {
            *response.status_mut() = StatusCode::BAD_REQUEST;
        }
        response
    }
}
