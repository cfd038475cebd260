use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower_service::Service;

use crate::answer::{Answer, Fail};
use crate::future::{Early, ResponseFuture};
use crate::message::{Call, Reply};
use crate::settings::Settings;

/// A service whose requests are limited: the service of [`TimeoutLayer`](crate::TimeoutLayer).
pub struct TimeoutService<S, Req, A = Fail> {
    inner: S,
    settings: Arc<Settings<Req>>,
    answer: A,
}

impl<S, Req, A> TimeoutService<S, Req, A> {
    pub(crate) fn new(inner: S, settings: Settings<Req>, answer: A) -> Self {
        Self { inner, settings: Arc::new(settings), answer }
    }

    /// The service inside.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service inside.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The service inside.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, Req, A> Service<Req> for TimeoutService<S, Req, A>
where
    S: Service<Req, Response: Reply>,
    Req: Call,
    A: Answer<S::Response, S::Error> + Clone,
{
    type Response = <S::Response as Reply>::Scoped;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, S::Response, A>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let settings = &self.settings;
        let mut response = ResponseFuture::new(self.answer.clone());
        if settings.is_exempt(&request) {
            response.future = Some(self.inner.call(request));
            return response;
        }
        let incoming = match settings.incoming(&request) {
            Ok(incoming) => incoming,
            Err(malformed) => match S::Response::refusal(&malformed) {
                Some(refusal) => {
                    response.early = Some(Box::new(Early::Refused(refusal)));
                    return response;
                }
                None => None,
            },
        };
        let scope = response.scope.insert(settings.scope(&request, incoming));
        scope.0.trailers = self.answer.trailers();
        // `call` may already run code of inner layers or of the handler (in a `service_fn`). So `call` is inside the
        // scope.
        let future = &mut response.future;
        if let Err(error) = scope.enter(|| *future = Some(self.inner.call(request))) {
            response.early = Some(Box::new(Early::Over(error)));
        }
        response
    }
}

impl<S: Clone, Req, A: Clone> Clone for TimeoutService<S, Req, A> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), settings: Arc::clone(&self.settings), answer: self.answer.clone() }
    }
}

impl<S: fmt::Debug, Req, A: fmt::Debug> fmt::Debug for TimeoutService<S, Req, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { inner, settings, answer } = self;
        f.debug_struct("TimeoutService")
            .field("inner", inner)
            .field("settings", settings)
            .field("answer", answer)
            .finish()
    }
}
