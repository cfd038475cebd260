//! The shared node of a scope: made when somebody asks for what needs one.

use std::sync::Arc;

use super::{Scope, Undo, innermost};
use crate::scope::entry::node_of;
use crate::thread::Thread;
use crate::token::node::Node;

impl Scope {
    /// Its node, if it has one.
    #[inline]
    pub(crate) fn existing_node(&self) -> Option<&Arc<Node>> {
        self.node.get()
    }

    /// Its node: made now, with those of the scopes around it, if there was none.
    pub(crate) fn node(&self) -> &Arc<Node> {
        if self.node.get().is_none() {
            // In a loop: there may be as many as the stack has room for.
            let bare: Vec<_> = self.visible().take_while(|scope| scope.node.get().is_none()).collect();
            for scope in bare.iter().rev() {
                scope.make_node();
            }
            Thread::with(|thread| {
                innermost(thread, |scope| scope.into_iter().for_each(|scope| scope.refresh_flag(thread)));
                // What this thread has seen, no node must deny until the watchdog comes to it.
                self.make_node().expire(thread.now.get());
            });
        }
        self.make_node()
    }

    /// Its node, beneath that of the next scope outwards, which has one.
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
