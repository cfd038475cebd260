use std::fmt;
use std::sync::Arc;

/// What a hook said that failed: the `Err` of its closure, or the message of a panic.
///
/// It is in the [`Outcome`](crate::Outcome) of the call that the hook did not interrupt, and in the
/// [error](crate::TimeoutError::hook_failure) of that call.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use timebox::{Hook, interruptible_outcome, timeout_value};
///
/// let hook = Hook::inline(|| Err::<(), _>("the server has no slot left"));
/// let outcome = timeout_value(Duration::from_millis(5), || {
///     interruptible_outcome(hook, || std::thread::sleep(Duration::from_millis(50)))
/// });
/// let failure = outcome.unwrap().unwrap().failure.unwrap();
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
    /// Whether the hook panicked: then it is not fired again.
    pub fn is_panic(&self) -> bool {
        self.is_panic
    }
}

impl fmt::Debug for HookFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HookFailure").field("text", &self.text).field("is_panic", &self.is_panic).finish()
    }
}
