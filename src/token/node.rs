//! The tree of nodes. A node is the state that a scope shares with its tokens, handles and hooks.
//!
//! A scope makes its node when a token, a handle, a hook or a shield needs one. A token that stands alone has a node too. A
//! node keeps its parent alive; a parent knows its children weakly. A node is dropped with the last of its tokens, handles,
//! frames and children, and its timer is cancelled then.
//!
//! Invariants:
//! 1. A node is *over* (its flag is set) if it ended by itself (`ScopeState::end`), or if its parent was over while the node
//!    was a child of that parent. The flag is never cleared. When the flag is set, the node's *origin* is decided: the earliest
//!    of these terminations; among equally early ones, the outermost. The origin never changes.
//! 2. A node is a child of its parent while `State::parent` says so. The parent lists the node from a moment before
//!    `State::parent` is set until a moment after it has changed. So code that visits listed children asks each child for its
//!    parent, and skips a child that has another parent.
//! 3. A node that is over has propagated to its children. The code that sets a flag goes on to the children that it finds under
//!    the lock, and the code that lists a child reads the flag under the same lock. So no child is missed: when
//!    [`Node::cancel`] has returned, the flags of all nodes beneath are set, except those of lazy tokens.
//! 4. A node has a timer if its own deadline is earlier than those of its ancestors. Otherwise an ancestor's timer
//!    is enough, since the end of the ancestor propagates to the node.
//! 5. A node caches its *ancestry*: what its ancestors mean for it, above all the earliest deadline (`ancestry.rs`). So usually
//!    no code walks up to the root. The cache is written under the node's lock, from the cache of the parent. A change
//!    propagates to the children. So once no node moves any more, every cache is right.
//! 6. A token is *lazy* if nothing can move its parent or the parent's ancestors. A lazy token reads its parent's flag, and is
//!    over if that flag is set. The parent need not list the token until a task, a hook or a child waits for the token
//!    ([`Node::ensure_listed`]). The token reads the parent's flag even after that. Otherwise a token that was seen to be over
//!    by the parent's flag could seem not to be over once it is listed, until its own flag is set.
//!
//! # Deadlock safety
//!
//! A thread holds the lock of at most one node. Under that lock the thread takes only the locks of timers (`watchdog/`) and of
//! callbacks. It runs no foreign code under that lock: hooks and wakers are called, cloned and dropped without the lock. A
//! thread that moves a node takes the lock of all moves first.

mod ancestry;
mod data;
mod errors;
mod expiry;
mod lazy;
mod links;
mod listeners;
mod new;
mod parent_mode;
mod propagation;
mod shields;
mod tree;
mod wake_list;

pub(crate) use data::{HookOwner, Node};
pub(crate) use new::NodeSpec;
pub(crate) use wake_list::post;
