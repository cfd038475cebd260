//! Reads the deadline of an incoming request, and writes the deadline of an outgoing one.

mod digits;
mod format;
mod grpc;
mod malformed;
mod milliseconds;
mod problem;

use std::fmt::Debug;
use std::time::Duration;

use http::header::{HeaderMap, HeaderName};
use timebox::Limit;

pub(crate) use format::Format;
pub use malformed::Malformed;
use problem::Problem;

/// How a deadline travels with a request: the header, and its format.
///
/// The header holds the time that is left, not an instant, since the clocks of two machines differ. So a receiver's
/// deadline is later than the sender's by the time that the request was on its way. The sender's
/// [allowance](crate::DeadlineLayer::allowance) makes up for this time.
///
/// # Absent, zero and infinite
///
/// These are three different things:
///
/// - *Absent*: the client asks for nothing, and the server's own limit holds.
/// - *Zero*: the client has no time left. The request is over before it begins.
/// - *Infinite*: more than 584 years, such as `99999999H`. The client waits without end, and the server's own limit holds.
///
/// Some proxies read a zero as "no limit". This crate never does.
///
/// # Examples
///
/// ```
/// use http::{HeaderMap, HeaderValue};
/// use timebox_tower::Propagation;
///
/// let mut headers = HeaderMap::new();
/// assert!(Propagation::grpc().deadline_of(&headers).unwrap().is_none());
///
/// headers.insert("grpc-timeout", HeaderValue::from_static("250m"));
/// let limit = Propagation::grpc().deadline_of(&headers).unwrap();
/// timebox::timeout_value(limit, || {
///     assert!(timebox::remaining().unwrap().as_millis() <= 250);
/// })
/// .unwrap();
///
/// headers.insert("grpc-timeout", HeaderValue::from_static("soon"));
/// assert!(Propagation::grpc().deadline_of(&headers).is_err());
/// ```
#[derive(Clone, Debug)]
pub struct Propagation {
    header: HeaderName,
    format: Format,
}

static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

impl Propagation {
    /// The header `grpc-timeout` of [gRPC over HTTP/2][protocol]: one to eight digits, and a unit, which is one of `H`,
    /// `M`, `S` (hours, minutes, seconds) and `m`, `u`, `n` (milliseconds, microseconds, nanoseconds).
    ///
    /// The protocol allows no zero, but clients send one when no time is left, so a zero is read.
    ///
    /// [protocol]: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use timebox_tower::{Propagation, TimeoutLayer};
    ///
    /// let limit = TimeoutLayer::new(Duration::from_secs(2)).propagate(Propagation::grpc()).respond_with_grpc_status();
    /// # let _: TimeoutLayer<http::Request<()>, _> = limit;
    /// ```
    pub fn grpc() -> Self {
        Self { header: GRPC_TIMEOUT.clone(), format: Format::Grpc }
    }

    /// A header of this name. Its value is a whole number of milliseconds, in digits, as in Connect's
    /// `connect-timeout-ms` and Envoy's `x-envoy-expected-rq-timeout-ms`.
    ///
    /// At most ten digits are written, as Connect asks for, which is 115 days. Up to 19 digits are read.
    ///
    /// # Panics
    ///
    /// If the name is not a valid name of a header.
    ///
    /// # Examples
    ///
    /// ```
    /// use http::HeaderName;
    /// use timebox_tower::Propagation;
    ///
    /// let by_text = Propagation::header("x-timeout-ms");
    /// let by_name = Propagation::header(HeaderName::from_static("x-timeout-ms"));
    /// assert_eq!(by_text.name(), by_name.name());
    /// ```
    #[track_caller]
    pub fn header<N>(name: N) -> Self
    where
        N: TryInto<HeaderName, Error: Debug>,
    {
        match name.try_into() {
            Ok(header) => Self { header, format: Format::Milliseconds },
            Err(error) => panic!("not a name of a header: {error:?}"),
        }
    }

    /// The name of the header.
    pub fn name(&self) -> &HeaderName {
        &self.header
    }

    /// The limit that a request with these headers asks for; `None` if it asks for none.
    ///
    /// The limit begins when its scope is entered. So read the headers as soon as the request is there.
    ///
    /// # Errors
    ///
    /// [`Malformed`] if the header is not in its format, or is sent more than once. Nothing is allocated for the value,
    /// however long it is.
    pub fn deadline_of(&self, headers: &HeaderMap) -> Result<Option<Limit>, Malformed> {
        Ok(self.remaining_of(headers)?.map(Limit::from))
    }

    /// The time that a request with these headers has left. `None` if they hold no deadline.
    pub(crate) fn remaining_of(&self, headers: &HeaderMap) -> Result<Option<Duration>, Malformed> {
        let mut lines = headers.get_all(&self.header).iter();
        let Some(value) = lines.next() else { return Ok(None) };
        let read = match lines.next() {
            Some(_) => Err(Problem::Repeated),
            None => self.format.parse(value.as_bytes()),
        };
        read.map(Some).map_err(|problem| Malformed::new(self.header.clone(), problem, self.format))
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }
}
