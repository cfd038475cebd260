use std::future::poll_fn;
use std::panic::Location;
use std::pin::pin;
use std::ptr;
use std::task::{Context, Poll};

use super::scoped::Call;
use super::task_wakeup::TaskWakeup;
use crate::error::TimeoutError;
use crate::scope::{Scope, SuspendedScope, Timebox};
use crate::thread::Thread;

/// The scope of work that is polled by hand, and gives more than one value: a stream, a response and its body.
///
/// It is for those who write such types. For a future use [`timeout`](super::timeout).
///
/// The scope is entered when it is first polled or [entered](Self::enter). From then on its deadline stands, and every
/// poll runs in the same scope, until the `PollScope` is dropped. The work is not kept in it: pass each poll of the
/// work to [`poll`](Self::poll), and [enter](Self::enter) the scope to drop the work, if it is dropped before its end.
///
/// # Examples
///
/// ```
/// use std::panic::Location;
/// use std::pin::pin;
/// use std::task::{Context, Poll, Waker};
/// use std::time::Duration;
/// use timebox::future::PollScope;
/// use timebox::{Timebox, remaining};
///
/// let limit = Duration::from_millis(20);
/// let mut scope = PollScope::new(Timebox::new(limit).label("download"), Location::caller());
/// let mut context = Context::from_waker(Waker::noop());
///
/// // Two values, both in the scope.
/// for chunk in 1..=2 {
///     let polled = scope.poll(&mut context, |_| Poll::Ready(chunk));
///     assert!(matches!(polled, Poll::Ready(Ok(value)) if value == chunk));
/// }
/// assert!(scope.enter(|_| remaining()).unwrap() <= Some(limit));
///
/// // The third does not come in time.
/// let mut silence = pin!(std::future::pending::<()>());
/// std::thread::sleep(limit);
/// let Poll::Ready(Err(error)) = scope.poll(&mut context, |cx| silence.as_mut().poll(cx)) else { panic!() };
/// assert!(error.is_timeout() && error.label() == Some("download"));
/// ```
#[derive(Debug)]
pub struct PollScope {
    polled: SuspendedScope,
    wakeup: TaskWakeup,
}

impl PollScope {
    /// Makes the scope, but does not enter it. `location` is the place in the user's code where the limit stands.
    /// Errors show this place as the place where the scope was opened.
    pub fn new(timebox: Timebox, location: &'static Location<'static>) -> Self {
        let (limit, extras) = timebox.into_parts();
        Self { polled: SuspendedScope::with(limit, extras, location), wakeup: TaskWakeup::default() }
    }

    /// Polls the work in the scope, and then checks the deadline, as [`timeout`](super::timeout) does. While the work
    /// is pending, its task is woken at the deadline.
    ///
    /// # Errors
    ///
    /// A [`TimeoutError`] in two cases:
    /// - The scope had no time left at the first poll.
    /// - The work is pending, and its time and the [grace](Timebox::grace) are up. The hooks of the scope have run by
    ///   then. Drop the work in [`enter`](Self::enter), and do not poll it again.
    pub fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<Result<T, TimeoutError>> {
        let mut result = Poll::Pending;
        let future = pin!(Some(poll_fn(poll)));
        #[cfg(feature = "report")]
        let is_report_due = self.wakeup.is_report_due();
        let mut call =
            Call::<_, _, _, true> { wakeup: &mut self.wakeup, future, cx, done: Ok, poll: &mut result };
        #[cfg(feature = "report")]
        if is_report_due {
            call.run::<true>(&mut self.polled);
            return result;
        }
        call.run::<false>(&mut self.polled);
        result
    }

    /// Runs a block in the scope, on this thread. Use this for a part of the work that is no poll, such as its start or
    /// its drop. Once the scope has been entered, the block runs even if the scope is over.
    ///
    /// # Errors
    ///
    /// A [`TimeoutError`] if the scope is not entered yet and has no time left, or if
    /// [`checkpoint_or_unwind`](crate::checkpoint_or_unwind) unwound the block.
    pub fn enter<R>(&mut self, body: impl FnOnce(&Scope) -> R) -> Result<R, TimeoutError> {
        let polled = &mut self.polled;
        let thread = Thread::current();
        if !polled.is_entered() {
            let entered = polled.enter(&thread);
            entered.map_err(|refused| polled.refusal(&thread, refused))?;
        }
        let has_timer = self.wakeup.is_set_for(polled.own());
        polled.open(&thread, ptr::null(), has_timer, body)
    }
}

impl Drop for PollScope {
    fn drop(&mut self) {
        self.wakeup.clear();
    }
}
