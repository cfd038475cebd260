use std::fmt;
use std::sync::Arc;

/// The failure of a hook: the `Err` of its closure, or the message of a panic.
///
/// The failure is reported with the call that the hook should have interrupted: in the call's
/// [`Outcome`](crate::Outcome), or in its [error](crate::TimeoutError::hook_failure).
///
/// # Examples
///
/// ```
/// use std::sync::mpsc::channel;
/// use std::time::Duration;
/// use timebox::{Hook, interruptible_outcome, with_timeout};
///
/// let (fire, fired) = channel();
/// let hook = Hook::new(move || {
///     let _ = fire.send(());
///     Err::<(), _>("the server has no slot left")
/// });
/// let outcome = with_timeout(Duration::from_secs(60), |scope| {
///     interruptible_outcome(hook, || {
///         scope.token().cancel();
///         fired.recv() // a call that knows nothing of scopes, and comes back late
///     })
/// });
/// let failure = outcome.unwrap().failure.unwrap();
/// assert_eq!(failure.to_string(), "the server has no slot left");
/// assert!(!failure.is_panic());
/// ```
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct HookFailure {
    pub(crate) text: Arc<str>,
    pub(crate) is_panic: bool,
}

impl HookFailure {
    /// Whether the hook panicked. A hook that has panicked is not fired again.
    pub fn is_panic(&self) -> bool {
        self.is_panic
    }
}

impl fmt::Debug for HookFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HookFailure").field("text", &self.text).field("is_panic", &self.is_panic).finish()
    }
}
