//! The tree of nodes: what a scope shares once somebody asks for it.
//!
//! A node is made for a scope when a token, a handle, a hook or a shield needs one, and for a token of its own. Each
//! holds its parent; a parent knows its children weakly. A node goes when the last of its tokens, handles, frames
//! and children does, and takes its timer along.
//!
//! Invariants:
//! 1. A node is *over* (its flag is set) if it ended itself (`State::end`), or its parent was over while it was its
//!    child. The flag is never cleared. By which end it is over is decided when the flag is set, the earliest in time and
//!    of equals the outermost, and never changes: its *verdict*.
//! 2. A child is beneath its parent while `State::parent` says so. It is listed with the parent before that and until
//!    after it: whoever comes down the tree asks the child, and passes over one that is not, or not yet, beneath.
//! 3. A node that is over has told its children: whoever sets a flag goes on to the children it finds under the
//!    lock, and who adds a child looks at the flag under that same lock. So when [`Node::cancel`] has returned, the
//!    flags of all nodes beneath are set.
//! 4. A node has a timer if its own deadline is earlier than those around it; else theirs will do.
//! 5. A node knows what holds around it (`outlook.rs`), so that nobody walks up to the root for it. It is written under
//!    the node's lock, from what the parent knows then; whoever changed it goes on to the children. So once all moves
//!    are done it is right everywhere.
//!
//! # Deadlock safety
//!
//! At most one node's lock is held at a time, no other lock is taken under it except those that arming a timer takes
//! (`watchdog/`) and those of callbacks, and no foreign code runs under it: hooks, wakers and drops of either are carried
//! out of it first. Who moves a node holds the lock of all moves around that.

mod found;
mod listeners;
mod outlook;
mod tree;

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::panic::Location;
use std::sync::{Arc, Weak};
use std::task::{Wake, Waker};
use std::time::Duration;

use slab::Slab;

use super::hook::Entry;
use crate::error::{Cause, ScopeId, ScopeInfo, TimeoutError};
use crate::sync::{AtomicBool, ForkMutex, Ordering, mutant};
use crate::time::seam::Seam;
use crate::time::{NEVER, clock};
use crate::watchdog::{self, Timer};

use found::Found;
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
    /// Its label and its limit, if it has either.
    about: Option<Box<(Option<Cow<'static, str>>, Option<Duration>)>>,
    /// When the scope was entered, or the token made.
    pub(crate) entered: u64,
    /// What it was made under: its times are on that clock.
    pub(crate) seam: Seam,
    /// Whether its surroundings may change: it is that of a future that is not done.
    roams: AtomicBool,
    /// Whether all beneath have been told of its end, by whoever ended it here.
    told: AtomicBool,
    marks: Marks,
    outlook: Outlook,
    state: ForkMutex<State>,
}

/// The state of a token that nothing has happened to is this and no more, so that a node is 120 bytes, which allocators
/// have at hand.
struct State {
    parent: Option<Link>,
    more: Option<Box<More>>,
}

/// What scopes have, and nodes that came to an end of their own.
#[derive(Default)]
struct More {
    end: Option<End>,
    /// What it is over by, once somebody needs to know; its own end until then.
    verdict: Option<Arc<Verdict>>,
    timer: Option<Timer>,
    seldom: Option<Box<Seldom>>,
}

impl State {
    fn beneath(parent: Option<Link>) -> Self {
        Self { parent, more: None }
    }

    /// If there is any of it.
    fn seldom(&mut self) -> Option<&mut Seldom> {
        self.more.as_mut()?.seldom.as_deref_mut()
    }
}

impl Deref for State {
    type Target = More;

    fn deref(&self) -> &More {
        static NOTHING: More = More { end: None, verdict: None, timer: None, seldom: None };
        self.more.as_deref().unwrap_or(&NOTHING)
    }
}

impl DerefMut for State {
    fn deref_mut(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }
}

/// What few nodes have.
#[derive(Default)]
struct Seldom {
    children: Slab<Child>,
    /// Nodes whose end ends this one too ([`cancel_on`](crate::Timebox::cancel_on)).
    links: Vec<Link>,
    hooks: Slab<Hooked>,
    wakers: Slab<Waker>,
    /// How many shields hold its hooks back.
    suspensions: u32,
    /// Until when the shields last that are pending in its future.
    shields: Slab<u64>,
    /// The task that waits for the last of them.
    held_up: Option<Waker>,
    /// Whether somebody wants to know the last error that named it.
    falls_back: bool,
    raised: Option<TimeoutError>,
}

impl Deref for More {
    type Target = Seldom;

    fn deref(&self) -> &Seldom {
        static NOTHING: Seldom = Seldom {
            children: Slab::new(),
            links: Vec::new(),
            hooks: Slab::new(),
            wakers: Slab::new(),
            suspensions: 0,
            shields: Slab::new(),
            held_up: None,
            falls_back: false,
            raised: None,
        };
        self.seldom.as_deref().unwrap_or(&NOTHING)
    }
}

impl DerefMut for More {
    fn deref_mut(&mut self) -> &mut Seldom {
        self.seldom.get_or_insert_default()
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
    /// A scope: it dies with it, and a shield suspends it.
    Scope,
    /// A future that is polled in the scope, and may go on elsewhere: a shield suspends it, also one that is open
    /// already, beside it in the same future.
    Future,
}

/// How a node itself came to its end.
#[derive(Clone)]
pub(crate) struct End {
    pub(crate) cause: Cause,
    pub(crate) at: u64,
    pub(crate) reason: Option<Arc<str>>,
    /// The end that became its own by a link.
    pub(crate) of: Option<Arc<Verdict>>,
}

impl End {
    pub(crate) fn new(cause: Cause, at: u64) -> Self {
        Self { cause, at, reason: None, of: None }
    }

    /// What the end of a node is to one that is linked to it.
    pub(crate) fn of(verdict: &Arc<Verdict>) -> Self {
        let of = verdict.end.of.as_ref().unwrap_or(verdict);
        Self { of: Some(Arc::clone(of)), ..verdict.end.clone() }
    }
}

/// What a node is over by: an end, and the node that came to it.
pub(crate) struct Verdict {
    pub(crate) end: End,
    pub(crate) info: ScopeInfo,
    pub(crate) entered: u64,
}

impl Verdict {
    /// As it is told on another clock: there it has come now.
    #[inline]
    pub(crate) fn on_clock(self: &Arc<Self>, its: &Seam, clock: &Seam) -> Arc<Self> {
        if clock.shares_clock(its) {
            return Arc::clone(self);
        }
        let now = clock.reading(clock::now());
        let end = End { at: now, ..self.end.clone() };
        let elapsed = self.end.at.saturating_sub(self.entered);
        Arc::new(Self { end, info: self.info.clone(), entered: now.saturating_sub(elapsed) })
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
        let seam = Seam::current();
        let Some(parent) = parent else {
            watchdog::prepare();
            let outlook = Outlook::new(None, &seam, deadline, roams);
            let top = State::beneath(None);
            let node = Self::with(top, false, outlook, seam, info, entered, deadline, cause, roams);
            if deadline != NEVER {
                node.update();
            }
            return node;
        };
        let Some(mut state) = parent.state.lock() else {
            // Lost in a fork: nobody can list it any more, nor tell it of an end.
            return Self::new(None, info, entered, deadline, cause, roams);
        };
        let outlook = Outlook::new(Some(parent), &seam, deadline, roams);
        let needs_timer = parent.is_outrun_by(deadline, &seam);
        // Relaxed: under the lock.
        let is_over = parent.over.load(Ordering::Relaxed);
        let link = Link::new(parent, state.children.vacant_key());
        // In one step, so that its own lock need not be taken: invariants 2, 3 and 5 hold from the first.
        let beneath = State::beneath(Some(link));
        let node = Self::with(beneath, is_over, outlook, seam, info, entered, deadline, cause, roams);
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
        seam: Seam,
        info: ScopeInfo,
        entered: u64,
        deadline: u64,
        cause: Cause,
        roams: bool,
    ) -> Arc<Self> {
        let ScopeInfo { id, label, location, limit } = info;
        let about = (label.is_some() || limit.is_some()).then(|| Box::new((label, limit)));
        Arc::new(Self {
            over: AtomicBool::new(is_over),
            deadline,
            cause,
            id,
            location,
            about,
            entered,
            seam,
            roams: AtomicBool::new(roams),
            told: AtomicBool::new(false),
            marks,
            outlook,
            state: ForkMutex::new(state),
        })
    }

    /// What is told of its scope.
    pub(crate) fn info(&self) -> ScopeInfo {
        let (label, limit) = self.about.as_deref().cloned().unwrap_or_default();
        ScopeInfo { id: self.id, label, location: self.location, limit }
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
        self.earlier(told, self.seam.reading(now))
    }

    /// The earlier of an end that it was told of, and that at its deadline if this has passed by `passed`, on its clock.
    fn earlier(&self, told: Option<End>, passed: u64) -> Option<End> {
        match told {
            Some(end) if end.at < self.deadline => Some(end),
            _ if self.deadline <= passed => Some(End::new(self.cause, self.deadline)),
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

    // ===== Becoming over =====

    /// Ends it, unless it is over or its time is up. Whether this call ended it.
    ///
    /// When it returns, the flags of all nodes beneath are set. Tasks that wait are woken here; hooks run on the
    /// watchdog or a runner.
    pub(crate) fn cancel(self: &Arc<Self>, reason: Option<Arc<str>>) -> bool {
        let now = clock::now();
        let at = self.seam.reading(now);
        let end = End { reason, ..End::new(Cause::Cancelled, at) };
        let first = !self.expire(now) && self.end_by(end, false);
        // Who came first may still be at it, or was lost in a fork.
        // Acquire: pairs with the Release in `spread`.
        if first || (!mutant!(NoSecondSpread) && !self.told.load(Ordering::Acquire)) {
            let mut found = Found::default();
            self.spread(None, &mut found);
            found.hand_over();
        }
        first
    }

    /// Carries out the expiry of this node or one that ends it, if there is one by `now` that the watchdog has not come
    /// to; whether there is.
    pub(crate) fn expire(self: &Arc<Self>, now: u64) -> bool {
        self.is_over() || (self.may_have_expired(now) && self.carry_out_expiry(now))
    }

    #[cold]
    fn carry_out_expiry(self: &Arc<Self>, now: u64) -> bool {
        // Of each tree the earliest, by which this one is over if no other tree has an earlier one, and the outermost.
        let mut expired: Vec<(u64, usize, Reverse<usize>, Arc<Node>)> = Vec::new();
        let mut trees = 0;
        let mut earliest = (usize::MAX, NEVER);
        self.visit_all(|tree, node| {
            if !node.has_expired(now) {
                return;
            }
            if earliest.0 != tree {
                earliest = (tree, NEVER);
                trees = expired.len();
            }
            if node.deadline <= earliest.1 {
                earliest.1 = node.deadline;
                expired.truncate(trees);
            } else {
                expired.truncate(trees + 1);
            }
            expired.push((node.deadline, tree, Reverse(expired.len()), Arc::clone(node)));
        });
        if expired.is_empty() {
            return false;
        }
        expired.sort_by_key(|&(deadline, tree, depth, _)| (deadline, tree, depth));
        let mut found = Found::default();
        expired.iter().for_each(|(.., node)| node.end_at_deadline(&mut found));
        found.hand_over();
        true
    }

    fn end_at_deadline(self: &Arc<Self>, found: &mut Found) {
        self.end_by(End::new(self.cause, self.deadline), true);
        self.spread(None, found);
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
                if node.end_by(End::new(node.cause, at), true) {
                    node.spread(None, &mut found);
                }
                found.carry_out();
            }
        }
        watchdog::mock::carry_out([Arc::new(Early(Arc::clone(self))).into()]);
    }

    /// Records an end; `false` if it has one already, or is over and this end is not for one that is.
    fn end_by(&self, end: End, even_if_over: bool) -> bool {
        let Some(mut state) = self.state.lock() else {
            // Lost in a fork: nobody beneath can be told, but this node can.
            return !self.over.swap(true, Ordering::AcqRel);
        };
        // Over by what is around it, it can still come to its own end: it may leave those.
        // Relaxed: under the lock.
        if state.end.is_some() || (!even_if_over && self.over.load(Ordering::Relaxed)) {
            return false;
        }
        state.end = Some(end);
        true
    }

    /// Sets the flag of this node and of all beneath, and collects what they wait for. `told`: by whom it is told, if it is
    /// not its own end.
    fn spread(self: &Arc<Self>, told: Option<&Told>, found: &mut Found) {
        if let Some(beneath) = self.set_over(told, found) {
            self.spread_beneath(beneath, found);
        }
        // Release: pairs with the Acquire in `cancel`.
        self.told.store(true, Ordering::Release);
    }

    fn spread_beneath(self: &Arc<Self>, beneath: Beneath, found: &mut Found) {
        let mut stack = vec![(Arc::clone(self), beneath)];
        // Links, unlike the tree, may lead round in a circle. Kept alive, so that no address is another's meanwhile.
        let mut linked = HashMap::new();
        while let Some((by, Beneath { verdict, inner, linked: others })) = stack.pop() {
            for other in others {
                if linked.insert(Arc::as_ptr(&other), Arc::clone(&other)).is_none() {
                    other.end_by(other.end_of_link(&by, verdict.as_ref()), true);
                    let beneath = other.set_over(None, found);
                    stack.extend(beneath.map(|beneath| (other, beneath)));
                }
            }
            let told = Told { by, verdict };
            for child in inner {
                let beneath = child.set_over(Some(&told), found);
                stack.extend(beneath.map(|beneath| (child, beneath)));
            }
        }
    }

    /// Sets its flag, and by what it is over (invariant 1); who is beneath, if anybody is.
    fn set_over(&self, told: Option<&Told>, found: &mut Found) -> Option<Beneath> {
        let Some(mut state) = self.state.lock() else {
            self.over.store(true, Ordering::Release);
            return None;
        };
        if let Some(told) = told {
            // A child that went elsewhere meanwhile is not beneath any more (invariant 2).
            if !state.parent.as_ref().is_some_and(|parent| Arc::ptr_eq(&parent.node, &told.by)) {
                return None;
            }
            // Relaxed: under the lock.
            if let Some(verdict) = &told.verdict
                && !self.over.load(Ordering::Relaxed)
            {
                self.judge(&mut state, &told.by, verdict);
            }
        }
        // Relaxed: under the lock.
        let is_first = !self.over.load(Ordering::Relaxed);
        // Release: pairs with the Acquire in `is_over`.
        self.over.store(true, Ordering::Release);
        let seldom = state.seldom()?;
        if is_first {
            found.hooks.extend(seldom.hooks.iter().map(|(_, hooked)| Arc::clone(&hooked.entry)));
        }
        found.wakers.extend(seldom.wakers.drain());
        if seldom.children.is_empty() {
            return None;
        }
        let mut beneath = Beneath::of(&state);
        let is_told = state.parent.as_ref().is_some_and(|parent| parent.is_told);
        // The handles are carried out of the lock: the last of a child may be dropped there.
        drop(state);
        beneath.verdict = match told {
            // Whoever comes down from far above looks up from no one.
            Some(told) if is_told => told.verdict.clone(),
            _ => self.verdict(),
        };
        Some(beneath)
    }

    /// Decides by what it is over, which is told of an end: by that, or by its own if it came to one before.
    fn judge(&self, state: &mut State, by: &Node, told: &Arc<Verdict>) {
        let told = told.on_clock(&by.seam, &self.seam);
        let Verdict { end: End { cause, at, .. }, .. } = *told;
        // Most often there is nothing to decide.
        if state.end.is_some() || self.deadline <= at {
            state.end = self.earlier(state.end.take(), at);
        }
        let is_first = state.end.as_ref().is_some_and(|own| {
            // A cancel at the very deadline is not first; and who was told that its cancel was, is not belied.
            let is_cancel = own.cause == Cause::Cancelled && own.of.is_none();
            own.at < at || (own.at == at && cause == Cause::Cancelled) || is_cancel
        });
        if !is_first {
            match &mut state.parent {
                Some(parent) if self.seam.shares_clock(&by.seam) => parent.is_told = true,
                _ => state.verdict = Some(told),
            }
        }
    }

    /// It was made beneath a node that is over.
    #[cold]
    fn judge_anew(&self, parent: &Arc<Node>) {
        if let Some(told) = parent.verdict()
            && let Some(mut state) = self.state.lock()
        {
            self.judge(&mut state, parent, &told);
        }
    }

    /// What it is over by, if it is.
    pub(crate) fn verdict(&self) -> Option<Arc<Verdict>> {
        let mut next = match self.own_verdict() {
            Ok(verdict) => return verdict,
            Err(parent) => parent,
        };
        let verdict = loop {
            next = match next.own_verdict() {
                Ok(verdict) => break verdict?,
                Err(parent) => parent,
            };
        };
        // Who asks next need not go so far.
        if let Some(mut state) = self.state.lock() {
            state.verdict.get_or_insert_with(|| Arc::clone(&verdict));
        }
        Some(verdict)
    }

    /// What it is over by; the parent if it is over by what that is.
    fn own_verdict(&self) -> Result<Option<Arc<Verdict>>, Arc<Node>> {
        if !self.is_over() {
            return Ok(None);
        }
        let Some(mut state) = self.state.lock() else { return Ok(None) };
        if state.verdict.is_some() {
            return Ok(state.verdict.clone());
        }
        if let Some(parent) = state.parent.as_ref().filter(|parent| parent.is_told) {
            return Err(Arc::clone(&parent.node));
        }
        let Some(end) = state.end.clone() else { return Ok(None) };
        let at = end.at;
        let verdict = self.earlier(Some(end), at);
        let verdict = verdict.map(|end| Verdict { end, info: self.info(), entered: self.entered });
        state.verdict = verdict.map(Arc::new);
        Ok(state.verdict.clone())
    }

    /// Since when it is over, on this clock; `None` if it is not.
    pub(crate) fn over_since(&self, clock: &Seam) -> Option<u64> {
        if !self.is_over() {
            return None;
        }
        // One that was lost in a fork is over since some time.
        let at = self.verdict().map_or(0, |verdict| verdict.on_clock(&self.seam, clock).end.at);
        Some(at)
    }

    /// What it will be over by if nothing comes before its own deadline.
    pub(crate) fn verdict_at_deadline(&self) -> Arc<Verdict> {
        let end = End::new(self.cause, self.deadline);
        Arc::new(Verdict { end, info: self.info(), entered: self.entered })
    }

    /// What the end of a node that it is linked to is to it.
    fn end_of_link(&self, other: &Node, verdict: Option<&Arc<Verdict>>) -> End {
        match verdict {
            Some(verdict) => End::of(&verdict.on_clock(&other.seam, &self.seam)),
            // Lost in a fork.
            None => End::new(Cause::Cancelled, self.seam.reading(clock::now())),
        }
    }

    /// Whether it, or a node that is around it now, has ended: a node that moved may have been told by one that is not
    /// around it any more.
    pub(crate) fn is_over_still(self: &Arc<Self>) -> bool {
        let (now, mut has_ended) = (clock::now(), false);
        self.walk(|node| has_ended |= node.end(now).is_some());
        has_ended
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

/// Who tells a node that it is over, and by what.
struct Told {
    by: Arc<Node>,
    verdict: Option<Arc<Verdict>>,
}

/// Who is told by a node that is over.
struct Beneath {
    verdict: Option<Arc<Verdict>>,
    inner: Vec<Arc<Node>>,
    linked: Vec<Arc<Node>>,
}

impl Beneath {
    fn of(state: &State) -> Self {
        let (mut inner, mut linked) = (Vec::with_capacity(state.children.len()), Vec::new());
        for (_, child) in &state.children {
            match child {
                Child::Inner(child) => inner.extend(child.upgrade()),
                Child::Linked(child) => linked.extend(child.upgrade()),
            }
        }
        Self { verdict: None, inner, linked }
    }
}

/// Its deadline has come.
impl Wake for Node {
    fn wake(self: Arc<Self>) {
        if let Some(mut state) = self.state.lock()
            && state.timer.is_some()
        {
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
            .field("info", &self.info())
            .field("over", &self.is_over())
            .finish_non_exhaustive()
    }
}

// With the counts of an `Arc` that is 120 bytes: see `State`.
#[cfg(all(target_os = "linux", target_pointer_width = "64", not(any(timebox_loom, feature = "testing"))))]
const _: () = assert!(size_of::<Node>() <= 104);
