//! Who is beneath whom: how nodes are listed, moved and left, and which of them have timers.

use std::sync::Arc;

use super::found::Found;
use super::{Child, End, Hooked, Link, Node, State, Tie};
use crate::error::Cause;
use crate::sync::waits::Ending;
use crate::sync::{ForkMutex, MutexGuard, Ordering, SetOnce, mutant, weak_waker};
use crate::time::{NEVER, clock};
use crate::watchdog::{self, Timer};

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
        if let Some(mut state) = self.state.lock() {
            std::mem::swap(&mut state.parent, &mut link);
        }
        link.map(Link::unlist)
    }

    /// After a move, without its lock: takes on what holds where it is now.
    fn settle_in(self: &Arc<Self>, parent: Option<&Arc<Node>>, before: Option<Arc<Node>>) {
        drop(before);
        if parent.is_some_and(|parent| parent.is_over()) {
            let mut found = Found::default();
            self.spread(&mut found);
            found.hand_over();
        }
        self.update_timers();
    }

    /// A deadline that was earlier than all beneath may have come or gone.
    fn update_timers(self: &Arc<Self>) {
        let mut stack = vec![Arc::clone(self)];
        while let Some(node) = stack.pop() {
            node.update_timer();
            stack.extend(node.inner_children());
        }
    }

    /// The nodes directly beneath.
    pub(super) fn inner_children(self: &Arc<Self>) -> Vec<Arc<Node>> {
        let children: Vec<Child> = match self.state.lock() {
            Some(state) => state.children.iter().map(|(_, child)| child.clone()).collect(),
            None => Vec::new(),
        };
        // Not under the lock: the last handle of a child may be dropped here.
        let inner = children.iter().filter_map(|child| match child {
            Child::Inner(child) => child.upgrade().filter(|child| child.is_beneath(self)),
            Child::Linked(_) => None,
        });
        inner.collect()
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
    fn list(self: &Arc<Self>, child: Child) -> Option<Link> {
        let key = self.state.lock()?.children.insert(child);
        Some(Link { node: Arc::clone(self), key })
    }

    /// Has it cancelled when `other` is over.
    pub(crate) fn link(self: &Arc<Self>, other: &Arc<Node>) {
        self.enlist(other, Child::Linked(Arc::downgrade(self)));
    }

    /// Lists it as a child of `parent`, and takes on its end.
    pub(super) fn enlist(self: &Arc<Self>, parent: &Arc<Node>, child: Child) {
        let linked = matches!(child, Child::Linked(_));
        let Some(link) = parent.list(child) else { return };
        if let Some(mut state) = self.state.lock() {
            if linked {
                state.links.push(link);
            } else {
                state.parent = Some(link);
            }
        }
        // Invariant 3: the parent may have gone through its children too early for this one.
        if parent.is_over() {
            let mut found = Found::default();
            if linked {
                let end = parent.told_by();
                let now = || self.seam.reading(clock::now());
                let at = end.as_ref().filter(|_| self.seam.shares_clock(&parent.seam));
                let at = at.map_or_else(now, |end| end.at);
                self.end_by(&End { cause: Cause::Cancelled, at, reason: end.and_then(|end| end.reason) });
            }
            self.spread(&mut found);
            found.hand_over();
        }
    }

    /// Invariant 4.
    pub(super) fn update_timer(self: &Arc<Self>) {
        if self.deadline == NEVER {
            return;
        }
        // One around it with another clock tells it, but stands for no deadline of this one.
        let around = || self.parent().filter(|parent| parent.seam.shares_clock(&self.seam));
        let earlier = || self.deadline < around().map_or(NEVER, |parent| parent.effective_deadline());
        let mut needed = earlier();
        loop {
            let Some(mut state) = self.state.lock() else { return };
            if state.timer.is_some_and(Timer::is_lost) {
                state.timer = None;
            }
            // Relaxed: under the lock.
            let needs = needed && !self.over.load(Ordering::Relaxed);
            let in_vain = if needs { None } else { state.timer.take() };
            if needs && state.timer.is_none() {
                let weak = Arc::downgrade(self);
                state.timer =
                    Some(watchdog::global().schedule_on(&self.seam, self.deadline, weak_waker(weak)));
            }
            drop(state);
            in_vain.into_iter().for_each(Timer::cancel);
            // What is around it was looked at outside of the lock, and may be something else by now: whoever changed it
            // may have seen to the timer before this did.
            let now = earlier();
            if now == needed {
                return;
            }
            needed = now;
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
        let children: Vec<Child> = state.children.iter().map(|(_, child)| child.clone()).collect();
        drop(state);
        // The latest first, as scopes are left.
        let (ending, leaving): (Vec<_>, Vec<_>) =
            hooks.iter().rev().partition(|hooked| hooked.tie != Tie::Future);
        ending.iter().for_each(|hooked| hooked.entry.revoke(Ending::Scope));
        leaving.iter().for_each(|hooked| hooked.entry.retire(true));
        leaving.iter().for_each(|hooked| hooked.resume());
        for child in children {
            if let Child::Inner(child) = child
                && let Some(child) = child.upgrade()
                && child.roams.load(Ordering::Relaxed)
            {
                child.leave(self);
            }
        }
        self.break_circles();
    }

    /// The future it was made for is done: tokens and handles that are left keep the surroundings it had.
    pub(crate) fn settle(self: &Arc<Self>) {
        // Relaxed: whoever closes the surroundings does so later on this thread, or has no part in the future's end.
        self.roams.store(false, Ordering::Relaxed);
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

impl Link {
    /// Takes the child off its parent's list.
    fn unlist(self) -> Arc<Node> {
        let child = self.node.state.lock().and_then(|mut state| state.children.try_remove(self.key));
        drop(child);
        self.node
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The parents' handles are dropped in a loop, not in each other's drop: a chain may be long.
        let mut orphans: Vec<Arc<Node>> = Vec::new();
        let leave = |state: &mut State| {
            if let Some(timer) = state.timer.take() {
                timer.cancel();
            }
            state.parent.take().into_iter().chain(state.links.drain(..)).map(Link::unlist).collect::<Vec<_>>()
        };
        if let Some(mut state) = self.state.lock() {
            orphans = leave(&mut state);
        }
        while let Some(parent) = orphans.pop() {
            if let Some(parent) = Arc::into_inner(parent)
                && let Some(mut state) = parent.state.lock()
            {
                orphans.extend(leave(&mut state));
            }
        }
    }
}
