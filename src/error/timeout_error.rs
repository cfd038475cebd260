use std::error::Error;
use std::io;
use std::panic::{Location, RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::time::Duration;

use super::cause::Cause;
use super::failure::HookFailure;
use super::scope::{ScopeId, ScopeInfo};

/// A block ran into its limit, or was cancelled.
///
/// The error is made where code is interrupted: at a [checkpoint](crate::checkpoint), in an [interruptible
/// call](crate::interruptible), or at the drop of a future. From there `?` passes the error on, and no scope on the way
/// changes it. [`scope`](Self::scope) names the scope that is over: the outermost one if several are over.
///
/// The error has the size of a pointer, and its clones share one allocation.
///
/// `{}` is one line for people and clients: the cause, the label, the limit, how long the block took and how late it
/// ended. The line names no source file. `{:#}` adds the place where the scope was opened, the place where the code was
/// interrupted, and the [fields](crate::Timebox::field). `{:?}`, which a panic of `unwrap` shows, has a line for each
/// scope around that place, and the sources.
///
/// With the feature `serde` the error is `Serialize`. It becomes a struct of the values that the methods here return,
/// and of the text of `{}` as `message`. Places are written as `file:line:column`, and durations as serde writes them.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use timebox::Timebox;
///
/// let error = Timebox::new(Duration::from_millis(5))
///     .label("spin")
///     .run(|scope| -> timebox::Result<()> {
///         loop {
///             scope.checkpoint()?;
///         }
///     })
///     .unwrap_err();
/// assert!(error.is_timeout());
/// assert_eq!(error.label(), Some("spin"));
/// assert_eq!(error.limit(), Some(Duration::from_millis(5)));
/// assert!(error.elapsed() >= Duration::from_millis(5));
/// ```
#[doc(alias("Elapsed", "TimedOutError", "DeadlineExceeded"))]
#[derive(Clone, thiserror::Error)]
#[error(transparent)]
pub struct TimeoutError(pub(crate) Arc<ErrorInner>);

// The compiler does not derive these, because the source may be of any error type. They hold: an error is never changed
// after it is made, so a panic leaves nothing half-changed in it.
impl UnwindSafe for TimeoutError {}
impl RefUnwindSafe for TimeoutError {}

/// The contents of an error. `chain[over]` is the scope that is over.
#[derive(thiserror::Error)]
pub(crate) struct ErrorInner {
    pub(crate) cause: Cause,
    pub(crate) reason: Option<Arc<str>>,
    pub(crate) chain: Box<[ScopeInfo]>,
    pub(crate) over: usize,
    /// Set if an expired token ended the scope: a copy of `chain[over]` with the limit and the label of the token. The
    /// error shows this copy instead of `chain[over]`.
    pub(crate) shown: Option<ScopeInfo>,
    pub(crate) interrupted_at: &'static Location<'static>,
    pub(crate) elapsed: Duration,
    /// When the scope that is over was entered, on the clock of this crate.
    #[cfg(feature = "report")]
    pub(crate) entered: u64,
    pub(crate) overshoot: Duration,
    pub(crate) started: bool,
    pub(crate) settled: bool,
    pub(crate) source: Option<Box<dyn Error + Send + Sync>>,
    pub(crate) hook_failure: Option<HookFailure>,
    /// If too little time was left for the work: the time that it needed, and the time that was left.
    pub(crate) lack: Option<(Duration, Duration)>,
}

impl ErrorInner {
    pub(super) fn named(&self) -> &ScopeInfo {
        self.shown.as_ref().unwrap_or(&self.chain[self.over])
    }
}

impl TimeoutError {
    #[cold]
    pub(crate) fn new(mut inner: ErrorInner) -> Self {
        debug_assert!(inner.over < inner.chain.len());
        if is_in_std(inner.interrupted_at) {
            inner.interrupted_at = opened_at(&inner.chain);
        }
        Self(Arc::new(inner))
    }

    fn named(&self) -> &ScopeInfo {
        self.0.named()
    }

    /// Why the scope is over.
    pub fn cause(&self) -> Cause {
        self.0.cause
    }

    /// Whether time ran out: the cause is a deadline or a quota.
    pub fn is_timeout(&self) -> bool {
        matches!(self.0.cause, Cause::Deadline | Cause::Quota)
    }

    /// Whether the scope was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.cause == Cause::Cancelled
    }

    /// The reason given to [`cancel_with`](crate::CancellationToken::cancel_with), if there is one. If a call gave up
    /// although its scope was not over: the text of the [source](Error::source).
    pub fn reason(&self) -> Option<&str> {
        self.0.reason.as_deref()
    }

    /// The scope that is over.
    pub fn scope(&self) -> ScopeId {
        self.named().id
    }

    /// The label of the scope that is over, if it has one. If the scope ended because a token given with
    /// [`cancel_on`](crate::Timebox::cancel_on) expired, this is the label of the token's scope, or, if there is none,
    /// the label of the scope itself.
    pub fn label(&self) -> Option<&str> {
        self.named().label()
    }

    /// Where the scope that is over was opened.
    pub fn location(&self) -> &'static Location<'static> {
        self.named().location
    }

    /// The checkpoint or call that raised the error. If the body was not started, or if the future was dropped: the
    /// place where the scope was opened.
    ///
    /// The place is never in the standard library. If an adapter of std made the call (`read_exact`, a function given
    /// to `Option::map`), this is the place where the innermost scope was opened.
    pub fn interrupted_at(&self) -> &'static Location<'static> {
        self.0.interrupted_at
    }

    /// The duration of the scope's limit. For a quota: the time that the quota had left when the scope was entered.
    /// `None` if the limit is an instant. If a token given with [`cancel_on`](crate::Timebox::cancel_on) expired and so
    /// ended the scope: the duration of the token's limit.
    pub fn limit(&self) -> Option<Duration> {
        self.named().limit
    }

    /// The names and values given to the scope with [`Timebox::field`](crate::Timebox::field).
    pub fn fields(&self) -> impl ExactSizeIterator<Item = (&str, &str)> + Clone {
        self.named().fields()
    }

    /// How long the scope had been open when the error was raised.
    ///
    /// A scope that cannot outlast the scope around it is entered without a clock read. So the time of such a scope
    /// counts from the last clock read of its thread before the entry.
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed
    }

    /// How long the scope had been over when the error was raised.
    pub fn overshoot(&self) -> Duration {
        self.0.overshoot
    }

    /// Whether the body of the block was started. If it was not, nothing was done.
    pub fn started(&self) -> bool {
        self.0.started
    }

    /// `false` if a future was dropped in the middle of its work: discard any connection that the future used. `true`
    /// on every other error.
    pub fn settled(&self) -> bool {
        self.0.settled
    }

    /// The failure of the hook that should have interrupted the call. Because of the failure the call may have ended
    /// late. `None` if the hook did not fail, or if there was no hook.
    pub fn hook_failure(&self) -> Option<&HookFailure> {
        self.0.hook_failure.as_ref()
    }

    /// The scopes that were open where the error was raised, innermost first. The scope that is over is one of them. A
    /// [shield](crate::shield) hides the scopes around it.
    pub fn chain(&self) -> impl DoubleEndedIterator<Item = &ScopeInfo> + ExactSizeIterator + Clone {
        self.0.chain.iter()
    }
}

/// Whether a place is in the standard library. The place of a call is in std if an adapter of std made the call:
/// `Option::map(checkpoint)`, or `read_exact`.
fn is_in_std(location: &Location<'_>) -> bool {
    // If the source of std is not installed, the paths of its files begin with `/rustc/`.
    let installed = ["/rustlib/src/rust/library/", r"\rustlib\src\rust\library\"];
    let file = location.file();
    file.starts_with("/rustc/") || installed.iter().any(|folder| file.contains(folder))
}

/// The innermost place outside std where one of these scopes was opened. If all were opened in std, the place of the
/// innermost scope. `chain` is not empty.
fn opened_at(chain: &[ScopeInfo]) -> &'static Location<'static> {
    let mut places = chain.iter().map(|scope| scope.location);
    places.find(|place| !is_in_std(place)).unwrap_or(chain[0].location)
}

/// The kind is [`TimedOut`](io::ErrorKind::TimedOut) for a cancellation too. `Interrupted` would not do: std's
/// `read_exact`, `write_all` and `io::copy` silently try again on it.
impl From<TimeoutError> for io::Error {
    fn from(error: TimeoutError) -> Self {
        io::Error::new(io::ErrorKind::TimedOut, error)
    }
}

#[cfg(all(test, not(timebox_loom)))]
mod tests {
    use super::*;

    #[track_caller]
    fn error(label: Option<&'static str>, reason: Option<&str>) -> TimeoutError {
        let location = Location::caller();
        let info = ScopeInfo {
            label: label.map(Into::into),
            limit: Some(Duration::from_secs(2)),
            ..ScopeInfo::at(location)
        };
        TimeoutError::new(ErrorInner {
            cause: Cause::Cancelled,
            reason: reason.map(Into::into),
            chain: Box::new([info]),
            over: 0,
            shown: None,
            interrupted_at: location,
            elapsed: Duration::from_nanos(2_103_456_789),
            #[cfg(feature = "report")]
            entered: 0,
            overshoot: Duration::from_nanos(103_456_789),
            started: true,
            settled: true,
            source: Some("disk on fire".into()),
            hook_failure: None,
            lack: None,
        })
    }

    #[test]
    fn a_message_is_one_line_whatever_the_label_and_the_reason_hold() {
        let text = error(Some("a\nb"), Some("c\r\nd")).to_string();
        assert!(!text.contains(['\n', '\r']), "{text}");
        assert!(text.contains("limit 2s, elapsed 2.103s, overshoot 103.456ms"), "{text}");
    }

    #[test]
    fn the_source_is_the_foreign_error() {
        let error = error(None, None);
        assert_eq!(error.source().map(ToString::to_string).as_deref(), Some("disk on fire"));
    }

    #[test]
    fn an_io_error_never_has_the_kind_that_std_retries() {
        let error = io::Error::from(error(None, None));
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.downcast::<TimeoutError>().is_ok());
    }
}
