//! Entering and leaving: scopes, quotas, shields.

use std::time::Duration;

use super::awaiting::{Await, Stand};
use super::{DAY, Flow, Id, Kind, Model, NEVER, Node, Quota, START, Stop, Time, Was, nanos};
use crate::program::{Body, Event, Failed, Limit, Scope, Told};
use timebox::Cause;

/// What comes of entering a scope.
enum Entry {
    Entered {
        id: Id,
        /// A quota.
        spends: bool,
    },
    Refused(Id, Told),
    /// It stays pending.
    Pending,
}

impl Model {
    /// Rule 4: a scope that is over at entry is not started.
    fn enter(&mut self, scope: &Scope, kind: Kind, stand: &mut Await) -> Entry {
        let by_handle = scope.within.map(|handle| self.handles[handle % self.handles.len()]);
        let around = by_handle.or_else(|| self.innermost());
        let (mut deadline, limit) = self.begin(scope.limit);
        let deadline_around = self.deadline(around);
        if !scope.reserve.is_zero() && deadline_around != NEVER {
            deadline = deadline.min(deadline_around - nanos(scope.reserve));
        }
        let id = self.push(Node {
            around,
            by_handle: by_handle.is_some(),
            cancel_on: scope.cancel_on.iter().map(|&token| self.tokens[token]).collect(),
            grace: nanos(scope.grace),
            label: scope.label.map(|label| label.to_string()),
            ..Node::new(kind, self.now, deadline, limit)
        });
        // No time of a quota is spent in vain.
        let spends = self.named(Some(id)).is_none() && self.spend(scope.limit, id);
        match self.named(Some(id)) {
            None => {
                self.open.push(id);
                return Entry::Entered { id, spends };
            }
            // Rule 10: without a grace the scope ends the future, not the await.
            Some((named, _)) if kind == Kind::Future && by_handle.is_none() && named != id => {
                if let Stand::Stay | Stand::AwaitDrop { .. } = self.look(self.innermost(), stand) {
                    return Entry::Pending;
                }
            }
            Some(_) => {}
        }
        match self.check_body(Some(id), Was::NotStarted) {
            Err(told) => Entry::Refused(id, told),
            Ok(()) => unreachable!("it is over"),
        }
    }

    /// Rule 1: the deadline that a limit becomes now, but for a quota; and what is told of it.
    pub(super) fn begin(&self, limit: Limit) -> (Time, Option<Duration>) {
        match limit {
            Limit::None => (NEVER, None),
            Limit::After(duration) => (self.now.saturating_add(nanos(duration)), Some(duration)),
            Limit::At(at) => (START + nanos(at), None),
            Limit::Quota(quota) => (NEVER, Some(self.left(quota))),
        }
    }

    /// Has a scope, or a wait, spend its quota. Whether it has to be banked.
    pub(super) fn spend(&mut self, limit: Limit, id: Id) -> bool {
        if let Limit::Quota(quota) = limit {
            let shared = self.enter_quota(quota);
            let node = &mut self.nodes[id];
            if shared <= node.deadline {
                (node.deadline, node.cause) = (shared, Cause::Quota);
            }
            return shared > self.now;
        }
        false
    }

    /// Rule 13: the first to enter sets a deadline, which the others share. One that is spent is over as of now.
    fn enter_quota(&mut self, quota: usize) -> Time {
        let quota = &mut self.quotas[quota];
        if quota.users == 0 {
            quota.deadline = self.now.saturating_add(quota.left);
        }
        if quota.deadline <= self.now {
            return self.now;
        }
        quota.users += 1;
        quota.deadline
    }

    /// Rule 13: the last to leave banks what is left.
    pub(super) fn bank(&mut self, limit: Limit) {
        if let Limit::Quota(index) = limit {
            let left = nanos(self.left(index));
            let quota = &mut self.quotas[index];
            quota.users -= 1;
            if quota.users == 0 {
                quota.left = left;
            }
        }
    }

    pub(super) fn left(&self, quota: usize) -> Duration {
        let quota = &self.quotas[quota];
        let left = match quota {
            Quota { users: 0, left, .. } => *left,
            Quota { deadline: NEVER, .. } => NEVER,
            Quota { deadline, .. } => deadline.saturating_sub(self.now),
        };
        if left == NEVER { Duration::MAX } else { Duration::from_nanos(left) }
    }

    pub(super) fn scope(&mut self, scope: &Scope) -> Flow {
        let in_future = self.driver.is_some();
        let kind = if in_future { Kind::Future } else { Kind::Block };
        let mut stand = Await::default();
        let mut entry = self.enter(scope, kind, &mut stand);
        if let Entry::Pending = entry {
            self.wait(|model| {
                entry = model.enter(scope, kind, &mut stand);
                Ok(!matches!(entry, Entry::Pending))
            })?;
        }
        let (id, flow) = match entry {
            Entry::Entered { id, spends } => {
                let mut flow = if in_future {
                    self.layer(id, None, |model| model.future(&scope.body))
                } else {
                    self.lent.push(id);
                    self.note(Event::Began);
                    let flow = self.body(&scope.body);
                    self.lent.pop();
                    flow
                };
                // A late success is refused.
                if scope.strict && flow.is_ok() {
                    flow = self.check(Some(id)).map_err(|told| Stop::Failed(Failed::Over(told)));
                }
                self.open.pop();
                if spends {
                    self.bank(scope.limit);
                }
                (id, flow)
            }
            Entry::Refused(id, told) => (id, Err(Stop::Failed(Failed::Over(told)))),
            Entry::Pending => unreachable!("it was waited for"),
        };
        let flow = match flow {
            // Rule 10: what was dropped by this scope is its error.
            Err(Stop::Cut(by, told)) if by == id => Err(Stop::Failed(Failed::Over(told))),
            flow => flow,
        };
        match (flow, &scope.fallback) {
            // Rule 3: after an error that names this scope was raised, an `Err` is dropped for the fallback.
            (Err(Stop::Failed(failed)), Some(fallback)) => match self.nodes[id].raised.take() {
                Some(timed_out) => {
                    self.note(Event::Fallback(timed_out));
                    self.block(fallback)
                }
                None => Err(Stop::Failed(failed)),
            },
            // Rule 5: the body's result wins.
            (flow, _) => flow,
        }
    }

    /// Rule 9: a scope of its own, with nothing around it, which is always entered.
    pub(super) fn shield(&mut self, max: Duration, body: &Body) -> Flow {
        self.fire_hooks();
        let max = max.min(DAY);
        let shield = self.push(Node::new(Kind::Shield, self.now, self.now + nanos(max), Some(max)));
        self.open.push(shield);
        self.shields += 1;
        let flow = if self.driver.is_some() {
            self.layer(shield, None, |model| model.future(body))
        } else {
            self.body(body)
        };
        self.shields -= 1;
        self.open.pop();
        flow
    }
}
