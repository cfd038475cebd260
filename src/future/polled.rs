//! The scope of a future between its polls.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::task::Waker;

use crate::error::{ScopeId, TimeoutError};
use crate::scope::frame::{self, Around, Kind, Terms, innermost};
use crate::scope::{Admission, Extras, Scope, Spending, admit, admit_polled, caught, is_meant_for};
use crate::time::{Deadline, Limit, nanos};
use crate::token::node::Node;
use crate::watchdog::slots::Thread;

/// A scope that is entered once, and opened for each poll.
pub(super) struct Polled {
    /// Its own deadline; 0 until it is entered.
    own: u64,
    /// When it was entered; until then the duration that is asked for.
    entered: u64,
    location: &'static Location<'static>,
    /// What few futures have.
    rest: Option<Box<Rest>>,
}

struct Rest {
    /// Until it is entered, if it is more than a duration.
    limit: Limit,
    extras: Option<Extras>,
    /// From then on.
    terms: Option<Terms>,
    /// From when somebody asks for it.
    id: Option<ScopeId>,
    /// Made on demand; kept from poll to poll.
    node: Option<Arc<Node>>,
    /// Left with the scope.
    spending: Option<Spending>,
}

impl Polled {
    /// With a limit and nothing else.
    #[inline(always)]
    pub(super) fn new(limit: Limit, location: &'static Location<'static>) -> Self {
        match limit.into_duration() {
            Ok(duration) => Self { own: 0, entered: nanos(duration), location, rest: None },
            Err(limit) => Self { own: 0, entered: 0, location, rest: Some(Rest::boxed(limit, None, None)) },
        }
    }

    /// With all that a builder can give.
    pub(super) fn with(limit: Limit, extras: Extras, location: &'static Location<'static>) -> Self {
        Self { own: 0, entered: 0, location, rest: Some(Rest::boxed(limit, Some(extras), None)) }
    }

    /// One that has been entered.
    pub(super) fn entered(terms: Terms) -> Self {
        let Terms { own, entered, location, .. } = terms;
        Self { own, entered, location, rest: Some(Rest::boxed(Limit::NONE, None, Some(terms))) }
    }

    #[inline(always)]
    pub(super) fn is_entered(&self) -> bool {
        self.own != 0
    }

    /// Its own deadline.
    #[inline(always)]
    pub(super) fn own(&self) -> u64 {
        self.own
    }

    #[inline(always)]
    pub(super) fn location(&self) -> &'static Location<'static> {
        self.location
    }

    /// Enters the scope, at the first poll.
    #[inline(always)]
    pub(super) fn enter(&mut self, thread: &Thread) -> Result<(), TimeoutError> {
        let terms = match &mut self.rest {
            None => admit_polled(thread, self.entered, self.location)?,
            Some(rest) => rest.enter(thread, self.location)?,
        };
        self.own = terms.own;
        self.entered = terms.entered;
        Ok(())
    }

    /// Opens the scope around one poll, or around the drop of the future. The error is that of an unwinding that ends here.
    ///
    /// `has_timer`: a timer stands for its own deadline.
    #[inline(always)]
    pub(super) fn open<R>(
        &mut self,
        thread: &Thread,
        waker: *const Waker,
        has_timer: bool,
        body: impl FnOnce(&Scope) -> R,
    ) -> Result<R, TimeoutError> {
        let mut frame = Terms::measured(self.own, self.entered, self.location, Kind::Future).frame();
        let mut effective = self.own.min(thread.deadline.get());
        let mut extras = None;
        if let Some(rest) = &mut self.rest {
            effective = rest.resume(thread, &mut frame, effective, waker.is_null());
            extras = rest.extras.as_ref();
        }
        frame.set_waker(waker);
        let result = frame::open(thread, &mut frame, effective, extras, has_timer, body);
        if frame.has_acquired() {
            self.keep(&mut frame);
        }
        result.map_err(|payload| {
            if !is_meant_for(&frame, &*payload) {
                // A panic: the future is done for, but for its drop.
                self.give_up();
            }
            caught(&frame, payload)
        })
    }

    /// Leaves the scope, when its future is done: its hooks end.
    #[inline(always)]
    pub(super) fn leave(&mut self) {
        if self.rest.is_some() {
            self.rest = None;
        }
    }

    /// Ends its hooks and what it spends, after a panic; the scope stays, for the drop of the future.
    #[cold]
    fn give_up(&mut self) {
        if let Some(rest) = &mut self.rest {
            if let Some(node) = &rest.node {
                node.close();
            }
            rest.spending = None;
        }
    }

    /// Keeps what the scope has acquired in a poll.
    #[cold]
    fn keep(&mut self, frame: &mut Scope) {
        let Self { own, entered, location, .. } = *self;
        let terms = || Some(Terms::measured(own, entered, location, Kind::Future));
        let rest = self.rest.get_or_insert_with(|| Rest::boxed(Limit::NONE, None, terms()));
        rest.id = frame.known_id().or(rest.id);
        let Some(node) = frame.take_node() else { return };
        rest.id = Some(node.info.id());
        match &rest.node {
            None => rest.node = Some(node),
            // Made for a drop alone.
            Some(kept) if !Arc::ptr_eq(kept, &node) => node.settle(),
            Some(_) => {}
        }
    }
}

impl Rest {
    #[cold]
    fn boxed(limit: Limit, extras: Option<Extras>, terms: Option<Terms>) -> Box<Self> {
        Box::new(Self { limit, extras, terms, id: None, node: None, spending: None })
    }

    #[cold]
    fn enter(
        &mut self,
        thread: &Thread,
        location: &'static Location<'static>,
    ) -> Result<Terms, TimeoutError> {
        let extras = self.extras.as_ref();
        let (kind, around) = match extras.and_then(|extras| extras.handle.as_ref()) {
            Some(handle) => (Kind::EnteredFuture, Around::Node(handle.node())),
            None => (Kind::Future, Around::Thread),
        };
        let Admission { terms, effective: _, node, spending } =
            admit(thread, &self.limit, extras, location, kind, around)?;
        self.terms = Some(terms);
        self.node = node;
        self.spending = spending;
        Ok(terms)
    }

    /// Completes the frame with what has been kept; the earliest deadline visible in it.
    #[cold]
    fn resume(&mut self, thread: &Thread, frame: &mut Scope, effective: u64, dropping: bool) -> u64 {
        let Some(terms) = self.terms else { return effective };
        *frame = terms.frame();
        frame.set_id(self.id);
        if terms.kind == Kind::Future
            && let Some(node) = &self.node
        {
            if dropping {
                // What happens to be around the drop does not end tokens that survive it, but counts in it: it has a
                // node, too, if this has.
                let _ = innermost(thread, |scope| scope.map(Scope::node).map(Arc::as_ptr));
                if thread.is_flagged() && !node.is_over() {
                    return effective;
                }
            } else {
                // Its surroundings are those of this poll.
                innermost(thread, |scope| node.set_parent(scope.map(Scope::node)));
                if node.is_over() && !node.is_over_still() {
                    // It was told so by surroundings that it has left: what is asked for from now on is not over.
                    node.settle();
                    self.node = None;
                }
            }
        }
        frame.set_node(self.node.clone());
        match (terms.kind, &self.node) {
            (Kind::Future, _) => effective,
            (Kind::EnteredFuture, Some(node)) => node.lasting_deadline(),
            _ => terms.own,
        }
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        if let Some(node) = &self.node {
            node.settle();
        }
        drop(self.spending.take());
    }
}

impl fmt::Debug for Polled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Polled");
        if self.is_entered() {
            debug.field("deadline", &Deadline::from_nanos(self.own));
        }
        debug.finish_non_exhaustive()
    }
}
