//! Makes the error of a scope that is over. Finds the scope that stops an unwinding that carries such an error.

use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use super::{Scope, innermost};
use crate::error::{Chain, Link, RaiseContext, ScopeId, SharedScope, Termination, TimeoutError};
use crate::scope::config::Extras;
use crate::scope::spec::{Parent, ScopeSpec};
use crate::thread::Thread;
use crate::time::clock;
use crate::token::node::Node;

/// The error of the innermost scope of this thread, which must be over; `None` if no scope is open.
#[cold]
pub(crate) fn error_at(thread: &Thread, location: &'static Location<'static>) -> Option<TimeoutError> {
    innermost(thread, |scope| Some(scope?.error(RaiseContext::at(location, clock::now()))))
}

/// The earlier of two ends: `own`, and the earliest deadline that ends `node` through a link.
fn earliest_end(own: Termination, node: Option<&Arc<Node>>) -> Termination {
    match node.and_then(Node::earliest_link) {
        Some(other) if other.deadline < own.at => Termination::through_link(&other.origin_at_deadline()),
        _ => own,
    }
}

impl Scope {
    fn chain_link(&self, now: u64) -> Link {
        let node = self.node.get();
        Link {
            info: self.info(),
            entered: self.entered,
            now: node.map_or(now, |node| node.env.reading(now)),
            end: self.end(now),
            shared: node.map(|node| Arc::clone(node) as Arc<dyn SharedScope>),
        }
    }

    /// The node of the handle with which this scope was entered; `None` without a handle.
    pub(super) fn entered_from(&self) -> Option<Arc<Node>> {
        if self.kind.is_entered() { self.node.get()?.parent() } else { None }
    }

    /// The error that code in this scope gets, once this scope or a scope around it is over.
    #[cold]
    pub(crate) fn error(&self, how: RaiseContext) -> TimeoutError {
        // The frame is held, because `mark_raised` may drop an earlier error. The drop of that error's source is
        // foreign code, and must not leave this scope.
        let _held = self.hold();
        let now = how.now;
        let mut chain = Chain::new(self.chain_link(now));
        self.extend_chain(&mut chain, now);
        let error = chain.into_error(how);
        self.mark_raised(&error);
        error
    }

    fn extend_chain(&self, chain: &mut Chain, now: u64) {
        for scope in self.visible() {
            if !std::ptr::eq(scope, self) {
                chain.add(scope.chain_link(now));
            }
            if let Some(node) = scope.entered_from() {
                node.add_to_chain(&mut *chain, now);
            }
        }
    }

    /// The error for code that needs more time than is left. It names the scope with the earliest deadline.
    #[cold]
    pub(crate) fn error_of_lack(
        &self,
        location: &'static Location<'static>,
        now: u64,
        lack: (Duration, Duration),
    ) -> TimeoutError {
        let _held = self.hold();
        let mut links = Vec::new();
        for scope in self.visible() {
            let own = Termination::new(scope.cause, scope.own());
            links.push((earliest_end(own, scope.existing_node()), scope.chain_link(now)));
            if let Some(node) = scope.entered_from() {
                node.walk(|node| {
                    let own = Termination::new(node.cause, node.deadline);
                    links.push((earliest_end(own, Some(node)), node.chain_link(now)));
                });
            }
        }
        let earliest = links.iter().map(|(end, _)| end.at).min();
        let named = links.iter().rposition(|(end, _)| Some(end.at) == earliest);
        let mut links = links.into_iter().enumerate().map(|(index, (end, link))| {
            let end = (Some(index) == named).then_some(Termination { at: now, ..end });
            Link { end, ..link }
        });
        let first = links.next().unwrap_or_else(|| self.chain_link(now));
        let mut chain = Chain::new(first);
        links.for_each(|link| chain.add(link));
        let how = RaiseContext { lack: Some(lack), ..RaiseContext::at(location, now) };
        let error = chain.into_error(how);
        self.mark_raised(&error);
        error
    }

    /// Stores the error in the scope that it names, for that scope's `run_or_else`.
    fn mark_raised(&self, error: &TimeoutError) {
        let named = self.visible().find(|scope| scope.id.get() == error.scope().get());
        if let Some(extras) = named.and_then(Scope::extras) {
            extras.set_raised(error);
        }
    }

    /// The error of a scope that could not be entered. `end` is the scope's own end; `None` if only a scope around it
    /// is over.
    #[cold]
    pub(crate) fn refusal(
        thread: &Thread,
        spec: &ScopeSpec,
        extras: Option<&Extras>,
        end: Option<Termination>,
        around: Parent<'_>,
    ) -> TimeoutError {
        let how = RaiseContext { started: false, ..RaiseContext::at(spec.location, clock::now()) };
        Self::error_without_frame(thread, spec, extras, end, around, how)
    }

    /// The error of a limit that has no frame on this thread: that of a scope that could not be entered, or of a single
    /// wait.
    #[cold]
    pub(crate) fn error_without_frame(
        thread: &Thread,
        spec: &ScopeSpec,
        extras: Option<&Extras>,
        end: Option<Termination>,
        around: Parent<'_>,
        how: RaiseContext,
    ) -> TimeoutError {
        let now = how.now;
        let id = ScopeId::next();
        let info = spec.info(id, extras);
        let mut chain = Chain::new(Link { info, entered: spec.entered, now, end, shared: None });
        innermost(thread, |scope| {
            let _held = scope.map(Scope::hold);
            match (around, scope) {
                (Parent::Node(node), _) => node.add_to_chain(&mut chain, now),
                (Parent::Thread, Some(scope)) => {
                    chain.add(scope.chain_link(now));
                    scope.extend_chain(&mut chain, now);
                }
                (Parent::Thread, None) => {}
            }
            let error = chain.into_error(how);
            match (extras, scope) {
                (Some(extras), _) if error.scope() == id => extras.set_raised(&error),
                (_, Some(scope)) => scope.mark_raised(&error),
                _ => {}
            }
            error
        })
    }

    /// The scope that stops an unwinding that carries this error; `None` if no scope on this stack stops it.
    #[cfg(panic = "unwind")]
    pub(in crate::scope) fn catcher(&self, error: &TimeoutError) -> Option<&Scope> {
        let over = error.scope().get();
        let mut polled = false;
        let mut over_is_shield = false;
        let mut boundary = None;
        let mut outermost = None;
        for scope in self.stack() {
            // `scope` is a block around a poll. An executor may lie between the block and the poll, and the unwinding
            // must not cross an executor.
            if polled && !scope.kind.is_polled() {
                break;
            }
            polled |= scope.kind.is_polled();
            let is_over = scope.id.get() == over;
            if scope.kind.is_shield() {
                // An unwinding cannot stop at a shield, because a shield returns no errors. If the error names the
                // shield, the next scope outwards stops the unwinding.
                over_is_shield |= is_over;
                continue;
            }
            if is_over || over_is_shield {
                return Some(scope);
            }
            outermost = Some(scope);
            if scope.kind.is_entered() && boundary.is_none() {
                boundary = Some(scope);
            }
        }
        // The scope that the error names is on another thread or in another poll. So the innermost scope that was
        // entered by a handle stops the unwinding. If there is none, the outermost scope does.
        boundary.or(outermost)
    }
}
