//! What an interrupted block is told: [`TimeoutError`] and its parts. Values only.

use std::borrow::Cow;
use std::cell::Cell;
use std::error::Error;
use std::fmt;
use std::io;
use std::num::NonZeroU64;
use std::panic::{Location, RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A result whose error is a [`TimeoutError`] unless another is named.
///
/// A closure that uses `?`, and whose own result meets another `?`, must have its error type written down
/// (the compiler's E0283 says so). This alias keeps that short:
///
/// ```
/// use std::time::Duration;
///
/// fn sum(numbers: &[u64]) -> timebox::Result<u64> {
///     let total = timebox::timeout(Duration::from_secs(1), || -> timebox::Result<_> {
///         let mut total = 0;
///         for n in numbers {
///             timebox::checkpoint()?;
///             total += n;
///         }
///         Ok(total)
///     })?;
///     Ok(total)
/// }
/// # assert_eq!(sum(&[1, 2, 3]).unwrap(), 6);
/// ```
pub type Result<T, E = TimeoutError> = std::result::Result<T, E>;

/// Why a scope is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// Its deadline passed.
    Deadline,
    /// The [`Quota`](crate::Quota) it was entered with is spent.
    Quota,
    /// Its token was cancelled, or one named with [`cancel_on`](crate::Timebox::cancel_on).
    Cancelled,
}

/// The identity of one scope: unique in the process for as long as it runs.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ScopeId(NonZeroU64);

impl ScopeId {
    /// A new identity. Most scopes never need one, so they are made on demand.
    #[inline]
    pub(crate) fn next() -> Self {
        // Each thread takes some at a time, so that what all share is seldom written.
        const BATCH: u64 = 1024;
        static NEXT: AtomicU64 = AtomicU64::new(BATCH);
        thread_local!(static MINE: Cell<u64> = const { Cell::new(0) });
        let id = MINE.with(|mine| {
            let mut id = mine.get();
            if id % BATCH == 0 {
                // Relaxed: only uniqueness is asked for.
                id = NEXT.fetch_add(BATCH, Ordering::Relaxed);
            }
            mine.set(id + 1);
            id
        });
        Self(NonZeroU64::new(id).unwrap_or(NonZeroU64::MIN))
    }

    pub(crate) fn get(self) -> u64 {
        self.0.get()
    }

    pub(crate) fn from_raw(id: u64) -> Option<Self> {
        NonZeroU64::new(id).map(Self)
    }
}

impl fmt::Debug for ScopeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScopeId({})", self.0)
    }
}

impl fmt::Display for ScopeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What is known of one scope: an element of [`TimeoutError::chain`].
#[derive(Clone, Debug)]
pub struct ScopeInfo {
    pub(crate) id: ScopeId,
    pub(crate) label: Option<Cow<'static, str>>,
    pub(crate) location: &'static Location<'static>,
    pub(crate) limit: Option<Duration>,
}

impl ScopeInfo {
    /// The scope's identity, as [`Scope::id`](crate::Scope::id) gives it.
    pub fn id(&self) -> ScopeId {
        self.id
    }

    /// The label given with [`Timebox::label`](crate::Timebox::label), if one was.
    pub fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// Where the scope was opened.
    pub fn location(&self) -> &'static Location<'static> {
        self.location
    }

    /// The duration that was asked for; for a quota what it had left; `None` for an instant or for no limit.
    pub fn limit(&self) -> Option<Duration> {
        self.limit
    }
}

impl fmt::Display for ScopeInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.label {
            Some(label) => write!(f, "`{}` ({})", label.escape_debug(), self.location),
            None => write!(f, "scope at {}", self.location),
        }
    }
}

/// A block ran into its limit, or was cancelled.
///
/// It is made at the place where code is interrupted (a [checkpoint](crate::checkpoint), an
/// [interruptible call](crate::interruptible), the drop of a future), so that `?` unwinds from there, and
/// passes every boundary unchanged. [`scope`](Self::scope) says which scope is over: when several are, the
/// outermost.
///
/// One pointer in size; cloning it clones the pointer.
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
#[derive(Clone, thiserror::Error)]
#[error(transparent)]
pub struct TimeoutError(Arc<Story>);

/// The line that [`Display`](fmt::Display) prints: it is what `unwrap` and a failing `main` show.
impl fmt::Debug for TimeoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TimeoutError({self})")
    }
}

// The source is an error, not shared mutable state: reading it after a panic can show nothing half-done.
impl UnwindSafe for TimeoutError {}
impl RefUnwindSafe for TimeoutError {}

/// Everything an error tells. `chain[over]` is the scope it names.
#[derive(Debug, thiserror::Error)]
#[error("{}", Line(self))]
pub(crate) struct Story {
    pub(crate) cause: Cause,
    pub(crate) reason: Option<Arc<str>>,
    pub(crate) chain: Box<[ScopeInfo]>,
    pub(crate) over: usize,
    /// The scope as it is told, if it is over by the expiry of something else: with the limit of that, and its label.
    pub(crate) told: Option<ScopeInfo>,
    pub(crate) interrupted_at: &'static Location<'static>,
    pub(crate) elapsed: Duration,
    pub(crate) overshoot: Duration,
    pub(crate) started: bool,
    pub(crate) settled: bool,
    pub(crate) source: Option<Box<dyn Error + Send + Sync>>,
    /// What was needed, and what was left.
    pub(crate) lack: Option<(Duration, Duration)>,
}

impl Story {
    fn named(&self) -> &ScopeInfo {
        self.told.as_ref().unwrap_or(&self.chain[self.over])
    }
}

impl TimeoutError {
    #[cold]
    pub(crate) fn new(story: Story) -> Self {
        debug_assert!(story.over < story.chain.len());
        Self(Arc::new(story))
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

    /// The reason given to [`cancel_with`](crate::CancellationToken::cancel_with), if one was.
    pub fn reason(&self) -> Option<&str> {
        self.0.reason.as_deref()
    }

    /// The scope that is over.
    pub fn scope(&self) -> ScopeId {
        self.named().id
    }

    /// The label of the scope that is over. If it is over by the expiry of a token that it was told to
    /// [end with](crate::Timebox::cancel_on), that of the token's scope, if that has one.
    pub fn label(&self) -> Option<&str> {
        self.named().label()
    }

    /// Where the scope that is over was opened.
    pub fn location(&self) -> &'static Location<'static> {
        self.named().location
    }

    /// The checkpoint or call that raised the error; the scope's own location if its body was not started, or
    /// if its future was dropped.
    pub fn interrupted_at(&self) -> &'static Location<'static> {
        self.0.interrupted_at
    }

    /// The duration the scope was given; for a quota what it had left; `None` for an instant. If it is over by the expiry of
    /// a token that it was told to [end with](crate::Timebox::cancel_on), what the token was given.
    pub fn limit(&self) -> Option<Duration> {
        self.named().limit
    }

    /// How long the scope had been open when the error was raised.
    ///
    /// A scope that was entered without reading the clock, because it could not outlast the one around it, counts from
    /// the last time that its thread had read the clock before.
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed
    }

    /// How long the scope had been over when the error was raised.
    pub fn overshoot(&self) -> Duration {
        self.0.overshoot
    }

    /// Whether the body of the block was started. When not, nothing was done.
    pub fn started(&self) -> bool {
        self.0.started
    }

    /// `false` if a future was dropped in the middle of its work: a connection that it used must be discarded.
    /// `true` on every other error.
    pub fn settled(&self) -> bool {
        self.0.settled
    }

    /// The scopes that were open where the error was raised, innermost first; the one that is over is among
    /// them. A [shield](crate::shield) hides those around it.
    pub fn chain(&self) -> impl DoubleEndedIterator<Item = &ScopeInfo> + ExactSizeIterator + Clone {
        self.0.chain.iter()
    }
}

/// Prints a story on one line.
struct Line<'a>(&'a Story);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Story { cause, reason, elapsed, overshoot, started, settled, lack, .. } = self.0;
        let scope = self.0.named();
        let what = match cause {
            Cause::Deadline => "timed out",
            Cause::Quota => "quota spent",
            Cause::Cancelled => "cancelled",
        };
        write!(f, "{what}: {scope}")?;
        if let Some(reason) = reason {
            write!(f, " because \"{}\"", reason.escape_debug())?;
        }
        match (scope.limit, cause) {
            (Some(limit), _) => write!(f, ": limit {},", Rounded(limit))?,
            // Nothing is known of the limit of one that was cancelled.
            (None, Cause::Cancelled) => f.write_str(":")?,
            (None, _) => f.write_str(": until an instant,")?,
        }
        write!(f, " elapsed {}, overshoot {}", Rounded(*elapsed), Rounded(*overshoot))?;
        if let Some((needed, left)) = lack {
            write!(f, ", needed {}, left {}", Rounded(*needed), Rounded(*left))?;
        }
        if !started {
            f.write_str(", not started")?;
        } else if !settled {
            f.write_str(", dropped unsettled")?;
        } else {
            write!(f, ", interrupted at {}", self.0.interrupted_at)?;
        }
        Ok(())
    }
}

/// A duration in three decimals of its unit, except that nothing is rounded up to a limit it did not reach.
struct Rounded(Duration);

impl fmt::Display for Rounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let d = self.0;
        let unit: u32 = if d.as_secs() > 0 {
            1_000_000
        } else if d.subsec_nanos() >= 1_000_000 {
            1_000
        } else {
            1
        };
        let cut = Duration::new(d.as_secs(), d.subsec_nanos() / unit * unit);
        write!(f, "{cut:?}")
    }
}

/// The kind is always [`TimedOut`](io::ErrorKind::TimedOut), for a cancellation too: std's `read_exact`,
/// `write_all` and `io::copy` would silently try again on `Interrupted`.
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
            id: ScopeId::next(),
            label: label.map(Into::into),
            location,
            limit: Some(Duration::from_secs(2)),
        };
        TimeoutError::new(Story {
            cause: Cause::Cancelled,
            reason: reason.map(Into::into),
            chain: Box::new([info]),
            over: 0,
            told: None,
            interrupted_at: location,
            elapsed: Duration::from_nanos(2_103_456_789),
            overshoot: Duration::from_nanos(103_456_789),
            started: true,
            settled: true,
            source: Some("disk on fire".into()),
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
