//! The scope of a future between its polls.

use std::fmt;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use crate::error::Cause;
use crate::scope::frame::{self, Kind, Terms, innermost};
use crate::scope::{Extras, Scope};
use crate::time::Budget;
use crate::token::node::Node;
use crate::watchdog::slots::Thread;

/// A scope that has been entered, and is opened again for each poll.
pub(super) struct Polled {
    pub(super) own: u64,
    entered: u64,
    limit: Option<Duration>,
    cause: Cause,
    location: &'static std::panic::Location<'static>,
    /// Made on demand; kept from poll to poll.
    node: Option<Arc<Node>>,
    budget: Option<Arc<dyn Budget>>,
}

impl Polled {
    #[inline]
    pub(super) fn new(terms: Terms, node: Option<Arc<Node>>) -> Self {
        let Terms { own, entered, limit, cause, location, kind: _, budget } = terms;
        Self { own, entered, limit, cause, location, node, budget }
    }

    /// Opens the scope around one poll. `has_timer`: its own deadline needs no watching.
    #[inline]
    pub(super) fn open<R>(
        &mut self,
        thread: &Thread,
        kind: Kind,
        extras: Option<&Extras>,
        has_timer: bool,
        body: impl FnOnce(&Scope) -> R,
    ) -> R {
        let effective = match kind {
            Kind::Future(_) => {
                if let Some(node) = &self.node {
                    surround(thread, node);
                }
                self.own.min(thread.deadline.get())
            }
            Kind::EnteredFuture(_) => self.node.as_ref().map_or(self.own, Node::effective_deadline),
            _ => self.own,
        };
        let terms = Terms {
            own: self.own,
            entered: self.entered,
            limit: self.limit,
            cause: self.cause,
            location: self.location,
            kind,
            budget: None,
        };
        let node = &mut self.node;
        frame::open(thread, terms, effective, extras, node.clone(), has_timer, |scope| {
            // Kept also if the poll panics: its hooks are ended with the future.
            struct Keep<'a>(&'a Scope, &'a mut Option<Arc<Node>>);
            impl Drop for Keep<'_> {
                #[inline]
                fn drop(&mut self) {
                    if self.1.is_none() {
                        *self.1 = self.0.existing_node().cloned();
                    }
                }
            }
            let _keep = Keep(scope, node);
            body(scope)
        })
    }

    /// The kind of its frame in a poll.
    pub(super) fn kind(extras: Option<&Extras>, waker: *const Waker) -> Kind {
        if extras.is_some_and(|extras| extras.handle.is_some()) {
            Kind::EnteredFuture(waker)
        } else {
            Kind::Future(waker)
        }
    }
}

/// Puts the node of a future beneath that of the scope it is polled in.
#[cold]
fn surround(thread: &Thread, node: &Arc<Node>) {
    innermost(thread, |scope| node.set_parent(scope.map(Scope::node)));
}

impl Drop for Polled {
    #[inline]
    fn drop(&mut self) {
        if let Some(node) = &self.node {
            node.close();
        }
        if let Some(budget) = &self.budget {
            budget.leave();
        }
    }
}

impl fmt::Debug for Polled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Polled")
            .field("deadline", &crate::time::Deadline::from_nanos(self.own))
            .finish_non_exhaustive()
    }
}
