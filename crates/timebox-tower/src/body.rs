use std::error::Error;
use std::fmt;
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Buf;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project::{pin_project, pinned_drop};
use timebox::future::PollScope;
use timebox::{Limit, Timebox, TimeoutError};

use crate::scope::RequestScope;

type BoxError = Box<dyn Error + Send + Sync>;

/// A body with a limit on the whole, and another on the silence between two frames.
///
/// [`TimeoutLayer`](crate::TimeoutLayer) makes a `TimeoutBody` of each response, in the scope of the request. A
/// `TimeoutBody` that you make by hand limits the body of a request, or of a response that a client reads.
///
/// The scope is open in each poll of the inner body, and in its drop. When time is up, the inner body is dropped, and
/// the last frame is an error, or with [`respond_with_grpc_status`](crate::TimeoutLayer::respond_with_grpc_status) the
/// trailers. [`TimeoutError::find`](timebox::TimeoutError::find) finds the limit in the error. If the body is dropped
/// before its end, its scope is cancelled.
///
/// A limit acts while somebody polls the body. A server does not poll while its client does not read. Then the scope is
/// over in time, for its tasks, hooks and handles. But the inner body stays until the server drops it. So limit the
/// server's writes too.
///
/// # Examples
///
/// A request body that may take ten seconds in all, and may be silent for one second:
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use std::time::Duration;
/// use http_body_util::{BodyExt, Full};
/// use timebox_tower::TimeoutBody;
///
/// let body = Full::new(bytes::Bytes::from("uploaded"));
/// let limited = TimeoutBody::new(Duration::from_secs(10), body).idle(Duration::from_secs(1));
/// assert_eq!(limited.collect().await.unwrap().to_bytes(), "uploaded");
/// # });
/// ```
#[pin_project(PinnedDrop)]
pub struct TimeoutBody<B> {
    /// `None` once the body has ended.
    #[pin]
    body: Option<B>,
    /// `None` if the body has no limit, or has ended.
    scope: Option<RequestScope>,
}

impl<B> TimeoutBody<B> {
    /// Limits a body as a whole. The limit begins with the first poll.
    #[track_caller]
    pub fn new(limit: impl Into<Limit>, body: B) -> Self {
        Self::with(Timebox::new(limit), body)
    }

    /// Limits a body as a whole, with whatever a [`Timebox`] can set. The limit begins with the first poll.
    #[track_caller]
    pub fn with(timebox: Timebox, body: B) -> Self {
        let scope = PollScope::new(timebox, Location::caller());
        Self { body: Some(body), scope: Some(RequestScope::of_body(scope)) }
    }

    /// Limits the silence before the first frame, and between two frames. Silence is measured from the first poll for a
    /// frame.
    #[track_caller]
    pub fn idle(mut self, duration: Duration) -> Self {
        if let Some(scope) = &mut self.scope {
            scope.limit_silence(duration, Location::caller());
        }
        self
    }

    /// The body of a response, which keeps the scope of its request.
    pub(crate) fn scoped(body: B, mut scope: RequestScope) -> Self
    where
        B: Body,
    {
        if body.is_end_stream() {
            // An error means that `checkpoint_or_unwind` has unwound the drop. The body is gone then too, so the error
            // is ignored.
            let _ = scope.enter(|| drop(body));
            return Self::empty();
        }
        Self { body: Some(body), scope: Some(scope) }
    }

    pub(crate) fn unscoped(body: B) -> Self {
        Self { body: Some(body), scope: None }
    }

    pub(crate) fn empty() -> Self {
        Self { body: None, scope: None }
    }
}

/// The body has no limit.
impl<B: Default> Default for TimeoutBody<B> {
    fn default() -> Self {
        Self::unscoped(B::default())
    }
}

/// The body has no limit.
impl<B: From<String>> From<String> for TimeoutBody<B> {
    fn from(text: String) -> Self {
        Self::unscoped(B::from(text))
    }
}

/// The last frame of a body whose time is up.
#[cold]
fn last_frame<D>(
    trailers: Option<fn(&TimeoutError) -> HeaderMap>,
    error: TimeoutError,
) -> Result<Frame<D>, BoxError> {
    match trailers {
        Some(trailers) => Ok(Frame::trailers(trailers(&error))),
        None => Err(error.into()),
    }
}

impl<B> Body for TimeoutBody<B>
where
    B: Body<Error: Into<BoxError>>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let mut this = self.project();
        // The frame is written to this place. If it were returned through the scope, it would be copied several times.
        let mut frame = None;
        let mut poll = |cx: &mut Context<'_>| {
            let Some(body) = this.body.as_mut().as_pin_mut() else { return Poll::Ready(()) };
            frame = ready!(body.poll_frame(cx));
            let ends = match &frame {
                Some(Ok(frame)) => {
                    frame.is_trailers()
                        || this.body.as_ref().as_pin_ref().is_some_and(|body| body.is_end_stream())
                }
                Some(Err(_)) | None => true,
            };
            if ends {
                // The body is dropped here, so that its drop runs in the scope.
                this.body.set(None);
            }
            Poll::Ready(())
        };
        let polled = match &mut *this.scope {
            Some(scope) => ready!(scope.poll_frame(cx, &mut poll)),
            None => {
                ready!(poll(cx));
                Ok(())
            }
        };
        let frame = match (polled, &mut *this.scope) {
            (Err(error), Some(scope)) => {
                scope.fail(|| {
                    this.body.set(None);
                    frame = None;
                });
                Some(last_frame(scope.0.trailers, error))
            }
            _ => frame.map(|frame| frame.map_err(Into::into)),
        };
        if this.body.is_none() {
            *this.scope = None;
        } else if let Some(scope) = this.scope
            && let Some(left) = &mut scope.0.left
            && let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            *left = left.saturating_sub(data.remaining() as u64);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

#[pinned_drop]
impl<B> PinnedDrop for TimeoutBody<B> {
    fn drop(self: Pin<&mut Self>) {
        let mut this = self.project();
        let Some(scope) = this.scope else { return };
        if scope.0.left == Some(0) {
            // All announced bytes have been sent. So the body is complete, although the server drops it without a poll
            // for its end. Nothing is cancelled.
            let _ = scope.enter(|| this.body.set(None));
        } else if this.body.is_some() {
            scope.abandon(|| this.body.set(None));
        }
    }
}

impl<B> fmt::Debug for TimeoutBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeoutBody").field("scope", &self.scope).finish_non_exhaustive()
    }
}
