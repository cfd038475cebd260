use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use timebox::TimeoutError;
use tonic::{Code, Status, TimeoutExpired};

use super::service::BoxError;

/// Turns a [`TimeoutError`] into a status. Also turns the error of the timer that tonic's channel runs for
/// `grpc-timeout` into a status: otherwise tonic would make it the status `Cancelled`. Returns any other error
/// unchanged.
pub(super) fn with_status(error: BoxError, allowance: Duration) -> BoxError {
    match error.downcast::<TimeoutError>() {
        Ok(error) => status(*error),
        Err(error) if has_expired(&*error) => match timebox::require(allowance) {
            Ok(()) => Box::new(Status::deadline_exceeded(error.to_string())),
            Err(error) => status(error),
        },
        Err(error) => error,
    }
}

fn has_expired(error: &(dyn Error + 'static)) -> bool {
    error.is::<TimeoutExpired>() || error.source().is_some_and(has_expired)
}

fn status(error: TimeoutError) -> BoxError {
    let code = if error.is_timeout() { Code::DeadlineExceeded } else { Code::Cancelled };
    let mut status = Status::new(code, error.to_string());
    status.set_source(Arc::new(error));
    Box::new(status)
}
