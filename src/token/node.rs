//! The tree of nodes. A node is the state that a scope shares with its tokens, handles and hooks.
//!
//! A scope makes its node when a token, a handle, a hook or a shield needs one. A token that stands alone has a node
//! too. A node keeps its parent alive; a parent has only weak references to its children. A node is dropped with the
//! last of its tokens, handles, frames and children. The drop cancels its timer.
//!
//! Invariants:
//! 1. A node is *over* (its flag is set) if it ended by itself (`ScopeState::end`), or if its parent was over while the node
//!    was a child of that parent. The flag is never cleared. When the flag is set, the node's *origin* is decided: the earliest
//!    of these terminations; among equally early ones, the outermost. The origin never changes.
//! 2. `State::parent` says of which parent a node is a child (for lazy tokens see 6). The parent lists the node from a
//!    moment before `State::parent` is set until a moment after it has changed. So code that goes through listed
//!    children asks each child for its parent, and skips a child that has another parent.
//! 3. The end of a node propagates to its children. Code that sets a flag finds the listed children under the same
//!    lock. Code that lists a child reads the flag under that lock, or later. So no child is missed: when
//!    [`Node::cancel`] has returned, the flags of all nodes beneath are set, except those of lazy tokens that are not
//!    listed.
//! 4. A node has a timer if its own deadline is earlier than those of its ancestors. Otherwise an ancestor's timer
//!    is enough, since the end of the ancestor propagates to the node.
//! 5. A node caches its *ancestry*: facts about its ancestors, above all their earliest deadline (`ancestry.rs`). So
//!    usually no code walks up to the root. The cache is written under the node's lock, from the cache of the parent. A
//!    change propagates to the children. While a node moves, caches beneath it may be out of date. Afterwards they are
//!    right.
//! 6. A token is *lazy* if nothing can move its parent or the parent's ancestors (all conditions:
//!    `Node::is_immovable`). A lazy token reads its parent's flag, and is over if that flag is set. The parent need not
//!    list the token until a task, a hook or a child waits for the token ([`Node::ensure_listed`]). The token reads the
//!    parent's flag even after that. Otherwise a token that was seen to be over by the parent's flag could seem not to
//!    be over once it is listed, until its own flag is set.
//!
//! # Deadlock safety
//!
//! A thread holds the lock of at most one node. Under that lock the thread takes only the locks of timers (`watchdog/`)
//! and of callbacks. It runs no foreign code under that lock: hooks and wakers are called, cloned and dropped without
//! the lock. A thread that moves a node takes the lock of all moves first.

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
