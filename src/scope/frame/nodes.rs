//! The node of a scope. It is made when a token, a handle or a hook needs it.

use std::sync::Arc;

use super::undo::Undo;
use super::{Scope, innermost};
use crate::error::ScopeId;
use crate::scope::entry::node_of;
use crate::thread::Thread;
use crate::token::node::Node;

impl Scope {
    /// Whether the scope may have a node, or an identity that somebody asked for. If so, the scope's future must keep
    /// them for the next poll.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn has_acquired(&mut self) -> bool {
        self.undo.get_mut().has(Undo::FLAG)
    }

    pub(crate) fn known_id(&self) -> Option<ScopeId> {
        ScopeId::from_raw(self.id.get())
    }

    #[inline]
    pub(crate) fn existing_node(&self) -> Option<&Arc<Node>> {
        self.node.get()
    }

    /// The scope's node. If there is none, first makes the nodes of the visible scopes around this one, and then the
    /// node.
    pub(crate) fn node(&self) -> &Arc<Node> {
        if self.node.get().is_none() {
            // A loop instead of a recursion: so many scopes may be open that a recursion would overflow the stack.
            let bare: Vec<_> = self.visible().take_while(|scope| scope.node.get().is_none()).collect();
            for scope in bare.iter().rev() {
                scope.make_node();
            }
            Thread::with(|thread| {
                innermost(thread, |scope| scope.into_iter().for_each(|scope| scope.refresh_flag(thread)));
                // If this thread has seen the deadline pass, the new node must be over from the start, even if the
                // watchdog has not noticed the deadline yet.
                self.make_node().expire(thread.now.get());
            });
        }
        self.make_node()
    }

    /// The scope's node, made if there is none. The next visible scope outwards must have its node already: that node
    /// becomes the parent.
    fn make_node(&self) -> &Arc<Node> {
        self.node.get_or_init(|| {
            self.undo.set(self.undo.get().and(Undo::FLAG));
            let parent = self.visible_outer().and_then(Scope::existing_node);
            node_of(parent, self.info(), &self.spec(), self.extras())
        })
    }

    pub(crate) fn nearest_node(&self) -> Option<&Arc<Node>> {
        self.visible().find_map(Scope::existing_node)
    }

    #[inline]
    pub(crate) fn take_node(&mut self) -> Option<Arc<Node>> {
        self.node.take()
    }
}
