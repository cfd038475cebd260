//! The configuration of a scope, as the builder makes it.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::error::{Fields, TimeoutError};
use crate::sync::{Mutex, lock};
use crate::time::{Kind, Limit};
use crate::token::CancellationToken;
use crate::token::node::Node;

/// The configuration of a [`Timebox`](crate::Timebox): the same for each run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) label: Option<Cow<'static, str>>,
    pub(crate) reserve: Duration,
    pub(crate) grace: Duration,
    pub(crate) tokens: Vec<CancellationToken>,
    /// The node of the handle, if the scope is entered within the scopes of a handle.
    pub(crate) within: Option<Arc<Node>>,
    pub(crate) fields: Fields,
    /// Whether a late `Ok` is refused.
    pub(crate) strict: bool,
}

/// The configuration of one scope, and the state of its one run. Plain scopes have no `Extras`.
#[derive(Debug, Default)]
pub(crate) struct Extras {
    pub(crate) options: Options,
    /// The limit, if it was a duration. If the limit was a quota: the time that the quota had left on entry.
    pub(crate) duration: OnceLock<Duration>,
    /// The last error that named the scope, for `run_or_else`.
    raised: Mutex<Option<TimeoutError>>,
    /// Set by `run_or_else`: the scope's node, too, keeps the last error that named the scope.
    pub(crate) falls_back: bool,
}

impl Extras {
    /// The state of a new run with this configuration and limit.
    pub(crate) fn new(limit: &Limit, options: Options) -> Self {
        let duration = if let Kind::After(duration) = limit.kind() {
            OnceLock::from(*duration)
        } else {
            OnceLock::new()
        };
        Self { options, duration, ..Self::default() }
    }

    /// The configuration of a scope that is entered by a handle, with nothing else set.
    pub(crate) fn within(node: &Arc<Node>) -> Self {
        Self { options: Options { within: Some(Arc::clone(node)), ..Options::default() }, ..Self::default() }
    }

    pub(crate) fn set_raised(&self, error: &TimeoutError) {
        let before = lock(&self.raised).replace(error.clone());
        // Dropped after the unlock: the source of the error may have a foreign type, whose drop may run any code.
        drop(before);
    }

    pub(crate) fn take_raised(&self) -> Option<TimeoutError> {
        lock(&self.raised).take()
    }
}
