use std::fmt;
use std::sync::{Arc, Weak};

use super::hook::{Entry, Hook, Unsaid};
use super::node::{Node, Tie};
use crate::sync::waits::Ending;

/// A hook that waits for a token or a scope to be over. Dropping it ends the hook.
///
/// When the drop has returned, the hook is not running and never will: dropping waits for a hook that runs, except
/// from inside that hook, or from inside another that this one waits for: two hooks that drop each other's registration
/// both return. A hook registered with a scope ends with the scope at the latest.
///
/// One made on a token keeps that alive, as another token would. A registration that is forgotten leaves its hook in
/// place for good, or for as long as the scope exists.
#[must_use = "the hook ends when its registration is dropped"]
pub struct Registration {
    /// `None` if it can never fire.
    hook: Option<Arc<Entry>>,
    node: Weak<Node>,
    /// That of a token, which it keeps.
    token: Option<Arc<Node>>,
    tie: Tie,
    key: Option<usize>,
}

impl Registration {
    /// Of a hook that never fires, because nothing can be over.
    pub(crate) fn inert() -> Self {
        Self { hook: None, node: Weak::new(), token: None, tie: Tie::Scope, key: None }
    }

    /// Registers a hook; one on a node that is over runs on this thread before this returns.
    pub(crate) fn new(node: &Arc<Node>, over: bool, hook: Hook<'static>, tie: Tie) -> Self {
        let entry = Entry::of(hook, Unsaid::Once);
        let mut key = if over { None } else { node.add_hook(&entry, tie) };
        // A node that was lost in a fork takes no hooks either.
        if key.is_none() && (over || node.is_over()) {
            key = node.add_fired_hook(&entry, tie);
            entry.run();
        }
        let token = matches!(tie, Tie::Token | Tie::OwnToken).then(|| Arc::clone(node));
        Self { hook: Some(entry), node: Arc::downgrade(node), token, tie, key }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let Some(entry) = self.hook.take() else { return };
        entry.revoke(Ending::Registration);
        // Dropped inside the hook it stays listed with a scope, whose exit, and a shield, wait for what still runs.
        if (self.tie == Tie::Token || !entry.is_running())
            && let Some(key) = self.key
            && let Some(node) = self.token.take().or_else(|| self.node.upgrade())
        {
            node.remove_hook(key, &entry);
        }
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("registered", &self.key.is_some()).finish_non_exhaustive()
    }
}
