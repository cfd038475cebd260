//! Limits of streams: of the whole, and of the time between two items.

use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use futures_core::stream::FusedStream;
use pin_project::{pin_project, pinned_drop};

use super::scoped::Scoped;
use super::task_wakeup::TaskWakeup;
use crate::error::TimeoutError;
use crate::scope::checkpoint::is_over;
use crate::scope::{SuspendedScope, Timebox, innermost, is_enabled};
use crate::test_env::TestEnv;
use crate::thread::Thread;
use crate::time::{Limit, NEVER, clock, nanos};

/// Limits as methods of streams (feature `stream`). If you also import another trait named `StreamExt`, write
/// `use timebox::future::StreamExt as _`.
///
/// # Examples
///
/// Each chunk of this body may take 10 ms, and the whole body a minute:
///
/// ```
/// # pollster::block_on(async {
/// use std::time::Duration;
/// use futures::stream::{self, StreamExt as _};
/// use timebox::future::StreamExt as _;
///
/// let chunks = stream::iter([1, 2]).chain(stream::pending());
/// let limited = chunks.timebox(Duration::from_secs(60)).idle(Duration::from_millis(10));
/// let items: Vec<_> = limited.collect().await;
///
/// assert_eq!(items[..2].iter().flatten().sum::<i32>(), 3);
/// let error = items[2].as_ref().unwrap_err(); // the last item
/// assert_eq!(error.limit(), Some(Duration::from_millis(10)));
/// # });
/// ```
pub trait StreamExt: Stream {
    /// Limits the whole stream, from its first poll on. See [`TimeoutStream`].
    #[track_caller]
    fn timebox(self, limit: impl Into<Limit>) -> TimeoutStream<Self>
    where
        Self: Sized,
    {
        TimeoutStream::new(SuspendedScope::new(limit.into(), Location::caller()), self)
    }

    /// Limits the time that the stream takes for each item. See [`TimeoutStream::idle`].
    #[track_caller]
    fn timebox_idle(self, max: Duration) -> TimeoutStream<Self>
    where
        Self: Sized,
    {
        self.timebox(Limit::NONE).idle(max)
    }
}

impl<S: Stream> StreamExt for S {}

impl Timebox {
    /// Limits a stream, with all that is set on this `Timebox` (feature `stream`). See [`TimeoutStream`].
    ///
    /// # Examples
    ///
    /// ```
    /// # pollster::block_on(async {
    /// use std::time::Duration;
    /// use futures::stream::{self, StreamExt as _};
    /// use timebox::Timebox;
    ///
    /// let feed = Timebox::new(Duration::from_millis(5)).label("feed").run_stream(stream::pending::<()>());
    /// let items: Vec<_> = feed.collect().await;
    /// assert_eq!(items[0].as_ref().unwrap_err().label(), Some("feed"));
    /// # });
    /// ```
    #[track_caller]
    pub fn run_stream<S: Stream>(self, stream: S) -> TimeoutStream<S> {
        let (limit, extras) = self.into_parts();
        TimeoutStream::new(SuspendedScope::with(limit, extras, Location::caller()), stream)
    }
}

/// A stream with limits: of [`StreamExt::timebox`], [`StreamExt::timebox_idle`] and [`Timebox::run_stream`].
///
/// One scope is open in every poll of the stream, and in its drop. It is entered at the first poll. An item is
/// `Result<Item, TimeoutError>`. Once the scope is over, the stream is dropped, inside its scope; the error is the last
/// item. An item that is ready when the time runs out is still given. No item begins after that.
///
/// With a [grace](Timebox::grace) the stream goes on until the grace ends.
///
/// # Cancellation safety
///
/// The future of its `next` may be dropped at any time: no item is lost. Dropping the `TimeoutStream` drops the inner
/// stream in its scope.
#[must_use = "streams do nothing unless polled"]
#[pin_project(PinnedDrop)]
pub struct TimeoutStream<S> {
    #[pin]
    scoped: Scoped<Next<S>, true>,
    /// How long the stream may be pending before an item.
    max: u64,
    /// When the next item is overdue. [`NEVER`] if the stream was not pending since the last item.
    overdue: u64,
    /// Wakes the task at `overdue`.
    wakeup: TaskWakeup,
    /// `overdue` is a time on the clock of this test environment.
    env: TestEnv,
    is_done: bool,
}

impl<S: Stream> TimeoutStream<S> {
    fn new(scope: SuspendedScope, stream: S) -> Self {
        Self {
            scoped: Scoped::new(scope, Next { stream, begins: true }),
            max: NEVER,
            overdue: NEVER,
            wakeup: TaskWakeup::default(),
            env: TestEnv::current(),
            is_done: false,
        }
    }

    /// Limits the time that the stream takes for each item, beside the limit of the whole.
    ///
    /// The time runs while the stream is pending: from the poll that asks for an item. So the time that the consumer
    /// takes between two items does not count. When this time is up, the scope of the whole stream is over, with its
    /// tokens and handles. The [limit](TimeoutError::limit) of the error is `max`.
    pub fn idle(mut self, max: Duration) -> Self {
        self.max = nanos(max);
        self
    }

    /// `true` if the next item is overdue. Called after each poll that was pending. The first call after an item starts
    /// the time for the next item. While that time runs, each call arms the wakeup at its end. Without an idle limit,
    /// before the scope is entered, or with limits switched off: does nothing, and returns `false`.
    fn is_overdue(self: Pin<&mut Self>, cx: &Context<'_>) -> bool {
        let this = self.project();
        if *this.max == NEVER || !this.scoped.is_entered() || !is_enabled() {
            return false;
        }
        if this.env.is_real() {
            *this.env = TestEnv::current();
        }
        let now = this.env.reading(clock::now());
        if *this.overdue == NEVER {
            *this.overdue = now.saturating_add(*this.max);
        }
        if *this.overdue <= now {
            this.wakeup.clear();
            return true;
        }
        this.wakeup.wake_at_on(this.env, *this.overdue, cx.waker());
        false
    }
}

impl<S: Stream> Stream for TimeoutStream<S> {
    type Item = Result<S::Item, TimeoutError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_done {
            return Poll::Ready(None);
        }
        let mut poll = self.as_mut().project().scoped.poll(cx, Ok, |_| ());
        if poll.is_pending() && self.as_mut().is_overdue(cx) {
            let this = self.as_mut().project();
            let now = this.env.reading(clock::now());
            let mut scoped = this.scoped;
            scoped.as_mut().expire(*this.max, now);
            // The scope is over now. `NEVER`: no later item is overdue, so the scope is not ended again.
            *this.max = NEVER;
            poll = scoped.poll(cx, Ok, |_| ());
        }
        let next: Result<_, TimeoutError> = ready!(poll);
        let mut this = self.project();
        *this.overdue = NEVER;
        this.wakeup.clear();
        let next = next.transpose();
        if !matches!(next, Some(Ok(_))) {
            *this.is_done = true;
            this.scoped.as_mut().end();
        }
        Poll::Ready(next)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        if self.is_done {
            return (0, Some(0));
        }
        let most = self.scoped.future().and_then(|next| next.stream.size_hint().1);
        (0, most.and_then(|most| most.checked_add(1)))
    }
}

impl<S: Stream> FusedStream for TimeoutStream<S> {
    fn is_terminated(&self) -> bool {
        self.is_done
    }
}

#[pinned_drop]
impl<S> PinnedDrop for TimeoutStream<S> {
    fn drop(self: Pin<&mut Self>) {
        self.project().wakeup.clear();
    }
}

impl<S> fmt::Debug for TimeoutStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeoutStream")
            .field("scoped", &self.scoped)
            .field("is_done", &self.is_done)
            .finish_non_exhaustive()
    }
}

/// The future of the stream's next item. After it was ready, it may be polled again, for the item that follows.
#[pin_project]
struct Next<S> {
    #[pin]
    stream: S,
    /// Whether the next poll is the first one for an item.
    begins: bool,
}

impl<S: Stream> Future for Next<S> {
    type Output = Option<S::Item>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // Once the scope and its grace are over, the stream is not asked for another item. Otherwise a stream that is
        // always ready would never end.
        if *this.begins && Thread::with(is_at_end) {
            return Poll::Pending;
        }
        let poll = this.stream.poll_next(cx);
        *this.begins = poll.is_ready();
        poll
    }
}

/// Whether the innermost scope and its grace are over.
fn is_at_end(thread: &Thread) -> bool {
    is_over(thread) && {
        let now = clock::now();
        innermost(thread, |scope| scope.is_some_and(|scope| scope.polled_until(now) <= now))
    }
}
