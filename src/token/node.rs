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
//! At most one node's lock is held at a time, no other lock is taken under it except the timer queue's, and no
//! foreign code runs under it: hooks, wakers and drops of either are carried out of it first.

use std::fmt;
use std::sync::{Arc, Weak};
use std::task::Waker;

use slab::Slab;

use super::hook::Entry;
use crate::error::{Cause, ScopeInfo, TimeoutError};
use crate::sync::callback::drop_quietly;
use crate::sync::{AtomicBool, ForkMutex, Ordering};
use crate::time::seam::Seam;
use crate::time::{NEVER, clock};
use crate::watchdog::slots::without_scopes;
use crate::watchdog::{self, Fire, Target, Timer};

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
    /// Until when the shields last that are pending in its future.
    shields: Slab<u64>,
    /// The last error that named it.
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
}

/// What a hook belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tie {
    /// A token: it is there until its registration ends.
    Token,
    /// A scope: it dies with it, and a shield suspends it.
    Scope,
    /// A future that is polled in the scope, and may go on elsewhere: a shield suspends it.
    Future,
}

/// How a node itself came to its end.
#[derive(Clone)]
pub(crate) struct End {
    pub(crate) cause: Cause,
    pub(crate) at: u64,
    pub(crate) reason: Option<Arc<str>>,
}

/// What spreading an end has found to do, once no lock is held.
#[derive(Default)]
struct Found {
    /// From the outside in.
    hooks: Vec<Arc<Entry>>,
    wakers: Vec<Waker>,
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
            shields: Slab::new(),
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

    /// Calls `visit` with this node and those around it, innermost first.
    pub(crate) fn walk(self: &Arc<Self>, mut visit: impl FnMut(&Arc<Node>)) {
        let mut next = Some(Arc::clone(self));
        while let Some(node) = next {
            visit(&node);
            next = node.parent();
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
        if self.expire(now) {
            return false;
        }
        let at = self.seam.reading(now);
        if !self.end_by(&End { cause: Cause::Cancelled, at, reason }) {
            return false;
        }
        let mut found = Found::default();
        self.spread(&mut found);
        found.hand_over();
        true
    }

    /// Carries out the expiry of this node or one around it, if there is one by `now` that the watchdog has not come to;
    /// whether there is.
    #[cold]
    pub(crate) fn expire(self: &Arc<Self>, now: u64) -> bool {
        if self.is_over() {
            return true;
        }
        let mut expired = None;
        self.walk(|node| {
            if node.has_expired(now) {
                expired = Some(Arc::clone(node));
            }
        });
        let Some(node) = expired else { return false };
        let mut found = Found::default();
        node.end_at_deadline(&mut found);
        found.hand_over();
        true
    }

    fn end_at_deadline(self: &Arc<Self>, found: &mut Found) {
        self.end_by(&End { cause: self.cause, at: self.deadline, reason: None });
        self.spread(found);
    }

    /// Its deadline comes early, because a test wants it so. Its hooks have run when this returns.
    #[cfg(feature = "testing")]
    pub(crate) fn expire_early(self: &Arc<Self>) {
        struct Early(Arc<Node>);
        impl Fire for Early {
            fn fire(self: Arc<Self>, _now: u64) {
                let node = &self.0;
                let mut found = Found::default();
                let at = node.seam.now();
                if node.end_by(&End { cause: node.cause, at, reason: None }) {
                    node.spread(&mut found);
                }
                found.carry_out();
            }
        }
        watchdog::mock::carry_out(Arc::new(Early(Arc::clone(self))));
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
        let mut linked = std::collections::HashMap::new();
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

    // ===== The tree =====

    /// Moves it beneath another node, or to the top of a tree of its own.
    ///
    /// A future that is polled in a scope that was entered by its own handle is on top: it cannot be beneath itself.
    pub(crate) fn set_parent(self: &Arc<Self>, parent: Option<&Arc<Node>>) {
        let parent = parent.filter(|parent| {
            let mut beneath_itself = false;
            parent.walk(|node| beneath_itself |= Arc::ptr_eq(node, self));
            !beneath_itself
        });
        let Some(mut state) = self.state.lock() else { return };
        let before = match (&state.parent, parent) {
            (Some(link), Some(parent)) if Arc::ptr_eq(&link.node, parent) => return,
            (None, None) => return,
            _ => state.parent.take(),
        };
        drop(state);
        drop(before.map(Link::unlist));
        if let Some(parent) = parent {
            self.enlist(parent, Child::Inner(Arc::downgrade(self)));
        }
        self.update_timers();
    }

    /// A deadline that was earlier than all beneath may have come or gone.
    fn update_timers(self: &Arc<Self>) {
        let mut stack = vec![Arc::clone(self)];
        while let Some(node) = stack.pop() {
            node.update_timer();
            let children: Vec<Child> = match node.state.lock() {
                Some(state) => state.children.iter().map(|(_, child)| child.clone()).collect(),
                None => Vec::new(),
            };
            stack.extend(children.iter().filter_map(|child| match child {
                Child::Inner(child) => child.upgrade().filter(|child| child.is_beneath(&node)),
                Child::Linked(_) => None,
            }));
        }
    }

    /// Moves it up to what is around `parent`, which is closed, unless it has gone elsewhere.
    fn leave(self: &Arc<Self>, parent: &Arc<Node>) {
        let around = parent.parent();
        let link = match self.state.lock() {
            Some(mut state) => state.parent.take_if(|link| Arc::ptr_eq(&link.node, parent)),
            None => None,
        };
        let Some(link) = link else { return };
        drop(link.unlist());
        if let Some(around) = &around {
            self.enlist_if_free(around);
        }
        self.update_timers();
    }

    /// As `enlist`, unless another has made it its child meanwhile.
    fn enlist_if_free(self: &Arc<Self>, parent: &Arc<Node>) {
        let child = Child::Inner(Arc::downgrade(self));
        let Some(key) = parent.state.lock().map(|mut state| state.children.insert(child)) else { return };
        let mut left = Some(Link { node: Arc::clone(parent), key });
        if let Some(mut state) = self.state.lock()
            && state.parent.is_none()
        {
            state.parent = left.take();
        }
        if let Some(link) = left {
            drop(link.unlist());
            return;
        }
        if parent.is_over() {
            let mut found = Found::default();
            self.spread(&mut found);
            found.hand_over();
        }
    }

    /// Has it cancelled when `other` is over.
    pub(crate) fn link(self: &Arc<Self>, other: &Arc<Node>) {
        self.enlist(other, Child::Linked(Arc::downgrade(self)));
    }

    /// Lists it as a child of `parent`, and takes on its end.
    fn enlist(self: &Arc<Self>, parent: &Arc<Node>, child: Child) {
        let linked = matches!(child, Child::Linked(_));
        let Some(key) = parent.state.lock().map(|mut state| state.children.insert(child)) else { return };
        let link = Link { node: Arc::clone(parent), key };
        if let Some(mut state) = self.state.lock() {
            if linked {
                state.links.push(link);
            } else {
                state.parent = Some(link);
            }
        }
        // Invariant 3: the parent may have gone through its children too early for this one.
        if parent.is_over() {
            let mut found = Found::default();
            if linked {
                let end = parent.told_by();
                let now = || self.seam.reading(clock::now());
                let at = end.as_ref().filter(|_| self.seam.shares_clock(&parent.seam));
                let at = at.map_or_else(now, |end| end.at);
                self.end_by(&End { cause: Cause::Cancelled, at, reason: end.and_then(|end| end.reason) });
            }
            self.spread(&mut found);
            found.hand_over();
        }
    }

    /// Invariant 4.
    fn update_timer(self: &Arc<Self>) {
        if self.deadline == NEVER {
            return;
        }
        let around = match self.parent() {
            // One with another clock tells it, but stands for no deadline of this one.
            Some(parent) if parent.seam.shares_clock(&self.seam) => parent.effective_deadline(),
            _ => NEVER,
        };
        let Some(mut state) = self.state.lock() else { return };
        let needed = self.deadline < around && !self.over.load(Ordering::Relaxed);
        if state.timer.is_some_and(Timer::is_lost) {
            state.timer = None;
        }
        match (&state.timer, needed) {
            (None, true) => {
                let weak = Arc::downgrade(self);
                let target = Target::Fire(weak);
                state.timer = Some(watchdog::global().schedule_on(&self.seam, self.deadline, target));
            }
            (Some(_), false) => {
                let timer = state.timer.take();
                drop(state);
                timer.into_iter().for_each(|timer| watchdog::global().cancel(timer));
            }
            _ => {}
        }
    }

    /// The scope it was made for has been left: its hooks end, and futures that were polled in it are on their own.
    pub(crate) fn close(self: &Arc<Self>) {
        let Some(mut state) = self.state.lock() else { return };
        let (mut hooks, mut leaving) = (Vec::new(), Vec::new());
        state.hooks.retain(|_, hooked| {
            match hooked.tie {
                Tie::Token => return true,
                Tie::Scope => hooks.push(Arc::clone(&hooked.entry)),
                Tie::Future => leaving.push(Arc::clone(&hooked.entry)),
            }
            false
        });
        let children: Vec<Child> = state.children.iter().map(|(_, child)| child.clone()).collect();
        drop(state);
        drop(leaving);
        // The latest first, as scopes are left.
        hooks.iter().rev().for_each(|entry| entry.revoke());
        for child in children {
            if let Child::Inner(child) = child
                && let Some(child) = child.upgrade()
                && child.roams.load(Ordering::Relaxed)
            {
                child.leave(self);
            }
        }
    }

    /// The future it was made for is done: tokens and handles that are left keep the surroundings it had.
    pub(crate) fn settle(self: &Arc<Self>) {
        // Relaxed: whoever closes the surroundings does so later on this thread, or has no part in the future's end.
        self.roams.store(false, Ordering::Relaxed);
        self.close();
    }

    // ===== Hooks and wakers =====

    /// Registers a hook; `None` if the node is over, so that it would never be told.
    pub(crate) fn add_hook(self: &Arc<Self>, entry: &Arc<Entry>, tie: Tie) -> Option<usize> {
        if crate::sync::fork::generation() != 0 {
            // The timers of the scopes that were open at the fork are lost there; who asks anew is told all the same.
            self.walk(Node::update_timer);
        }
        let mut state = self.state.lock()?;
        // Relaxed: under the lock.
        if self.over.load(Ordering::Relaxed) {
            return None;
        }
        Some(state.hooks.insert(Hooked { entry: Arc::clone(entry), tie }))
    }

    /// Registers a hook with a node that is over: not to be fired, but to end with the scope.
    pub(crate) fn add_fired_hook(&self, entry: &Arc<Entry>, tie: Tie) -> Option<usize> {
        Some(self.state.lock()?.hooks.insert(Hooked { entry: Arc::clone(entry), tie }))
    }

    pub(crate) fn remove_hook(&self, key: usize, entry: &Arc<Entry>) {
        let Some(mut state) = self.state.lock() else { return };
        // The scope may have ended it, and the place be another's.
        if state.hooks.get(key).is_some_and(|hooked| Arc::ptr_eq(&hooked.entry, entry)) {
            let hooked = state.hooks.remove(key);
            drop(state);
            drop_quietly(hooked);
        }
    }

    /// The hooks that belong to the scope, for a shield.
    pub(crate) fn scoped_hooks(&self, into: &mut Vec<Arc<Entry>>) {
        if let Some(state) = self.state.lock() {
            let scoped = state.hooks.iter().filter(|(_, hooked)| hooked.tie != Tie::Token);
            into.extend(scoped.map(|(_, hooked)| Arc::clone(&hooked.entry)));
        }
    }

    /// Has a task woken when it is over; `None` if it is.
    pub(crate) fn add_waker(&self, waker: &Waker) -> Option<usize> {
        let waker = waker.clone();
        let mut state = self.state.lock()?;
        if self.over.load(Ordering::Relaxed) {
            drop(state);
            drop(waker);
            return None;
        }
        Some(state.wakers.insert(waker))
    }

    /// Wakes another task in place of the one before; `false` if it is over.
    pub(crate) fn update_waker(&self, key: usize, waker: &Waker) -> bool {
        let same = |state: &State| state.wakers.get(key).map(|place| place.will_wake(waker));
        match self.state.lock().and_then(|state| same(&state)) {
            Some(true) => return true,
            Some(false) => {}
            None => return false,
        }
        // To clone and to drop a waker is foreign code: not under the lock.
        let mut waker = waker.clone();
        let Some(mut state) = self.state.lock() else { return false };
        let Some(place) = state.wakers.get_mut(key) else { return false };
        std::mem::swap(place, &mut waker);
        drop(state);
        drop(waker);
        true
    }

    pub(crate) fn remove_waker(&self, key: usize) {
        // When it is over all of them are gone.
        let waker = self.state.lock().and_then(|mut state| state.wakers.try_remove(key));
        drop(waker);
    }

    // ===== Shields =====

    /// A shield is pending in its future, until this time at most.
    pub(crate) fn add_shield(&self, until: u64) -> Option<usize> {
        Some(self.state.lock()?.shields.insert(until))
    }

    pub(crate) fn remove_shield(&self, key: usize) {
        self.state.lock().map(|mut state| state.shields.try_remove(key));
    }

    /// Until when the shields that are pending in its future last.
    pub(crate) fn shielded_until(&self) -> u64 {
        self.state.lock().and_then(|state| state.shields.iter().map(|shield| *shield.1).max()).unwrap_or(0)
    }

    // ===== Errors =====

    /// Remembers that an error naming it was raised.
    pub(crate) fn set_raised(&self, error: &TimeoutError) {
        let before = self.state.lock().and_then(|mut state| state.raised.replace(error.clone()));
        drop(before);
    }

    /// The last error that named it.
    pub(crate) fn take_raised(&self) -> Option<TimeoutError> {
        self.state.lock().and_then(|mut state| state.raised.take())
    }
}

/// Its deadline has come.
impl Fire for Node {
    fn fire(self: Arc<Self>, _now: u64) {
        if let Some(mut state) = self.state.lock() {
            state.timer = None;
        }
        let mut found = Found::default();
        self.end_at_deadline(&mut found);
        found.carry_out();
    }
}

impl Found {
    /// On a thread of the user's: wakes the tasks, and leaves the hooks to the watchdog.
    fn hand_over(mut self) {
        self.wake();
        if !self.hooks.is_empty() {
            watchdog::global().post(Arc::new(Hooks(self.hooks)));
        }
    }

    /// On the watchdog.
    fn carry_out(mut self) {
        self.wake();
        Hooks(self.hooks).dispatch();
    }

    fn wake(&mut self) {
        for waker in self.wakers.drain(..) {
            without_scopes(|| {
                drop_quietly(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| waker.wake())));
            });
        }
    }
}

/// Hooks that are due, from the outside in.
struct Hooks(Vec<Arc<Entry>>);

impl Hooks {
    /// Those of inner scopes first; and those that do not block first.
    fn dispatch(&self) {
        for inline in [true, false] {
            for entry in self.0.iter().rev().filter(|entry| entry.is_inline() == inline) {
                Arc::clone(entry).set_off();
            }
        }
    }
}

/// Has the watchdog set a hook off.
pub(crate) fn post(entry: Arc<Entry>) {
    watchdog::global().post(Arc::new(Hooks(vec![entry])));
}

impl Fire for Hooks {
    fn fire(self: Arc<Self>, _now: u64) {
        self.dispatch();
    }
}

impl Link {
    /// Takes the child off its parent's list.
    fn unlist(self) -> Arc<Node> {
        let child = self.node.state.lock().and_then(|mut state| state.children.try_remove(self.key));
        drop(child);
        self.node
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The parents' handles are dropped in a loop, not in each other's drop: a chain may be long.
        let mut orphans: Vec<Arc<Node>> = Vec::new();
        let leave = |state: &mut State| {
            if let Some(timer) = state.timer.take() {
                watchdog::global().cancel(timer);
            }
            state.parent.take().into_iter().chain(state.links.drain(..)).map(Link::unlist).collect::<Vec<_>>()
        };
        if let Some(mut state) = self.state.lock() {
            orphans = leave(&mut state);
        }
        while let Some(parent) = orphans.pop() {
            if let Some(parent) = Arc::into_inner(parent)
                && let Some(mut state) = parent.state.lock()
            {
                orphans.extend(leave(&mut state));
            }
        }
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
