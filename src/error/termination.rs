//! How a scope ended, and by which other scope or token, if its end came from there.

use std::sync::Arc;

use super::cause::Cause;
use super::scope::ScopeInfo;

/// How a scope ended: by its own deadline, by a cancel, or by the end of a token that it is linked to.
#[derive(Clone)]
pub(crate) struct Termination {
    pub(crate) cause: Cause,
    /// When the scope ended, on the clock of the scope.
    pub(crate) at: u64,
    pub(crate) reason: Option<Arc<str>>,
    /// The token or scope that ended first, if this termination came through a link.
    pub(crate) origin: Option<Arc<Origin>>,
}

/// A scope that ended by itself, and its termination. The scopes inside that scope inherit the termination.
pub(crate) struct Origin {
    pub(crate) termination: Termination,
    pub(crate) info: ScopeInfo,
    pub(crate) entered: u64,
}

impl Termination {
    pub(crate) fn new(cause: Cause, at: u64) -> Self {
        Self { cause, at, reason: None, origin: None }
    }

    /// The termination of a scope that a linked token has ended. `token` describes the token's end. If the token itself
    /// was ended through a link, the origin is the token or scope that ended first.
    pub(crate) fn through_link(token: &Arc<Origin>) -> Self {
        let origin = token.termination.origin.as_ref().unwrap_or(token);
        Self { origin: Some(Arc::clone(origin)), ..token.termination.clone() }
    }
}
