use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::dump::Dump;
use super::limiter::Bounds;
use super::sink::Sink;
use super::sink::thread::SinkThread;
use crate::error::ScopeInfo;
use crate::sync::callback::drop_quietly;
use crate::sync::fork::{PerProcess, count_forks};
use crate::sync::{ForkMutex, SetOnce, os};
use crate::time::clock;

/// Which scopes of the process are reported, and where to.
///
/// After one line in `main`, every outermost scope that is open for more than five seconds is written down with its
/// stack, whoever opened it.
///
/// ```
/// use std::time::Duration;
/// use timebox::report::{Directory, Policy};
///
/// # fn main() -> Result<(), timebox::report::InstallError> {
/// # let folder = std::env::temp_dir().join(format!("timebox-policy-{}", std::process::id()));
/// # let slow = || &folder;
/// Policy::new().warn_after(Duration::from_secs(5)).to(Directory::new(slow())).install()?;
/// # timebox::report::uninstall();
/// # std::fs::remove_dir_all(folder).unwrap();
/// # Ok(())
/// # }
/// ```
///
/// A forked child keeps the policy. Its sinks write on threads of its own.
#[must_use = "a policy does nothing until it is installed"]
pub struct Policy {
    warn_after: Option<Duration>,
    overdue_after: Duration,
    stuck: Option<(Duration, OnStuck)>,
    per_minute: u32,
    once_per: Duration,
    quiet_for: Duration,
    exempt: Option<Exempt>,
    sinks: Vec<Arc<dyn Sink>>,
}

type OnStuck = Arc<dyn Fn(&Dump) + Send + Sync>;

type Exempt = Box<dyn Fn(&ScopeInfo) -> bool + Send + Sync>;

/// Why a policy was not installed: a sink says that it cannot write, or this is a forked child whose parent was
/// changing its policy at the fork. The [`source`](std::error::Error::source) says which.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
#[non_exhaustive]
pub struct InstallError {
    what: &'static str,
    source: io::Error,
}

impl Default for Policy {
    fn default() -> Self {
        Self::new()
    }
}

impl Policy {
    /// A policy without sinks, under which scopes are reported at their expiry and one second after.
    pub fn new() -> Self {
        Self {
            warn_after: None,
            overdue_after: Duration::from_secs(1),
            stuck: None,
            per_minute: 60,
            once_per: Duration::from_secs(60),
            quiet_for: Duration::ZERO,
            exempt: None,
            sinks: Vec::new(),
        }
    }

    /// Reports each outermost scope that has been open for the time `after`, unless the scope has a
    /// [`warn_after`](crate::Timebox::warn_after) of its own.
    ///
    /// Without this, only scopes with a `warn_after` of their own are reported before their limit.
    pub fn warn_after(mut self, after: Duration) -> Self {
        self.warn_after = Some(after);
        self
    }

    /// Reports a scope once more if it is still open when the time `after` has passed since its expiry. One second
    /// unless set.
    pub fn overdue_after(mut self, after: Duration) -> Self {
        self.overdue_after = after;
        self
    }

    /// Calls `f` with a [dump](super::dump()) of all threads if a scope is still open when the time `after` has passed
    /// since its expiry. Use this for a last step before the process is killed, by itself or by its supervisor.
    ///
    /// `f` is called on a thread of its own. All scopes that get stuck while `f` runs share the next call. `f` is not
    /// called while a debugger is attached to the process. If `f` panics, the panic is caught, and nothing else
    /// happens.
    ///
    /// ```
    /// use std::time::Duration;
    /// use timebox::report::Policy;
    ///
    /// let policy = Policy::new().on_stuck(Duration::from_secs(30), |dump| {
    ///     eprintln!("{dump}");
    ///     std::process::abort()
    /// });
    /// # drop(policy);
    /// ```
    pub fn on_stuck(mut self, after: Duration, f: impl Fn(&Dump) + Send + Sync + 'static) -> Self {
        self.stuck = Some((after, Arc::new(f)));
        self
    }

    /// Writes at most this number of reports in any minute: 60 unless set. From 65,536 on there is no bound.
    pub fn per_minute(mut self, reports: u32) -> Self {
        self.per_minute = reports;
        self
    }

    /// Writes at most one report of the same kind and with the same stack in this time: 60 seconds unless set. The next
    /// report that is written says how many were left out, in [`suppressed`](super::Report::suppressed).
    ///
    /// Two stacks are the same if they have the same functions in the same order. Unless the thread was running, the
    /// lines must be the same too. If a stack has frames of the program's own code, only these frames count. The last
    /// 1024 stacks are remembered.
    pub fn once_per(mut self, time: Duration) -> Self {
        self.once_per = time;
        self
    }

    /// Writes nothing during this time after the installation, because a program that warms up is slow.
    pub fn quiet_for(mut self, time: Duration) -> Self {
        self.quiet_for = time;
        self
    }

    /// Leaves out the reports of each scope for which `is_exempt` returns `true`. It is called on the thread that makes
    /// reports. If it panics, the scope is reported.
    ///
    /// ```
    /// use timebox::report::Policy;
    ///
    /// let policy = Policy::new().exempt(|scope| scope.label().is_some_and(|label| label.starts_with("batch ")));
    /// # drop(policy);
    /// ```
    pub fn exempt(mut self, is_exempt: impl Fn(&ScopeInfo) -> bool + Send + Sync + 'static) -> Self {
        self.exempt = Some(Box::new(is_exempt));
        self
    }

    /// Adds a sink, to which reports are written.
    ///
    /// ```
    /// use timebox::report::{Policy, Report, Stderr};
    ///
    /// let policy = Policy::new().to(Stderr).to(|report: &Report| println!("{}", report.headline()));
    /// # drop(policy);
    /// ```
    pub fn to(mut self, sink: impl Sink + 'static) -> Self {
        self.sinks.push(Arc::new(sink));
        self
    }

    /// Checks the sinks, and returns the policy in the form that can be put in force. Returns an error if a sink cannot
    /// write.
    pub(super) fn checked(self) -> Result<Installed, InstallError> {
        for sink in &self.sinks {
            sink.check().map_err(|source| InstallError {
                what: "a sink of the policy cannot write reports",
                source,
            })?;
        }
        Ok(Installed::new(self))
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("warn_after", &self.warn_after)
            .field("overdue_after", &self.overdue_after)
            .field("per_minute", &self.per_minute)
            .field("once_per", &self.once_per)
            .field("quiet_for", &self.quiet_for)
            .field("sinks", &self.sinks.len())
            .finish_non_exhaustive()
    }
}

/// A policy that is, or was, in force. The last owner drops the sinks. That may block, so the watchdog never owns a
/// policy.
pub(crate) struct Installed {
    pub(crate) warn_after: Option<Duration>,
    pub(crate) overdue_after: Duration,
    stuck: Option<(Duration, OnStuck)>,
    exempt: Option<Exempt>,
    pub(super) bounds: Bounds,
    sinks: Vec<Arc<dyn Sink>>,
    /// For each sink, its thread in this process.
    threads: PerProcess<SetOnce<Vec<Arc<SinkThread>>>>,
}

impl Installed {
    fn new(policy: Policy) -> Self {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bounds = Bounds {
            per_minute: policy.per_minute,
            once_per: nanos(policy.once_per),
            quiet_until: clock::real_now().saturating_add(nanos(policy.quiet_for)),
        };
        Self {
            warn_after: policy.warn_after,
            overdue_after: policy.overdue_after,
            stuck: policy.stuck,
            exempt: policy.exempt,
            bounds,
            sinks: policy.sinks,
            threads: PerProcess::new(SetOnce::new(), SetOnce::new),
        }
    }

    /// How long after its expiry a scope that is still open counts as stuck. `None` if the policy has no `on_stuck`.
    pub(super) fn stuck_after(&self) -> Option<Duration> {
        self.stuck.as_ref().map(|(after, _)| *after)
    }

    pub(super) fn on_stuck(&self) -> Option<OnStuck> {
        self.stuck.as_ref().map(|(_, f)| Arc::clone(f))
    }

    /// Whether the user wants no reports of this scope. Runs the user's code, so only the reporter thread calls this.
    pub(super) fn is_exempt(&self, scope: &ScopeInfo) -> bool {
        let Some(exempt) = &self.exempt else { return false };
        match catch_unwind(AssertUnwindSafe(|| exempt(scope))) {
            Ok(is_exempt) => is_exempt,
            Err(payload) => {
                drop_quietly(payload);
                false
            }
        }
    }

    pub(super) fn sinks(&self) -> &[Arc<SinkThread>] {
        let threads = || self.sinks.iter().map(|sink| SinkThread::new(Arc::clone(sink))).collect();
        self.threads.get().get_or_init(threads)
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        for sink in self.threads.get().get().into_iter().flatten() {
            sink.close();
        }
    }
}

impl fmt::Debug for Installed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Installed").finish_non_exhaustive()
    }
}

/// The policy in force. A forked child has the policy of its parent.
static CURRENT: SetOnce<ForkMutex<Option<Arc<Installed>>>> = SetOnce::new();

/// The policy in force, if there is one. Takes a lock, so the watchdog must not call this.
pub(crate) fn current() -> Option<Arc<Installed>> {
    CURRENT.get()?.lock()?.clone()
}

/// Puts another policy in force, or none. Returns an error if the lock of the policy was lost in a fork.
///
/// Calls `tell` with the new policy, under the lock. So if two threads replace the policy at the same time, the last
/// `tell` is about the policy that stays in force.
pub(super) fn replace(
    new: Option<Arc<Installed>>,
    tell: impl FnOnce(Option<&Installed>),
) -> Result<(), InstallError> {
    count_forks();
    let current = CURRENT.get_or_init(|| ForkMutex::new(None));
    // If the lock was lost in a fork, this process never has a policy.
    let Some(mut current) = current.lock() else {
        let source = io::Error::other("it was forked while another thread changed the policy");
        return Err(InstallError { what: "this process cannot have a policy", source });
    };
    tell(new.as_deref());
    let old = std::mem::replace(&mut *current, new);
    drop(current);
    // Dropped outside the lock, because this may drop the user's sinks.
    drop(old);
    Ok(())
}

/// Drops a reference to a policy. The last reference drops the user's sinks and closures, which may hang or panic. So a
/// new thread drops it, not the thread that makes reports.
pub(super) fn release(policy: Arc<Installed>) {
    let Some(policy) = Arc::into_inner(policy) else { return };
    // If no thread can be started, `spawn` drops its closure, and with it the policy, on this thread.
    let spawned = catch_unwind(AssertUnwindSafe(|| os::spawn("timebox-sink", move || drop_quietly(policy))));
    if let Err(payload) = spawned {
        drop_quietly(payload);
    }
}
