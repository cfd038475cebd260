//! The effects of a test environment on scopes (feature `testing`): which clock counts, and where a test makes a scope
//! expire. Without the feature these functions do nothing.

#[cfg(feature = "testing")]
use std::mem::ManuallyDrop;
use std::panic::Location;
use std::sync::Arc;

#[cfg(feature = "testing")]
use super::frame::{Scope, innermost};
use crate::test_env::TestEnv;
#[cfg(feature = "testing")]
use crate::test_env::{Entered, Probe, Verdict, is_entered};
use crate::thread::Thread;
#[cfg(feature = "testing")]
use crate::time::clock;
use crate::token::node::Node;

/// A guard: while it exists, the thread is in the environment of a handle or a future.
#[must_use]
pub(crate) struct EnvGuard {
    /// `ManuallyDrop`: the guard's own `drop` takes the value out and drops it, so the compiler need not add a second
    /// drop of the field.
    #[cfg(feature = "testing")]
    entered: ManuallyDrop<Option<Entered>>,
}

impl EnvGuard {
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn unchanged() -> Self {
        Self {
            #[cfg(feature = "testing")]
            entered: ManuallyDrop::new(None),
        }
    }
}

/// A guard: while it exists, a mock clock that moves by itself moves only while this thread waits.
#[must_use]
pub(crate) struct Presence {
    #[cfg(feature = "testing")]
    _present: Option<crate::scope::presence::Present>,
}

#[inline]
pub(crate) fn present(env: &TestEnv) -> Presence {
    #[cfg(feature = "testing")]
    return Presence {
        _present: (!env.has_real_clock()).then(|| crate::scope::presence::Present::under(env)),
    };
    #[cfg(not(feature = "testing"))]
    {
        let _ = env;
        Presence {}
    }
}

/// While this guard exists, the mock clock of the thread that made it does not move by itself. A thread makes the guard
/// before it gives work to another thread: otherwise the clock could pass a deadline of the work before the work
/// begins.
#[must_use]
pub(crate) struct Held {
    #[cfg(feature = "testing")]
    _hold: Option<crate::scope::presence::Hold>,
}

pub(crate) fn hold() -> Held {
    Held {
        #[cfg(feature = "testing")]
        _hold: TestEnv::current().mock().map(crate::scope::presence::Hold::new),
    }
}

#[inline]
pub(crate) fn enter_env(thread: &Thread, env: &TestEnv) -> EnvGuard {
    #[cfg(feature = "testing")]
    return EnvGuard {
        entered: ManuallyDrop::new((!env.is_same(&TestEnv::current())).then(|| stage(thread, env))),
    };
    #[cfg(not(feature = "testing"))]
    {
        let _ = (thread, env);
        EnvGuard {}
    }
}

#[cfg(feature = "testing")]
#[cold]
fn stage(thread: &Thread, env: &TestEnv) -> Entered {
    // The open scopes get their nodes now, because a node that is made later would have the clock of `env`.
    innermost(thread, |scope| scope.map(Scope::node).is_some());
    let entered = env.enter();
    set(thread);
    entered
}

/// Called after the thread's clock was moved, or was replaced by another clock. Replaces the old reading in
/// `thread.now`, and makes the next check read the clock.
#[cfg(feature = "testing")]
pub(crate) fn set(thread: &Thread) {
    thread.now.set(clock::now());
    thread.look_again();
}

#[cfg(feature = "testing")]
impl Drop for EnvGuard {
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn drop(&mut self) {
        if self.entered.is_some() {
            leave(&mut self.entered);
        }
    }
}

#[cfg(feature = "testing")]
#[cold]
#[inline(never)]
fn leave(entered: &mut Option<Entered>) {
    entered.take();
    Thread::with(|thread| {
        set(thread);
        // The outer environment's clock counts from here on. A scope in the inner environment may have armed another
        // deadline for this thread on that clock. So the thread's own deadline is armed again.
        thread.restore(thread.deadline.get());
    });
}

/// An interruption point: a place where a test may make the scope expire.
#[cfg_attr(not(debug_assertions), inline(always))]
pub(crate) fn point(thread: &Thread, location: &'static Location<'static>) {
    #[cfg(feature = "testing")]
    if is_entered() {
        reached(thread, location);
    }
    #[cfg(not(feature = "testing"))]
    let _ = (thread, location);
}

/// The interruption point at the entry of a handle, whose scope has the node `node`. A test may make that scope expire.
#[cfg_attr(not(debug_assertions), inline(always))]
pub(crate) fn point_of(node: &Arc<Node>, location: &'static Location<'static>) {
    #[cfg(feature = "testing")]
    if is_entered()
        && let Some(probe) = probe()
    {
        match probe.reached(location) {
            Verdict::Pass => {}
            Verdict::Expire { .. } => node.expire_early(),
            Verdict::ExpireLabelled(label) => expire_labelled(node, &label),
        }
    }
    #[cfg(not(feature = "testing"))]
    let _ = (node, location);
}

/// Whether a sleep on this thread moves the mock clock. `true` on the thread that runs the test, unless the clock moves
/// by itself.
#[inline]
pub(crate) fn moves_clock() -> bool {
    #[cfg(feature = "testing")]
    return is_entered()
        && TestEnv::current().setup().is_some_and(|setup| {
            setup.mock.is_some() && setup.moved_by == Some(crate::sync::ThreadKey::current())
        });
    #[cfg(not(feature = "testing"))]
    false
}

/// Moves the mock clock to `until`, from one due timer to the next. Stops as soon as `go_on` returns `false`.
pub(crate) fn move_clock(until: u64, go_on: impl FnMut() -> bool) {
    #[cfg(feature = "testing")]
    if let Some(mock) = TestEnv::current().mock() {
        crate::watchdog::mock::advance(mock, |_| until, go_on);
        Thread::with(set);
    }
    #[cfg(not(feature = "testing"))]
    let _ = (until, go_on);
}

/// Tells the test's probe that this thread begins a wait, which can be interrupted at any time. The drop of the result
/// tells the probe that the wait has ended.
#[cfg_attr(not(debug_assertions), inline(always))]
pub(crate) fn waiting(location: &'static Location<'static>) -> Waiting {
    mark_wait(location, true);
    Waiting { location }
}

#[cfg_attr(not(debug_assertions), inline(always))]
pub(crate) fn mark_wait(location: &'static Location<'static>, begins: bool) {
    #[cfg(feature = "testing")]
    if is_entered() {
        waits(location, begins);
    }
    #[cfg(not(feature = "testing"))]
    let _ = (location, begins);
}

/// A guard: while it exists, this thread is in a wait that can be interrupted at any time.
pub(crate) struct Waiting {
    location: &'static Location<'static>,
}

impl Drop for Waiting {
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn drop(&mut self) {
        mark_wait(self.location, false);
    }
}

#[cfg(feature = "testing")]
#[cold]
#[inline(never)]
fn waits(location: &'static Location<'static>, begins: bool) {
    if let Some(probe) = probe() {
        probe.waits(location, begins);
    }
}

#[cfg(feature = "testing")]
fn probe() -> Option<Arc<dyn Probe>> {
    TestEnv::current().setup()?.probe.clone()
}

#[cfg(feature = "testing")]
#[cold]
#[inline(never)]
fn reached(thread: &Thread, location: &'static Location<'static>) {
    let Some(probe) = probe() else { return };
    let verdict = probe.reached(location);
    innermost(thread, |scope| {
        let Some(scope) = scope else { return };
        match verdict {
            Verdict::Pass => {}
            Verdict::Expire { outermost, in_shields } => {
                if let Some(scope) = if in_shields { Some(scope) } else { scope.unshielded(outermost) } {
                    scope.node().expire_early();
                }
            }
            Verdict::ExpireLabelled(label) => {
                let is_meant = |scope: &&Scope| {
                    scope.extras().is_some_and(|extras| extras.options.label.as_deref() == Some(&*label))
                };
                scope.stack().filter(is_meant).for_each(|scope| scope.node().expire_early());
                // An entered handle has scopes that are not on this thread's stack. These scopes are found by their
                // nodes.
                let entered = scope.stack().filter(|scope| scope.is_entered());
                entered.filter_map(Scope::existing_node).for_each(|node| expire_labelled(node, &label));
            }
        }
    });
}

#[cfg(feature = "testing")]
fn expire_labelled(node: &Arc<Node>, label: &str) {
    node.walk(|node| {
        if node.info().label.as_deref() == Some(label) {
            node.expire_early();
        }
    });
}

#[cfg(feature = "testing")]
impl Scope {
    /// Looks at the scopes from this scope outwards to the scope with the id `outermost`, or else to the end of the
    /// thread's stack. Without shields among these scopes, returns this scope. Otherwise returns the scope next to the
    /// outermost shield, outside it; `None` if that shield is the last of these scopes.
    fn unshielded(&self, outermost: u64) -> Option<&Scope> {
        let mut candidate = Some(self);
        for scope in self.stack() {
            if scope.is_shield() {
                candidate = None;
            } else if candidate.is_none() {
                candidate = Some(scope);
            }
            if scope.raw_id() == outermost {
                break;
            }
        }
        candidate
    }
}
