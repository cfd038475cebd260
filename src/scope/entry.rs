//! Entering a scope: what its limit becomes, and when it is not entered at all.
//!
//! There are three ways in: for a block with a duration, for a future with a duration, and for everything else. The first
//! two are hot paths, and leave out the rest.

use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use super::checkpoint::{is_over, is_over_by_clock};
use super::config::Extras;
use super::frame::{Scope, innermost};
use super::spec::{Kind, Parent, ScopeSpec, between};
use super::switch::is_enabled;
use super::test_hooks::{point, point_of};
use crate::error::{Cause, ScopeId, ScopeInfo, Termination, TimeoutError};
use crate::test_env::TestEnv;
use crate::thread::Thread;
use crate::time::{Budget, Kind as LimitKind, Limit, NEVER, clock, nanos};
use crate::token::CancellationToken;
use crate::token::node::{Node, NodeSpec};
use crate::watchdog;

/// A scope that may be entered.
pub(crate) struct Prepared {
    pub(crate) spec: ScopeSpec,
    /// The earliest deadline visible inside.
    pub(crate) effective: u64,
}

/// Things that belong to a scope and go when it is left. A plain scope has none.
#[derive(Default)]
pub(crate) struct Attachments {
    /// Made on entry if tokens are linked, or if the scope is beneath a handle's.
    pub(crate) node: Option<Arc<Node>>,
    pub(crate) spending: Option<Spending>,
}

/// A scope that is not entered. The box keeps the successful way in registers.
pub(crate) struct Rejected(Box<Rejection>);

struct Rejection {
    spec: ScopeSpec,
    /// How it is over itself; `None` if a scope around it is over.
    end: Option<Termination>,
}

impl Rejected {
    fn new(spec: ScopeSpec, end: Option<Termination>) -> Self {
        Self(Box::new(Rejection { spec, end }))
    }

    /// Whether a scope around it on this thread is over, and not only itself.
    pub(crate) fn is_by_surroundings(&self) -> bool {
        self.0.end.is_none() && self.0.spec.kind != Kind::EnteredFuture
    }

    #[cold]
    pub(crate) fn into_error(
        self,
        thread: &Thread,
        extras: Option<&Extras>,
        parent: Parent<'_>,
    ) -> TimeoutError {
        let Rejection { spec, end } = *self.0;
        Scope::refusal(thread, &spec, extras, end, parent)
    }
}

/// A budget that a scope has entered; it is left on drop.
pub(crate) struct Spending(Arc<dyn Budget>);

impl Spending {
    /// Begins to spend the budget. Returns until when it lasts: `now` if nothing is left.
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

/// The duration that counts: [`NEVER`] while limits are switched off.
#[cfg_attr(not(debug_assertions), inline(always))]
fn in_force(asked: u64) -> u64 {
    if watchdog::global().settings().has_limits() { asked } else { in_force_slow(asked) }
}

#[cold]
#[inline(never)]
fn in_force_slow(asked: u64) -> u64 {
    if is_enabled() { asked } else { NEVER }
}

/// Enters a scope with a duration and nothing else: the hot path.
///
/// A scope that would outlast the scope around it inherits that deadline without reading the clock: the latest reading is
/// not after now, so what is too late from there is too late from now.
#[cfg_attr(not(debug_assertions), inline(always))]
pub(super) fn try_enter_duration(
    thread: &Thread,
    duration: Duration,
    location: &'static Location<'static>,
) -> Result<Prepared, Rejected> {
    point(thread, location);
    let prepared = |asked, entered, effective| Prepared {
        spec: ScopeSpec::lasting(asked, entered, location, Kind::Block),
        effective,
    };
    if thread.frame.get().is_null() {
        // The clock first: the arithmetic then runs while the processor waits for the answer.
        let now = clock::now();
        thread.now.set(now);
        let asked = in_force(nanos(duration));
        if asked == 0 {
            return Err(reject(thread, asked, location, Kind::Block));
        }
        return Ok(prepared(asked, now, now.saturating_add(asked)));
    }
    let asked = in_force(nanos(duration));
    if is_over(thread) {
        return Err(reject(thread, asked, location, Kind::Block));
    }
    let (outer, entered) = (thread.deadline.get(), thread.now.get());
    // In a shield the thread may have read the clock since, and found it later than `outer`.
    if entered < outer && outer - entered <= asked {
        return Ok(prepared(asked, entered, outer));
    }
    let now = clock::now();
    thread.now.set(now);
    if asked == 0 || outer <= now {
        return Err(reject(thread, asked, location, Kind::Block));
    }
    Ok(prepared(asked, now, now.saturating_add(asked).min(outer)))
}

/// Enters the scope of a future with a duration and nothing else, at its first poll. Not in a test environment.
///
/// It always has a deadline of its own, since the future may be carried out of the scope in which it is first polled.
#[cfg_attr(not(debug_assertions), inline(always))]
pub(super) fn try_enter_poll(
    thread: &Thread,
    asked: u64,
    location: &'static Location<'static>,
) -> Result<ScopeSpec, Rejected> {
    let asked = in_force(asked);
    let nested = !thread.frame.get().is_null();
    if nested && is_over(thread) {
        return Err(reject(thread, asked, location, Kind::Future));
    }
    let now = clock::real_now();
    thread.now.set(now);
    if asked == 0 || thread.deadline.get() <= now {
        return Err(reject(thread, asked, location, Kind::Future));
    }
    Ok(ScopeSpec::lasting(asked, now, location, Kind::Future))
}

#[cold]
#[inline(never)]
fn reject(thread: &Thread, asked: u64, location: &'static Location<'static>, kind: Kind) -> Rejected {
    // From now on all threads see that the time has come.
    let by_surroundings = is_over_by_clock(thread);
    let now = clock::now();
    let spec = ScopeSpec::lasting(asked, now, location, kind);
    let own = asked == 0 && !by_surroundings;
    Rejected::new(spec, own.then_some(Termination::new(Cause::Deadline, now)))
}

/// Enters any scope. Reads the clock.
pub(super) fn try_enter(
    thread: &Thread,
    limit: &Limit,
    extras: Option<&Extras>,
    location: &'static Location<'static>,
    kind: Kind,
    parent: Parent<'_>,
) -> Result<(Prepared, Attachments), Rejected> {
    match parent {
        Parent::Thread => point(thread, location),
        Parent::Node(node) => point_of(node, location),
    }
    let enabled = is_enabled();
    thread.slot();
    let now = clock::now();
    thread.now.set(now);
    let entry = Entry { thread, limit, extras, location, kind, parent, now, enabled };
    let outer = entry.look()?;
    let (spec, spending) = entry.decide()?;
    Ok(entry.make(spec, outer, spending))
}

/// An entry under way.
struct Entry<'a> {
    thread: &'a Thread,
    limit: &'a Limit,
    extras: Option<&'a Extras>,
    location: &'static Location<'static>,
    kind: Kind,
    parent: Parent<'a>,
    now: u64,
    /// Whether limits are on.
    enabled: bool,
}

impl Entry<'_> {
    /// Looks at the scopes around it. Returns their earliest deadline, if none of them is over.
    fn look(&self) -> Result<u64, Rejected> {
        let &Self { thread, now, .. } = self;
        if let (LimitKind::Budget(budget), Some(extras)) = (self.limit.kind(), self.extras) {
            extras.duration.get_or_init(|| budget.left(now));
        }
        let (outer, is_over) = match self.parent {
            Parent::Thread => {
                let outer = thread.deadline.get();
                (outer, (outer <= now && is_over_by_clock(thread)) || is_over(thread))
            }
            Parent::Node(node) => {
                // From now on all threads see that the time has come.
                let is_over = node.expire(now);
                (if is_timed(node) { node.effective_deadline() } else { NEVER }, is_over)
            }
        };
        if outer > now && !is_over {
            return Ok(outer);
        }
        // First, so that the error names the outermost, and no time of a quota is spent in vain.
        let own = match self.limit.kind() {
            LimitKind::Budget(budget) => now.saturating_add(nanos(budget.left(now))),
            _ => self.own_deadline(),
        };
        Err(Rejected::new(self.spec(own, Cause::Deadline), None))
    }

    /// Decides, by its own limit, reserve, tokens and quota, whether it is entered and with which deadline.
    fn decide(&self) -> Result<(ScopeSpec, Option<Spending>), Rejected> {
        let now = self.now;
        let mut own = self.own_deadline().min(self.deadline_before_reserve());
        let reject = |own, cause, end| Err(Rejected::new(self.spec(own, cause), Some(end)));
        // The error names the earliest of its own ends. A cancel at the very deadline is not earlier.
        let deadline = (own <= now).then(|| Termination::new(Cause::Deadline, own));
        if let Some(end) = deadline.into_iter().chain(self.ends_of_tokens()).min_by_key(|end| end.at) {
            return reject(own, Cause::Deadline, end);
        }
        let (mut cause, mut spending) = (Cause::Deadline, None);
        if self.enabled
            && let LimitKind::Budget(budget) = self.limit.kind()
        {
            let deadline;
            (deadline, spending) = Spending::begin(budget, now);
            if deadline <= own {
                own = deadline;
                cause = Cause::Quota;
            }
        }
        if own <= now {
            return reject(own, cause, Termination::new(cause, own));
        }
        Ok((self.spec(own, cause), spending))
    }

    /// Makes the scope.
    fn make(&self, spec: ScopeSpec, outer: u64, spending: Option<Spending>) -> (Prepared, Attachments) {
        let lasting = match self.parent {
            Parent::Thread => outer,
            Parent::Node(node) if is_timed(node) => node.lasting_deadline(),
            Parent::Node(_) => NEVER,
        };
        let is_linked = self.extras.is_some_and(|extras| !extras.options.tokens.is_empty());
        let node = match self.parent {
            Parent::Node(node) => Some(linked_node(Some(node), &spec, self.extras)),
            Parent::Thread if is_linked => {
                let parent = innermost(self.thread, |scope| scope.map(|scope| Arc::clone(scope.node())));
                Some(linked_node(parent.as_ref(), &spec, self.extras))
            }
            Parent::Thread => None,
        };
        (Prepared { spec, effective: spec.own().min(lasting) }, Attachments { node, spending })
    }

    fn spec(&self, own: u64, cause: Cause) -> ScopeSpec {
        let &Self { now, location, kind, .. } = self;
        let unmeasured = is_unmeasured(self.limit);
        ScopeSpec { asked: between(now, own), entered: now, location, kind, cause, unmeasured }
    }

    /// The deadline of its limit, if limits are on.
    fn own_deadline(&self) -> u64 {
        if self.enabled { own_deadline(self.limit, self.now) } else { NEVER }
    }

    /// When only the reserve is left of the time around it.
    fn deadline_before_reserve(&self) -> u64 {
        let reserve = self.extras.map_or(Duration::ZERO, |extras| extras.options.reserve);
        if !self.enabled || reserve.is_zero() {
            return NEVER;
        }
        // The thread's deadline leaves out some of the scopes around a handle, and the deadlines of tokens.
        let outer = match self.parent {
            Parent::Thread => {
                innermost(self.thread, |scope| scope.map_or(NEVER, |scope| scope.effective(self.thread)))
            }
            Parent::Node(node) if is_timed(node) => node.expires_at(),
            Parent::Node(_) => NEVER,
        };
        if outer == NEVER { NEVER } else { outer.saturating_sub(nanos(reserve)) }
    }

    /// How the linked tokens that are over have ended.
    fn ends_of_tokens(&self) -> Vec<Termination> {
        let tokens = self.extras.map_or(&[][..], |extras| &extras.options.tokens);
        let over = tokens.iter().map(CancellationToken::node).filter(|node| node.expire(self.now));
        let end = |node: &Arc<Node>| match node.origin_on(&TestEnv::current()) {
            // A token with another clock ends the scope now.
            Some(origin) => Termination::through_link(&origin),
            // Its cause was lost in a fork.
            None => Termination::new(Cause::Cancelled, self.now),
        };
        over.map(end).collect()
    }
}

/// Whether the deadline of a node counts here. A node with another clock counts by being over.
fn is_timed(node: &Node) -> bool {
    node.env.shares_clock(&TestEnv::current())
}

/// The deadline that a limit becomes at `now`. That of a quota is known once it is entered.
pub(super) fn own_deadline(limit: &Limit, now: u64) -> u64 {
    match limit.kind() {
        LimitKind::After(duration) => now.saturating_add(nanos(*duration)),
        LimitKind::At(deadline) => deadline.as_nanos(),
        LimitKind::None | LimitKind::Budget(_) => NEVER,
    }
}

/// Whether a limit is no duration.
pub(super) fn is_unmeasured(limit: &Limit) -> bool {
    matches!(limit.kind(), LimitKind::None | LimitKind::At(_))
}

/// The node of a scope. The linked tokens cancel it.
pub(crate) fn linked_node(
    parent: Option<&Arc<Node>>,
    spec: &ScopeSpec,
    extras: Option<&Extras>,
) -> Arc<Node> {
    let node = node_of(parent, spec.info(ScopeId::next(), extras), spec, extras);
    extras.iter().flat_map(|extras| &extras.options.tokens).for_each(|token| node.link(token.node()));
    node
}

/// The node of a scope.
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
        reparentable: spec.kind == Kind::Future,
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
