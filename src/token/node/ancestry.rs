use std::sync::Arc;

use super::data::{Listing, Node, State};
use crate::sync::{Ordering, weak_waker};
use crate::test_env::TestEnv;
use crate::time::NEVER;
use crate::watchdog::Timer;

/// What a node caches about itself and its ancestors (`node.rs`, invariant 5).
///
/// The cached values are written under the node's lock. A thread that reads them without the lock may get old values
/// while a move is in progress. If `is_fixed` is set, neither the node nor an ancestor moves any more, so the other
/// values are final. That is why `is_fixed` is written last, with Release, and read first, with Acquire: a thread that
/// finds it set reads the final values. The other accesses are Relaxed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Ancestry {
    /// The earliest deadline of the node and its ancestors.
    pub(super) effective: u64,
    /// Whether the parents of the node and of its ancestors are final. The parent of a future's node is final once the
    /// future is done.
    pub(super) is_fixed: bool,
    /// Whether the node or an ancestor is linked to other nodes.
    pub(super) has_links: bool,
    /// Whether an ancestor or a linked node has another clock. `effective` leaves out the deadlines on that clock.
    pub(super) mixes_clocks: bool,
}

impl Ancestry {
    /// The ancestry of a node beneath `parent`, without the node's own links. The caller holds the lock of the parent
    /// or of the node.
    #[inline]
    pub(super) fn beneath(
        parent: Option<&Arc<Node>>,
        env: &TestEnv,
        deadline: u64,
        reparentable: bool,
    ) -> Self {
        let Some(parent) = parent else {
            return Self { effective: deadline, is_fixed: true, has_links: false, mixes_clocks: false };
        };
        let inherited = parent.ancestry();
        if !parent.env.shares_clock(env) {
            return Self { effective: deadline, mixes_clocks: true, ..inherited };
        }
        let is_fixed = inherited.is_fixed && !reparentable;
        Self { effective: deadline.min(inherited.effective), is_fixed, ..inherited }
    }

    fn with_link(self, link: &Listing, env: &TestEnv) -> Self {
        let other = &link.node;
        let mixes_clocks = !other.env.shares_clock(env) || other.ancestry().mixes_clocks;
        Self { has_links: true, mixes_clocks: self.mixes_clocks || mixes_clocks, ..self }
    }
}

impl Node {
    #[inline]
    pub(super) fn ancestry(&self) -> Ancestry {
        Ancestry {
            // Acquire: pairs with the Release in `set_ancestry`. So the loads below see what was stored before it.
            is_fixed: self.flags.is_fixed.load(Ordering::Acquire),
            effective: self.effective.load(Ordering::Relaxed),
            has_links: self.flags.has_links.load(Ordering::Relaxed),
            mixes_clocks: self.flags.mixes_clocks.load(Ordering::Relaxed),
        }
    }

    /// Called under the node's lock.
    fn set_ancestry(&self, ancestry: Ancestry) {
        self.effective.store(ancestry.effective, Ordering::Relaxed);
        self.flags.has_links.store(ancestry.has_links, Ordering::Relaxed);
        self.flags.mixes_clocks.store(ancestry.mixes_clocks, Ordering::Relaxed);
        // Stored last. Release: pairs with the Acquire in `ancestry`.
        self.flags.is_fixed.store(ancestry.is_fixed, Ordering::Release);
    }

    pub(super) fn set_waypoint(&self) {
        self.flags.is_waypoint.store(true, Ordering::Relaxed);
    }

    /// The first waypoint among this node and its ancestors. A waypoint is a node that may move, or that has links of
    /// its own.
    #[inline]
    pub(super) fn nearest_waypoint(self: &Arc<Self>) -> Option<Arc<Node>> {
        let is_waypoint = self.flags.is_waypoint.load(Ordering::Relaxed);
        if is_waypoint { Some(Arc::clone(self)) } else { self.next.clone() }
    }

    /// Whether a token without a deadline that is made beneath this node, in `env`, can take over this node's ancestry
    /// and keep it for ever. For this the ancestry must be final, and have no links and no second clock. And `env` must
    /// have the node's clock.
    #[inline]
    pub(super) fn is_immovable(&self, env: &TestEnv) -> bool {
        let Ancestry { is_fixed, has_links, mixes_clocks, .. } = self.ancestry();
        is_fixed && !has_links && !mixes_clocks && self.env.shares_clock(env)
    }

    /// Whether a child of this node, with this deadline, needs a timer of its own (invariant 4).
    pub(super) fn is_outrun_by(&self, deadline: u64, env: &TestEnv) -> bool {
        // Deadlines on different clocks cannot be compared. So a child on another clock needs a timer for any deadline.
        let is_comparable = self.env.shares_clock(env);
        deadline < if is_comparable { self.ancestry().effective } else { NEVER }
    }

    /// Restores invariants 4 and 5 after a change of the node's parent, mode or links, or of an ancestor. `true` if the
    /// ancestry has changed.
    pub(super) fn update(self: &Arc<Self>) -> bool {
        let Some(mut state) = self.state.lock() else { return false };
        let parent = self.parent_in(&state);
        let needs_timer = self.deadline != NEVER
            && parent.is_none_or(|parent| parent.is_outrun_by(self.deadline, &self.env))
            // Relaxed: the flag is set under the lock that `state` holds.
            && !self.over.load(Ordering::Relaxed);
        let reparentable = self.parent_mode.is_reparentable();
        let ancestry = Ancestry::beneath(parent, &self.env, self.deadline, reparentable);
        let ancestry = state.links.iter().fold(ancestry, |all, link| all.with_link(link, &self.env));
        let has_changed = self.ancestry() != ancestry;
        self.set_ancestry(ancestry);
        let surplus = self.update_timer(&mut state, needs_timer);
        drop(state);
        surplus.into_iter().for_each(Timer::cancel);
        has_changed
    }

    /// Restores invariant 4. If the node has a timer that it does not need, returns the timer: cancel it after the lock
    /// is released.
    fn update_timer(self: &Arc<Self>, state: &mut State, needed: bool) -> Option<Timer> {
        if state.timer.is_some_and(Timer::is_lost) {
            state.timer = None;
        }
        if !needed {
            return if state.timer.is_some() { state.timer.take() } else { None };
        }
        if state.timer.is_none() {
            let waker = weak_waker(Arc::downgrade(self));
            state.timer = Some(crate::thread::schedule_on(&self.env, self.deadline, waker));
        }
        None
    }

    pub(super) fn update_all(self: &Arc<Self>) {
        let mut stack = if self.update() { self.inner_children() } else { return };
        while let Some(node) = stack.pop() {
            if node.update() {
                stack.extend(node.inner_children());
            }
        }
    }

    /// The earliest deadline of the node and of those ancestors that have its clock.
    pub(crate) fn effective_deadline(self: &Arc<Self>) -> u64 {
        let ancestry = self.ancestry();
        if ancestry.mixes_clocks { self.earliest_by_walking(false) } else { ancestry.effective }
    }

    /// The earliest deadline of this node and of those ancestors that it cannot lose. (Until a future is done, its node
    /// can get another parent. Then the node and all nodes beneath lose the former ancestors.)
    pub(crate) fn lasting_deadline(self: &Arc<Self>) -> u64 {
        let ancestry = self.ancestry();
        if ancestry.is_fixed && !ancestry.mixes_clocks {
            ancestry.effective
        } else {
            self.earliest_by_walking(true)
        }
    }

    #[cold]
    fn earliest_by_walking(self: &Arc<Self>, only_lasting: bool) -> u64 {
        let mut earliest = NEVER;
        let mut next = Some(Arc::clone(self));
        while let Some(node) = next {
            if node.env.shares_clock(&self.env) {
                earliest = earliest.min(node.deadline);
            }
            // The node of a pending future may lose its ancestors, so their deadlines do not count here. If an ancestor
            // ends, it sets the flag of `self` all the same.
            let is_last = only_lasting && node.parent_mode.is_reparentable();
            next = if is_last { None } else { node.parent() };
        }
        earliest
    }
}
