use std::future::{Pending, pending};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use timebox::future::{Wait, wait};
use timebox::{Limit, TimeoutError};
use tower_service::Service;

use super::DeadlineLayer;
use super::request::HasHeaders;
#[cfg(feature = "tonic")]
use super::status;
#[cfg(feature = "tonic")]
use crate::propagation::Format;

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

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
            Ok(()) => State::Called(wait(Limit::NONE, self.inner.call(request))),
            Err(error) => State::NotCalled(error, wait(Limit::NONE, pending())),
        };
        DeadlineFuture {
            state,
            #[cfg(feature = "tonic")]
            layer: self.layer.clone(),
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
    layer: DeadlineLayer,
}

#[pin_project(project = StateProj)]
#[derive(Debug)]
enum State<F> {
    /// The call has been made. The `Wait` fails as soon as the scope around it is over, even within a grace.
    Called(#[pin] Wait<F>),
    /// Too little time was left, so the call was not made. The `Wait` only delays the error: if the scope around it is
    /// about to drop its future, the `Wait` stays pending until the drop.
    NotCalled(TimeoutError, #[pin] Wait<Pending<()>>),
    Done,
}

impl<F, T, E> Future for DeadlineFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let result = match this.state.as_mut().project() {
            StateProj::Called(call) => ready!(call.poll(cx)),
            StateProj::NotCalled(error, over) => {
                // If the scope has time left (but not more than the allowance), it is not over. Then the `Wait` would
                // never end, so the error is given at once.
                if timebox::remaining().is_some_and(|left| left.is_zero()) {
                    let _ = ready!(over.poll(cx));
                }
                Err(error.clone())
            }
            StateProj::Done => return Poll::Pending,
        };
        this.state.set(State::Done); // drops the call
        let error = match result {
            Ok(Ok(response)) => return Poll::Ready(Ok(response)),
            Ok(Err(error)) => error.into(),
            Err(timed_out) => Box::new(timed_out),
        };
        #[cfg(feature = "tonic")]
        if this.layer.propagation.format() == Format::Grpc {
            return Poll::Ready(Err(status::with_status(error, this.layer.allowance)));
        }
        Poll::Ready(Err(error))
    }
}
