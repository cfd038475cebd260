//! From a place outwards: which scopes are open there, and which of those that are over an error must name.

use std::error::Error;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use super::node::{End, Node};
use crate::error::{Cause, HookFailure, ScopeInfo, Story, TimeoutError};
use crate::time::clock;

/// The scopes around a place, added innermost first.
pub(crate) struct Trail {
    chain: Vec<ScopeInfo>,
    /// The outermost that is over.
    over: Over,
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
        let (info, end) = (node.info.clone(), node.end(now));
        Self { info, entered: node.entered, end, node: Some(Arc::clone(node)) }
    }
}

/// The circumstances of an interruption.
pub(crate) struct Circumstances {
    pub(crate) now: u64,
    pub(crate) location: &'static Location<'static>,
    pub(crate) started: bool,
    pub(crate) settled: bool,
    pub(crate) source: Option<Box<dyn Error + Send + Sync>>,
    pub(crate) hook_failure: Option<HookFailure>,
    /// What was needed, and what was left.
    pub(crate) lack: Option<(Duration, Duration)>,
}

impl Circumstances {
    pub(crate) fn at(location: &'static Location<'static>, now: u64) -> Self {
        Self { now, location, started: true, settled: true, source: None, hook_failure: None, lack: None }
    }
}

impl Trail {
    /// From the innermost scope.
    ///
    /// A scope can have been told that it is over by surroundings that it has left since: so `told_at` is when the
    /// innermost is taken to have been cancelled, if none on the trail is over by its own cause.
    pub(crate) fn from(innermost: Step, told_at: u64) -> Self {
        let at = innermost.node.as_ref().map_or(told_at, |node| node.seam.reading(told_at));
        let told = End { cause: Cause::Cancelled, at, reason: None };
        let over = Over { index: 0, end: told, entered: innermost.entered, node: innermost.node.clone() };
        let mut trail = Self { chain: Vec::new(), over };
        trail.add(innermost);
        trail
    }

    /// Adds the next scope outwards. Of several that are over the last, which is the outermost, is named.
    pub(crate) fn add(&mut self, step: Step) {
        let Step { info, entered, end, node } = step;
        let index = self.chain.len();
        self.chain.push(info);
        if let Some(end) = end {
            self.over = Over { index, end, entered, node };
        }
    }

    /// Adds a node and those around it.
    pub(crate) fn add_nodes(&mut self, node: &Arc<Node>, now: u64) {
        node.walk(|node| self.add(Step::of(node, now)));
    }

    /// Why the scope that is named is over.
    pub(crate) fn cause(&self) -> Cause {
        self.over.end.cause
    }

    /// The error that is raised here.
    #[cold]
    pub(crate) fn into_error(self, how: Circumstances) -> TimeoutError {
        let Circumstances { now, location, started, settled, source, hook_failure, lack } = how;
        let over = self.over;
        let now = over.node.as_ref().map_or(now, |node| node.seam.reading(now));
        let error = TimeoutError::new(Story {
            cause: over.end.cause,
            reason: over.end.reason,
            chain: self.chain.into(),
            over: over.index,
            interrupted_at: location,
            elapsed: Duration::from_nanos(now.saturating_sub(over.entered)),
            overshoot: Duration::from_nanos(now.saturating_sub(over.end.at)),
            started,
            settled,
            source,
            hook_failure,
            lack,
        });
        if let Some(node) = &over.node {
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
    let end = Some(End { cause: Cause::Cancelled, at: now, reason: Some(why.to_string().into()) });
    let trail = Trail::from(Step { info, entered: now, end, node: None }, now);
    trail.into_error(Circumstances { started, source: Some(why), ..Circumstances::at(location, now) })
}
