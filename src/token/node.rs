//! The tree of nodes: what a scope shares once somebody asks for it.
//!
//! A node is made for a scope when a token, a handle, a hook or a shield needs one, and for a token of its own. Each
//! holds its parent; a parent knows its children weakly. A node goes when the last of its tokens, handles, frames
//! and children does, and takes its timer along.
//!
//! Invariants:
//! 1. A node is *over* (its flag is set) if it ended itself (`State::end`), or its parent was over while it was its
//!    child. The flag is never cleared.
//! 2. A child is beneath its parent while `State::parent` says so. It is listed with the parent before that and until
//!    after it: whoever comes down the tree asks the child, and passes over one that is not, or not yet, beneath.
//! 3. A node that is over has told its children: whoever sets a flag goes on to the children it finds under the
//!    lock, and who adds a child looks at the flag under that same lock. So when [`Node::cancel`] has returned, the
//!    flags of all nodes beneath are set.
//! 4. A node has a timer if its own deadline is earlier than those around it; else theirs will do.
//!
//! # Deadlock safety
//!
//! At most one node's lock is held at a time, no other lock is taken under it except those that arming a timer takes
//! (`watchdog/`) and those of callbacks, and no foreign code runs under it: hooks, wakers and drops of either are carried
//! out of it first. Who moves a node holds the lock of all moves around that.

mod found;
mod listeners;
mod tree;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Weak};
use std::task::{Wake, Waker};

use slab::Slab;

use super::hook::Entry;
use crate::error::{Cause, ScopeInfo, TimeoutError};
use crate::sync::{AtomicBool, ForkMutex, Ordering, mutant};
use crate::time::seam::Seam;
use crate::time::{NEVER, clock};
use crate::watchdog::{self, Timer};

use found::Found;
pub(crate) use found::post;

pub(crate) struct Node {
    /// Invariant 1. Checkpoints read it without the lock.
    over: AtomicBool,
    /// Its own deadline; [`NEVER`] if only those around it count.
    pub(crate) deadline: u64,
    /// What running into the deadline is called.
    pub(crate) cause: Cause,
    pub(crate) info: ScopeInfo,
    /// When the scope was entered, or the token made.
    pub(crate) entered: u64,
    /// What it was made under: its times are on that clock.
    pub(crate) seam: Seam,
    /// Whether its surroundings may change: it is that of a future that is not done.
    roams: AtomicBool,
    /// Whether all beneath have been told of its end, by whoever ended it here.
    told: AtomicBool,
    state: ForkMutex<State>,
}

struct State {
    parent: Option<Link>,
    /// Nodes whose end ends this one too ([`cancel_on`](crate::Timebox::cancel_on)).
    links: Vec<Link>,
    end: Option<End>,
    children: Slab<Child>,
    hooks: Slab<Hooked>,
    wakers: Slab<Waker>,
    timer: Option<Timer>,
    /// Whether its hooks have been fired.
    fired: bool,
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

/// Where a node is listed as a child.
struct Link {
    node: Arc<Node>,
    key: usize,
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

/// How a node itself came to its end.
#[derive(Clone)]
pub(crate) struct End {
    pub(crate) cause: Cause,
    pub(crate) at: u64,
    pub(crate) reason: Option<Arc<str>>,
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
        watchdog::prepare();
        let state = State {
            parent: None,
            links: Vec::new(),
            end: None,
            children: Slab::new(),
            hooks: Slab::new(),
            wakers: Slab::new(),
            timer: None,
            fired: false,
            suspensions: 0,
            shields: Slab::new(),
            held_up: None,
            grace: 0,
            falls_back: false,
            raised: None,
        };
        let node = Arc::new(Self {
            over: AtomicBool::new(false),
            deadline,
            cause,
            info,
            entered,
            seam: Seam::current(),
            roams: AtomicBool::new(roams),
            told: AtomicBool::new(false),
            state: ForkMutex::new(state),
        });
        if let Some(parent) = parent {
            node.enlist(parent, Child::Inner(Arc::downgrade(&node)));
        }
        node.update_timer();
        node
    }

    #[inline]
    pub(crate) fn flag(&self) -> &AtomicBool {
        &self.over
    }

    /// Whether it is over, as far as it was told.
    #[inline]
    pub(crate) fn is_over(&self) -> bool {
        // Acquire: pairs with the Release in `spread`: who finds it over sees what led to it.
        self.over.load(Ordering::Acquire)
    }

    pub(crate) fn parent(&self) -> Option<Arc<Node>> {
        self.state.lock()?.parent.as_ref().map(|link| Arc::clone(&link.node))
    }

    /// Whether its deadline has passed, for somebody whose clock says `now`.
    #[inline]
    pub(crate) fn has_expired(&self, now: u64) -> bool {
        self.deadline <= self.seam.reading(now)
    }

    /// How it ended itself by `now`, by the earlier of its causes; `None` if it did not.
    pub(crate) fn end(&self, now: u64) -> Option<End> {
        let told = self.state.lock().and_then(|state| state.end.clone());
        match told {
            Some(end) if end.at < self.deadline => Some(end),
            _ if self.has_expired(now) => Some(End { cause: self.cause, at: self.deadline, reason: None }),
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
        let current = Seam::current();
        self.walk(|node| match node.end(now) {
            Some(end) if node.seam.shares_clock(&current) => {
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

    /// As [`effective_deadline`](Self::effective_deadline), without those that may go: what is around a future that is not
    /// done.
    pub(crate) fn lasting_deadline(self: &Arc<Self>) -> u64 {
        let (mut earliest, mut lasts) = (NEVER, true);
        self.walk(|node| {
            if lasts && node.seam.shares_clock(&self.seam) {
                earliest = earliest.min(node.deadline);
            }
            // Relaxed: once it does not roam, what has been left out comes by the node's flag all the same.
            lasts &= !node.roams.load(Ordering::Relaxed);
        });
        earliest
    }

    /// Calls `visit` with all nodes whose end is this one's too, and which of the trees they are of, counted from 0: its
    /// own, and those it is linked to.
    fn visit_all(self: &Arc<Self>, mut visit: impl FnMut(usize, &Arc<Node>)) {
        let mut trees = vec![Arc::clone(self)];
        let mut seen = HashSet::new();
        let mut tree = 0;
        while let Some(innermost) = trees.get(tree) {
            let mut next = Some(Arc::clone(innermost));
            while let Some(node) = next {
                visit(tree, &node);
                let Some(state) = node.state.lock() else { break };
                next = state.parent.as_ref().map(|link| Arc::clone(&link.node));
                for link in &state.links {
                    // Links may lead round in a circle.
                    if !Arc::ptr_eq(&link.node, self) && seen.insert(Arc::as_ptr(&link.node)) {
                        trees.push(Arc::clone(&link.node));
                    }
                }
            }
            tree += 1;
        }
    }

    /// The earliest deadline of this node and those around it that have its clock.
    pub(crate) fn effective_deadline(self: &Arc<Self>) -> u64 {
        let mut earliest = NEVER;
        self.walk(|node| {
            if node.seam.shares_clock(&self.seam) {
                earliest = earliest.min(node.deadline);
            }
        });
        earliest
    }

    // ===== Becoming over =====

    /// Ends it, unless it is over or its time is up. Whether this call ended it.
    ///
    /// When it returns, the flags of all nodes beneath are set. Tasks that wait are woken here; hooks run on the
    /// watchdog or a runner.
    pub(crate) fn cancel(self: &Arc<Self>, reason: Option<Arc<str>>) -> bool {
        let now = clock::now();
        let at = self.seam.reading(now);
        let first = !self.expire(now) && self.end_by(&End { cause: Cause::Cancelled, at, reason });
        // Who came first may still be at it, or was lost in a fork.
        // Acquire: pairs with the Release in `spread`.
        if first || (!mutant!(NoSecondSpread) && !self.told.load(Ordering::Acquire)) {
            let mut found = Found::default();
            self.spread(&mut found);
            found.hand_over();
        }
        first
    }

    /// Carries out the expiry of this node or one that ends it, if there is one by `now` that the watchdog has not come
    /// to; whether there is.
    #[cold]
    pub(crate) fn expire(self: &Arc<Self>, now: u64) -> bool {
        if self.is_over() {
            return true;
        }
        // The outermost of each tree.
        let mut expired: Vec<(usize, Arc<Node>)> = Vec::new();
        self.visit_all(|tree, node| {
            if node.has_expired(now) {
                expired.pop_if(|(of, _)| *of == tree);
                expired.push((tree, Arc::clone(node)));
            }
        });
        if expired.is_empty() {
            return false;
        }
        let mut found = Found::default();
        expired.iter().rev().for_each(|(_, node)| node.end_at_deadline(&mut found));
        found.hand_over();
        true
    }

    /// The earliest deadline of all that end this node: its own, those around it, and those of tokens it is
    /// [linked](Self::link) to. Those with another clock are left out.
    pub(crate) fn expires_at(self: &Arc<Self>) -> u64 {
        let mut earliest = NEVER;
        self.visit_all(|_, node| {
            if node.seam.shares_clock(&self.seam) {
                earliest = earliest.min(node.deadline);
            }
        });
        earliest
    }

    fn end_at_deadline(self: &Arc<Self>, found: &mut Found) {
        self.end_by(&End { cause: self.cause, at: self.deadline, reason: None });
        self.spread(found);
    }

    /// Its deadline comes early, because a test wants it so. Its hooks have run when this returns.
    #[cfg(feature = "testing")]
    pub(crate) fn expire_early(self: &Arc<Self>) {
        struct Early(Arc<Node>);
        impl Wake for Early {
            fn wake(self: Arc<Self>) {
                let node = &self.0;
                let mut found = Found::default();
                let at = node.seam.now();
                if node.end_by(&End { cause: node.cause, at, reason: None }) {
                    node.spread(&mut found);
                }
                found.carry_out();
            }
        }
        watchdog::mock::carry_out([Arc::new(Early(Arc::clone(self))).into()]);
    }

    /// The earliest end, other than by a cancel, of this node and those around it that have its clock; a test may have had
    /// it come before the deadline.
    #[cfg(feature = "testing")]
    pub(crate) fn expired_at(self: &Arc<Self>) -> u64 {
        let (now, mut earliest) = (clock::now(), NEVER);
        self.walk(|node| {
            if let Some(end) = node.end(now)
                && end.cause != Cause::Cancelled
                && node.seam.shares_clock(&self.seam)
            {
                earliest = earliest.min(end.at);
            }
        });
        earliest
    }

    /// Records an end; `false` if it has one already.
    fn end_by(&self, end: &End) -> bool {
        let Some(mut state) = self.state.lock() else {
            // Lost in a fork: nobody beneath can be told, but this node can.
            return !self.over.swap(true, Ordering::AcqRel);
        };
        // Over by what is around it, it can still come to its own end: it may leave those.
        if state.end.is_some() {
            return false;
        }
        state.end = Some(end.clone());
        true
    }

    /// Sets the flag of this node and of all beneath, and collects what they wait for.
    fn spread(self: &Arc<Self>, found: &mut Found) {
        let mut stack = vec![(Arc::clone(self), self.told_by())];
        // Links, unlike the tree, may lead round in a circle.
        let mut linked = HashMap::new();
        while let Some((node, told)) = stack.pop() {
            let Some(mut state) = node.state.lock() else {
                node.over.store(true, Ordering::Release);
                continue;
            };
            // Release: pairs with the Acquire in `is_over`.
            node.over.store(true, Ordering::Release);
            if !std::mem::replace(&mut state.fired, true) {
                found.hooks.extend(state.hooks.iter().map(|(_, hooked)| Arc::clone(&hooked.entry)));
            }
            found.wakers.extend(state.wakers.drain());
            let end = told.or_else(|| state.end.clone());
            let children: Vec<Child> = state.children.iter().map(|(_, child)| child.clone()).collect();
            // Not under the lock: the last handle of a child may be dropped here.
            drop(state);
            for child in children {
                match child {
                    // A child that went elsewhere meanwhile is not beneath any more (invariant 2).
                    Child::Inner(child) => {
                        let child = child.upgrade().filter(|child| child.is_beneath(&node));
                        stack.extend(child.map(|child| (child, end.clone())));
                    }
                    Child::Linked(child) => {
                        let Some(child) = child.upgrade() else { continue };
                        // Kept alive, so that no address is another's meanwhile.
                        if linked.insert(Arc::as_ptr(&child), Arc::clone(&child)).is_some() {
                            continue;
                        }
                        let now = || child.seam.reading(clock::now());
                        let at = end.as_ref().filter(|_| child.seam.shares_clock(&node.seam));
                        let at = at.map_or_else(now, |end| end.at);
                        let reason = end.as_ref().and_then(|end| end.reason.clone());
                        child.end_by(&End { cause: Cause::Cancelled, at, reason });
                        stack.push((child, None));
                    }
                }
            }
        }
        // Release: pairs with the Acquire in `cancel`.
        self.told.store(true, Ordering::Release);
    }

    /// Whether it, or a node that is around it now, has ended: a node that moved may have been told by one that is not
    /// around it any more.
    pub(crate) fn is_over_still(self: &Arc<Self>) -> bool {
        self.told_by().is_some()
    }

    /// The end that it is over by: the earliest of its own and those of the nodes around it.
    pub(crate) fn told_by(self: &Arc<Self>) -> Option<End> {
        let now = clock::now();
        let mut earliest: Option<End> = None;
        self.walk(|node| {
            if let Some(end) = node.end(now)
                && earliest.as_ref().is_none_or(|earliest| end.at <= earliest.at)
            {
                earliest = Some(end);
            }
        });
        earliest
    }

    fn is_beneath(&self, parent: &Arc<Node>) -> bool {
        self.state
            .lock()
            .is_some_and(|state| state.parent.as_ref().is_some_and(|link| Arc::ptr_eq(&link.node, parent)))
    }

    // ===== Errors =====

    /// From now on it remembers the last error that named it. Only for who asks: what that came from may hold a token of
    /// it, and they would keep each other for ever.
    pub(crate) fn fall_back(&self) {
        if let Some(mut state) = self.state.lock() {
            state.falls_back = true;
        }
    }

    /// Remembers that an error naming it was raised.
    pub(crate) fn set_raised(&self, error: &TimeoutError) {
        let Some(mut state) = self.state.lock().filter(|state| state.falls_back) else { return };
        let before = state.raised.replace(error.clone());
        drop(state);
        drop(before);
    }

    /// The last error that named it; it remembers none any more.
    pub(crate) fn take_raised(&self) -> Option<TimeoutError> {
        let mut state = self.state.lock()?;
        state.falls_back = false;
        state.raised.take()
    }
}

/// Its deadline has come.
impl Wake for Node {
    fn wake(self: Arc<Self>) {
        if let Some(mut state) = self.state.lock() {
            state.timer = None;
        }
        let mut found = Found::default();
        self.end_at_deadline(&mut found);
        found.carry_out();
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("info", &self.info)
            .field("over", &self.is_over())
            .finish_non_exhaustive()
    }
}
