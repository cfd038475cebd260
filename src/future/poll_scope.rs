use std::fmt;
use std::future::poll_fn;
use std::mem::ManuallyDrop;
use std::panic::Location;
use std::pin::pin;
use std::ptr;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::scoped::Call;
use super::task_wakeup::TaskWakeup;
use crate::error::TimeoutError;
use crate::scope::{Extras, Scope, SuspendedScope, Timebox};
use crate::thread::Thread;
use crate::time::{Kind as LimitKind, Limit};

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
pub struct PollScope {
    polled: SuspendedScope,
    /// Not dropped with this value, because it is always cleared before.
    wakeup: ManuallyDrop<TaskWakeup>,
    extras: Arc<Extras>,
}

impl PollScope {
    /// Makes the scope, but does not enter it. `location` is the place in the user's code where the limit stands.
    /// Errors show this place as the place where the scope was opened.
    pub fn new(timebox: Timebox, location: &'static Location<'static>) -> Self {
        let (limit, extras) = timebox.into_parts();
        Self::with(limit, Arc::new(extras), location)
    }

    fn with(limit: Limit, extras: Arc<Extras>, location: &'static Location<'static>) -> Self {
        let polled = match extras.plain_duration(&limit) {
            Some(asked) => SuspendedScope::lasting(asked, location),
            None => SuspendedScope::sharing(limit, &extras, location),
        };
        Self { polled, wakeup: ManuallyDrop::new(TaskWakeup::default()), extras }
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
        let (wakeup, shared) = (&mut self.wakeup, Some(&*self.extras));
        let mut call = Call::<_, _, _, true> { wakeup, shared, future, cx, done: Ok, poll: &mut result };
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
        let (polled, shared) = (&mut self.polled, Some(&*self.extras));
        let thread = Thread::current();
        if !polled.is_entered() {
            let entered = polled.enter(&thread, shared);
            entered.map_err(|refused| polled.refusal(&thread, shared, refused))?;
        }
        let has_timer = self.wakeup.is_set_for(polled.own());
        polled.open(&thread, shared, ptr::null(), has_timer, body)
    }
}

impl Drop for PollScope {
    #[inline]
    fn drop(&mut self) {
        self.wakeup.clear();
    }
}

impl fmt::Debug for PollScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PollScope").field("polled", &self.polled).finish_non_exhaustive()
    }
}

/// The settings of many scopes that are alike, such as the scopes of all requests of one route. The scopes share the
/// settings, so each scope costs less. With a quota as its limit a scope has a copy of the settings.
///
/// # Examples
///
/// ```
/// use std::panic::Location;
/// use std::time::Duration;
/// use timebox::future::ScopeTemplate;
/// use timebox::{Timebox, remaining};
///
/// let limit = Duration::from_secs(5);
/// let requests = ScopeTemplate::new(Timebox::new(limit).label("GET /users"), Location::caller());
/// for _ in 0..2 {
///     assert!(requests.scope().enter(|_| remaining()).unwrap() <= Some(limit));
/// }
/// ```
#[derive(Clone)]
pub struct ScopeTemplate {
    limit: Limit,
    extras: Arc<Extras>,
    location: &'static Location<'static>,
    /// The duration of the scopes in nanoseconds, if nothing else decides when they end.
    plain: Option<u64>,
}

impl ScopeTemplate {
    /// Makes a template. `location` is the place in the user's code where the limit stands.
    pub fn new(timebox: Timebox, location: &'static Location<'static>) -> Self {
        let (limit, extras) = timebox.into_parts();
        let plain = extras.plain_duration(&limit);
        Self { limit, extras: Arc::new(extras), location, plain }
    }

    /// The [label](Timebox::label) of the scopes.
    pub fn label(&self) -> Option<&str> {
        self.extras.options.label.as_deref()
    }

    /// Makes a scope, but does not enter it.
    #[inline]
    pub fn scope(&self) -> PollScope {
        match self.plain {
            Some(asked) => PollScope {
                polled: SuspendedScope::lasting(asked, self.location),
                wakeup: ManuallyDrop::new(TaskWakeup::default()),
                extras: Arc::clone(&self.extras),
            },
            None => self.scope_of_any_kind(),
        }
    }

    #[inline(never)]
    fn scope_of_any_kind(&self) -> PollScope {
        let Self { limit, extras, location, .. } = self;
        let extras = match limit.kind() {
            // Each scope remembers how much of the quota was left when it was entered.
            LimitKind::Budget(_) => Arc::new(Extras::new(limit, extras.options.clone())),
            _ => Arc::clone(extras),
        };
        PollScope::with(limit.clone(), extras, location)
    }
}

impl fmt::Debug for ScopeTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScopeTemplate")
            .field("limit", &self.limit)
            .field("label", &self.label())
            .finish_non_exhaustive()
    }
}
