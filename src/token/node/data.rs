use std::borrow::Cow;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::panic::Location;
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::Duration;

use slab::Slab;

use super::parent_mode::ParentMode;
use crate::error::{Cause, Fields, Origin, ScopeId, ScopeInfo, Termination, TimeoutError};
use crate::sync::{AtomicBool, AtomicU64, ForkMutex, Ordering};
use crate::test_env::TestEnv;
use crate::token::hook::Entry;
use crate::watchdog::Timer;

/// The state that a scope shares with its tokens, handles and hooks.
pub(crate) struct Node {
    /// Whether the node is over (invariant 1). Checkpoints read it without the lock.
    pub(super) over: AtomicBool,
    /// The node's own deadline; [`NEVER`](crate::time::NEVER) if the node itself has none.
    pub(crate) deadline: u64,
    /// The cause of the node's end if the deadline passes.
    pub(crate) cause: Cause,
    pub(crate) id: ScopeId,
    pub(super) location: &'static Location<'static>,
    pub(super) details: Option<Box<Details>>,
    /// When the scope was entered, or the token made.
    pub(crate) entered: u64,
    /// The environment in which the node was made. The node's times are on the clock of that environment.
    pub(crate) env: TestEnv,
    pub(super) parent_mode: ParentMode,
    /// Whether a thread has passed the end of this node on to all nodes beneath. While this is `false`, each `cancel`
    /// passes the end on itself, because all nodes beneath must be over when `cancel` returns.
    pub(super) has_propagated: AtomicBool,
    pub(super) flags: AncestryFlags,
    /// The cached `Ancestry::effective`.
    pub(super) effective: AtomicU64,
    /// The next ancestor in a search for links. For a lazy node: the parent. For any other node: the nearest waypoint
    /// ([`AncestryFlags::is_waypoint`]). The nodes in between have no links and never move, so the search skips them.
    pub(super) next: Option<Arc<Node>>,
    pub(super) state: ForkMutex<State>,
}

/// The flags of the cached `Ancestry`. They are in a struct of their own, so that the node has no padding.
pub(super) struct AncestryFlags {
    pub(super) is_fixed: AtomicBool,
    pub(super) has_links: AtomicBool,
    pub(super) mixes_clocks: AtomicBool,
    /// Set if the node may get another parent, or has links of its own. See [`Node::nearest_waypoint`].
    pub(super) is_waypoint: AtomicBool,
}

#[derive(Clone, Default)]
pub(super) struct Details {
    pub(super) label: Option<Cow<'static, str>>,
    pub(super) limit: Option<Duration>,
    pub(super) fields: Fields,
}

/// The state under the node's lock. If nobody waits for a token, the token's `more` is `None`, so that its node has
/// only 120 bytes.
pub(super) struct State {
    pub(super) parent: Option<Listing>,
    pub(super) more: Option<Box<ScopeState>>,
}

/// The state that the node of a scope needs. The node of a token needs it once a task waits for the token, or once the
/// token has ended by itself.
#[derive(Default)]
pub(super) struct ScopeState {
    /// How the node itself has ended: by a cancel, a link or its deadline. `None` if it is not over, or is over only
    /// because its parent has ended.
    pub(super) end: Option<Termination>,
    /// The node's origin (invariant 1), once it has been stored here. [`Node::origin`] finds and stores it.
    pub(super) origin: Option<Arc<Origin>>,
    pub(super) timer: Option<Timer>,
    pub(super) wakers: Slab<Waker>,
    pub(super) cold: Option<Box<ColdState>>,
}

/// State that only few nodes need.
#[derive(Default)]
pub(super) struct ColdState {
    pub(super) children: Slab<Child>,
    /// The nodes whose end also ends this node ([`cancel_on`](crate::Timebox::cancel_on)).
    pub(super) links: Vec<Listing>,
    pub(super) hooks: Slab<ListedHook>,
    /// How many open shields suspend the node's hooks.
    pub(super) suspensions: u32,
    /// The open async shields in the future that this node belongs to. For each: the time at which it ends at the
    /// latest.
    pub(super) shields: Slab<u64>,
    /// The task that waits until the last of `shields` has closed.
    pub(super) shield_waiter: Option<Waker>,
    /// For how long after the end of the scope a future in it is still polled.
    pub(super) grace: u64,
    /// Whether the scope has a fallback that has not run yet. If so, `raised` keeps the last error that said it came
    /// from this scope: the fallback may ask for it. If not, `raised` is `None`: see [`fall_back`](Node::fall_back).
    pub(super) falls_back: bool,
    pub(super) raised: Option<TimeoutError>,
}

impl State {
    pub(super) fn new(parent: Option<Listing>) -> Self {
        Self { parent, more: None }
    }

    /// The cold state; `None` if it was not allocated. (A mutable access to one of its fields, by `DerefMut`, would
    /// allocate it.)
    pub(super) fn existing_cold(&mut self) -> Option<&mut ColdState> {
        self.more.as_mut()?.cold.as_deref_mut()
    }
}

impl Deref for State {
    type Target = ScopeState;

    fn deref(&self) -> &ScopeState {
        static EMPTY: ScopeState =
            ScopeState { end: None, origin: None, timer: None, wakers: Slab::new(), cold: None };
        self.more.as_deref().unwrap_or(&EMPTY)
    }
}

impl DerefMut for State {
    fn deref_mut(&mut self) -> &mut ScopeState {
        self.more.get_or_insert_default()
    }
}

impl Deref for ScopeState {
    type Target = ColdState;

    fn deref(&self) -> &ColdState {
        static EMPTY: ColdState = ColdState {
            children: Slab::new(),
            links: Vec::new(),
            hooks: Slab::new(),
            suspensions: 0,
            shields: Slab::new(),
            shield_waiter: None,
            grace: 0,
            falls_back: false,
            raised: None,
        };
        self.cold.as_deref().unwrap_or(&EMPTY)
    }
}

impl DerefMut for ScopeState {
    fn deref_mut(&mut self) -> &mut ColdState {
        self.cold.get_or_insert_default()
    }
}

/// The place of a child in the list of a node.
pub(super) struct Listing {
    pub(super) node: Arc<Node>,
    pub(super) key: u32,
    /// Whether the child has the origin of `node`. Then the child need not store the origin itself.
    pub(super) inherits: bool,
}

#[derive(Clone)]
pub(super) enum Child {
    /// The node is the child's parent.
    Inner(Weak<Node>),
    /// The child is linked to the node: it ends when the node ends, but has another parent or none.
    Linked(Weak<Node>),
}

pub(super) struct Children {
    pub(super) inner: Vec<Arc<Node>>,
    pub(super) linked: Vec<Arc<Node>>,
}

impl Children {
    pub(super) fn of(state: &State) -> Self {
        let (mut inner, mut linked) = (Vec::with_capacity(state.children.len()), Vec::new());
        for (_, child) in &state.children {
            match child {
                Child::Inner(child) => inner.extend(child.upgrade()),
                Child::Linked(child) => linked.extend(child.upgrade()),
            }
        }
        Self { inner, linked }
    }
}

pub(super) struct ListedHook {
    pub(super) entry: Arc<Entry>,
    pub(super) owner: HookOwner,
    /// How many shields of the node suspend the hook.
    pub(super) suspensions: u32,
}

impl ListedHook {
    /// Undoes all suspensions of a hook that was taken off the list.
    pub(super) fn resume(&self) {
        (0..self.suspensions).for_each(|_| self.entry.resume());
    }
}

/// The owner of a hook. The owner decides when the hook ends, and which shields suspend it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum HookOwner {
    /// A token. The hook ends with its registration.
    Token,
    /// The token of a scope, and the hook was added by code in that scope. The hook ends with its registration, and a
    /// shield suspends it.
    OwnToken,
    /// A scope. The hook ends with the scope, and a shield suspends it.
    Scope,
    /// A future that is polled in the scope, and may be polled elsewhere later. The hook ends with the scope. A shield
    /// suspends it, even a shield of the same future that was open before the hook was registered.
    Future,
}

impl HookOwner {
    pub(super) fn ends_with_scope(self) -> bool {
        matches!(self, HookOwner::Scope | HookOwner::Future)
    }

    /// Whether shields suspend the hook.
    pub(super) fn is_of_scope(self) -> bool {
        self != HookOwner::Token
    }
}

impl Node {
    pub(crate) fn info(&self) -> ScopeInfo {
        let Details { label, limit, fields } = self.details.as_deref().cloned().unwrap_or_default();
        ScopeInfo { id: self.id, label, location: self.location, limit, fields }
    }

    #[inline]
    pub(crate) fn flag(&self) -> &AtomicBool {
        &self.over
    }

    /// Whether the node is over. The end of an ancestor counts once it has propagated to this node, or, if this node is a
    /// lazy token, to its parent.
    #[inline]
    pub(crate) fn is_over(&self) -> bool {
        // Acquire: pairs with the Release in `set_over`. So a thread that finds the flag set sees the end that led to
        // it.
        self.over.load(Ordering::Acquire) || self.is_lazy_parent_over()
    }

    #[inline]
    fn is_lazy_parent_over(&self) -> bool {
        // Acquire: pairs with the Release in `set_over`, as in `is_over`.
        self.lazy_parent().is_some_and(|parent| parent.over.load(Ordering::Acquire))
    }

    #[inline]
    pub(super) fn lazy_parent(&self) -> Option<&Arc<Node>> {
        if self.parent_mode.is_lazy() { self.next.as_ref() } else { None }
    }

    /// The node's parent. `state` is the node's own locked state.
    pub(super) fn parent_in<'a>(&'a self, state: &'a State) -> Option<&'a Arc<Node>> {
        state.parent.as_ref().map(|listing| &listing.node).or_else(|| self.lazy_parent())
    }

    pub(crate) fn parent(&self) -> Option<Arc<Node>> {
        match self.lazy_parent() {
            Some(parent) => Some(Arc::clone(parent)),
            None => self.state.lock()?.parent.as_ref().map(|listing| Arc::clone(&listing.node)),
        }
    }

    pub(crate) fn walk(self: &Arc<Self>, mut visit: impl FnMut(&Arc<Node>)) {
        let mut next = Some(Arc::clone(self));
        while let Some(node) = next {
            visit(&node);
            next = node.parent();
        }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("info", &self.info())
            .field("over", &self.is_over())
            .finish_non_exhaustive()
    }
}

// With the two counts of its `Arc`, a node has 120 bytes. See `State`.
#[cfg(all(target_os = "linux", target_pointer_width = "64", not(any(timebox_loom, feature = "testing"))))]
const _: () = assert!(size_of::<Node>() <= 104 && size_of::<ScopeState>() <= 120);
