use std::collections::HashMap;
use std::sync::Arc;

use super::data::{Children, Node, State};
use super::wake_list::WakeList;
use crate::error::{Cause, Origin, Termination};
use crate::sync::{Ordering, mutant};
use crate::test_env::TestEnv;
use crate::time::clock;

pub(super) struct ParentEnd {
    parent: Arc<Node>,
    origin: Option<Arc<Origin>>,
}

impl ParentEnd {
    pub(super) fn of(parent: &Arc<Node>) -> Self {
        Self { parent: Arc::clone(parent), origin: parent.origin() }
    }
}

/// The children of a node that is over, which must be ended next. `origin` is the node's origin.
struct Pending {
    origin: Option<Arc<Origin>>,
    children: Children,
}

impl Node {
    /// Ends the node, unless it is over or its deadline has passed. `true` if this call has ended it.
    ///
    /// When this returns, all nodes beneath are over, even if another call has ended the node. This call wakes the
    /// waiting tasks. The hooks run on the watchdog or on a runner thread.
    pub(crate) fn cancel(self: &Arc<Self>, reason: Option<Arc<str>>) -> bool {
        let now = clock::now();
        let at = self.env.reading(now);
        let end = Termination { reason, ..Termination::new(Cause::Cancelled, at) };
        let first = !self.expire(now) && self.end_by(end, false);
        // If another thread has ended the node, that thread may still be propagating the end. Or this is a forked
        // child, in which that thread does not exist. So this call propagates too.
        // Acquire: pairs with the Release in `propagate`.
        if first || (!mutant!(NoSecondSpread) && !self.has_propagated.load(Ordering::Acquire)) {
            self.propagate_and_deliver(None);
        }
        first
    }

    /// Records the node's own end. `false` if an end is recorded already, or if the node is over and `even_if_over` is
    /// `false`.
    pub(super) fn end_by(&self, end: Termination, even_if_over: bool) -> bool {
        let Some(mut state) = self.state.lock() else {
            // A fork has lost the lock, so the end cannot be recorded. Only the flag is set. `true` if it was not set
            // before.
            return !self.over.swap(true, Ordering::AcqRel);
        };
        // `even_if_over` is for a node whose parent is over. The node may get another parent, so its own end is
        // recorded.
        if state.end.is_some() || (!even_if_over && self.is_over()) {
            return false;
        }
        state.end = Some(end);
        true
    }

    /// Calls [`propagate`](Self::propagate), then wakes the tasks. The watchdog starts the hooks. Called on a user's
    /// thread.
    pub(super) fn propagate_and_deliver(self: &Arc<Self>, by: Option<&ParentEnd>) {
        let mut wakes = WakeList::default();
        self.propagate(by, &mut wakes);
        wakes.deliver();
    }

    /// Sets the flag of this node and of all nodes beneath, and collects the tasks and hooks that wait for them. `by`:
    /// the end of the parent, if this node ends because of it. `None` if the node has ended by itself.
    pub(super) fn propagate(self: &Arc<Self>, by: Option<&ParentEnd>, wakes: &mut WakeList) {
        if let Some(pending) = self.set_over(by, wakes) {
            self.propagate_beneath(pending, wakes);
        }
        // Release: pairs with the Acquire in `cancel`.
        self.has_propagated.store(true, Ordering::Release);
    }

    fn propagate_beneath(self: &Arc<Self>, pending: Pending, wakes: &mut WakeList) {
        let mut stack = vec![(Arc::clone(self), pending)];
        // Links may form a circle, so each linked node is visited once. The map keeps the visited nodes alive:
        // otherwise another node could get the address of one of them.
        let mut visited = HashMap::new();
        while let Some((node, Pending { origin, children: Children { inner, linked } })) = stack.pop() {
            for other in linked {
                if visited.insert(Arc::as_ptr(&other), Arc::clone(&other)).is_none() {
                    other.end_by(other.end_through_link(&node, origin.as_ref()), true);
                    let pending = other.set_over(None, wakes);
                    stack.extend(pending.map(|pending| (other, pending)));
                }
            }
            let by = ParentEnd { parent: node, origin };
            for child in inner {
                let pending = child.set_over(Some(&by), wakes);
                stack.extend(pending.map(|pending| (child, pending)));
            }
        }
    }

    /// Sets the flag, decides the origin (invariant 1), and adds the node's wakers and hooks to `wakes`. Returns the
    /// children, which the caller must end next. `None` if there are none, if the node has left the parent `by`
    /// meanwhile, or if a fork has lost the lock.
    fn set_over(&self, by: Option<&ParentEnd>, wakes: &mut WakeList) -> Option<Pending> {
        let Some(mut state) = self.state.lock() else {
            self.over.store(true, Ordering::Release);
            return None;
        };
        if let Some(by) = by {
            // The child may have got another parent meanwhile (invariant 2). Then the end of `by.parent` does not end
            // the child.
            if !state.parent.as_ref().is_some_and(|listing| Arc::ptr_eq(&listing.node, &by.parent)) {
                return None;
            }
            // Relaxed: under the lock.
            if let Some(origin) = &by.origin
                && !self.over.load(Ordering::Relaxed)
            {
                self.decide_origin(&mut state, &by.parent, origin);
            }
        }
        // Relaxed: under the lock.
        let is_first = !self.over.load(Ordering::Relaxed);
        // Release: pairs with the Acquire in `is_over`.
        self.over.store(true, Ordering::Release);
        let more = state.more.as_mut()?;
        wakes.wakers.extend(more.wakers.drain());
        let cold = more.cold.as_mut()?;
        if is_first {
            wakes.hooks.extend(cold.hooks.iter().map(|(_, hook)| Arc::clone(&hook.entry)));
        }
        if cold.children.is_empty() {
            return None;
        }
        let children = Children::of(&state);
        let inherits = state.parent.as_ref().is_some_and(|listing| listing.inherits);
        // Unlocked before the children are used: that may drop the last `Arc` of a child, and the drop of a child takes
        // this lock.
        drop(state);
        let origin = match by {
            // Passes on the parent's origin. Otherwise each node of a deep tree would walk up the tree to find the
            // origin.
            Some(by) if inherits => by.origin.clone(),
            _ => self.origin(),
        };
        Some(Pending { origin, children })
    }

    /// Decides the origin of a node whose parent is over: the parent's origin, or the node's own end if that came
    /// first.
    fn decide_origin(&self, state: &mut State, parent: &Node, inherited: &Arc<Origin>) {
        let shares_clock = self.env.shares_clock(&parent.env);
        let on_clock = (!shares_clock).then(|| on_clock(inherited, &parent.env, &self.env));
        let inherited = on_clock.as_ref().unwrap_or(inherited);
        let Termination { cause, at, .. } = inherited.termination;
        // Most nodes have no end of their own. For them this writes nothing, since a write would allocate the
        // `ScopeState`.
        if state.end.is_some() || self.deadline <= at {
            state.end = self.earlier(state.end.take(), at);
        }
        let is_own_first = state.end.as_ref().is_some_and(|own| {
            // A cancel of this node always counts as first, because a caller whose `cancel` returned `true` must find
            // that cancel as the cause. If the two ends have the same time, the node's own end counts as first only if
            // the parent was cancelled.
            let is_cancel = own.cause == Cause::Cancelled && own.origin.is_none();
            own.at < at || (own.at == at && cause == Cause::Cancelled) || is_cancel
        });
        if !is_own_first {
            match &mut state.parent {
                Some(listing) if shares_clock => listing.inherits = true,
                _ => state.origin = Some(Arc::clone(inherited)),
            }
        }
    }

    #[cold]
    pub(super) fn inherit_origin(&self, parent: &Arc<Node>) {
        if let Some(inherited) = parent.origin()
            && let Some(mut state) = self.state.lock()
        {
            self.decide_origin(&mut state, parent, &inherited);
        }
    }

    /// The termination by which the node is over, and the scope where it began; `None` if the node is not over, or if a
    /// fork has lost the origin.
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
        if let Some(mut state) = self.state.lock() {
            state.origin.get_or_insert_with(|| Arc::clone(&origin));
        }
        Some(origin)
    }

    /// The node's origin. `Err` is no failure: it holds the parent if this node inherits the origin of the parent.
    fn own_origin(&self) -> Result<Option<Arc<Origin>>, Arc<Node>> {
        if !self.is_over() {
            return Ok(None);
        }
        let Some(mut state) = self.state.lock() else { return Ok(None) };
        if state.origin.is_some() {
            return Ok(state.origin.clone());
        }
        if let Some(listing) = state.parent.as_ref().filter(|listing| listing.inherits) {
            return Err(Arc::clone(&listing.node));
        }
        // A lazy node may be over by its parent's flag alone (invariant 6). Then the parent has the origin.
        if let Some(parent) = self.lazy_parent().filter(|_| state.end.is_none()) {
            return Err(Arc::clone(parent));
        }
        let Some(end) = state.end.clone() else { return Ok(None) };
        let at = end.at;
        let end = self.earlier(Some(end), at);
        state.origin = end.map(|end| Arc::new(self.origin_of(end)));
        Ok(state.origin.clone())
    }

    fn origin_of(&self, termination: Termination) -> Origin {
        Origin { termination, info: self.info(), entered: self.entered }
    }

    pub(crate) fn origin_on(&self, clock: &TestEnv) -> Option<Arc<Origin>> {
        Some(on_clock(&self.origin()?, &self.env, clock))
    }

    pub(crate) fn origin_at_deadline(&self) -> Arc<Origin> {
        Arc::new(self.origin_of(Termination::new(self.cause, self.deadline)))
    }

    /// This node is linked to `other`, and `other` has ended. Returns the termination that this node gets from that.
    /// `origin` is the origin of `other`. If it is `None`, because a fork has lost it, a cancel is assumed.
    pub(super) fn end_through_link(&self, other: &Node, origin: Option<&Arc<Origin>>) -> Termination {
        match origin {
            Some(origin) => Termination::through_link(&on_clock(origin, &other.env, &self.env)),
            None => Termination::new(Cause::Cancelled, self.env.reading(clock::now())),
        }
    }
}

/// The origin, with its times on the clock of `to`. If `from` has another clock, the times cannot be converted. Then
/// the result says that the end came now.
#[inline]
fn on_clock(origin: &Arc<Origin>, from: &TestEnv, to: &TestEnv) -> Arc<Origin> {
    if to.shares_clock(from) {
        return Arc::clone(origin);
    }
    let now = to.reading(clock::now());
    let elapsed = origin.termination.at.saturating_sub(origin.entered);
    Arc::new(Origin {
        termination: Termination { at: now, ..origin.termination.clone() },
        info: origin.info.clone(),
        entered: now.saturating_sub(elapsed),
    })
}
