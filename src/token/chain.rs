//! From a place outwards: which scopes are open there, and which of those that are over an error must name.

use std::error::Error;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use super::node::{End, Node};
use crate::error::{Cause, ErrorInner, HookFailure, ScopeInfo, TimeoutError};
use crate::time::clock;

/// The scopes around a place, added innermost first.
pub(crate) struct Chain {
    scopes: Vec<ScopeInfo>,
    /// The outermost that is over by its own end, or else the innermost that was told of one.
    over: Option<Over>,
    innermost: (u64, Option<Arc<Node>>),
}

struct Over {
    index: usize,
    end: End,
    entered: u64,
    node: Option<Arc<Node>>,
}

/// One scope on the way.
pub(crate) struct Step {
    pub(crate) info: ScopeInfo,
    pub(crate) entered: u64,
    /// How it ended itself, if it did.
    pub(crate) end: Option<End>,
    pub(crate) node: Option<Arc<Node>>,
}

impl Step {
    pub(crate) fn of(node: &Arc<Node>, now: u64) -> Self {
        let (info, end) = (node.info(), node.end(now));
        Self { info, entered: node.entered, end, node: Some(Arc::clone(node)) }
    }
}

/// The circumstances of an interruption.
pub(crate) struct RaiseContext {
    pub(crate) now: u64,
    pub(crate) location: &'static Location<'static>,
    pub(crate) started: bool,
    pub(crate) settled: bool,
    pub(crate) source: Option<Box<dyn Error + Send + Sync>>,
    pub(crate) hook_failure: Option<HookFailure>,
    /// What was needed, and what was left.
    pub(crate) lack: Option<(Duration, Duration)>,
}

impl RaiseContext {
    pub(crate) fn at(location: &'static Location<'static>, now: u64) -> Self {
        Self { now, location, started: true, settled: true, source: None, hook_failure: None, lack: None }
    }
}

impl Chain {
    /// From the innermost scope.
    pub(crate) fn from(innermost: Step) -> Self {
        let (entered, node) = (innermost.entered, innermost.node.clone());
        let mut chain = Self { scopes: Vec::new(), over: None, innermost: (entered, node) };
        chain.add(innermost);
        chain
    }

    /// Adds the next scope outwards. Of several that are over by their own ends the last, which is the outermost, is named.
    ///
    /// A scope can have been told that it is over by surroundings that it has left since: their end is named if no scope on
    /// the chain came to one of its own.
    pub(crate) fn add(&mut self, step: Step) {
        let Step { info, entered, end, node } = step;
        let index = self.scopes.len();
        self.scopes.push(info);
        let told = || Some(End::of(&node.as_ref()?.verdict()?));
        if let Some(end) = end {
            self.over = Some(Over { index, end, entered, node });
        } else if self.over.is_none()
            && let Some(end) = told()
        {
            self.over = Some(Over { index, end, entered, node });
        }
    }

    /// Adds a node and those around it.
    pub(crate) fn add_nodes(&mut self, node: &Arc<Node>, now: u64) {
        node.walk(|node| self.add(Step::of(node, now)));
    }

    /// The error that is raised here.
    #[cold]
    pub(crate) fn into_error(self, how: RaiseContext) -> TimeoutError {
        let RaiseContext { now, location, started, settled, source, hook_failure, lack } = how;
        let Chain { scopes: chain, over, innermost } = self;
        let Over { index, end, mut entered, node } = over.unwrap_or_else(|| {
            // What ended it was lost in a fork.
            let (entered, node) = innermost;
            let at = node.as_ref().map_or(now, |node| node.env.reading(now));
            Over { index: 0, end: End::new(Cause::Cancelled, at), entered, node }
        });
        let now = node.as_ref().map_or(now, |node| node.env.reading(now));
        // An expiry that came by a link or a poll is told with its own limit, and with its label if it has one.
        let told = end.of.filter(|_| end.cause != Cause::Cancelled).map(|of| {
            let named = &chain[index];
            entered = of.entered;
            let label = of.info.label.clone().or_else(|| named.label.clone());
            ScopeInfo { id: named.id, label, ..of.info.clone() }
        });
        let error = TimeoutError::new(ErrorInner {
            cause: end.cause,
            reason: end.reason,
            chain: chain.into(),
            over: index,
            told,
            interrupted_at: location,
            elapsed: Duration::from_nanos(now.saturating_sub(entered)),
            overshoot: Duration::from_nanos(now.saturating_sub(end.at)),
            started,
            settled,
            source,
            hook_failure,
            lack,
        });
        if let Some(node) = &node {
            node.set_raised(&error);
        }
        error
    }
}

/// The error of a call that was given up, or refused (not `started`), in a scope that is not over.
#[cold]
pub(crate) fn given_up(
    info: ScopeInfo,
    location: &'static Location<'static>,
    started: bool,
    why: Box<dyn Error + Send + Sync>,
) -> TimeoutError {
    let now = clock::now();
    let end = Some(End { reason: Some(why.to_string().into()), ..End::new(Cause::Cancelled, now) });
    let chain = Chain::from(Step { info, entered: now, end, node: None });
    chain.into_error(RaiseContext { started, source: Some(why), ..RaiseContext::at(location, now) })
}
