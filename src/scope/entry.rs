//! What a limit becomes when its scope is entered, and when a scope is not entered at all (SPEC rule 4).

use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use super::checkpoint::is_over;
use super::frame::{Around, Kind as FrameKind, Scope, Terms, innermost};
use super::{Extras, is_enabled};
use crate::error::{Cause, ScopeId, ScopeInfo, TimeoutError};
use crate::time::{Budget, Kind, Limit, NEVER, clock, nanos};
use crate::token::node::{End, Node};
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

/// The duration that is asked for, in nanoseconds.
#[inline(always)]
fn asked(duration: Duration) -> u64 {
    if is_enabled() { nanos(duration) } else { NEVER }
}

/// Admits a scope with a duration and nothing else, which is the hot path: its frame, and the earliest deadline visible
/// inside.
///
/// One that would outlast the scope around it inherits that deadline without reading the clock: the latest reading
/// is not after now, so what is too late from there is too late from now.
#[inline(always)]
pub(super) fn admit_duration(
    thread: &Thread,
    duration: Duration,
    location: &'static Location<'static>,
) -> Result<(Scope, u64), TimeoutError> {
    let asked = asked(duration);
    let outer = thread.deadline.get();
    if asked == 0 || is_over(thread) {
        return Err(refuse_duration(thread, duration, asked, location));
    }
    let mut own = thread.now.get().saturating_add(asked);
    if own < outer {
        let now = clock::now();
        thread.now.set(now);
        if outer <= now {
            return Err(refuse_duration(thread, duration, asked, location));
        }
        own = now.saturating_add(asked);
    }
    let effective = own.min(outer);
    let own = if own < outer { own } else { NEVER };
    let entered = thread.now.get();
    let terms = Terms {
        own,
        entered,
        limit: Some(duration),
        cause: Cause::Deadline,
        location,
        kind: FrameKind::Block,
    };
    Ok((terms.frame(), effective))
}

/// Admits a future's scope with a duration and nothing else: its deadline, and when it was entered.
///
/// It always has a deadline of its own, since it may be carried out of the scope that it is first polled in.
#[inline(always)]
pub(crate) fn admit_polled(
    thread: &Thread,
    duration: Duration,
    location: &'static Location<'static>,
) -> Result<(u64, u64), TimeoutError> {
    let asked = asked(duration);
    let outer = thread.deadline.get();
    if asked == 0 || is_over(thread) {
        return Err(refuse_duration(thread, duration, asked, location));
    }
    let now = clock::now();
    thread.now.set(now);
    if outer <= now {
        return Err(refuse_duration(thread, duration, asked, location));
    }
    Ok((now.saturating_add(asked), now))
}

#[cold]
#[inline(never)]
fn refuse_duration(
    thread: &Thread,
    duration: Duration,
    asked: u64,
    location: &'static Location<'static>,
) -> TimeoutError {
    let now = clock::now();
    let kind = FrameKind::Block;
    let terms =
        Terms { own: now, entered: now, limit: Some(duration), cause: Cause::Deadline, location, kind };
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
    let enabled = is_enabled();
    thread.slot();
    let now = thread.look();
    let outer = match around {
        Around::Thread => thread.deadline.get(),
        Around::Node(node) => node.effective_deadline(),
    };
    let flagged = match around {
        Around::Thread => thread.is_flagged(),
        Around::Node(node) => node.is_over(),
    };
    let mut terms = Terms { own: NEVER, entered: now, limit: None, cause: Cause::Deadline, location, kind };
    let mut spending = None;
    if let Kind::After(duration) = limit.kind() {
        terms.limit = Some(*duration);
    }
    let refuse = |terms: &Terms, end: Option<End>| Err(Scope::refusal(thread, terms, extras, end, around));

    // Asked in this order so that the outermost is named, and no time of a quota is spent in vain.
    if outer <= now || flagged {
        thread.look_again();
        return refuse(&terms, None);
    }
    for token in extras.map_or(&[][..], |extras| &extras.tokens) {
        let (mut end, mut over) = (None, token.node().is_over());
        token.node().walk(|node| {
            let its = node.end(now);
            over |= its.is_some();
            end = its.or(end.take());
        });
        if over {
            let at = end.as_ref().map_or(now, |end| end.at);
            let reason = end.and_then(|end| end.reason);
            return refuse(&terms, Some(End { cause: Cause::Cancelled, at, reason }));
        }
    }
    if enabled {
        match limit.kind() {
            Kind::None => {}
            Kind::After(duration) => terms.own = now.saturating_add(nanos(*duration)),
            Kind::At(deadline) => terms.own = deadline.as_nanos(),
            Kind::Budget(budget) => {
                terms.cause = Cause::Quota;
                let deadline = budget.enter(now);
                spending = deadline.is_some().then(|| Spending(Arc::clone(budget)));
                terms.own = deadline.unwrap_or(now);
                terms.limit = Some(Duration::from_nanos(terms.own.saturating_sub(now)));
            }
        }
        let reserve = extras.map_or(Duration::ZERO, |extras| extras.reserve);
        if reserve > Duration::ZERO && outer != NEVER {
            let reserved = outer.saturating_sub(nanos(reserve));
            if reserved < terms.own {
                terms.own = reserved;
                terms.cause = Cause::Deadline;
            }
        }
    }
    if terms.own <= now {
        return refuse(&terms, Some(End { cause: terms.cause, at: terms.own, reason: None }));
    }

    let effective = terms.own.min(outer);
    let linked = extras.is_some_and(|extras| !extras.tokens.is_empty());
    let node = (linked || matches!(around, Around::Node(_))).then(|| {
        let label = extras.and_then(|extras| extras.label.clone());
        let info = ScopeInfo { id: ScopeId::next(), label, location, limit: terms.limit };
        let roams = kind == FrameKind::Future;
        let parent = match around {
            Around::Node(node) => Some(Arc::clone(node)),
            Around::Thread => innermost(thread, |scope| scope.map(|scope| Arc::clone(scope.node()))),
        };
        let node = Node::new(parent.as_ref(), info, now, terms.own, terms.cause, roams);
        extras.iter().flat_map(|extras| &extras.tokens).for_each(|token| node.link(token.node()));
        node
    });
    Ok(Admission { terms, effective, node, spending })
}
