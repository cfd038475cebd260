use std::error::Error;
use std::fmt;
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use pin_project::{pin_project, pinned_drop};
use timebox::{Limit, Timebox};

use crate::scope::{BODY_DROPPED, RequestScope};

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
    /// How many bytes are still to come, if that is known.
    left: Option<u64>,
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
        let scope = RequestScope::new(timebox, Location::caller(), BODY_DROPPED);
        Self { body: Some(body), scope: Some(scope), left: None }
    }

    /// Limits the silence before the first frame, and between two frames. Silence is measured from the first poll for a
    /// frame.
    pub fn idle(mut self, duration: Duration) -> Self {
        if let Some(scope) = &mut self.scope {
            scope.0.idle = Some(duration);
        }
        self
    }

    /// The body of a response, which keeps the scope of its request. `length` is the number of its bytes, if that is
    /// known.
    pub(crate) fn scoped(body: B, mut scope: RequestScope, length: Option<u64>) -> Self
    where
        B: Body,
    {
        if body.is_end_stream() {
            // An error means that `checkpoint_or_unwind` has unwound the drop. The body is gone then too, so the error
            // is ignored.
            let _ = scope.enter(|| drop(body));
            return Self::empty();
        }
        Self { body: Some(body), scope: Some(scope), left: length }
    }

    pub(crate) fn unscoped(body: B) -> Self {
        Self { body: Some(body), scope: None, left: None }
    }

    pub(crate) fn empty() -> Self {
        Self { body: None, scope: None, left: None }
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
        let mut poll = |cx: &mut Context<'_>| match this.body.as_mut().as_pin_mut() {
            Some(body) => {
                let frame = ready!(body.poll_frame(cx));
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
                Poll::Ready(frame)
            }
            None => Poll::Ready(None),
        };
        let Some(scope) = this.scope else { return poll(cx).map_err(Into::into) };
        let polled = ready!(scope.poll_frame(cx, poll));
        let frame = match polled {
            Ok(frame) => frame.map(|frame| frame.map_err(Into::into)),
            Err(error) => {
                scope.fail(|| this.body.set(None));
                Some(match scope.0.trailers {
                    Some(trailers) => Ok(Frame::trailers(trailers(&error))),
                    None => Err(error.into()),
                })
            }
        };
        if this.body.is_none() {
            *this.scope = None;
        } else if let (Some(left), Some(Ok(frame))) = (this.left, &frame)
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
        if *this.left == Some(0) {
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
        f.debug_struct("TimeoutBody")
            .field("scope", &self.scope)
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}
