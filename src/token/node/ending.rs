//! How a node comes to its end, and tells all beneath.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::task::Wake;

use super::found::Found;
use super::{Child, Node, State};
use crate::error::{Cause, Origin, Termination};
use crate::sync::{Ordering, mutant};
use crate::test_env::TestEnv;
use crate::time::{NEVER, clock};
#[cfg(feature = "testing")]
use crate::watchdog;

impl Node {
    /// Ends it, unless it is over or its time is up. Whether this call ended it.
    ///
    /// When it returns, the flags of all nodes beneath are set. Tasks that wait are woken here; hooks run on the
    /// watchdog or a runner.
    pub(crate) fn cancel(self: &Arc<Self>, reason: Option<Arc<str>>) -> bool {
        let now = clock::now();
        let at = self.env.reading(now);
        let end = Termination { reason, ..Termination::new(Cause::Cancelled, at) };
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
        self.end_by(Termination::new(self.cause, self.deadline), true);
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
                let at = node.env.now();
                if node.end_by(Termination::new(node.cause, at), true) {
                    node.spread(None, &mut found);
                }
                found.carry_out();
            }
        }
        watchdog::mock::carry_out([Arc::new(Early(Arc::clone(self))).into()]);
    }

    /// Records an end; `false` if it has one already, or is over and this end is not for one that is.
    pub(super) fn end_by(&self, end: Termination, even_if_over: bool) -> bool {
        let Some(mut state) = self.state.lock() else {
            // Lost in a fork: nobody beneath can be told, but this node can.
            return !self.over.swap(true, Ordering::AcqRel);
        };
        // Over by what is around it, it can still come to its own end: it may leave those.
        if state.end.is_some() || (!even_if_over && self.is_over()) {
            return false;
        }
        state.end = Some(end);
        true
    }

    /// Sets the flag of this node and of all beneath, and collects what they wait for. `told`: by whom it is told, if it is
    /// not its own end.
    pub(super) fn spread(self: &Arc<Self>, told: Option<&Told>, found: &mut Found) {
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
        while let Some((by, Beneath { origin, inner, linked: others })) = stack.pop() {
            for other in others {
                if linked.insert(Arc::as_ptr(&other), Arc::clone(&other)).is_none() {
                    other.end_by(other.end_of_link(&by, origin.as_ref()), true);
                    let beneath = other.set_over(None, found);
                    stack.extend(beneath.map(|beneath| (other, beneath)));
                }
            }
            let told = Told { by, origin };
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
            if let Some(origin) = &told.origin
                && !self.over.load(Ordering::Relaxed)
            {
                self.judge(&mut state, &told.by, origin);
            }
        }
        // Relaxed: under the lock.
        let is_first = !self.over.load(Ordering::Relaxed);
        // Release: pairs with the Acquire in `is_over`.
        self.over.store(true, Ordering::Release);
        let more = state.more.as_mut()?;
        found.wakers.extend(more.wakers.drain());
        let rare = more.rare.as_mut()?;
        if is_first {
            found.hooks.extend(rare.hooks.iter().map(|(_, hooked)| Arc::clone(&hooked.entry)));
        }
        if rare.children.is_empty() {
            return None;
        }
        let mut beneath = Beneath::of(&state);
        let is_told = state.parent.as_ref().is_some_and(|parent| parent.is_told);
        // The handles are carried out of the lock: the last of a child may be dropped there.
        drop(state);
        beneath.origin = match told {
            // Whoever comes down from far above looks up from no one.
            Some(told) if is_told => told.origin.clone(),
            _ => self.origin(),
        };
        Some(beneath)
    }

    /// Decides by what it is over, which is told of an end: by that, or by its own if it came to one before.
    fn judge(&self, state: &mut State, by: &Node, told: &Arc<Origin>) {
        let shares_clock = self.env.shares_clock(&by.env);
        let on_clock = (!shares_clock).then(|| on_clock(told, &by.env, &self.env));
        let told = on_clock.as_ref().unwrap_or(told);
        let Termination { cause, at, .. } = told.termination;
        // Most often there is nothing to decide.
        if state.end.is_some() || self.deadline <= at {
            state.end = self.earlier(state.end.take(), at);
        }
        let is_first = state.end.as_ref().is_some_and(|own| {
            // A cancel at the very deadline is not first; and who was told that its cancel was, is not belied.
            let is_cancel = own.cause == Cause::Cancelled && own.origin.is_none();
            own.at < at || (own.at == at && cause == Cause::Cancelled) || is_cancel
        });
        if !is_first {
            match &mut state.parent {
                Some(parent) if shares_clock => parent.is_told = true,
                _ => state.origin = Some(Arc::clone(told)),
            }
        }
    }

    /// It was made beneath a node that is over.
    #[cold]
    pub(super) fn judge_anew(&self, parent: &Arc<Node>) {
        if let Some(told) = parent.origin()
            && let Some(mut state) = self.state.lock()
        {
            self.judge(&mut state, parent, &told);
        }
    }

    /// What it is over by, if it is.
    pub(crate) fn origin(&self) -> Option<Arc<Origin>> {
        let mut next = match self.own_origin() {
            Ok(origin) => return origin,
            Err(parent) => parent,
        };
        let origin = loop {
            next = match next.own_origin() {
                Ok(origin) => break origin?,
                Err(parent) => parent,
            };
        };
        // Who asks next need not go so far.
        if let Some(mut state) = self.state.lock() {
            state.origin.get_or_insert_with(|| Arc::clone(&origin));
        }
        Some(origin)
    }

    /// What it is over by; the parent if it is over by what that is.
    fn own_origin(&self) -> Result<Option<Arc<Origin>>, Arc<Node>> {
        if !self.is_over() {
            return Ok(None);
        }
        let Some(mut state) = self.state.lock() else { return Ok(None) };
        if state.origin.is_some() {
            return Ok(state.origin.clone());
        }
        if let Some(parent) = state.parent.as_ref().filter(|parent| parent.is_told) {
            return Err(Arc::clone(&parent.node));
        }
        // Invariant 6: it may not be told yet.
        if let Some(parent) = self.asked().filter(|_| state.end.is_none()) {
            return Err(Arc::clone(parent));
        }
        let Some(end) = state.end.clone() else { return Ok(None) };
        let at = end.at;
        let origin = self.earlier(Some(end), at);
        let origin =
            origin.map(|termination| Origin { termination, info: self.info(), entered: self.entered });
        state.origin = origin.map(Arc::new);
        Ok(state.origin.clone())
    }

    /// Since when it is over, on this clock; `None` if it is not.
    pub(crate) fn over_since(&self, clock: &TestEnv) -> Option<u64> {
        if !self.is_over() {
            return None;
        }
        // One that was lost in a fork is over since some time.
        let at = self.origin_on(clock).map_or(0, |origin| origin.termination.at);
        Some(at)
    }

    /// By which termination it is over, told on another clock; `None` if it is not over.
    pub(crate) fn origin_on(&self, clock: &TestEnv) -> Option<Arc<Origin>> {
        Some(on_clock(&self.origin()?, &self.env, clock))
    }

    /// What it will be over by if nothing comes before its own deadline.
    pub(crate) fn origin_at_deadline(&self) -> Arc<Origin> {
        let termination = Termination::new(self.cause, self.deadline);
        Arc::new(Origin { termination, info: self.info(), entered: self.entered })
    }

    /// What the end of a node that it is linked to is to it.
    pub(super) fn end_of_link(&self, other: &Node, origin: Option<&Arc<Origin>>) -> Termination {
        match origin {
            Some(origin) => Termination::through_link(&on_clock(origin, &other.env, &self.env)),
            // Lost in a fork.
            None => Termination::new(Cause::Cancelled, self.env.reading(clock::now())),
        }
    }

    /// Whether it, or a node that is around it now, has ended: a node that moved may have been told by one that is not
    /// around it any more.
    pub(crate) fn is_over_still(self: &Arc<Self>) -> bool {
        let (now, mut has_ended) = (clock::now(), false);
        self.walk(|node| has_ended |= node.end(now).is_some());
        has_ended
    }
}

/// A termination as it is told on another clock: there it has come now.
#[inline]
fn on_clock(origin: &Arc<Origin>, its: &TestEnv, clock: &TestEnv) -> Arc<Origin> {
    if clock.shares_clock(its) {
        return Arc::clone(origin);
    }
    let now = clock.reading(clock::now());
    let elapsed = origin.termination.at.saturating_sub(origin.entered);
    Arc::new(Origin {
        termination: Termination { at: now, ..origin.termination.clone() },
        info: origin.info.clone(),
        entered: now.saturating_sub(elapsed),
    })
}

/// Who tells a node that it is over, and by what.
pub(super) struct Told {
    pub(super) by: Arc<Node>,
    pub(super) origin: Option<Arc<Origin>>,
}

/// Who is told by a node that is over.
pub(super) struct Beneath {
    pub(super) origin: Option<Arc<Origin>>,
    pub(super) inner: Vec<Arc<Node>>,
    linked: Vec<Arc<Node>>,
}

impl Beneath {
    pub(super) fn of(state: &State) -> Self {
        let (mut inner, mut linked) = (Vec::with_capacity(state.children.len()), Vec::new());
        for (_, child) in &state.children {
            match child {
                Child::Inner(child) => inner.extend(child.upgrade()),
                Child::Linked(child) => linked.extend(child.upgrade()),
            }
        }
        Self { origin: None, inner, linked }
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
