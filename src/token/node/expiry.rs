//! The end of a node at its deadline, and the time since which a node is over.

use std::cmp::Reverse;
use std::sync::Arc;
use std::task::Wake;

use super::data::Node;
use super::wake_list::WakeList;
use crate::error::Termination;
use crate::test_env::TestEnv;
use crate::time::{NEVER, clock};
#[cfg(feature = "testing")]
use crate::watchdog;

/// Called when the timer of the node's deadline is due.
impl Wake for Node {
    fn wake(self: Arc<Self>) {
        if let Some(mut state) = self.state.lock()
            && state.timer.is_some()
        {
            state.timer = None;
        }
        let mut wakes = WakeList::default();
        self.end_at_deadline(&mut wakes);
        wakes.deliver_on_watchdog();
    }
}

impl Node {
    /// Whether the node's deadline has passed, if the caller's clock says `now`.
    #[inline]
    pub(crate) fn has_expired(&self, now: u64) -> bool {
        self.deadline <= self.env.reading(now)
    }

    /// The node's own end: by a cancel, a link or its deadline, whichever came first. `None` if none of these has come
    /// by `now`.
    pub(crate) fn end(&self, now: u64) -> Option<Termination> {
        let recorded = self.state.lock().and_then(|state| state.end.clone());
        self.earlier(recorded, self.env.reading(now))
    }

    /// The earlier of `recorded` and the expiry at the deadline. If the deadline is after `now` (a time on the node's
    /// clock), there is no expiry.
    pub(super) fn earlier(&self, recorded: Option<Termination>, now: u64) -> Option<Termination> {
        match recorded {
            Some(end) if end.at < self.deadline => Some(end),
            _ if self.deadline <= now => Some(Termination::new(self.cause, self.deadline)),
            recorded => recorded,
        }
    }

    /// Whether the node is over at `now`. If a deadline has passed and the watchdog is late, this propagates the expiry
    /// in place of the watchdog.
    pub(crate) fn expire(self: &Arc<Self>, now: u64) -> bool {
        self.is_over() || (self.may_have_expired(now) && self.propagate_expiry(now))
    }

    #[cold]
    fn propagate_expiry(self: &Arc<Self>, now: u64) -> bool {
        // The nodes to end here: of each tree of `visit_all`, the expired node with the earliest deadline, and the
        // outermost expired node. The end of the first may be the origin of the expiry. The end of the second
        // propagates to all nodes beneath.
        let mut expired: Vec<(u64, usize, Reverse<usize>, Arc<Node>)> = Vec::new();
        let mut tree_begins = 0;
        let mut earliest = (usize::MAX, NEVER);
        self.visit_all(|tree, node| {
            if !node.has_expired(now) {
                return;
            }
            if earliest.0 != tree {
                earliest = (tree, NEVER);
                tree_begins = expired.len();
            }
            if node.deadline <= earliest.1 {
                earliest.1 = node.deadline;
                expired.truncate(tree_begins);
            } else {
                expired.truncate(tree_begins + 1);
            }
            expired.push((node.deadline, tree, Reverse(expired.len()), Arc::clone(node)));
        });
        if expired.is_empty() {
            return false;
        }
        // The node with the earliest deadline ends first, so that its end becomes the origin of the expiry.
        expired.sort_by_key(|&(deadline, tree, depth, _)| (deadline, tree, depth));
        let mut wakes = WakeList::default();
        expired.iter().for_each(|(.., node)| node.end_at_deadline(&mut wakes));
        wakes.deliver();
        true
    }

    fn end_at_deadline(self: &Arc<Self>, wakes: &mut WakeList) {
        self.end_by(Termination::new(self.cause, self.deadline), true);
        self.propagate(None, wakes);
    }

    /// Ends the node as if its deadline were `now`. The hooks run on the watchdog or on a runner thread.
    #[cfg(any(feature = "stream", feature = "tokio"))]
    pub(crate) fn expire_at(self: &Arc<Self>, now: u64) {
        if self.end_by(Termination::new(self.cause, now), true) {
            self.propagate_and_deliver(None);
        }
    }

    /// Ends the node now as if its deadline had passed, because a test asks for it. The hooks have run when this
    /// returns.
    #[cfg(feature = "testing")]
    pub(crate) fn expire_early(self: &Arc<Self>) {
        struct Early(Arc<Node>);
        impl Wake for Early {
            fn wake(self: Arc<Self>) {
                let node = &self.0;
                let mut wakes = WakeList::default();
                if node.end_by(Termination::new(node.cause, node.env.now()), true) {
                    node.propagate(None, &mut wakes);
                }
                wakes.deliver_on_watchdog();
            }
        }
        watchdog::mock::carry_out([Arc::new(Early(Arc::clone(self))).into()]);
    }

    /// The time since which the node is over, on the clock of `clock`. `None` if the node is not over; 0 if a fork has
    /// lost the time.
    pub(crate) fn over_since(&self, clock: &TestEnv) -> Option<u64> {
        if !self.is_over() {
            return None;
        }
        let at = self.origin_on(clock).map_or(0, |origin| origin.termination.at);
        Some(at)
    }

    /// Whether the node or one of its present ancestors has ended. `false` if the node is over only because of a parent
    /// that it has left since.
    pub(crate) fn is_over_still(self: &Arc<Self>) -> bool {
        let (now, mut has_ended) = (clock::now(), false);
        self.walk(|node| has_ended |= node.end(now).is_some());
        has_ended
    }

    pub(crate) fn set_grace(&self, grace: u64) {
        if let Some(mut state) = self.state.lock() {
            state.grace = grace;
        }
    }

    /// Considers this node and its ancestors, as far as they have ended by `now`. Returns the earliest time at which
    /// one of them has ended, and the earliest time at which a grace of one of them is up. The two times may belong to
    /// different nodes. `None` if this node is not over.
    ///
    /// A node that ended on another clock counts as ended at `now`, without a grace. So does this node if it is over
    /// only because of a former parent.
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
}
