//! The shared node of a scope: made when a token, handle or hook needs it.

use std::sync::Arc;

use super::undo::Undo;
use super::{Scope, innermost};
use crate::scope::entry::node_of;
use crate::thread::Thread;
use crate::token::node::Node;

impl Scope {
    /// Its node, if it has one.
    #[inline]
    pub(crate) fn existing_node(&self) -> Option<&Arc<Node>> {
        self.node.get()
    }

    /// Its node. If there is none, it is made now, with the nodes of the scopes around it.
    pub(crate) fn node(&self) -> &Arc<Node> {
        if self.node.get().is_none() {
            // A loop and no recursion: there may be as many scopes as the stack has room for.
            let bare: Vec<_> = self.visible().take_while(|scope| scope.node.get().is_none()).collect();
            for scope in bare.iter().rev() {
                scope.make_node();
            }
            Thread::with(|thread| {
                innermost(thread, |scope| scope.into_iter().for_each(|scope| scope.refresh_flag(thread)));
                // If this thread has seen the deadline pass, the new node must say so too, before the watchdog notices it.
                self.make_node().expire(thread.now.get());
            });
        }
        self.make_node()
    }

    /// Its node. The parent is the node of the next scope outwards, which has one.
    fn make_node(&self) -> &Arc<Node> {
        self.node.get_or_init(|| {
            self.undo.set(self.undo.get().and(Undo::FLAG));
            let parent = self.visible_outer().and_then(Scope::existing_node);
            node_of(parent, self.info(), &self.spec(), self.extras())
        })
    }

    /// The node of this scope, or of the next one outwards that has one.
    pub(crate) fn nearest_node(&self) -> Option<&Arc<Node>> {
        self.visible().find_map(Scope::existing_node)
    }

    /// Its node, after it has been left.
    #[inline]
    pub(crate) fn take_node(&mut self) -> Option<Arc<Node>> {
        self.node.take()
    }
}
