//! The scopes that are open at a place, and the error that names one of them.

use std::error::Error;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use super::cause::Cause;
use super::failure::HookFailure;
use super::scope::ScopeInfo;
use super::termination::Termination;
use super::timeout_error::{ErrorInner, TimeoutError};

/// Collects the scopes around a place, innermost first, and decides which of them the error names.
///
/// The error names the outermost scope of the chain that ended by itself. If none ended by itself, a scope outside the
/// chain has ended them. Then the error names the innermost scope that is over.
pub(crate) struct Chain {
    scopes: Vec<ScopeInfo>,
    named: Option<Named>,
    innermost: Place,
}

pub(crate) struct Link {
    pub(crate) info: ScopeInfo,
    pub(crate) entered: u64,
    /// The time now, on the clock of the scope.
    pub(crate) now: u64,
    /// The scope's own end. `None` if the scope is not over, or is over only because a scope around it has ended.
    pub(crate) end: Option<Termination>,
    /// The state that the scope shares with its tokens and handles, if there is any.
    pub(crate) shared: Option<Arc<dyn SharedScope>>,
}

/// What a chain needs of the state that a scope shares with its tokens and handles.
pub(crate) trait SharedScope {
    /// If a scope around this scope, or a linked token, has ended this scope: the termination of that scope or token.
    /// Otherwise `None`.
    fn inherited_end(&self) -> Option<Termination>;
    /// Called with an error that names this scope. If the scope has a fallback, keeps a clone of the error for it.
    fn set_raised(&self, error: &TimeoutError);
}

/// What an error needs of the scope that it names: the scope's index in the chain, its times, and its shared state.
struct Place {
    index: usize,
    entered: u64,
    now: u64,
    shared: Option<Arc<dyn SharedScope>>,
}

struct Named {
    place: Place,
    end: Termination,
}

pub(crate) struct RaiseContext {
    pub(crate) now: u64,
    pub(crate) location: &'static Location<'static>,
    pub(crate) started: bool,
    pub(crate) settled: bool,
    pub(crate) source: Option<Box<dyn Error + Send + Sync>>,
    pub(crate) hook_failure: Option<HookFailure>,
    /// If too little time was left: the time that was needed, and the time that was left. Otherwise `None`.
    pub(crate) lack: Option<(Duration, Duration)>,
}

impl RaiseContext {
    pub(crate) fn at(location: &'static Location<'static>, now: u64) -> Self {
        Self { now, location, started: true, settled: true, source: None, hook_failure: None, lack: None }
    }
}

impl Chain {
    pub(crate) fn new(innermost: Link) -> Self {
        let Link { entered, now, shared, .. } = &innermost;
        let place = Place { index: 0, entered: *entered, now: *now, shared: shared.clone() };
        let mut chain = Self { scopes: Vec::new(), named: None, innermost: place };
        chain.add(innermost);
        chain
    }

    /// Adds the next scope: the scope around the scope that was added last.
    pub(crate) fn add(&mut self, link: Link) {
        let Link { info, entered, now, end, shared } = link;
        let place = Place { index: self.scopes.len(), entered, now, shared };
        self.scopes.push(info);
        if let Some(end) = end {
            self.named = Some(Named { place, end });
        } else if self.named.is_none()
            && let Some(end) = place.shared.as_ref().and_then(|shared| shared.inherited_end())
        {
            self.named = Some(Named { place, end });
        }
    }

    /// Makes the error. If the scope that it names has a fallback, also stores a clone of the error for the fallback.
    #[cold]
    pub(crate) fn into_error(self, context: RaiseContext) -> TimeoutError {
        let Chain { scopes, named, innermost } = self;
        let Named { place, end } = named.unwrap_or_else(|| {
            // A fork has lost the termination, so a cancel is assumed.
            let end = Termination::new(Cause::Cancelled, innermost.now);
            Named { place: innermost, end }
        });
        let Place { index, mut entered, now, shared } = place;
        #[cfg(feature = "report")]
        let at_entry = entered;
        // The scope may be over because a linked token expired. Then the error shows the token's limit. It also shows
        // the token's label, or the scope's label if the token has none.
        let expired = end.origin.filter(|_| end.cause != Cause::Cancelled);
        let shown = expired.map(|origin| {
            let scope = &scopes[index];
            entered = origin.entered;
            let label = origin.info.label.clone().or_else(|| scope.label.clone());
            ScopeInfo { id: scope.id, label, ..origin.info.clone() }
        });
        let RaiseContext { now: _, location, started, settled, source, hook_failure, lack } = context;
        let error = TimeoutError::new(ErrorInner {
            cause: end.cause,
            reason: end.reason,
            chain: scopes.into(),
            over: index,
            shown,
            interrupted_at: location,
            elapsed: Duration::from_nanos(now.saturating_sub(entered)),
            #[cfg(feature = "report")]
            entered: at_entry,
            overshoot: Duration::from_nanos(now.saturating_sub(end.at)),
            started,
            settled,
            source,
            hook_failure,
            lack,
        });
        if let Some(shared) = shared {
            shared.set_raised(&error);
        }
        error
    }
}

impl TimeoutError {
    /// The error of a call that stopped because of `source`, though its scope is not over.
    #[cold]
    pub(crate) fn given_up(
        info: ScopeInfo,
        context: RaiseContext,
        source: Box<dyn Error + Send + Sync>,
    ) -> TimeoutError {
        let now = context.now;
        let end = Termination {
            reason: Some(source.to_string().into()),
            ..Termination::new(Cause::Cancelled, now)
        };
        let chain = Chain::new(Link { info, entered: now, now, end: Some(end), shared: None });
        chain.into_error(RaiseContext { source: Some(source), ..context })
    }
}
