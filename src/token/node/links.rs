//! Links. A node that is linked to another node ends when the other node ends
//! ([`cancel_on`](crate::Timebox::cancel_on)).

use std::collections::HashSet;
use std::sync::Arc;

use super::data::{Child, Listing, Node};
use crate::time::NEVER;

impl Node {
    /// Links the node to `other`: the node ends when `other` ends. Called before the node has children.
    pub(crate) fn link(self: &Arc<Self>, other: &Arc<Node>) {
        let Some(link) = other.list(Child::Linked(Arc::downgrade(self))) else { return };
        if let Some(mut state) = self.state.lock() {
            state.links.push(link);
        }
        self.set_waypoint();
        self.update();
        // Invariant 3: `other` may have propagated its end before it listed this node. So the flag of `other` is read
        // after the listing.
        if other.is_over() {
            self.end_by(self.end_through_link(other, other.origin().as_ref()), true);
            self.propagate_and_deliver(None);
        }
    }

    fn linked_nodes(&self) -> Vec<Arc<Node>> {
        let links =
            self.state.lock().map(|state| state.links.iter().map(|link| Arc::clone(&link.node)).collect());
        links.unwrap_or_default()
    }

    /// Drops each link to a node that keeps this node alive through its own ancestors and links. Otherwise the two
    /// nodes would keep each other alive for ever.
    pub(super) fn break_circles(self: &Arc<Self>) {
        for other in self.linked_nodes() {
            let mut in_circle = false;
            other.visit_all(|_, node| in_circle |= Arc::ptr_eq(node, self));
            if in_circle && let Some(mut state) = self.state.lock() {
                // Only the reference to `other` is dropped. `other` still lists this node, so it propagates to this
                // node as long as both exist.
                let link = state.links.iter().position(|link| Arc::ptr_eq(&link.node, &other));
                let link = link.map(|index| state.links.swap_remove(index));
                drop(state);
                drop(link);
            }
        }
    }

    /// The earliest deadline of this node and of all nodes whose end ends this node. Leaves out nodes with another
    /// clock.
    pub(crate) fn expires_at(self: &Arc<Self>) -> u64 {
        let ancestry = self.ancestry();
        if !ancestry.has_links && !ancestry.mixes_clocks {
            return ancestry.effective;
        }
        let mut earliest = NEVER;
        self.visit_trees(|node| {
            if node.env.shares_clock(&self.env) {
                earliest = earliest.min(node.effective_deadline());
            } else if ancestry.mixes_clocks {
                // `node` has another clock, but an ancestor of `node` may have the clock of `self` again.
                node.walk(|node| {
                    if node.env.shares_clock(&self.env) {
                        earliest = earliest.min(node.deadline);
                    }
                });
            }
        });
        earliest
    }

    /// Whether a deadline that ends this node may have passed. Also `true` if the deadlines are on different clocks:
    /// they cannot be compared.
    #[inline]
    pub(super) fn may_have_expired(self: &Arc<Self>, now: u64) -> bool {
        self.ancestry().mixes_clocks || self.expires_at() <= self.env.reading(now)
    }

    /// Returns the node with the earliest deadline among the nodes that this node is linked to, and all nodes whose end
    /// would end a linked node. `None` if none of them has a deadline on this node's clock.
    pub(crate) fn earliest_link(self: &Arc<Self>) -> Option<Arc<Node>> {
        let mut earliest: Option<Arc<Node>> = None;
        for link in self.linked_nodes() {
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

    /// Like [`visit_all`](Self::visit_all), but calls `visit` only with the first node of each tree. The ancestors of
    /// that node are not visited, because its cached ancestry has their earliest deadline (invariant 5).
    fn visit_trees(self: &Arc<Self>, mut visit: impl FnMut(&Arc<Node>)) {
        let mut trees = vec![Arc::clone(self)];
        let mut seen = HashSet::new();
        let mut index = 0;
        while let Some(tree) = trees.get(index).cloned() {
            visit(&tree);
            index += 1;
            let has_links = tree.ancestry().has_links;
            let mut waypoint = if has_links { tree.nearest_waypoint() } else { None };
            while let Some(node) = waypoint {
                let parent = self.collect_links(&node, &mut trees, &mut seen);
                let parent = parent.filter(|parent| parent.ancestry().has_links);
                waypoint = parent.and_then(|parent| parent.nearest_waypoint());
            }
        }
    }

    /// Visits this node and all nodes whose end ends this one. `visit` gets the node, and the index of its tree. Tree 0
    /// is this node and its ancestors. Each other tree is a linked node and the ancestors of that node.
    pub(super) fn visit_all(self: &Arc<Self>, mut visit: impl FnMut(usize, &Arc<Node>)) {
        let mut trees = vec![Arc::clone(self)];
        let mut seen = HashSet::new();
        let mut index = 0;
        while let Some(tree) = trees.get(index) {
            let mut next = Some(Arc::clone(tree));
            while let Some(node) = next {
                visit(index, &node);
                next = self.collect_links(&node, &mut trees, &mut seen);
            }
            index += 1;
        }
    }

    /// Adds to `trees` the nodes to which `node` is linked. Skips `self` and the nodes in `seen`, because links may
    /// form a circle. Adds the new nodes to `seen`. Returns the parent of `node`; `None` if there is no parent, or if a
    /// fork has lost the lock of `node`.
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

    /// Adds a child to this node's list; `None` if a fork has lost the lock.
    pub(super) fn list(self: &Arc<Self>, child: Child) -> Option<Listing> {
        let key = self.register(true, |state| state.children.insert(child))?;
        Some(Listing::new(self, key))
    }
}
