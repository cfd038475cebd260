//! The specification of a scope: its limit, when it was entered, its kind and its place.

use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use super::config::Extras;
use crate::error::{Cause, Fields, ScopeId, ScopeInfo};
use crate::time::NEVER;
use crate::token::node::Node;

/// How a scope relates to the scopes around it. The values are bits, so that each method below is one quick test.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Block = 0,
    /// Entered by a handle. Hides the scopes around it on the thread; the handle's scopes take their place.
    Entered = 0b001,
    /// Hides the scopes around it.
    Shield = 0b010,
    /// Open while a future is polled or dropped.
    Future = 0b100,
    EnteredFuture = 0b101,
    FutureShield = 0b110,
    /// A block that is only watched for reports. It has no deadline, so only reports look at its frame.
    #[cfg(feature = "report")]
    Watched = 0b1000,
    #[cfg(feature = "report")]
    WatchedPoll = 0b1_1000,
}

impl Kind {
    #[cfg(feature = "report")]
    pub(super) fn from_bits(bits: u8) -> Option<Self> {
        let kinds = [
            Self::Block,
            Self::Entered,
            Self::Shield,
            Self::Future,
            Self::EnteredFuture,
            Self::FutureShield,
            Self::Watched,
            Self::WatchedPoll,
        ];
        kinds.into_iter().find(|&kind| kind as u8 == bits)
    }

    #[cfg(feature = "report")]
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn is_only_watched(self) -> bool {
        self as u8 & 0b1000 != 0
    }

    #[inline]
    pub(super) fn is_boundary(self) -> bool {
        self as u8 & 0b011 != 0
    }

    #[inline]
    pub(super) fn is_entered(self) -> bool {
        self as u8 & 0b001 != 0
    }

    #[inline]
    pub(super) fn is_shield(self) -> bool {
        self as u8 & 0b010 != 0
    }

    #[inline]
    pub(crate) fn is_polled(self) -> bool {
        self as u8 & 0b100 != 0
    }
}

/// Where a new scope finds the scopes around it.
#[derive(Clone, Copy)]
pub(crate) enum Parent<'a> {
    /// In the frames on this thread's stack.
    Thread,
    /// Through this node: that of an entered handle, or that of an outer scope on another clock.
    Node(&'a Arc<Node>),
}

/// The specification of a scope. For the fields see [`Scope`](super::Scope).
#[derive(Clone, Copy)]
pub(crate) struct ScopeSpec {
    pub(crate) asked: u64,
    pub(crate) entered: u64,
    pub(crate) location: &'static Location<'static>,
    pub(crate) kind: Kind,
    pub(crate) cause: Cause,
    pub(crate) unmeasured: bool,
}

#[inline]
pub(super) fn between(from: u64, to: u64) -> u64 {
    if to == NEVER { NEVER } else { to.saturating_sub(from) }
}

impl ScopeSpec {
    /// A scope whose limit is a duration.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn lasting(
        asked: u64,
        entered: u64,
        location: &'static Location<'static>,
        kind: Kind,
    ) -> Self {
        Self { asked, entered, location, kind, cause: Cause::Deadline, unmeasured: false }
    }

    /// Whether this specification is as [`lasting`](Self::lasting) makes it for a [`Kind::Future`].
    pub(crate) fn is_plain_future(&self) -> bool {
        self.kind == Kind::Future && self.cause == Cause::Deadline && !self.unmeasured
    }

    /// A scope whose limit is a deadline.
    pub(crate) fn measured(own: u64, entered: u64, location: &'static Location<'static>, kind: Kind) -> Self {
        Self::lasting(between(entered, own), entered, location, kind)
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn own(&self) -> u64 {
        self.entered.saturating_add(self.asked)
    }

    fn limit(&self, extras: Option<&Extras>) -> Option<Duration> {
        if let Some(duration) = extras.and_then(|extras| extras.duration.or(extras.quota_left.get().copied()))
        {
            return Some(duration);
        }
        let limit = if self.asked == NEVER { Duration::MAX } else { Duration::from_nanos(self.asked) };
        (!self.unmeasured).then_some(limit)
    }

    pub(crate) fn info(&self, id: ScopeId, extras: Option<&Extras>) -> ScopeInfo {
        let options = extras.map(|extras| &extras.options);
        let label = options.and_then(|options| options.label.clone());
        let fields = options.map_or_else(Fields::default, |options| options.fields.clone());
        ScopeInfo { id, label, location: self.location, limit: self.limit(extras), fields }
    }
}
