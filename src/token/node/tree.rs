//! Who is beneath whom: how nodes are listed, moved and left, and which of them have timers.

use std::sync::Arc;

use super::found::Found;
use super::{Child, End, Link, Node, State, Tie};
use crate::error::Cause;
use crate::sync::{Ordering, weak_waker};
use crate::time::{NEVER, clock};
use crate::watchdog::{self, Timer};

impl Node {
    /// Moves it beneath another node, or to the top of a tree of its own.
    ///
    /// A future that is polled in a scope that was entered by its own handle is on top: it cannot be beneath itself.
    pub(crate) fn set_parent(self: &Arc<Self>, parent: Option<&Arc<Node>>) {
        let parent = parent.filter(|parent| {
            let mut beneath_itself = false;
            parent.walk(|node| beneath_itself |= Arc::ptr_eq(node, self));
            !beneath_itself
        });
        let Some(mut state) = self.state.lock() else { return };
        let before = match (&state.parent, parent) {
            (Some(link), Some(parent)) if Arc::ptr_eq(&link.node, parent) => return,
            (None, None) => return,
            _ => state.parent.take(),
        };
        drop(state);
        drop(before.map(Link::unlist));
        if let Some(parent) = parent {
            self.enlist(parent, Child::Inner(Arc::downgrade(self)));
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
        let around = parent.parent();
        let link = match self.state.lock() {
            Some(mut state) => state.parent.take_if(|link| Arc::ptr_eq(&link.node, parent)),
            None => None,
        };
        let Some(link) = link else { return };
        drop(link.unlist());
        if let Some(around) = &around {
            self.enlist_if_free(around);
        }
        self.update_timers();
    }

    /// As `enlist`, unless another has made it its child meanwhile.
    fn enlist_if_free(self: &Arc<Self>, parent: &Arc<Node>) {
        let child = Child::Inner(Arc::downgrade(self));
        let Some(key) = parent.state.lock().map(|mut state| state.children.insert(child)) else { return };
        let mut left = Some(Link { node: Arc::clone(parent), key });
        if let Some(mut state) = self.state.lock()
            && state.parent.is_none()
        {
            state.parent = left.take();
        }
        if let Some(link) = left {
            drop(link.unlist());
            return;
        }
        if parent.is_over() {
            let mut found = Found::default();
            self.spread(&mut found);
            found.hand_over();
        }
    }

    /// Has it cancelled when `other` is over.
    pub(crate) fn link(self: &Arc<Self>, other: &Arc<Node>) {
        self.enlist(other, Child::Linked(Arc::downgrade(self)));
    }

    /// Lists it as a child of `parent`, and takes on its end.
    pub(super) fn enlist(self: &Arc<Self>, parent: &Arc<Node>, child: Child) {
        let linked = matches!(child, Child::Linked(_));
        let Some(key) = parent.state.lock().map(|mut state| state.children.insert(child)) else { return };
        let link = Link { node: Arc::clone(parent), key };
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
        let (mut hooks, mut leaving) = (Vec::new(), Vec::new());
        state.hooks.retain(|_, hooked| {
            match hooked.tie {
                Tie::Token => return true,
                Tie::Scope => hooks.push(Arc::clone(&hooked.entry)),
                Tie::Future => leaving.push(Arc::clone(&hooked.entry)),
            }
            false
        });
        let children: Vec<Child> = state.children.iter().map(|(_, child)| child.clone()).collect();
        drop(state);
        // The latest first, as scopes are left.
        hooks.iter().rev().for_each(|entry| entry.revoke());
        leaving.iter().rev().for_each(|entry| entry.retire(true));
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
