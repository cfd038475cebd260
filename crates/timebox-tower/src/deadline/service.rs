use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use timebox::future::{TimeoutValue, timeout_value};
use timebox::{Limit, TimeoutError};
use tower_service::Service;

use super::DeadlineLayer;
use super::request::HasHeaders;
#[cfg(feature = "tonic")]
use crate::propagation::Format;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The service of a [`DeadlineLayer`].
#[derive(Clone, Debug)]
pub struct DeadlineService<S> {
    inner: S,
    layer: DeadlineLayer,
}

impl<S> DeadlineService<S> {
    pub(super) fn new(inner: S, layer: DeadlineLayer) -> Self {
        Self { inner, layer }
    }
}

impl<S, R> Service<R> for DeadlineService<S>
where
    S: Service<R, Error: Into<BoxError>>,
    R: HasHeaders,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = DeadlineFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: R) -> Self::Future {
        let state = match self.layer.apply(request.headers_mut()) {
            Ok(()) => State::Called(timeout_value(Limit::NONE, self.inner.call(request))),
            Err(error) => State::NotCalled(Some(error)),
        };
        DeadlineFuture {
            state,
            #[cfg(feature = "tonic")]
            format: self.layer.propagation.format(),
        }
    }
}

/// The future of a [`DeadlineService`].
#[pin_project]
#[derive(Debug)]
pub struct DeadlineFuture<F> {
    #[pin]
    state: State<F>,
    #[cfg(feature = "tonic")]
    format: Format,
}

#[pin_project(project = StateProj)]
#[derive(Debug)]
enum State<F> {
    Called(#[pin] TimeoutValue<F>),
    /// `None` once it is done.
    NotCalled(Option<TimeoutError>),
}

impl<F, T, E> Future for DeadlineFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let error = match this.state.project() {
            StateProj::Called(call) => match ready!(call.poll(cx)) {
                Ok(result) => return Poll::Ready(result.map_err(Into::into)),
                Err(error) => error,
            },
            StateProj::NotCalled(error) => match error.take() {
                Some(error) => error,
                None => return Poll::Pending,
            },
        };
        #[cfg(feature = "tonic")]
        if *this.format == Format::Grpc {
            return Poll::Ready(Err(Box::new(status(error))));
        }
        Poll::Ready(Err(Box::new(error)))
    }
}

#[cfg(feature = "tonic")]
fn status(error: TimeoutError) -> tonic::Status {
    let code = if error.is_timeout() { tonic::Code::DeadlineExceeded } else { tonic::Code::Cancelled };
    let mut status = tonic::Status::new(code, error.to_string());
    status.set_source(std::sync::Arc::new(error));
    status
}
