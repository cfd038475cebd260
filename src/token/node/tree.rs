//! How a node gets another parent, and how nodes leave the tree.

use std::sync::Arc;

use slab::Slab;

use super::data::{Child, Children, HookOwner, ListedHook, Listing, Node};
use super::propagation::ParentEnd;
use crate::sync::waits::Ending;
use crate::sync::{ForkMutex, MutexGuard, SetOnce, mutant};
use crate::watchdog::Timer;

#[cfg(not(timebox_loom))]
static MOVES: SetOnce<ForkMutex<()>> = SetOnce::new();
#[cfg(timebox_loom)]
loom::lazy_static! {
    static ref MOVES: SetOnce<ForkMutex<()>> = SetOnce::new();
}

/// One lock for all moves of nodes to other parents. A thread takes it before it checks whether a node may become a
/// child of another node, and keeps it until the move is done. Otherwise two nodes could become children of each other.
/// `None` if a fork has lost the lock's holder: then nodes move without the lock.
fn lock_moves() -> Option<MutexGuard<'static, ()>> {
    if mutant!(NoMoveLock) { None } else { MOVES.get_or_init(|| ForkMutex::new(())).lock() }
}

impl Node {
    /// Gives the node another parent, or none.
    ///
    /// A future may be polled in a scope that was entered by a handle of that future. Then the future's node has no
    /// parent, since a node cannot be its own ancestor.
    pub(crate) fn set_parent(self: &Arc<Self>, parent: Option<&Arc<Node>>) {
        if self.has_parent(parent) {
            return;
        }
        let moving = lock_moves();
        let parent = parent.filter(|parent| {
            let mut is_descendant = false;
            parent.walk(|node| is_descendant |= Arc::ptr_eq(node, self));
            !is_descendant
        });
        if self.has_parent(parent) {
            return;
        }
        let before = self.move_to(parent);
        drop(moving);
        self.adopt_parent(parent, before);
    }

    /// Whether `parent` is the node's parent. Also `true` if a fork has lost the lock, since such a node cannot move.
    fn has_parent(&self, parent: Option<&Arc<Node>>) -> bool {
        let Some(state) = self.state.lock() else { return true };
        state.parent.as_ref().map(|listing| Arc::as_ptr(&listing.node)) == parent.map(Arc::as_ptr)
    }

    /// Replaces the parent, and returns the former parent. The caller holds the lock of all moves.
    fn move_to(self: &Arc<Self>, parent: Option<&Arc<Node>>) -> Option<Arc<Node>> {
        let mut listing = parent.and_then(|parent| parent.list(Child::Inner(Arc::downgrade(self))));
        loop {
            // If the node has inherited its origin from the parent that it leaves, it keeps that origin.
            let inherited = self.parent().and_then(|parent| parent.origin());
            let Some(mut state) = self.state.lock() else { break };
            if state.parent.as_ref().is_some_and(|listing| listing.inherits) {
                if inherited.is_none() {
                    // The parent has ended since `inherited` was read. So `inherited` is read again.
                    continue;
                }
                state.origin = inherited;
            }
            std::mem::swap(&mut state.parent, &mut listing);
            break;
        }
        listing.map(Listing::unlist)
    }

    /// The rest of a move: drops the former parent (`before`), and takes over the end and the deadline of the new
    /// parent. Called without the lock of all moves, because the drop may run the user's code.
    fn adopt_parent(self: &Arc<Self>, parent: Option<&Arc<Node>>, before: Option<Arc<Node>>) {
        drop(before);
        if let Some(parent) = parent.filter(|parent| parent.is_over()) {
            self.propagate_and_deliver(Some(&ParentEnd::of(parent)));
        }
        self.update_all();
    }

    pub(super) fn inner_children(self: &Arc<Self>) -> Vec<Arc<Node>> {
        let listed = self.state.lock().map(|state| Children::of(&state).inner);
        // A listed node may have another parent (invariant 2). The `Arc` of such a node is dropped here, without the
        // lock, because it may be the node's last.
        let mut children = listed.unwrap_or_default();
        children.retain(|child| child.has_parent(Some(self)));
        children
    }

    /// Moves the node from `parent`, which is closed, to the grandparent. Does nothing if the node has another parent
    /// already.
    fn leave(self: &Arc<Self>, parent: &Arc<Node>) {
        let moving = lock_moves();
        if !self.has_parent(Some(parent)) {
            return;
        }
        let grandparent = parent.parent();
        let before = self.move_to(grandparent.as_ref());
        drop(moving);
        self.adopt_parent(grandparent.as_ref(), before);
    }

    /// Called when the scope has been left. Ends the hooks of the scope. Futures that were polled in the scope move to
    /// the scope's parent.
    pub(crate) fn close(self: &Arc<Self>) {
        let Some(mut state) = self.state.lock() else { return };
        // A hook that dropped its own registration while it ran is still on the list. It is removed here.
        let is_left = |hook: &ListedHook| hook.owner == HookOwner::OwnToken && hook.entry.is_revoked();
        let ends = |(key, hook): (usize, &ListedHook)| {
            (hook.owner.ends_with_scope() || is_left(hook)).then_some(key)
        };
        let keys: Vec<usize> = state.hooks.iter().filter_map(ends).collect();
        let hooks: Vec<ListedHook> = keys.into_iter().map(|key| state.hooks.remove(key)).collect();
        let children = Children::of(&state).inner;
        drop(state);
        let (ending, leaving): (Vec<_>, Vec<_>) =
            hooks.iter().rev().partition(|hook| hook.owner != HookOwner::Future);
        ending.iter().for_each(|hook| hook.entry.revoke(Ending::Scope));
        leaving.iter().for_each(|hook| hook.entry.retire(true));
        leaving.iter().for_each(|hook| hook.resume());
        for child in children {
            if child.parent_mode.is_reparentable() {
                child.leave(self);
            }
        }
        self.break_circles();
    }

    /// Called when the node's future is done. From now on the node keeps its present parent.
    pub(crate) fn finish(self: &Arc<Self>) {
        self.parent_mode.keep_parent();
        self.update_all();
        self.close();
    }
}

/// If an empty list of children has room for more than this number of children, its memory is freed.
const KEPT: usize = 64;

impl Listing {
    pub(super) fn new(node: &Arc<Node>, key: usize) -> Self {
        // The conversion never fails: so many children do not fit into memory.
        let key = u32::try_from(key).unwrap_or(u32::MAX);
        Self { node: Arc::clone(node), key, inherits: false }
    }

    pub(super) fn unlist(self) -> Arc<Node> {
        let child = self.node.state.lock().and_then(|mut state| {
            let children = &mut state.existing_cold()?.children;
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
        // Ancestors are dropped in a loop. If each dropped its parent, a long chain would overflow the stack.
        let mut orphans = Vec::new();
        let mut next = self.leave_all(&mut orphans);
        while let Some(node) = next.or_else(|| orphans.pop()) {
            next = Arc::into_inner(node).and_then(|mut node| node.leave_all(&mut orphans));
        }
    }
}

impl Node {
    /// Cancels the timer. Hands out all nodes that this node keeps alive: returns the parent, and adds the others to
    /// `others`. The caller drops them in a loop, because nested drops could overflow the stack.
    fn leave_all(&mut self, others: &mut Vec<Arc<Node>>) -> Option<Arc<Node>> {
        let next = self.next.take();
        let Some(state) = self.state.get_mut() else { return next };
        if let Some(more) = &mut state.more {
            more.timer.take().into_iter().for_each(Timer::cancel);
            if let Some(cold) = &mut more.cold {
                others.extend(cold.links.drain(..).map(Listing::unlist));
            }
        }
        let Some(parent) = state.parent.take().map(Listing::unlist) else { return next };
        // If `next` is the parent, it is returned below, so it is not added here.
        others.extend(next.filter(|next| !Arc::ptr_eq(next, &parent)));
        Some(parent)
    }
}
