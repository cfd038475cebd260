//! Lazy tokens. The parent of a lazy token does not list the token until a task, a hook or a child waits for the token
//! (`node.rs`, invariant 6).

use std::sync::Arc;

use super::data::{Child, Listing, Node};
use super::propagation::ParentEnd;
use crate::sync::{Ordering, mutant};

impl Node {
    /// Makes sure that the parent's end propagates to a lazy node. If the parent is over already, its end has reached
    /// the node when this returns. Called before a task, a hook or a child waits for the node.
    #[inline]
    pub(super) fn ensure_listed(self: &Arc<Self>) {
        if self.parent_mode.is_lazy() {
            self.list_lazy();
        }
    }

    #[cold]
    fn list_lazy(self: &Arc<Self>) {
        let Some(parent) = self.lazy_parent() else { return };
        if self.parent_mode.is_unlisted() {
            // `None`: a fork has lost the parent's lock. Then the node stays unlisted, and goes on reading the parent's
            // flag.
            let Some(listing) = parent.list(Child::Inner(Arc::downgrade(self))) else { return };
            let surplus = self.take_listing(listing);
            surplus.map(Listing::unlist);
        }
        // Invariant 3: the parent may have gone through its children before it listed this node. So the parent's flag
        // is read after the listing.
        // Acquire: pairs with the Release in `set_over`.
        if !self.over.load(Ordering::Acquire) && parent.is_over() && !mutant!(NoSecondLook) {
            self.propagate_and_deliver(Some(&ParentEnd::of(parent)));
        }
        if self.parent_mode.is_unlisted() {
            // Set last, because another thread that finds this set skips the steps above.
            self.parent_mode.set_listed();
        }
    }

    /// Stores `listing`, the node's place in the parent's list, and returns `None`. Returns `listing` unstored if the
    /// node already has a place, or if the node's lock was lost in a fork.
    fn take_listing(&self, listing: Listing) -> Option<Listing> {
        let Some(mut state) = self.state.lock() else { return Some(listing) };
        if state.parent.is_some() {
            return Some(listing);
        }
        state.parent = Some(listing);
        None
    }
}
