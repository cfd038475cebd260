use std::sync::Arc;

use super::pending::PENDING;
use super::policy::{InstallError, Policy, replace};
use super::watch;
use crate::scope::observe::observe_futures_with;

impl Policy {
    /// Puts this policy in force, and ends the policy that was in force. Returns an error if a sink says that it cannot
    /// write: then the earlier policy stays in force.
    ///
    /// The sinks of the earlier policy write what is in their queues. A report that is being made now goes to the new
    /// sinks.
    ///
    /// ```
    /// use std::error::Error;
    /// use timebox::report::{Directory, Policy};
    ///
    /// let error = Policy::new().to(Directory::new("/dev/null/slow")).install().unwrap_err();
    /// assert!(error.source().unwrap().to_string().starts_with("directory /dev/null/slow: "));
    /// ```
    pub fn install(self) -> Result<(), InstallError> {
        let policy = self.checked()?;
        observe_futures_with(&PENDING);
        replace(Some(Arc::new(policy)), watch::policy_changed)
    }
}

/// Ends the policy that is in force. Its sinks write what is in their queues: [`flush`](super::flush) waits for them.
///
/// ```
/// use timebox::report;
///
/// report::Policy::new().install()?;
/// report::uninstall();
/// # Ok::<(), report::InstallError>(())
/// ```
pub fn uninstall() {
    // `replace` fails if the policy's lock was lost in a fork. Then this process has no policy.
    let _ = replace(None, watch::policy_changed);
}
