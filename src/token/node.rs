//! The tree of nodes: what a scope shares once somebody asks for it.
//!
//! A node is made for a scope when a token, a handle, a hook or a shield needs one, and for a token of its own. Each
//! holds its parent; a parent knows its children weakly. A node goes when the last of its tokens, handles, frames
//! and children does, and takes its timer along.
//!
//! Invariants:
//! 1. A node is *over* (its flag is set) if it ended itself (`State::end`), or its parent was over while it was its
//!    child. The flag is never cleared. By which end it is over is decided when the flag is set, the earliest in time and
//!    of equals the outermost, and never changes: its *origin*.
//! 2. A child is beneath its parent while `State::parent` says so. It is listed with the parent before that and until
//!    after it: whoever comes down the tree asks the child, and passes over one that is not, or not yet, beneath.
//! 3. A node that is over has told its children: whoever sets a flag goes on to the children it finds under the
//!    lock, and who adds a child looks at the flag under that same lock. So when [`Node::cancel`] has returned, the
//!    flags of all nodes beneath are set, but for those that ask.
//! 4. A node has a timer if its own deadline is earlier than those around it; else theirs will do.
//! 5. A node knows what holds around it (`outlook.rs`), so that nobody walks up to the root for it. It is written under
//!    the node's lock, from what the parent knows then; whoever changed it goes on to the children. So once all moves
//!    are done it is right everywhere.
//! 6. A token beneath a node that nothing can move *asks* that, all its life: it is over too if its parent's flag is set. So
//!    its parent need not list it, until somebody waits for the token or something is beneath it ([`Node::enlist`]): those
//!    are told. It asks on: who has seen it over by asking must not see otherwise before it is told.
//!
//! # Deadlock safety
//!
//! At most one node's lock is held at a time, no other lock is taken under it except those that arming a timer takes
//! (`watchdog/`) and those of callbacks, and no foreign code runs under it: hooks, wakers and drops of either are carried
//! out of it first. Who moves a node holds the lock of all moves around that.

mod asking;
mod ending;
mod found;
mod listeners;
mod outlook;
mod tree;

use std::borrow::Cow;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::panic::Location;
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::Duration;

use slab::Slab;

use super::hook::Entry;
use crate::error::{
    Cause, Chain, Fields, Link as ChainLink, Origin, ScopeId, ScopeInfo, SharedScope, Termination,
    TimeoutError,
};
use crate::sync::{AtomicBool, ForkMutex, Ordering};
use crate::test_env::TestEnv;
use crate::time::NEVER;
use crate::watchdog::{self, Timer};

use asking::Stand;
pub(crate) use found::post;
use outlook::{Marks, Outlook};

pub(crate) struct Node {
    /// Invariant 1. Checkpoints read it without the lock.
    over: AtomicBool,
    /// Its own deadline; [`NEVER`] if only those around it count.
    pub(crate) deadline: u64,
    /// What running into the deadline is called.
    pub(crate) cause: Cause,
    pub(crate) id: ScopeId,
    location: &'static Location<'static>,
    /// Its label, limit and fields, if it has any.
    about: Option<Box<About>>,
    /// When the scope was entered, or the token made.
    pub(crate) entered: u64,
    /// What it was made under: its times are on that clock.
    pub(crate) env: TestEnv,
    stand: Stand,
    /// Whether all beneath have been told of its end, by whoever ended it here.
    told: AtomicBool,
    marks: Marks,
    outlook: Outlook,
    state: ForkMutex<State>,
}

#[derive(Clone, Default)]
struct About {
    label: Option<Cow<'static, str>>,
    limit: Option<Duration>,
    fields: Fields,
}

/// The state of a token that nothing has happened to is this and no more, so that a node is 120 bytes, which allocators
/// have at hand.
struct State {
    parent: Option<Link>,
    more: Option<Box<ScopeState>>,
}

/// What nodes of scopes have, and those that a task waits for, or that came to an end of their own.
#[derive(Default)]
struct ScopeState {
    end: Option<Termination>,
    /// What it is over by, once somebody needs to know; its own end until then.
    origin: Option<Arc<Origin>>,
    timer: Option<Timer>,
    wakers: Slab<Waker>,
    rare: Option<Box<RareState>>,
}

impl State {
    fn beneath(parent: Option<Link>) -> Self {
        Self { parent, more: None }
    }

    /// To change it, if there is any of it.
    fn rare(&mut self) -> Option<&mut RareState> {
        self.more.as_mut()?.rare.as_deref_mut()
    }
}

impl Deref for State {
    type Target = ScopeState;

    fn deref(&self) -> &ScopeState {
        static NOTHING: ScopeState =
            ScopeState { end: None, origin: None, timer: None, wakers: Slab::new(), rare: None };
        self.more.as_deref().unwrap_or(&NOTHING)
    }
}

impl DerefMut for State {
    fn deref_mut(&mut self) -> &mut ScopeState {
        self.more.get_or_insert_default()
    }
}

/// What few nodes have.
#[derive(Default)]
struct RareState {
    children: Slab<Child>,
    /// Nodes whose end ends this one too ([`cancel_on`](crate::Timebox::cancel_on)).
    links: Vec<Link>,
    hooks: Slab<Hooked>,
    /// How many shields hold its hooks back.
    suspensions: u32,
    /// Until when the shields last that are pending in its future.
    shields: Slab<u64>,
    /// The task that waits for the last of them.
    held_up: Option<Waker>,
    /// How long a future in its scope is polled on, once it is over.
    grace: u64,
    /// Whether somebody wants to know the last error that named it.
    falls_back: bool,
    raised: Option<TimeoutError>,
}

impl Deref for ScopeState {
    type Target = RareState;

    fn deref(&self) -> &RareState {
        static NOTHING: RareState = RareState {
            children: Slab::new(),
            links: Vec::new(),
            hooks: Slab::new(),
            suspensions: 0,
            shields: Slab::new(),
            held_up: None,
            grace: 0,
            falls_back: false,
            raised: None,
        };
        self.rare.as_deref().unwrap_or(&NOTHING)
    }
}

impl DerefMut for ScopeState {
    fn deref_mut(&mut self) -> &mut RareState {
        self.rare.get_or_insert_default()
    }
}

/// Where a node is listed as a child.
struct Link {
    node: Arc<Node>,
    key: u32,
    /// Whether it is over by what this one is.
    is_told: bool,
}

#[derive(Clone)]
enum Child {
    /// It is within its parent.
    Inner(Weak<Node>),
    /// It is cancelled when this one is over.
    Linked(Weak<Node>),
}

struct Hooked {
    entry: Arc<Entry>,
    tie: Tie,
    /// How often it is suspended on behalf of this node.
    suspensions: u32,
}

/// What a hook belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tie {
    /// A token: it is there until its registration ends.
    Token,
    /// The token of a scope, in whose code it was made: it is there as long, but a shield suspends it.
    OwnToken,
    /// A scope: it dies with it, and a shield suspends it.
    Scope,
    /// A future that is polled in the scope, and may go on elsewhere: a shield suspends it, also one that is open
    /// already, beside it in the same future.
    Future,
}

impl Tie {
    /// Whether it dies with the scope.
    fn ends_with_scope(self) -> bool {
        matches!(self, Tie::Scope | Tie::Future)
    }

    /// Whether a shield of the scope's code suspends it.
    fn is_of_scope(self) -> bool {
        self != Tie::Token
    }
}

impl Node {
    /// A node beneath `parent`, with a timer if it needs one.
    pub(crate) fn new(
        parent: Option<&Arc<Node>>,
        info: ScopeInfo,
        entered: u64,
        deadline: u64,
        cause: Cause,
        roams: bool,
    ) -> Arc<Self> {
        let env = TestEnv::current();
        let stand = Stand::new(if roams { Stand::ROAMS } else { Stand::TOLD });
        let Some(parent) = parent else {
            watchdog::prepare();
            let outlook = Outlook::new(None, &env, deadline, roams);
            let top = State::beneath(None);
            let node = Self::with(top, false, outlook, env, info, entered, deadline, cause, stand);
            if deadline != NEVER {
                node.update();
            }
            return node;
        };
        parent.enlist();
        let Some(mut state) = parent.state.lock() else {
            // Lost in a fork: nobody can list it any more, nor tell it of an end.
            return Self::new(None, info, entered, deadline, cause, roams);
        };
        let outlook = Outlook::new(Some(parent), &env, deadline, roams);
        let needs_timer = parent.is_outrun_by(deadline, &env);
        // Relaxed: under the lock.
        let is_over = parent.over.load(Ordering::Relaxed);
        let link = Link::new(parent, state.children.vacant_key());
        // In one step, so that its own lock need not be taken: invariants 2, 3 and 5 hold from the first.
        let beneath = State::beneath(Some(link));
        let node = Self::with(beneath, is_over, outlook, env, info, entered, deadline, cause, stand);
        state.children.insert(Child::Inner(Arc::downgrade(&node)));
        drop(state);
        if is_over {
            node.judge_anew(parent);
        } else if needs_timer {
            node.update();
        }
        node
    }

    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "the fields, put together")]
    fn with(
        state: State,
        is_over: bool,
        (outlook, marks): (Outlook, Marks),
        env: TestEnv,
        info: ScopeInfo,
        entered: u64,
        deadline: u64,
        cause: Cause,
        stand: Stand,
    ) -> Arc<Self> {
        let ScopeInfo { id, label, location, limit, fields } = info;
        let is_told = label.is_some() || limit.is_some() || !fields.is_empty();
        let about = is_told.then(|| Box::new(About { label, limit, fields }));
        Arc::new(Self {
            over: AtomicBool::new(is_over),
            deadline,
            cause,
            id,
            location,
            about,
            entered,
            env,
            stand,
            told: AtomicBool::new(false),
            marks,
            outlook,
            state: ForkMutex::new(state),
        })
    }

    /// What is told of its scope.
    pub(crate) fn info(&self) -> ScopeInfo {
        let About { label, limit, fields } = self.about.as_deref().cloned().unwrap_or_default();
        ScopeInfo { id: self.id, label, location: self.location, limit, fields }
    }

    #[inline]
    pub(crate) fn flag(&self) -> &AtomicBool {
        &self.over
    }

    /// Whether it is over, as far as it was told.
    #[inline]
    pub(crate) fn is_over(&self) -> bool {
        // Acquire: pairs with the Release in `set_over`: who finds it over sees what led to it.
        self.over.load(Ordering::Acquire) || self.is_over_by_asking()
    }

    pub(crate) fn parent(&self) -> Option<Arc<Node>> {
        match self.asked() {
            Some(parent) => Some(Arc::clone(parent)),
            None => self.state.lock()?.parent.as_ref().map(|link| Arc::clone(&link.node)),
        }
    }

    /// Whether its deadline has passed, for somebody whose clock says `now`.
    #[inline]
    pub(crate) fn has_expired(&self, now: u64) -> bool {
        self.deadline <= self.env.reading(now)
    }

    /// How it ended itself by `now`, by the earlier of its causes; `None` if it did not.
    pub(crate) fn end(&self, now: u64) -> Option<Termination> {
        let told = self.state.lock().and_then(|state| state.end.clone());
        self.earlier(told, self.env.reading(now))
    }

    /// The earlier of an end that it was told of, and that at its deadline if this has passed by `passed`, on its clock.
    fn earlier(&self, told: Option<Termination>, passed: u64) -> Option<Termination> {
        match told {
            Some(end) if end.at < self.deadline => Some(end),
            _ if self.deadline <= passed => Some(Termination::new(self.cause, self.deadline)),
            told => told,
        }
    }

    /// Gives it the grace of its scope.
    pub(crate) fn set_grace(&self, grace: u64) {
        if let Some(mut state) = self.state.lock() {
            state.grace = grace;
        }
    }

    /// When the first of this node and those around it ended, and when the first of their graces ends; `None` if none is
    /// over. Those with another clock have no grace here.
    pub(crate) fn graced_until(self: &Arc<Self>, now: u64) -> Option<(u64, u64)> {
        let mut first: Option<(u64, u64)> = None;
        let mut add = |end: u64, until: u64| {
            let (ended, graced) = first.unwrap_or((NEVER, NEVER));
            first = Some((ended.min(end), graced.min(until)));
        };
        let current = TestEnv::current();
        self.walk(|node| match node.end(now) {
            Some(end) if node.env.shares_clock(&current) => {
                let grace = node.state.lock().map_or(0, |state| state.grace);
                add(end.at, end.at.saturating_add(grace));
            }
            Some(_) => add(now, now),
            None => {}
        });
        first.or_else(|| self.is_over().then_some((now, now)))
    }

    /// Calls `visit` with this node and those around it, innermost first.
    pub(crate) fn walk(self: &Arc<Self>, mut visit: impl FnMut(&Arc<Node>)) {
        let mut next = Some(Arc::clone(self));
        while let Some(node) = next {
            visit(&node);
            next = node.parent();
        }
    }

    // ===== Errors =====

    /// From now on it remembers the last error that named it. Only for who asks: what that came from may hold a token of
    /// it, and they would keep each other for ever.
    pub(crate) fn fall_back(&self) {
        if let Some(mut state) = self.state.lock() {
            state.falls_back = true;
        }
    }

    /// The node as a link in the chain of an error.
    pub(crate) fn chain_link(self: &Arc<Self>, now: u64) -> ChainLink {
        let shared = Arc::clone(self) as Arc<dyn SharedScope>;
        let (info, end) = (self.info(), self.end(now));
        ChainLink { info, entered: self.entered, now: self.env.reading(now), end, shared: Some(shared) }
    }

    /// Adds this node and those around it to the chain of an error.
    pub(crate) fn add_to_chain(self: &Arc<Self>, chain: &mut Chain, now: u64) {
        self.walk(|node| chain.add(node.chain_link(now)));
    }

    /// The last error that named it; it remembers none any more.
    pub(crate) fn take_raised(&self) -> Option<TimeoutError> {
        let mut state = self.state.lock()?;
        state.falls_back = false;
        state.raised.take()
    }
}

impl SharedScope for Node {
    fn inherited_end(&self) -> Option<Termination> {
        Some(Termination::through_link(&self.origin()?))
    }

    fn set_raised(&self, error: &TimeoutError) {
        let Some(mut state) = self.state.lock().filter(|state| state.falls_back) else { return };
        let before = state.raised.replace(error.clone());
        drop(state);
        drop(before);
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

// With the counts of an `Arc` the first is 120 bytes: see `State`.
#[cfg(all(target_os = "linux", target_pointer_width = "64", not(any(timebox_loom, feature = "testing"))))]
const _: () = assert!(size_of::<Node>() <= 104 && size_of::<ScopeState>() <= 120);
