//! Entering a scope: decides whether the scope is entered, and which deadline its limit becomes.
//!
//! Three functions enter a scope: `try_enter_duration` a block with a duration, `try_enter_poll` a future with a
//! duration, and `try_enter` everything else. The first two are hot paths, so they leave out all that only the third
//! needs.

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

pub(crate) struct Prepared {
    pub(crate) spec: ScopeSpec,
    /// The earliest deadline inside the scope: its own, or that of a scope around it.
    pub(crate) effective: u64,
}

/// What a scope keeps from its entry to its end. In a plain scope both fields are `None`.
#[derive(Default)]
pub(crate) struct Attachments {
    /// The scope's node. `Some` if the node was made on entry, because tokens are linked to the scope, or because the
    /// scope is entered by a handle.
    pub(crate) node: Option<Arc<Node>>,
    pub(crate) spending: Option<Spending>,
}

/// A scope that cannot be entered, because it or a scope around it is over. Boxed, so that an `Ok` with an entered
/// scope stays in registers.
pub(crate) struct Rejected(Box<Rejection>);

struct Rejection {
    spec: ScopeSpec,
    /// The scope's own end; `None` if the scope is rejected because a scope around it is over.
    end: Option<Termination>,
}

impl Rejected {
    fn new(spec: ScopeSpec, end: Option<Termination>) -> Self {
        Self(Box::new(Rejection { spec, end }))
    }

    /// `true`: an outer scope on this thread is over. `false`: the scope itself is over, or it is the scope of an
    /// entered future, whose outer scopes are those of its handle.
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

/// A budget that a scope has entered. The drop leaves the budget.
pub(crate) struct Spending(Arc<dyn Budget>);

impl Spending {
    /// Begins to spend the budget. Returns the budget's deadline, and the guard that leaves the budget. If nothing is
    /// left of the budget, returns `now` and no guard.
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

#[cfg_attr(not(debug_assertions), inline(always))]
pub(super) fn in_force(asked: u64) -> u64 {
    if watchdog::global().settings().has_limits() { asked } else { in_force_slow(asked) }
}

#[cold]
#[inline(never)]
fn in_force_slow(asked: u64) -> u64 {
    if is_enabled() { asked } else { NEVER }
}

/// Enters a scope with a duration and nothing else: the hot path.
///
/// A scope that would outlast the scope around it inherits the outer deadline, and no clock is read. The older reading
/// `thread.now` is enough to see this: a duration that ends too late when counted from there also ends too late when
/// counted from now.
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
        // The clock is read first, so that the processor does the arithmetic below while it waits for the reading.
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
    // `entered < outer` keeps the subtraction from overflowing. `entered` may be later: it is the last reading of the
    // clock, and the check that made the reading may have compared it only with the deadline of a scope farther out.
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

/// Enters the scope of a future at its first poll. Only for a scope that has a duration and nothing else, outside of
/// test environments.
///
/// The scope never inherits the outer deadline, since the future may be moved out of the scope in which it is first
/// polled.
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
    // If the deadline of the scopes around has passed, `is_over_by_clock` records that this time was reached, so that
    // other checks see the expiry too.
    let by_surroundings = is_over_by_clock(thread);
    let now = clock::now();
    let spec = ScopeSpec::lasting(asked, now, location, kind);
    let own = asked == 0 && !by_surroundings;
    Rejected::new(spec, own.then_some(Termination::new(Cause::Deadline, now)))
}

/// Enters any scope. Reads the clock. `Err`: the new scope, or a scope around it, is over.
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

/// The inputs of [`try_enter`], for its three steps: `look`, `decide`, `make`.
struct Entry<'a> {
    thread: &'a Thread,
    limit: &'a Limit,
    extras: Option<&'a Extras>,
    location: &'static Location<'static>,
    kind: Kind,
    parent: Parent<'a>,
    now: u64,
    enabled: bool,
}

impl Entry<'_> {
    /// Checks the scopes around the new one. Returns their earliest deadline, or rejects the new scope if one of them
    /// is over.
    fn look(&self) -> Result<u64, Rejected> {
        let &Self { thread, now, .. } = self;
        if let (LimitKind::Budget(budget), Some(extras)) = (self.limit.kind(), self.extras) {
            extras.quota_left.get_or_init(|| budget.left(now));
        }
        let (outer, is_over) = match self.parent {
            Parent::Thread => {
                let outer = thread.deadline.get();
                (outer, (outer <= now && is_over_by_clock(thread)) || is_over(thread))
            }
            Parent::Node(node) => {
                // `expire` ends the node if its deadline has passed. Then all threads see the expiry.
                let is_over = node.expire(now);
                (if is_timed(node) { node.effective_deadline() } else { NEVER }, is_over)
            }
        };
        if outer > now && !is_over {
            return Ok(outer);
        }
        // A scope around the new one is over. So the new scope is rejected before `decide`: the error names the
        // outermost scope that is over, and no time of a quota is spent. `own` only describes the new scope in the
        // error.
        let own = match self.limit.kind() {
            LimitKind::Budget(budget) => now.saturating_add(nanos(budget.left(now))),
            _ => self.own_deadline(),
        };
        Err(Rejected::new(self.spec(own, Cause::Deadline), None))
    }

    /// Decides by the scope's own limit, reserve, tokens and quota whether the scope is entered, and with which
    /// deadline.
    fn decide(&self) -> Result<(ScopeSpec, Option<Spending>), Rejected> {
        let now = self.now;
        let mut own = self.own_deadline().min(self.deadline_before_reserve());
        let reject = |own, cause, end| Err(Rejected::new(self.spec(own, cause), Some(end)));
        // The error names what came first: the deadline, or the end of a token. If both came at the same time, it names
        // the deadline, because `min_by_key` takes the first.
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

    fn own_deadline(&self) -> u64 {
        if self.enabled { own_deadline(self.limit, self.now) } else { NEVER }
    }

    /// The deadline of the scopes around, minus the reserve. [`NEVER`] if there is no reserve, or no such deadline.
    fn deadline_before_reserve(&self) -> u64 {
        let reserve = self.extras.map_or(Duration::ZERO, |extras| extras.options.reserve);
        if !self.enabled || reserve.is_zero() {
            return NEVER;
        }
        // `thread.deadline` is not enough. It leaves out two kinds of deadlines, which only nodes know: those of linked
        // tokens, and those of scopes that an entered handle may still lose (`frame.rs`, invariant 4).
        let outer = match self.parent {
            Parent::Thread => {
                innermost(self.thread, |scope| scope.map_or(NEVER, |scope| scope.effective(self.thread)))
            }
            Parent::Node(node) if is_timed(node) => node.expires_at(),
            Parent::Node(_) => NEVER,
        };
        if outer == NEVER { NEVER } else { outer.saturating_sub(nanos(reserve)) }
    }

    fn ends_of_tokens(&self) -> Vec<Termination> {
        let tokens = self.extras.map_or(&[][..], |extras| &extras.options.tokens);
        let over = tokens.iter().map(CancellationToken::node).filter(|node| node.expire(self.now));
        let end = |node: &Arc<Node>| match node.origin_on(&TestEnv::current()) {
            Some(origin) => Termination::through_link(&origin),
            // The origin was lost in a fork, so a cancel is assumed.
            None => Termination::new(Cause::Cancelled, self.now),
        };
        over.map(end).collect()
    }
}

/// Whether the node's times are on this thread's clock. Otherwise its deadline cannot be compared with the time, so the
/// node is only asked whether it is over.
fn is_timed(node: &Node) -> bool {
    node.env.shares_clock(&TestEnv::current())
}

/// The deadline of a limit that begins at `now`. [`NEVER`] if there is no limit, and for a quota: its deadline becomes
/// known when the scope is entered.
pub(super) fn own_deadline(limit: &Limit, now: u64) -> u64 {
    match limit.kind() {
        LimitKind::After(duration) => now.saturating_add(nanos(*duration)),
        LimitKind::At(deadline) => deadline.as_nanos(),
        LimitKind::None | LimitKind::Budget(_) => NEVER,
    }
}

/// Whether a limit has no duration: there is no limit, or the limit is an instant. Errors then show no duration.
pub(super) fn is_unmeasured(limit: &Limit) -> bool {
    matches!(limit.kind(), LimitKind::None | LimitKind::At(_))
}

pub(crate) fn linked_node(
    parent: Option<&Arc<Node>>,
    spec: &ScopeSpec,
    extras: Option<&Extras>,
) -> Arc<Node> {
    let node = node_of(parent, spec.info(ScopeId::next(), extras), spec, extras);
    extras.iter().flat_map(|extras| &extras.options.tokens).for_each(|token| node.link(token.node()));
    node
}

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
