use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower_service::Service;

use crate::answer::{Answer, Fail};
use crate::future::{Early, ResponseFuture};
use crate::layer::TimeoutLayer;
use crate::message::{Call, Reply};
use crate::propagation::Malformed;

/// A service whose requests are limited: the service of [`TimeoutLayer`](crate::TimeoutLayer).
pub struct TimeoutService<S, Req, A = Fail> {
    inner: S,
    layer: Arc<TimeoutLayer<Req, A>>,
}

impl<S, Req, A> TimeoutService<S, Req, A> {
    pub(crate) fn new(inner: S, layer: TimeoutLayer<Req, A>) -> Self {
        Self { inner, layer: Arc::new(layer) }
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
    A: Answer<S::Response, S::Error>,
{
    type Response = <S::Response as Reply>::Scoped;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, Req, S::Response, A>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let TimeoutLayer { settings, answer } = &*self.layer;
        let mut response = ResponseFuture::new(Arc::clone(&self.layer));
        if settings.is_exempt(&request) {
            response.future = Some(self.inner.call(request));
            return response;
        }
        let incoming = match settings.incoming(&request) {
            Ok(incoming) => incoming,
            Err(malformed) => {
                response.early = refusal::<S::Response>(&malformed);
                if response.early.is_some() {
                    return response;
                }
                None
            }
        };
        let scope = response.scope.insert(settings.scope(&request, incoming, answer.trailers()));
        // `call` may already run code of inner layers or of the handler (in a `service_fn`). So `call` is inside the
        // scope. The closure borrows the request. If it owned the request, each function on the way would copy that.
        let future = &mut response.future;
        let mut request = Some(request);
        let inner = &mut self.inner;
        let entered = scope.run(&mut || {
            if let Some(request) = request.take() {
                *future = Some(inner.call(request));
            }
        });
        if let Err(error) = entered {
            response.early = Some(Box::new(Early::Over(error)));
        }
        response
    }
}

#[cold]
fn refusal<Res: Reply>(malformed: &Malformed) -> Option<Box<Early<Res::Scoped>>> {
    Res::refusal(malformed).map(|refusal| Box::new(Early::Refused(refusal)))
}

impl<S: Clone, Req, A> Clone for TimeoutService<S, Req, A> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), layer: Arc::clone(&self.layer) }
    }
}

impl<S: fmt::Debug, Req, A: fmt::Debug> fmt::Debug for TimeoutService<S, Req, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { inner, layer } = self;
        f.debug_struct("TimeoutService").field("inner", inner).field("layer", layer).finish()
    }
}
