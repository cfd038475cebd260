//! What a limit becomes when its scope is entered, and when a scope is not entered at all (SPEC rule 4).

use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use super::checkpoint::{is_over, is_over_by_clock};
use super::config::Extras;
use super::frame::{Scope, innermost};
use super::spec::{Kind as FrameKind, Parent, ScopeSpec, between};
use super::switch::is_enabled;
use super::test_hooks::{point, point_of};
use crate::error::{Cause, ScopeId, ScopeInfo, Termination, TimeoutError};
use crate::test_env::TestEnv;
use crate::time::{Budget, Kind, Limit, NEVER, clock, nanos};
use crate::token::node::{Node, NodeSpec};
use crate::watchdog;
use crate::watchdog::slots::Thread;

/// A scope that may be entered.
pub(crate) struct Prepared {
    pub(crate) spec: ScopeSpec,
    /// The earliest deadline visible inside.
    pub(crate) effective: u64,
    /// Made on entry if tokens are linked, or the scope is beneath a handle's.
    pub(crate) node: Option<Arc<Node>>,
    /// To be left with the scope.
    pub(crate) spending: Option<Spending>,
}

/// A scope that is not entered.
pub(crate) struct Rejected {
    spec: ScopeSpec,
    /// How it is over itself; `None` if those around it are.
    end: Option<Termination>,
}

impl Rejected {
    /// Whether a scope around it on this thread is over, and not only itself.
    pub(crate) fn is_by_surroundings(&self) -> bool {
        self.end.is_none() && self.spec.kind != FrameKind::EnteredFuture
    }

    #[cold]
    pub(crate) fn into_error(
        self,
        thread: &Thread,
        extras: Option<&Extras>,
        around: Parent<'_>,
    ) -> TimeoutError {
        Scope::refusal(thread, &self.spec, extras, self.end, around)
    }
}

/// A budget that a scope has entered; it is left on drop.
pub(crate) struct Spending(Arc<dyn Budget>);

impl Spending {
    /// Enters it: until when it lasts, which is `now` if nothing is left.
    pub(super) fn begin(budget: &Arc<dyn Budget>, now: u64) -> (u64, Option<Self>) {
        let deadline = budget.enter(now);
        (deadline.unwrap_or(now), deadline.is_some().then(|| Self(Arc::clone(budget))))
    }
}

impl Drop for Spending {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// The time that is asked for, while limits are in force.
#[cfg_attr(not(debug_assertions), inline(always))]
fn in_force(asked: u64) -> u64 {
    if watchdog::global().mode().has_limits() { asked } else { in_force_slow(asked) }
}

#[cold]
#[inline(never)]
fn in_force_slow(asked: u64) -> u64 {
    if is_enabled() { asked } else { NEVER }
}

/// Admits a scope with a duration and nothing else, which is the hot path: its spec, and the earliest deadline visible
/// inside.
///
/// One that would outlast the scope around it inherits that deadline without reading the clock: the latest reading
/// is not after now, so what is too late from there is too late from now.
#[cfg_attr(not(debug_assertions), inline(always))]
pub(super) fn try_enter_duration(
    thread: &Thread,
    duration: Duration,
    location: &'static Location<'static>,
) -> Result<(ScopeSpec, u64), TimeoutError> {
    point(thread, location);
    let spec = |asked, entered| ScopeSpec::lasting(asked, entered, location, FrameKind::Block);
    if thread.frame.get().is_null() {
        // The clock first: the arithmetic then runs while the processor waits for the answer.
        let now = clock::now();
        thread.now.set(now);
        let asked = in_force(nanos(duration));
        if asked == 0 {
            return Err(refuse_duration(thread, asked, location));
        }
        return Ok((spec(asked, now), now.saturating_add(asked)));
    }
    let asked = in_force(nanos(duration));
    if is_over(thread) {
        return Err(refuse_duration(thread, asked, location));
    }
    let (outer, entered) = (thread.deadline.get(), thread.now.get());
    // In a shield the thread may have read the clock since, and found it later than `outer`.
    if entered < outer && outer - entered <= asked {
        return Ok((spec(asked, entered), outer));
    }
    let now = clock::now();
    thread.now.set(now);
    if asked == 0 || outer <= now {
        return Err(refuse_duration(thread, asked, location));
    }
    Ok((spec(asked, now), now.saturating_add(asked).min(outer)))
}

/// Admits a future's scope with a duration and nothing else: its deadline, and when it was entered.
///
/// It always has a deadline of its own, since it may be carried out of the scope that it is first polled in. Not for
/// where a test has put something in place.
#[cfg_attr(not(debug_assertions), inline(always))]
pub(crate) fn try_enter_poll(
    thread: &Thread,
    asked: u64,
    location: &'static Location<'static>,
) -> Result<ScopeSpec, Rejected> {
    let asked = in_force(asked);
    let nested = !thread.frame.get().is_null();
    if nested && is_over(thread) {
        return Err(reject(thread, asked, location, FrameKind::Future));
    }
    let now = clock::real_now();
    thread.now.set(now);
    if asked == 0 || thread.deadline.get() <= now {
        return Err(reject(thread, asked, location, FrameKind::Future));
    }
    Ok(ScopeSpec::lasting(asked, now, location, FrameKind::Future))
}

#[cold]
#[inline(never)]
fn refuse_duration(thread: &Thread, asked: u64, location: &'static Location<'static>) -> TimeoutError {
    reject(thread, asked, location, FrameKind::Block).into_error(thread, None, Parent::Thread)
}

#[cold]
#[inline(never)]
fn reject(thread: &Thread, asked: u64, location: &'static Location<'static>, kind: FrameKind) -> Rejected {
    // What this thread has seen, all see from now on.
    let by_surroundings = is_over_by_clock(thread);
    let now = clock::now();
    let spec = ScopeSpec::lasting(asked, now, location, kind);
    let own = asked == 0 && !by_surroundings;
    Rejected { spec, end: own.then_some(Termination::new(Cause::Deadline, now)) }
}

/// Admits any scope. Reads the clock.
pub(crate) fn try_enter(
    thread: &Thread,
    limit: &Limit,
    extras: Option<&Extras>,
    location: &'static Location<'static>,
    kind: FrameKind,
    around: Parent<'_>,
) -> Result<Prepared, Rejected> {
    match around {
        Parent::Thread => point(thread, location),
        Parent::Node(node) => point_of(node, location),
    }
    let enabled = is_enabled();
    thread.slot();
    let now = clock::now();
    thread.now.set(now);
    // What is seen here, all see from now on.
    let over = match around {
        Parent::Thread => (thread.deadline.get() <= now && is_over_by_clock(thread)) || is_over(thread),
        Parent::Node(node) => node.expire(now),
    };
    // A node with another clock counts by being over, not by its deadline.
    let timed = |node: &Arc<Node>| node.env.shares_clock(&TestEnv::current());
    let outer = match around {
        Parent::Thread => thread.deadline.get(),
        Parent::Node(node) if timed(node) => node.effective_deadline(),
        Parent::Node(_) => NEVER,
    };
    let unmeasured = is_unmeasured(limit);
    let mut own = if enabled { own_deadline(limit, now) } else { NEVER };
    let mut cause = Cause::Deadline;
    let mut spending = None;
    let spec =
        |own, cause| ScopeSpec { asked: between(now, own), entered: now, location, kind, cause, unmeasured };
    let reject = |spec: ScopeSpec, end: Option<Termination>| Err(Rejected { spec, end });

    if let (Kind::Budget(budget), Some(extras)) = (limit.kind(), extras) {
        extras.duration.get_or_init(|| budget.left(now));
    }

    // Asked in this order so that the outermost is named, and no time of a quota is spent in vain.
    if outer <= now || over {
        // What the error tells of it.
        if let Kind::Budget(budget) = limit.kind() {
            own = now.saturating_add(nanos(budget.left(now)));
        }
        return reject(spec(own, cause), None);
    }
    // Of its own causes the earliest is named; a cancel at the very deadline is not earlier.
    let mut ends: Vec<Termination> = Vec::new();
    let reserve = extras.map_or(Duration::ZERO, |extras| extras.options.reserve);
    if enabled && reserve > Duration::ZERO {
        // The thread's deadline leaves out some of those around a handle, and those of tokens.
        let outer = match around {
            Parent::Thread => innermost(thread, |scope| scope.map_or(NEVER, |scope| scope.effective(thread))),
            Parent::Node(node) if timed(node) => node.expires_at(),
            Parent::Node(_) => NEVER,
        };
        if outer != NEVER {
            own = own.min(outer.saturating_sub(nanos(reserve)));
        }
    }
    if own <= now {
        ends.push(Termination::new(Cause::Deadline, own));
    }
    for token in extras.map_or(&[][..], |extras| &extras.options.tokens) {
        let node = token.node();
        if node.expire(now) {
            // Lost in a fork: all that is known is that it is over.
            let lost = || Termination::new(Cause::Cancelled, now);
            // One with another clock ends it now.
            let origin = node.origin_on(&TestEnv::current());
            ends.push(origin.map_or_else(lost, |origin| Termination::through_link(&origin)));
        }
    }
    if let Some(end) = ends.into_iter().min_by_key(|end| end.at) {
        return reject(spec(own, cause), Some(end));
    }
    if enabled && let Kind::Budget(budget) = limit.kind() {
        let deadline;
        (deadline, spending) = Spending::begin(budget, now);
        if deadline <= own {
            own = deadline;
            cause = Cause::Quota;
        }
    }
    if own <= now {
        return reject(spec(own, cause), Some(Termination::new(cause, own)));
    }

    let effective = own.min(match around {
        Parent::Thread => outer,
        Parent::Node(node) if timed(node) => node.lasting_deadline(),
        Parent::Node(_) => NEVER,
    });
    let spec = spec(own, cause);
    let linked = extras.is_some_and(|extras| !extras.options.tokens.is_empty());
    let node = (linked || matches!(around, Parent::Node(_))).then(|| {
        let parent = match around {
            Parent::Node(node) => Some(Arc::clone(node)),
            Parent::Thread => innermost(thread, |scope| scope.map(|scope| Arc::clone(scope.node()))),
        };
        linked_node(parent.as_ref(), &spec, extras)
    });
    Ok(Prepared { spec, effective, node, spending })
}

/// The deadline that a limit becomes at `now`, but for a quota's.
pub(super) fn own_deadline(limit: &Limit, now: u64) -> u64 {
    match limit.kind() {
        Kind::After(duration) => now.saturating_add(nanos(*duration)),
        Kind::At(deadline) => deadline.as_nanos(),
        Kind::None | Kind::Budget(_) => NEVER,
    }
}

/// Whether a limit is no duration.
pub(super) fn is_unmeasured(limit: &Limit) -> bool {
    matches!(limit.kind(), Kind::None | Kind::At(_))
}

/// A node with these spec, which the tokens in the extras cancel.
pub(crate) fn linked_node(
    parent: Option<&Arc<Node>>,
    spec: &ScopeSpec,
    extras: Option<&Extras>,
) -> Arc<Node> {
    let node = node_of(parent, spec.info(ScopeId::next(), extras), spec, extras);
    extras.iter().flat_map(|extras| &extras.options.tokens).for_each(|token| node.link(token.node()));
    node
}

/// A node with these spec.
pub(super) fn node_of(
    parent: Option<&Arc<Node>>,
    info: ScopeInfo,
    spec: &ScopeSpec,
    extras: Option<&Extras>,
) -> Arc<Node> {
    let node_spec = NodeSpec {
        info,
        entered: spec.entered,
        deadline: spec.own(),
        cause: spec.cause,
        reparentable: spec.kind == FrameKind::Future,
    };
    let node = Node::new(parent, node_spec);
    if let Some(extras) = extras {
        if extras.falls_back {
            node.fall_back();
        }
        if !extras.options.grace.is_zero() {
            node.set_grace(nanos(extras.options.grace));
        }
    }
    node
}
