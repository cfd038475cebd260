//! The configuration of a scope, as the builder makes it.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::error::{Fields, TimeoutError};
use crate::sync::{Mutex, lock};
#[cfg(feature = "profile")]
use crate::thread::ProfileId;
#[cfg(feature = "report")]
use crate::time::NEVER;
use crate::time::{Kind, Limit, nanos};
use crate::token::CancellationToken;
use crate::token::node::Node;

/// The configuration of a [`Timebox`](crate::Timebox): the same for each run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) label: Option<Cow<'static, str>>,
    pub(crate) reserve: Duration,
    pub(crate) grace: Duration,
    pub(crate) tokens: Vec<CancellationToken>,
    /// The node of the handle, if the scope is entered with a handle ([`Handle::enter`](crate::Handle::enter)).
    pub(crate) within: Option<Arc<Node>>,
    /// The profile of the handle, if `within` is set.
    #[cfg(feature = "profile")]
    pub(crate) profile: ProfileId,
    pub(crate) fields: Fields,
    /// Whether an `Ok` that comes after the end of the scope becomes the scope's error.
    pub(crate) strict: bool,
    /// After how long the scope is reported as slow, if the user has said so.
    #[cfg(feature = "report")]
    pub(crate) warn_after: Option<Duration>,
    /// How long after its expiry the scope is reported as overdue, if it is still open then.
    #[cfg(feature = "report")]
    pub(crate) overdue_after: Option<Duration>,
}

/// The configuration of a scope, and state of its run. Plain scopes have no `Extras`. The scopes of a template share
/// one: so a scope writes its state here only if it has a fallback or a quota, and such scopes have `Extras` of their own.
#[derive(Debug, Default)]
pub(crate) struct Extras {
    pub(crate) options: Options,
    /// The limit, if it is a duration.
    pub(crate) duration: Option<Duration>,
    /// The time that the quota had left on entry, if the limit is a quota.
    pub(crate) quota_left: OnceLock<Duration>,
    /// The last error that named the scope, for `run_or_else`.
    raised: Mutex<Option<TimeoutError>>,
    /// Set by `run_or_else`. Then `raised` keeps the last error that named the scope. The scope's node keeps it too,
    /// because errors of tokens and other threads reach only the node.
    pub(crate) falls_back: bool,
    #[cfg(feature = "report")]
    pub(crate) readable: Readable,
}

/// The part of the configuration that a reporter reads from outside the thread (`frame/copy.rs`): plain numbers and
/// addresses.
#[cfg(feature = "report")]
#[derive(Debug)]
pub(crate) struct Readable {
    pub(super) label: TextAddress,
    pub(super) fields: TextAddress,
    /// In nanoseconds; [`NEVER`] if it is not set.
    pub(super) warn_after: u64,
    /// In nanoseconds; [`NEVER`] if it is not set.
    pub(super) overdue_after: u64,
    /// Owns the text of `fields`: names and values in turn, each followed by a zero byte.
    _fields_text: String,
}

#[cfg(feature = "report")]
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct TextAddress {
    address: usize,
    len: usize,
}

#[cfg(feature = "report")]
impl TextAddress {
    fn of(text: &str) -> Self {
        Self { address: text.as_ptr().addr(), len: text.len() }
    }
}

#[cfg(feature = "report")]
impl Readable {
    /// The result has the address of the label's text, which is not in `options` itself. So `options` may be moved
    /// later, but its label must not be changed.
    fn new(options: &Options) -> Self {
        let mut text = String::new();
        for (name, value) in options.fields.iter() {
            text.extend([name, "\0", value, "\0"]);
        }
        let in_nanos = |duration: Option<Duration>| duration.map_or(NEVER, nanos);
        Self {
            label: options.label.as_deref().map_or_else(TextAddress::default, TextAddress::of),
            fields: TextAddress::of(&text),
            warn_after: in_nanos(options.warn_after),
            overdue_after: in_nanos(options.overdue_after),
            _fields_text: text,
        }
    }
}

#[cfg(feature = "report")]
impl Default for Readable {
    fn default() -> Self {
        Self::new(&Options::default())
    }
}

impl Extras {
    pub(crate) fn new(limit: &Limit, options: Options) -> Self {
        let duration = if let Kind::After(duration) = limit.kind() { Some(*duration) } else { None };
        #[cfg(feature = "report")]
        let readable = Readable::new(&options);
        Self {
            options,
            duration,
            quota_left: OnceLock::new(),
            raised: Mutex::default(),
            falls_back: false,
            #[cfg(feature = "report")]
            readable,
        }
    }

    /// The duration of a scope with this limit, in nanoseconds, if nothing else decides when the scope ends.
    pub(crate) fn plain_duration(&self, limit: &Limit) -> Option<u64> {
        let Options { reserve, tokens, within, .. } = &self.options;
        let is_plain = reserve.is_zero() && tokens.is_empty() && within.is_none();
        match limit.kind() {
            Kind::After(duration) if is_plain => Some(nanos(*duration)),
            _ => None,
        }
    }

    pub(crate) fn set_raised(&self, error: &TimeoutError) {
        if !self.falls_back {
            return;
        }
        let before = lock(&self.raised).replace(error.clone());
        // Dropped after the unlock: the source of the error may have a foreign type, whose drop may run any code.
        drop(before);
    }

    pub(crate) fn take_raised(&self) -> Option<TimeoutError> {
        lock(&self.raised).take()
    }
}
