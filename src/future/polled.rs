//! The scope of a future between its polls.

use std::fmt;
use std::sync::Arc;
use std::task::Waker;

use crate::scope::frame::{self, Kind, Terms, innermost};
use crate::scope::{Extras, Scope, Spending};
use crate::time::Deadline;
use crate::token::node::Node;
use crate::watchdog::slots::Thread;

/// A scope that has been entered, and is opened again for each poll.
pub(super) struct Polled {
    terms: Terms,
    /// What few futures have.
    rest: Option<Box<Rest>>,
}

#[derive(Default)]
struct Rest {
    /// Made on demand; kept from poll to poll.
    node: Option<Arc<Node>>,
    /// Left with the scope.
    _spending: Option<Spending>,
}

impl Polled {
    #[inline(always)]
    pub(super) fn new(terms: Terms) -> Self {
        Self { terms, rest: None }
    }

    /// With what only some scopes have from the start.
    pub(super) fn with(terms: Terms, node: Option<Arc<Node>>, spending: Option<Spending>) -> Self {
        Self { terms, rest: Some(Box::new(Rest { node, _spending: spending })) }
    }

    /// Its own deadline.
    #[inline(always)]
    pub(super) fn own(&self) -> u64 {
        self.terms.own
    }

    /// Opens the scope around one poll, or around the drop of the future. `has_timer`: a timer stands for its own deadline.
    #[inline(always)]
    pub(super) fn open<R>(
        &mut self,
        thread: &Thread,
        waker: *const Waker,
        extras: Option<&Extras>,
        has_timer: bool,
        body: impl FnOnce(&Scope) -> R,
    ) -> R {
        let mut frame = self.terms.clone().frame().with_waker(waker);
        let mut effective = self.terms.own.min(thread.deadline.get());
        if self.rest.is_some() || self.terms.kind != Kind::Future {
            (frame, effective) = self.resume(thread, frame);
        }
        frame::open(thread, frame, effective, extras, has_timer, |scope| {
            // Also if the poll panics: its hooks are ended with the future.
            struct Keep<'a>(&'a Scope, &'a mut Option<Box<Rest>>);
            impl Drop for Keep<'_> {
                #[inline(always)]
                fn drop(&mut self) {
                    if let Some(node) = self.0.existing_node() {
                        keep(self.1, node);
                    }
                }
            }
            let _keep = Keep(scope, &mut self.rest);
            body(scope)
        })
    }

    /// The frame with what has been kept, and the earliest deadline visible in it.
    #[cold]
    fn resume(&self, thread: &Thread, frame: Scope) -> (Scope, u64) {
        let node = self.rest.as_ref().and_then(|rest| rest.node.as_ref());
        let effective = match (self.terms.kind, node) {
            (Kind::Future, node) => {
                if let Some(node) = node {
                    // Its surroundings are those of this poll.
                    innermost(thread, |scope| node.set_parent(scope.map(Scope::node)));
                }
                self.terms.own.min(thread.deadline.get())
            }
            (Kind::EnteredFuture, Some(node)) => node.effective_deadline(),
            _ => self.terms.own,
        };
        (frame.with_node(node.cloned()), effective)
    }
}

#[cold]
fn keep(rest: &mut Option<Box<Rest>>, node: &Arc<Node>) {
    rest.get_or_insert_default().node.get_or_insert_with(|| Arc::clone(node));
}

impl Drop for Rest {
    fn drop(&mut self) {
        if let Some(node) = &self.node {
            node.close();
        }
    }
}

impl fmt::Debug for Polled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Polled")
            .field("deadline", &Deadline::from_nanos(self.terms.own))
            .finish_non_exhaustive()
    }
}
