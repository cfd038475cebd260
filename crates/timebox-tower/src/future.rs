use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project::{pin_project, pinned_drop};
use timebox::TimeoutError;

use crate::answer::Answer;
use crate::layer::TimeoutLayer;
use crate::message::Reply;
use crate::scope::RequestScope;

/// The future of a [`TimeoutService`](crate::TimeoutService).
///
/// If the future is dropped before its end, the scope of the request is cancelled for the reason
/// [`CLIENT_GONE`](crate::CLIENT_GONE), and the inner future is dropped in this scope.
#[pin_project(PinnedDrop)]
pub struct ResponseFuture<F, Req, Res: Reply, A> {
    /// `None` if the service was not called, or once the inner future is done or dropped.
    #[pin]
    pub(crate) future: Option<F>,
    /// `None` if the request is exempt or refused. Also `None` once the inner future is done, or was dropped because
    /// the scope was over.
    pub(crate) scope: Option<RequestScope>,
    pub(crate) early: Option<Box<Early<Res::Scoped>>>,
    layer: Arc<TimeoutLayer<Req, A>>,
}

/// How a request ends without a call of the service: with an answer that refuses it, or with the error of its scope.
pub(crate) enum Early<Scoped> {
    Refused(Scoped),
    Over(TimeoutError),
}

impl<F, Req, Res: Reply, A> ResponseFuture<F, Req, Res, A> {
    pub(crate) fn new(layer: Arc<TimeoutLayer<Req, A>>) -> Self {
        Self { future: None, scope: None, early: None, layer }
    }
}

impl<F, Req, Res, E, A> Future for ResponseFuture<F, Req, Res, A>
where
    F: Future<Output = Result<Res, E>>,
    Res: Reply,
    A: Answer<Res, E>,
{
    type Output = Result<Res::Scoped, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Some(early) = this.early.take() {
            return match *early {
                Early::Refused(refusal) => Poll::Ready(Ok(refusal)),
                Early::Over(error) => {
                    // If the scope of an outer future is over, that future is about to be dropped. So this stays
                    // pending, like each await of the crate.
                    let scope = this.scope.as_mut();
                    if scope.is_some_and(|scope| scope.poll(cx, |_| Poll::Ready(())).is_pending()) {
                        *this.early = Some(Box::new(Early::Over(error)));
                        return Poll::Pending;
                    }
                    Poll::Ready(this.layer.answer.answer(error).map(Reply::unscoped))
                }
            };
        }
        // The output is written to this place. If it were returned through the scope, it would be copied several times.
        let mut output = None;
        let mut poll = |cx: &mut Context<'_>| match this.future.as_mut().as_pin_mut() {
            Some(future) => {
                output = Some(ready!(future.poll(cx)));
                // Drops the future here, so that the drop runs in the scope (if there is a scope).
                this.future.set(None);
                Poll::Ready(())
            }
            None => Poll::Pending,
        };
        let polled = match &mut *this.scope {
            Some(scope) => ready!(scope.poll_work(cx, &mut poll)),
            None => {
                ready!(poll(cx));
                Ok(())
            }
        };
        let scope = this.scope.take();
        if let Err(error) = polled {
            if let Some(mut scope) = scope {
                // In a strict scope there may be an output that came too late.
                let _ = scope.enter(|| {
                    this.future.set(None);
                    output = None;
                });
            }
            return Poll::Ready(this.layer.answer.answer(error).map(Reply::unscoped));
        }
        let Some(output) = output else { return Poll::Pending };
        Poll::Ready(output.map(|response| match scope {
            Some(scope) => response.scoped(scope),
            None => response.unscoped(),
        }))
    }
}

#[pinned_drop]
impl<F, Req, Res: Reply, A> PinnedDrop for ResponseFuture<F, Req, Res, A> {
    fn drop(self: Pin<&mut Self>) {
        let mut this = self.project();
        if let Some(scope) = this.scope
            && this.future.is_some()
        {
            scope.abandon(|| this.future.set(None));
        }
    }
}

impl<F, Req, Res: Reply, A> fmt::Debug for ResponseFuture<F, Req, Res, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").field("scope", &self.scope).finish_non_exhaustive()
    }
}
