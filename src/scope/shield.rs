use std::panic::{Location, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::frame::{self, Scope, innermost};
use super::spec::{Kind, ScopeSpec};
use crate::thread::Thread;
use crate::time::{clock, nanos};
use crate::token::node::Node;
use crate::watchdog;

const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

pub(crate) fn longest(max: Duration) -> Duration {
    max.min(LONGEST)
}

/// Runs cleanup that must not stop because a scope is over. The shield lasts for `max`, but never longer than a day.
///
/// A shield is a scope of its own that hides the scopes around it. Code inside sees only the limit of the shield and
/// the scopes that it opens itself. Hooks that this thread registered outside do not fire while the shield is open:
/// opening the shield waits until a running hook has ended, and a hook that becomes due fires when the shield is left.
/// A `&Scope` or a token from outside still reports its own state. After `max` the shield itself is over.
///
/// Put cleanup that uses this crate into a shield, also in a `Drop`. Without a shield the cleanup finds its scope over,
/// and does nothing.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use timebox::{checkpoint, shield, timeout};
///
/// fn roll_back() -> timebox::Result<()> {
///     checkpoint() // stands for work that checks
/// }
///
/// let result = timeout(Duration::from_millis(5), || -> timebox::Result<()> {
///     while checkpoint().is_ok() {}
///     assert!(roll_back().is_err());
///     shield(Duration::from_secs(1), roll_back)?;
///     checkpoint()
/// });
/// assert!(result.unwrap_err().is_timeout());
/// ```
#[track_caller]
pub fn shield<R>(max: Duration, body: impl FnOnce() -> R) -> R {
    let location = Location::caller();
    Thread::with(|thread| {
        let _suspended = HeldOffHooks::outside(thread);
        let now = clock::now();
        thread.now.set(now);
        let max = longest(max);
        let own = now.saturating_add(nanos(max));
        if max.is_zero() {
            watchdog::global().reach(now);
        }
        let spec = ScopeSpec::measured(own, now, location, Kind::Shield);
        let result = frame::open(thread, &mut Scope::new(spec, thread), own, None, false, |_| body());
        result.unwrap_or_else(|payload| resume_unwind(payload))
    })
}

impl Scope {
    /// Does what the free function [`shield`] does: hides this scope and all other scopes that are open on this thread.
    #[track_caller]
    #[allow(clippy::unused_self)]
    pub fn shield<R>(&self, max: Duration, body: impl FnOnce() -> R) -> R {
        shield(max, body)
    }
}

/// While this guard exists, the hooks of these nodes do not fire.
pub(crate) struct HeldOffHooks {
    nodes: Vec<Arc<Node>>,
}

impl HeldOffHooks {
    pub(crate) fn outside(thread: &Thread) -> Self {
        let nodes: Vec<_> = around(thread, |nodes| nodes.map(Arc::clone).collect());
        nodes.iter().for_each(|node| node.suspend_hooks());
        Self { nodes }
    }

    /// If the open scopes have changed: suspends the hooks of the scopes that are open now, then resumes the hooks of
    /// the scopes that were open before.
    pub(crate) fn follow(&mut self, thread: &Thread) {
        if !around(thread, |nodes| nodes.map(Arc::as_ptr).eq(self.nodes.iter().map(Arc::as_ptr))) {
            *self = Self::outside(thread);
        }
    }
}

/// Calls `f` with the nodes of the scopes that are open on this thread, innermost first.
fn around<R>(thread: &Thread, f: impl FnOnce(&mut dyn Iterator<Item = &Arc<Node>>) -> R) -> R {
    innermost(thread, |scope| {
        f(&mut scope.into_iter().flat_map(Scope::stack).filter_map(Scope::existing_node))
    })
}

impl Drop for HeldOffHooks {
    fn drop(&mut self) {
        self.nodes.iter().for_each(|node| node.resume_hooks());
    }
}
