//! What a limit becomes when its scope is entered, and when a scope is not entered at all (SPEC rule 4).

use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use super::checkpoint::{is_over, is_over_by_clock};
use super::frame::{Around, Kind as FrameKind, Scope, Terms, innermost};
use super::staged::{point, point_of};
use super::{Extras, is_enabled};
use crate::error::{Cause, ScopeId, TimeoutError};
use crate::time::seam::Seam;
use crate::time::{Budget, Kind, Limit, NEVER, clock, nanos};
use crate::token::node::{End, Node};
use crate::watchdog;
use crate::watchdog::slots::Thread;

/// A scope that may be entered.
pub(crate) struct Admission {
    pub(crate) terms: Terms,
    /// The earliest deadline visible inside.
    pub(crate) effective: u64,
    /// Made on entry if tokens are linked, or the scope is beneath a handle's.
    pub(crate) node: Option<Arc<Node>>,
    /// To be left with the scope.
    pub(crate) spending: Option<Spending>,
}

/// A budget that a scope has entered; it is left on drop.
pub(crate) struct Spending(Arc<dyn Budget>);

impl Drop for Spending {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// The time that is asked for, while limits are in force.
#[inline(always)]
fn in_force(asked: u64) -> u64 {
    if watchdog::global().mode().has_limits() { asked } else { in_force_slow(asked) }
}

#[cold]
#[inline(never)]
fn in_force_slow(asked: u64) -> u64 {
    if is_enabled() { asked } else { NEVER }
}

/// Admits a scope with a duration and nothing else, which is the hot path: its terms, and the earliest deadline visible
/// inside.
///
/// One that would outlast the scope around it inherits that deadline without reading the clock: the latest reading
/// is not after now, so what is too late from there is too late from now.
#[inline(always)]
pub(super) fn admit_duration(
    thread: &Thread,
    duration: Duration,
    location: &'static Location<'static>,
) -> Result<(Terms, u64), TimeoutError> {
    point(thread, location);
    let asked = in_force(nanos(duration));
    let outer = thread.deadline.get();
    if !thread.frame.get().is_null() {
        if is_over(thread) {
            return Err(refuse_duration(thread, asked, location));
        }
        let entered = thread.now.get();
        let own = entered.saturating_add(asked);
        if own >= outer {
            // The thread may have read the clock since, in a shield.
            if entered >= outer {
                return Err(refuse_duration(thread, asked, location));
            }
            return Ok((Terms::measured(own, entered, location, FrameKind::Block), outer));
        }
    }
    let now = clock::now();
    thread.now.set(now);
    if asked == 0 || outer <= now {
        return Err(refuse_duration(thread, asked, location));
    }
    let own = now.saturating_add(asked);
    Ok((Terms::measured(own, now, location, FrameKind::Block), own.min(outer)))
}

/// Admits a future's scope with a duration and nothing else: its deadline, and when it was entered.
///
/// It always has a deadline of its own, since it may be carried out of the scope that it is first polled in.
#[inline(always)]
pub(crate) fn admit_polled(
    thread: &Thread,
    asked: u64,
    location: &'static Location<'static>,
) -> Result<Terms, TimeoutError> {
    point(thread, location);
    let asked = in_force(asked);
    let nested = !thread.frame.get().is_null();
    if nested && is_over(thread) {
        return Err(refuse_duration(thread, asked, location));
    }
    let now = clock::now();
    thread.now.set(now);
    if asked == 0 || thread.deadline.get() <= now {
        return Err(refuse_duration(thread, asked, location));
    }
    Ok(Terms::measured(now.saturating_add(asked), now, location, FrameKind::Future))
}

#[cold]
#[inline(never)]
fn refuse_duration(thread: &Thread, asked: u64, location: &'static Location<'static>) -> TimeoutError {
    // What this thread has seen, all see from now on.
    is_over_by_clock(thread);
    let now = clock::now();
    let terms = Terms::measured(now.saturating_add(asked), now, location, FrameKind::Block);
    let end = (asked == 0).then_some(End { cause: Cause::Deadline, at: now, reason: None });
    Scope::refusal(thread, &terms, None, end, Around::Thread)
}

/// Admits any scope. Reads the clock.
pub(crate) fn admit(
    thread: &Thread,
    limit: &Limit,
    extras: Option<&Extras>,
    location: &'static Location<'static>,
    kind: FrameKind,
    around: Around<'_>,
) -> Result<Admission, TimeoutError> {
    match around {
        Around::Thread => point(thread, location),
        Around::Node(node) => point_of(node, location),
    }
    let enabled = is_enabled();
    thread.slot();
    let now = clock::now();
    thread.now.set(now);
    let outer = match around {
        Around::Thread => thread.deadline.get(),
        Around::Node(node) => node.effective_deadline(),
    };
    let flagged = match around {
        Around::Thread => thread.is_flagged(),
        Around::Node(node) => node.is_over(),
    };
    let unmeasured = matches!(limit.kind(), Kind::None | Kind::At(_));
    let cause = Cause::Deadline;
    let mut terms = Terms { own: NEVER, entered: now, location, kind, cause, unmeasured };
    match limit.kind() {
        Kind::After(duration) if enabled => terms.own = now.saturating_add(nanos(*duration)),
        Kind::At(deadline) if enabled => terms.own = deadline.as_nanos(),
        _ => {}
    }
    let mut spending = None;
    let refuse = |terms: &Terms, end: Option<End>| Err(Scope::refusal(thread, terms, extras, end, around));

    if let (Kind::Budget(budget), Some(extras)) = (limit.kind(), extras) {
        extras.duration.get_or_init(|| budget.left(now));
    }

    // Asked in this order so that the outermost is named, and no time of a quota is spent in vain.
    if outer <= now || flagged {
        is_over_by_clock(thread);
        // What the error tells of it.
        if let Kind::Budget(budget) = limit.kind() {
            terms.own = now.saturating_add(nanos(budget.left(now)));
        }
        return refuse(&terms, None);
    }
    // Of its own causes the earliest is named; a cancel at the very deadline is not earlier.
    let mut ends: Vec<End> = Vec::new();
    let reserve = extras.map_or(Duration::ZERO, |extras| extras.reserve);
    if enabled && reserve > Duration::ZERO && outer != NEVER {
        terms.own = terms.own.min(outer.saturating_sub(nanos(reserve)));
    }
    if terms.own <= now {
        ends.push(End { cause: Cause::Deadline, at: terms.own, reason: None });
    }
    for token in extras.map_or(&[][..], |extras| &extras.tokens) {
        let end = token.node().told_by().or_else(|| {
            // Told by surroundings that its scope has left.
            token.node().is_over().then_some(End { cause: Cause::Cancelled, at: now, reason: None })
        });
        // One with another clock ends it now.
        let at = |end: &End| if token.node().seam.shares_clock(&Seam::current()) { end.at } else { now };
        ends.extend(end.map(|end| End { cause: Cause::Cancelled, at: at(&end), ..end }));
    }
    if let Some(end) = ends.into_iter().min_by_key(|end| end.at) {
        return refuse(&terms, Some(end));
    }
    if enabled && let Kind::Budget(budget) = limit.kind() {
        let deadline = budget.enter(now);
        spending = deadline.is_some().then(|| Spending(Arc::clone(budget)));
        let deadline = deadline.unwrap_or(now);
        if deadline <= terms.own {
            terms.own = deadline;
            terms.cause = Cause::Quota;
        }
    }
    if terms.own <= now {
        return refuse(&terms, Some(End { cause: terms.cause, at: terms.own, reason: None }));
    }

    let effective = terms.own.min(outer);
    let linked = extras.is_some_and(|extras| !extras.tokens.is_empty());
    let node = (linked || matches!(around, Around::Node(_))).then(|| {
        let parent = match around {
            Around::Node(node) => Some(Arc::clone(node)),
            Around::Thread => innermost(thread, |scope| scope.map(|scope| Arc::clone(scope.node()))),
        };
        linked_node(parent.as_ref(), &terms, extras)
    });
    Ok(Admission { terms, effective, node, spending })
}

/// A node with these terms, which the tokens in the extras cancel.
pub(crate) fn linked_node(parent: Option<&Arc<Node>>, terms: &Terms, extras: Option<&Extras>) -> Arc<Node> {
    let info = terms.info(ScopeId::next(), extras);
    let roams = terms.kind == FrameKind::Future;
    let node = Node::new(parent, info, terms.entered, terms.own, terms.cause, roams);
    extras.iter().flat_map(|extras| &extras.tokens).for_each(|token| node.link(token.node()));
    node
}
