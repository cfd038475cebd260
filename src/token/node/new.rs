use std::sync::Arc;

use super::ancestry::Ancestry;
use super::data::{AncestryFlags, Child, Details, Listing, Node, State};
use super::parent_mode::ParentMode;
use crate::error::{Cause, ScopeInfo};
use crate::sync::{AtomicBool, AtomicU64, ForkMutex, Ordering};
use crate::test_env::TestEnv;
use crate::time::NEVER;
use crate::watchdog;

pub(crate) struct NodeSpec {
    pub(crate) info: ScopeInfo,
    pub(crate) entered: u64,
    pub(crate) deadline: u64,
    pub(crate) cause: Cause,
    /// Whether the node may get another parent. Only the node of a future may.
    pub(crate) reparentable: bool,
}

impl NodeSpec {
    #[inline(always)]
    pub(crate) fn token(info: ScopeInfo, entered: u64) -> Self {
        Self { info, entered, deadline: NEVER, cause: Cause::Cancelled, reparentable: false }
    }

    #[inline(always)]
    fn is_token(&self) -> bool {
        self.deadline == NEVER && self.cause == Cause::Cancelled && !self.reparentable
    }

    fn parent_mode(&self) -> u8 {
        if self.reparentable { ParentMode::REPARENTABLE } else { ParentMode::LISTED }
    }
}

struct Position {
    parent: Option<Listing>,
    parent_mode: u8,
    is_over: bool,
    ancestry: Ancestry,
    next: Option<Arc<Node>>,
}

impl Node {
    pub(crate) fn new(parent: Option<&Arc<Node>>, spec: NodeSpec) -> Arc<Self> {
        Self::make(parent, spec)
    }

    pub(crate) fn new_token(parent: Option<&Arc<Node>>, info: ScopeInfo, entered: u64) -> Arc<Self> {
        Self::make(parent, NodeSpec::token(info, entered))
    }

    // Always inlined, as are `new_lazy` and `build`. Otherwise the parts of a lazy token would be passed through
    // memory, which costs a fifth of the time of making a token.
    #[inline(always)]
    fn make(parent: Option<&Arc<Node>>, spec: NodeSpec) -> Arc<Self> {
        let env = TestEnv::current();
        match parent {
            None => Self::new_root(spec, env),
            Some(parent) if spec.is_token() && parent.is_immovable(&env) => Self::new_lazy(parent, spec, env),
            Some(parent) => Self::new_child(parent, spec, env),
        }
    }

    fn new_root(spec: NodeSpec, env: TestEnv) -> Arc<Self> {
        watchdog::prepare();
        let position = Position {
            parent: None,
            parent_mode: spec.parent_mode(),
            is_over: false,
            ancestry: Ancestry::beneath(None, &env, spec.deadline, spec.reparentable),
            next: None,
        };
        let node = Self::build(spec, env, position);
        if node.deadline != NEVER {
            node.update();
        }
        node
    }

    /// Makes a lazy token: its parent need not list it (`node.rs`, invariant 6).
    #[inline(always)]
    fn new_lazy(parent: &Arc<Node>, spec: NodeSpec, env: TestEnv) -> Arc<Self> {
        parent.ensure_listed();
        let position = Position {
            parent: None,
            parent_mode: ParentMode::LAZY,
            is_over: false,
            ancestry: parent.ancestry(),
            next: Some(Arc::clone(parent)),
        };
        Self::build(spec, env, position)
    }

    fn new_child(parent: &Arc<Node>, spec: NodeSpec, env: TestEnv) -> Arc<Self> {
        parent.ensure_listed();
        let Some(mut state) = parent.state.lock() else {
            // A fork has lost the parent's lock, so the parent cannot list the new node. So the new node gets no
            // parent.
            return Self::new_root(spec, env);
        };
        let needs_timer = parent.is_outrun_by(spec.deadline, &env);
        // Relaxed: under the lock.
        let is_over = parent.over.load(Ordering::Relaxed);
        let position = Position {
            parent: Some(Listing::new(parent, state.children.vacant_key())),
            parent_mode: spec.parent_mode(),
            is_over,
            ancestry: Ancestry::beneath(Some(parent), &env, spec.deadline, spec.reparentable),
            next: parent.nearest_waypoint(),
        };
        // The parent's lock is held until the node is listed, so invariants 2, 3 and 5 hold from the start.
        let node = Self::build(spec, env, position);
        state.children.insert(Child::Inner(Arc::downgrade(&node)));
        drop(state);
        if is_over {
            node.inherit_origin(parent);
        } else if needs_timer {
            node.update();
        }
        node
    }

    #[inline(always)]
    fn build(spec: NodeSpec, env: TestEnv, position: Position) -> Arc<Self> {
        let Position { parent, parent_mode, is_over, ancestry, next } = position;
        let NodeSpec { info, entered, deadline, cause, reparentable } = spec;
        let ScopeInfo { id, label, location, limit, fields } = info;
        let has_details = label.is_some() || limit.is_some() || !fields.is_empty();
        let details = has_details.then(|| Box::new(Details { label, limit, fields }));
        let Ancestry { effective, is_fixed, has_links, mixes_clocks } = ancestry;
        Arc::new(Self {
            over: AtomicBool::new(is_over),
            deadline,
            cause,
            id,
            location,
            details,
            entered,
            env,
            parent_mode: ParentMode::new(parent_mode),
            has_propagated: AtomicBool::new(false),
            flags: AncestryFlags {
                is_fixed: AtomicBool::new(is_fixed),
                has_links: AtomicBool::new(has_links),
                mixes_clocks: AtomicBool::new(mixes_clocks),
                is_waypoint: AtomicBool::new(reparentable),
            },
            effective: AtomicU64::new(effective),
            next,
            state: ForkMutex::new(State::new(parent)),
        })
    }
}
