use std::fmt;
use std::sync::{Arc, Weak};

use super::hook::{DefaultRepeat, Entry, Hook, HookResult};
use super::node::{HookOwner, Node};
use crate::sync::waits::Ending;

/// A hook that fires when a token or a scope is over. Dropping the registration ends the hook.
///
/// The drop waits for a run that is in progress, and the hook never runs again. Two kinds of drop do not wait: a drop
/// from inside the hook, and a drop from inside another hook for which this hook waits. So two hooks that drop each
/// other's registration both return. A hook registered with a scope ends with the scope at the latest.
///
/// The registration of a token's hook keeps the token alive, as another token would. If a registration is forgotten
/// (`std::mem::forget`), its hook stays registered. The hook of a token then never ends. The hook of a scope ends with
/// the scope.
#[must_use = "the hook ends when its registration is dropped"]
pub struct Registration {
    /// `None` if the hook can never fire.
    hook: Option<Arc<Entry>>,
    node: Weak<Node>,
    /// For the hook of a token: the token's node, so that the registration keeps the token alive. For the hook of a
    /// scope: `None`.
    token: Option<Arc<Node>>,
    owner: HookOwner,
    key: Option<usize>,
}

impl Registration {
    /// The registration of a hook outside every scope, where no scope can end. So the hook never fires.
    pub(crate) fn inert() -> Self {
        Self { hook: None, node: Weak::new(), token: None, owner: HookOwner::Scope, key: None }
    }

    /// Registers a hook. If the node is over, the hook runs on this thread before this returns.
    pub(crate) fn new(node: &Arc<Node>, over: bool, hook: Hook<'static>, owner: HookOwner) -> Self {
        let entry = Entry::from_hook(hook, DefaultRepeat::Once);
        let mut key = if over { None } else { node.add_hook(&entry, owner) };
        // `add_hook` returns `None` if the node is over. It also returns `None` if a fork has lost the node's lock:
        // then the hook does not run.
        if key.is_none() && (over || node.is_over()) {
            key = node.add_fired_hook(&entry, owner);
            entry.run();
        }
        let token = matches!(owner, HookOwner::Token | HookOwner::OwnToken).then(|| Arc::clone(node));
        Self { hook: Some(entry), node: Arc::downgrade(node), token, owner, key }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let Some(entry) = self.hook.take() else { return };
        entry.revoke(Ending::Registration);
        // If the hook itself drops the registration, its run has not ended. Then a hook of a scope stays listed, so
        // that the exit of the scope, or a shield, waits for the run.
        if (self.owner == HookOwner::Token || !entry.is_running())
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

impl HookResult for Registration {
    fn into_failure(self) -> Option<String> {
        None
    }
}
