use std::time::Duration;

use http::HeaderValue;

use super::problem::Problem;
use super::{grpc, milliseconds};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Grpc,
    Milliseconds,
}

impl Format {
    pub(super) fn parse(self, value: &[u8]) -> Result<Duration, Problem> {
        match self {
            Self::Grpc => grpc::parse(value),
            Self::Milliseconds => milliseconds::parse(value),
        }
    }

    /// The value of the header, rounded down.
    pub(crate) fn format(self, remaining: Duration) -> HeaderValue {
        match self {
            Self::Grpc => grpc::format(remaining),
            Self::Milliseconds => milliseconds::format(remaining),
        }
    }

    /// The shortest time that is not rounded down to zero.
    pub(crate) fn smallest(self) -> Duration {
        match self {
            Self::Grpc => Duration::from_nanos(1),
            Self::Milliseconds => Duration::from_millis(1),
        }
    }
}
