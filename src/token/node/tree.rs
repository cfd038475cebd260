//! Who is beneath whom: how nodes are listed, moved and left.

use std::sync::Arc;

use slab::Slab;

use super::ending::{Beneath, Told};
use super::found::Found;
use super::{Child, Hooked, Link, Node, State, Tie};
use crate::sync::waits::Ending;
use crate::sync::{ForkMutex, MutexGuard, SetOnce, mutant};
use crate::watchdog::Timer;

#[cfg(not(timebox_loom))]
static MOVES: SetOnce<ForkMutex<()>> = SetOnce::new();
#[cfg(timebox_loom)]
loom::lazy_static! {
    static ref MOVES: SetOnce<ForkMutex<()>> = SetOnce::new();
}

/// Held from the look whether a node may be beneath another until it is: two that went beneath each other would go round
/// in a circle for ever. Whom a fork has taken it from goes without.
fn one_move_at_a_time() -> Option<MutexGuard<'static, ()>> {
    if mutant!(NoMoveLock) { None } else { MOVES.get_or_init(|| ForkMutex::new(())).lock() }
}

impl Node {
    /// Moves it beneath another node, or to the top of a tree of its own.
    ///
    /// A future that is polled in a scope that was entered by its own handle is on top: it cannot be beneath itself.
    pub(crate) fn set_parent(self: &Arc<Self>, parent: Option<&Arc<Node>>) {
        // As in most polls.
        if self.is_at(parent) {
            return;
        }
        let moving = one_move_at_a_time();
        let parent = parent.filter(|parent| {
            let mut beneath_itself = false;
            parent.walk(|node| beneath_itself |= Arc::ptr_eq(node, self));
            !beneath_itself
        });
        if self.is_at(parent) {
            return;
        }
        let before = self.move_to(parent);
        drop(moving);
        self.settle_in(parent, before);
    }

    /// Whether this is what it is beneath.
    fn is_at(&self, parent: Option<&Arc<Node>>) -> bool {
        let Some(state) = self.state.lock() else { return true };
        state.parent.as_ref().map(|link| Arc::as_ptr(&link.node)) == parent.map(Arc::as_ptr)
    }

    /// Puts it somewhere else in one step, under the lock of all moves; what it was beneath.
    fn move_to(self: &Arc<Self>, parent: Option<&Arc<Node>>) -> Option<Arc<Node>> {
        let mut link = parent.and_then(|parent| parent.list(Child::Inner(Arc::downgrade(self))));
        loop {
            // What it was told by the one that it leaves, it is over by for ever.
            let told = self.parent().and_then(|parent| parent.origin());
            let Some(mut state) = self.state.lock() else { break };
            if state.parent.as_ref().is_some_and(|parent| parent.is_told) {
                if told.is_none() {
                    // That came to its end, and told it, in between.
                    continue;
                }
                state.origin = told;
            }
            std::mem::swap(&mut state.parent, &mut link);
            break;
        }
        link.map(Link::unlist)
    }

    /// After a move, without its lock: takes on what holds where it is now.
    fn settle_in(self: &Arc<Self>, parent: Option<&Arc<Node>>, before: Option<Arc<Node>>) {
        drop(before);
        if let Some(parent) = parent.filter(|parent| parent.is_over()) {
            let mut found = Found::default();
            let told = Told { by: Arc::clone(parent), origin: parent.origin() };
            self.spread(Some(&told), &mut found);
            found.hand_over();
        }
        self.update_all();
    }

    /// What it is beneath, as its state has it.
    pub(super) fn parent_in<'a>(&'a self, state: &'a State) -> Option<&'a Arc<Node>> {
        state.parent.as_ref().map(|link| &link.node).or_else(|| self.asked())
    }

    /// The nodes directly beneath.
    pub(super) fn inner_children(self: &Arc<Self>) -> Vec<Arc<Node>> {
        let listed = self.state.lock().map(|state| Beneath::of(&state).inner);
        // Not under the lock: the last handle of a child may be dropped here.
        let mut children = listed.unwrap_or_default();
        children.retain(|child| child.is_at(Some(self)));
        children
    }

    /// Moves it up to what is around `parent`, which is closed, unless it has gone elsewhere.
    fn leave(self: &Arc<Self>, parent: &Arc<Node>) {
        let moving = one_move_at_a_time();
        if !self.is_at(Some(parent)) {
            return;
        }
        let around = parent.parent();
        let before = self.move_to(around.as_ref());
        drop(moving);
        self.settle_in(around.as_ref(), before);
    }

    /// Lists a child.
    pub(super) fn list(self: &Arc<Self>, child: Child) -> Option<Link> {
        self.enlist();
        let key = self.state.lock()?.children.insert(child);
        Some(Link::new(self, key))
    }

    /// Has it end when `other` does. Before anything is beneath it.
    pub(crate) fn link(self: &Arc<Self>, other: &Arc<Node>) {
        let Some(link) = other.list(Child::Linked(Arc::downgrade(self))) else { return };
        if let Some(mut state) = self.state.lock() {
            state.links.push(link);
        }
        self.set_joint();
        self.update();
        // Invariant 3: the other may have gone through its children too early for this one.
        if other.is_over() {
            let mut found = Found::default();
            self.end_by(self.end_of_link(other, other.origin().as_ref()), true);
            self.spread(None, &mut found);
            found.hand_over();
        }
    }

    /// The scope it was made for has been left: its hooks end, and futures that were polled in it are on their own.
    pub(crate) fn close(self: &Arc<Self>) {
        let Some(mut state) = self.state.lock() else { return };
        // One of its token whose registration was dropped inside of it has been left to this.
        let is_left = |hooked: &Hooked| hooked.tie == Tie::OwnToken && hooked.entry.is_revoked();
        let ends = |(key, hooked): (usize, &Hooked)| {
            (hooked.tie.ends_with_scope() || is_left(hooked)).then_some(key)
        };
        let keys: Vec<usize> = state.hooks.iter().filter_map(ends).collect();
        let hooks: Vec<Hooked> = keys.into_iter().map(|key| state.hooks.remove(key)).collect();
        let children = Beneath::of(&state).inner;
        drop(state);
        // The latest first, as scopes are left.
        let (ending, leaving): (Vec<_>, Vec<_>) =
            hooks.iter().rev().partition(|hooked| hooked.tie != Tie::Future);
        ending.iter().for_each(|hooked| hooked.entry.revoke(Ending::Scope));
        leaving.iter().for_each(|hooked| hooked.entry.retire(true));
        leaving.iter().for_each(|hooked| hooked.resume());
        for child in children {
            if child.stand.roams() {
                child.leave(self);
            }
        }
        self.break_circles();
    }

    /// The future it was made for is done: tokens and handles that are left keep the surroundings it had.
    pub(crate) fn settle(self: &Arc<Self>) {
        self.stand.settle();
        self.update_all();
        self.close();
    }

    /// Lets go of nodes that end it and are ended by it: each would keep the other for ever.
    fn break_circles(self: &Arc<Self>) {
        let others: Vec<Arc<Node>> = match self.state.lock() {
            Some(state) => state.links.iter().map(|link| Arc::clone(&link.node)).collect(),
            None => return,
        };
        for other in others {
            let mut in_circle = false;
            other.visit_all(|_, node| in_circle |= Arc::ptr_eq(node, self));
            if in_circle && let Some(mut state) = self.state.lock() {
                // It stays listed there, so that it is told as long as the other is there.
                let link = state.links.iter().position(|link| Arc::ptr_eq(&link.node, &other));
                let link = link.map(|index| state.links.swap_remove(index));
                drop(state);
                drop(link);
            }
        }
    }
}

/// The list of more children than this is given back once all of them are gone.
const KEPT: usize = 64;

impl Link {
    pub(super) fn new(node: &Arc<Node>, key: usize) -> Self {
        // So many children would need more memory than there is.
        let key = u32::try_from(key).unwrap_or(u32::MAX);
        Self { node: Arc::clone(node), key, is_told: false }
    }

    /// Takes the child off its parent's list.
    pub(super) fn unlist(self) -> Arc<Node> {
        let child = self.node.state.lock().and_then(|mut state| {
            let children = &mut state.rare()?.children;
            let child = children.try_remove(self.key as usize);
            if children.is_empty() && children.capacity() > KEPT {
                *children = Slab::new();
            }
            child
        });
        drop(child);
        self.node
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The handles of nodes around are dropped in a loop, not in each other's drop: a chain may be long.
        let mut orphans = Vec::new();
        let mut next = self.leave_all(&mut orphans);
        while let Some(node) = next.or_else(|| orphans.pop()) {
            next = Arc::into_inner(node).and_then(|mut node| node.leave_all(&mut orphans));
        }
    }
}

impl Node {
    /// Takes back its timer, and lets go of the nodes around it: its parent, and others.
    fn leave_all(&mut self, others: &mut Vec<Arc<Node>>) -> Option<Arc<Node>> {
        let above = self.outlook.take_above();
        let Some(state) = self.state.get_mut() else { return above };
        if let Some(more) = &mut state.more {
            more.timer.take().into_iter().for_each(Timer::cancel);
            if let Some(rare) = &mut more.rare {
                others.extend(rare.links.drain(..).map(Link::unlist));
            }
        }
        let Some(parent) = state.parent.take().map(Link::unlist) else { return above };
        // Most often there is nothing to note.
        others.extend(above.filter(|above| !Arc::ptr_eq(above, &parent)));
        Some(parent)
    }
}
