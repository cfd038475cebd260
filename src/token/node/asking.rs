//! Tokens that ask: a child of a token costs its parent nothing until somebody is to be told of its end.

use std::sync::Arc;

use super::ending::Told;
use super::found::Found;
use super::outlook::Outlook;
use super::{Child, Link, Node, State};
use crate::error::{Cause, ScopeInfo};
use crate::sync::{AtomicU8, Ordering, mutant};
use crate::test_env::TestEnv;
use crate::time::NEVER;

/// How a node stands to its parent.
pub(super) struct Stand(AtomicU8);

impl Stand {
    /// It is told of its parent's end.
    pub(super) const TOLD: u8 = 0;
    /// It is told, and its surroundings may change: it is that of a future that is not done.
    pub(super) const ROAMS: u8 = 1;
    /// It asks its parent, which does not list it (invariant 6).
    pub(super) const ASKS: u8 = 2;
    /// It asks its parent, and is told too.
    pub(super) const ASKS_AND_IS_TOLD: u8 = 3;

    pub(super) fn new(stand: u8) -> Self {
        Self(AtomicU8::new(stand))
    }

    /// Whether its surroundings may change.
    #[inline]
    pub(super) fn roams(&self) -> bool {
        // Relaxed: whoever closes the surroundings does so later on the thread of the future's poll, or has no part in its
        // end; and a child of this thread's poll was made by it.
        self.0.load(Ordering::Relaxed) == Self::ROAMS
    }

    /// It does not roam any more.
    pub(super) fn settle(&self) {
        // Relaxed: as in `roams`.
        self.0.store(Self::TOLD, Ordering::Relaxed);
    }

    /// Whether it asks its parent.
    #[inline]
    pub(super) fn asks(&self) -> bool {
        // Relaxed: this never changes.
        self.0.load(Ordering::Relaxed) >= Self::ASKS
    }

    /// Whether its parent does not list it.
    #[inline]
    fn is_unlisted(&self) -> bool {
        // Acquire: pairs with the Release in `set_listed`.
        self.0.load(Ordering::Acquire) == Self::ASKS
    }

    /// Its parent lists it.
    fn set_listed(&self) {
        // Release: pairs with the Acquire in `is_unlisted`.
        self.0.store(Self::ASKS_AND_IS_TOLD, Ordering::Release);
    }
}

impl Node {
    /// The node of a token that only a cancel ends, its own or that of what is around it.
    pub(crate) fn token(parent: Option<&Arc<Node>>, info: ScopeInfo, entered: u64) -> Arc<Self> {
        let env = TestEnv::current();
        let Some(parent) = parent.filter(|parent| parent.stands_still(&env)) else {
            return Self::new(parent, info, entered, NEVER, Cause::Cancelled, false);
        };
        parent.enlist();
        let (outlook, stand) = (Outlook::asking(parent), Stand::new(Stand::ASKS));
        let state = State::beneath(None);
        Self::with(state, false, outlook, env, info, entered, NEVER, Cause::Cancelled, stand)
    }

    /// Whether its parent is over, if it asks that.
    #[inline]
    pub(super) fn is_over_by_asking(&self) -> bool {
        // Acquire: pairs with the Release in `set_over`, as in `is_over`.
        self.asked().is_some_and(|parent| parent.over.load(Ordering::Acquire))
    }

    /// Its parent, if it asks that.
    #[inline]
    pub(super) fn asked(&self) -> Option<&Arc<Node>> {
        if self.stand.asks() { self.outlook.above() } else { None }
    }

    /// From when this returns it is told of its parent's end, or has been (invariant 6). Before somebody waits for it, or
    /// something is beneath it.
    #[inline]
    pub(super) fn enlist(self: &Arc<Self>) {
        if self.stand.asks() {
            self.be_told();
        }
    }

    #[cold]
    fn be_told(self: &Arc<Self>) {
        let Some(parent) = self.asked() else { return };
        if self.stand.is_unlisted() {
            // Lost in a fork it lists nobody; to ask it is still possible.
            let Some(link) = parent.list(Child::Inner(Arc::downgrade(self))) else { return };
            let in_vain = self.take_on(link);
            in_vain.map(Link::unlist);
        }
        // Invariant 3: the parent may have gone through its children too early for this one.
        // Acquire: pairs with the Release in `set_over`.
        if !self.over.load(Ordering::Acquire) && parent.is_over() && !mutant!(NoSecondLook) {
            let mut found = Found::default();
            let told = Told { by: Arc::clone(parent), origin: parent.origin() };
            self.spread(Some(&told), &mut found);
            found.hand_over();
        }
        if self.stand.is_unlisted() {
            // Only now: what asks this one meanwhile need not ask the parent.
            self.stand.set_listed();
        }
    }

    /// Takes on its place on the parent's list; hands it back if it has one.
    fn take_on(&self, link: Link) -> Option<Link> {
        let Some(mut state) = self.state.lock() else { return Some(link) };
        if state.parent.is_some() {
            return Some(link);
        }
        state.parent = Some(link);
        None
    }
}
