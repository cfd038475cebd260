//! What a node knows of the nodes around it, without walking up to them: when it ends at the latest.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Link, Node, State};
use crate::sync::{AtomicBool, AtomicU64, Ordering, weak_waker};
use crate::test_env::TestEnv;
use crate::thread;
use crate::time::NEVER;
use crate::watchdog::Timer;

/// What holds at a node (invariant 5). Relaxed but for `all_lasts`: it is written under the node's lock; who reads it without
/// may see it as it was before a move that is not done yet. Where all lasts there are no moves, and nothing changes any more.
pub(super) struct Outlook {
    effective: AtomicU64,
    /// A node around it: what lies between never changes. The nearest that may move or is linked itself; the parent, of a
    /// node that asks that.
    above: Option<Arc<Node>>,
}

/// More of that, apart so that the node has no gaps.
pub(super) struct Marks {
    all_lasts: AtomicBool,
    has_links: AtomicBool,
    is_mixed: AtomicBool,
    /// Whether the node may move, or is linked itself.
    is_joint: AtomicBool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct View {
    /// The earliest deadline of this node and those around it.
    effective: u64,
    /// Whether none of those may go, as those around a future that is not done may.
    all_lasts: bool,
    /// Whether it, or a node around it, is linked to others.
    has_links: bool,
    /// Whether one of all these has another clock, so that its deadline is left out.
    is_mixed: bool,
}

impl View {
    /// Of a node beneath `parent`, but for its own links.
    #[inline]
    fn beneath(parent: Option<&Arc<Node>>, env: &TestEnv, deadline: u64, roams: bool) -> Self {
        let Some(parent) = parent else {
            return Self { effective: deadline, all_lasts: true, has_links: false, is_mixed: false };
        };
        let around = parent.view();
        if !parent.env.shares_clock(env) {
            return Self { effective: deadline, is_mixed: true, ..around };
        }
        let all_lasts = around.all_lasts && !roams;
        Self { effective: deadline.min(around.effective), all_lasts, ..around }
    }

    /// With a link of the node's own.
    fn with(self, link: &Link, env: &TestEnv) -> Self {
        let other = &link.node;
        let is_mixed = !other.env.shares_clock(env) || other.view().is_mixed;
        Self { has_links: true, is_mixed: self.is_mixed || is_mixed, ..self }
    }
}

impl Outlook {
    /// Of a node that is being made beneath `parent`, whose lock is held.
    #[inline]
    pub(super) fn new(
        parent: Option<&Arc<Node>>,
        env: &TestEnv,
        deadline: u64,
        roams: bool,
    ) -> (Self, Marks) {
        let view = View::beneath(parent, env, deadline, roams);
        Self::with(view, roams, parent.and_then(Node::nearest_joint))
    }

    /// Of a node that is being made to ask its parent, where nothing will change.
    #[inline]
    pub(super) fn asking(parent: &Arc<Node>) -> (Self, Marks) {
        Self::with(parent.view(), false, Some(Arc::clone(parent)))
    }

    #[inline]
    fn with(view: View, is_joint: bool, above: Option<Arc<Node>>) -> (Self, Marks) {
        let View { effective, all_lasts, has_links, is_mixed } = view;
        let marks = Marks {
            all_lasts: AtomicBool::new(all_lasts),
            has_links: AtomicBool::new(has_links),
            is_mixed: AtomicBool::new(is_mixed),
            is_joint: AtomicBool::new(is_joint),
        };
        (Self { effective: AtomicU64::new(effective), above }, marks)
    }

    #[inline]
    pub(super) fn above(&self) -> Option<&Arc<Node>> {
        self.above.as_ref()
    }

    /// To be dropped with the node, but not in its drop.
    pub(super) fn take_above(&mut self) -> Option<Arc<Node>> {
        self.above.take()
    }
}

impl Node {
    #[inline]
    fn view(&self) -> View {
        let Marks { all_lasts, has_links, is_mixed, .. } = &self.marks;
        View {
            // The first. Acquire: pairs with the Release in `set_view`: where all lasts the rest is as it stays.
            all_lasts: all_lasts.load(Ordering::Acquire),
            effective: self.outlook.effective.load(Ordering::Relaxed),
            has_links: has_links.load(Ordering::Relaxed),
            is_mixed: is_mixed.load(Ordering::Relaxed),
        }
    }

    /// Under the node's lock.
    fn set_view(&self, view: View) {
        let Marks { all_lasts, has_links, is_mixed, .. } = &self.marks;
        self.outlook.effective.store(view.effective, Ordering::Relaxed);
        has_links.store(view.has_links, Ordering::Relaxed);
        is_mixed.store(view.is_mixed, Ordering::Relaxed);
        // The last. Release: pairs with the Acquire in `view`.
        all_lasts.store(view.all_lasts, Ordering::Release);
    }

    /// The node is linked itself.
    pub(super) fn set_joint(&self) {
        self.marks.is_joint.store(true, Ordering::Relaxed);
    }

    /// Whether what holds here will never change, and holds beneath too for somebody with this clock.
    #[inline]
    pub(super) fn stands_still(&self, env: &TestEnv) -> bool {
        let View { all_lasts, has_links, is_mixed, .. } = self.view();
        all_lasts && !has_links && !is_mixed && self.env.shares_clock(env)
    }

    /// Whether a node with this deadline that is being made beneath this one is to have a timer (invariant 4).
    pub(super) fn is_outrun_by(&self, deadline: u64, env: &TestEnv) -> bool {
        // One around it with another clock tells it, but stands for no deadline of this one.
        let stands = self.env.shares_clock(env);
        deadline < if stands { self.view().effective } else { NEVER }
    }

    /// What is around it has changed, or its own links have, or it does not roam any more: invariants 4 and 5. Whether that
    /// changed what holds beneath.
    pub(super) fn update(self: &Arc<Self>) -> bool {
        let Some(mut state) = self.state.lock() else { return false };
        let parent = self.parent_in(&state);
        let needs_timer = self.deadline != NEVER
            && parent.is_none_or(|parent| parent.is_outrun_by(self.deadline, &self.env))
            // Relaxed, here and below: under the lock.
            && !self.over.load(Ordering::Relaxed);
        let view = View::beneath(parent, &self.env, self.deadline, self.stand.roams());
        let view = state.links.iter().fold(view, |view, link| view.with(link, &self.env));
        let has_changed = self.view() != view;
        self.set_view(view);
        let in_vain = self.update_timer(&mut state, needs_timer);
        drop(state);
        in_vain.into_iter().for_each(Timer::cancel);
        has_changed
    }

    /// Invariant 4. A timer that is not needed is handed out.
    fn update_timer(self: &Arc<Self>, state: &mut State, needed: bool) -> Option<Timer> {
        if state.timer.is_some_and(Timer::is_lost) {
            state.timer = None;
        }
        if !needed {
            return if state.timer.is_some() { state.timer.take() } else { None };
        }
        if state.timer.is_none() {
            let waker = weak_waker(Arc::downgrade(self));
            state.timer = Some(thread::schedule_on(&self.env, self.deadline, waker));
        }
        None
    }

    /// As [`update`](Self::update), for all beneath too.
    pub(super) fn update_all(self: &Arc<Self>) {
        let mut stack = if self.update() { self.inner_children() } else { return };
        while let Some(node) = stack.pop() {
            if node.update() {
                stack.extend(node.inner_children());
            }
        }
    }

    // ===== Reading =====

    /// The earliest deadline of this node and those around it that have its clock.
    pub(crate) fn effective_deadline(self: &Arc<Self>) -> u64 {
        let view = self.view();
        if view.is_mixed { self.earliest_by_walking(false) } else { view.effective }
    }

    /// As [`effective_deadline`](Self::effective_deadline), without those that may go: what is around a future that is not
    /// done.
    pub(crate) fn lasting_deadline(self: &Arc<Self>) -> u64 {
        let view = self.view();
        if view.all_lasts && !view.is_mixed { view.effective } else { self.earliest_by_walking(true) }
    }

    #[cold]
    fn earliest_by_walking(self: &Arc<Self>, only_lasting: bool) -> u64 {
        let mut earliest = NEVER;
        let mut next = Some(Arc::clone(self));
        while let Some(node) = next {
            if node.env.shares_clock(&self.env) {
                earliest = earliest.min(node.deadline);
            }
            // Once it does not roam, what has been left out comes by the node's flag all the same.
            let is_end = only_lasting && node.stand.roams();
            next = if is_end { None } else { node.parent() };
        }
        earliest
    }

    /// The earliest deadline of all that end this node: its own, those around it, and those of tokens it is
    /// [linked](Self::link) to. Those with another clock are left out.
    pub(crate) fn expires_at(self: &Arc<Self>) -> u64 {
        let view = self.view();
        if !view.has_links && !view.is_mixed {
            return view.effective;
        }
        let mut earliest = NEVER;
        self.visit_trees(|node| {
            if node.env.shares_clock(&self.env) {
                earliest = earliest.min(node.effective_deadline());
            } else if view.is_mixed {
                // Those around it may have this clock again.
                node.walk(|node| {
                    if node.env.shares_clock(&self.env) {
                        earliest = earliest.min(node.deadline);
                    }
                });
            }
        });
        earliest
    }

    /// Whether it is worth to look for the expiry of one of all that end this node.
    #[inline]
    pub(super) fn may_have_expired(self: &Arc<Self>, now: u64) -> bool {
        self.view().is_mixed || self.expires_at() <= self.env.reading(now)
    }

    /// Of all nodes that end this one by a link of its own, the one with the earliest deadline.
    pub(crate) fn earliest_link(self: &Arc<Self>) -> Option<Arc<Node>> {
        let links: Vec<_> = match self.state.lock() {
            Some(state) => state.links.iter().map(|link| Arc::clone(&link.node)).collect(),
            None => return None,
        };
        let mut earliest: Option<Arc<Node>> = None;
        for link in links {
            link.visit_all(|_, node| {
                if node.env.shares_clock(&self.env)
                    && node.deadline != NEVER
                    && earliest.as_ref().is_none_or(|earliest| node.deadline < earliest.deadline)
                {
                    earliest = Some(Arc::clone(node));
                }
            });
        }
        earliest
    }

    /// The nearest node, from this one outwards, that may move or is linked itself.
    fn nearest_joint(self: &Arc<Self>) -> Option<Arc<Node>> {
        let is_joint = self.marks.is_joint.load(Ordering::Relaxed);
        if is_joint { Some(Arc::clone(self)) } else { self.outlook.above.clone() }
    }

    /// Calls `visit` with this node and with all that it, and those around it, are linked to. What is around a node is
    /// known to it.
    fn visit_trees(self: &Arc<Self>, mut visit: impl FnMut(&Arc<Node>)) {
        let mut trees = vec![Arc::clone(self)];
        let mut seen = HashSet::new();
        let mut next = 0;
        while let Some(tree) = trees.get(next).cloned() {
            visit(&tree);
            next += 1;
            let has_links = tree.view().has_links;
            let mut joint = if has_links { tree.nearest_joint() } else { None };
            while let Some(node) = joint {
                let parent = self.collect_links(&node, &mut trees, &mut seen);
                joint =
                    parent.filter(|parent| parent.view().has_links).and_then(|parent| parent.nearest_joint());
            }
        }
    }

    /// Calls `visit` with all nodes whose end is this one's too, and which of the trees they are of, counted from 0: its
    /// own, and those it is linked to.
    pub(super) fn visit_all(self: &Arc<Self>, mut visit: impl FnMut(usize, &Arc<Node>)) {
        let mut trees = vec![Arc::clone(self)];
        let mut seen = HashSet::new();
        let mut tree = 0;
        while let Some(innermost) = trees.get(tree) {
            let mut next = Some(Arc::clone(innermost));
            while let Some(node) = next {
                visit(tree, &node);
                next = self.collect_links(&node, &mut trees, &mut seen);
            }
            tree += 1;
        }
    }

    /// Adds what a node is linked to itself; its parent. Links may lead round in a circle.
    fn collect_links(
        self: &Arc<Self>,
        node: &Arc<Node>,
        trees: &mut Vec<Arc<Node>>,
        seen: &mut HashSet<*const Node>,
    ) -> Option<Arc<Node>> {
        let state = node.state.lock()?;
        for link in &state.links {
            if !Arc::ptr_eq(&link.node, self) && seen.insert(Arc::as_ptr(&link.node)) {
                trees.push(Arc::clone(&link.node));
            }
        }
        node.parent_in(&state).cloned()
    }
}
