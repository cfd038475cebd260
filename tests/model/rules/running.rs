//! Runs a program by the rules: blocks, and futures that are polled in between.

use std::time::Duration;

use super::{Driver, Flow, Id, Kind, Model, NEVER, Stop, Was, nanos};
use crate::program::{Body, Event, Failed, Op, Tick, Told};

// ===== Blocks =====

impl Model {
    pub(super) fn note(&mut self, event: Event) {
        self.trace.push(event);
    }

    /// What something has come to, unless it is dropped.
    pub(super) fn got(&mut self, flow: Flow) -> Flow {
        match &flow {
            Ok(()) => self.note(Event::Got(Ok(()))),
            Err(Stop::Failed(failed)) => self.note(Event::Got(Err(failed.clone()))),
            Err(Stop::Cut(..) | Stop::Dropped) => {}
        }
        flow
    }

    fn got_told(&mut self, result: Result<(), Told>) -> Flow {
        self.got(result.map_err(|told| Stop::Failed(Failed::Over(told))))
    }

    pub(super) fn body(&mut self, body: &Body) -> Flow {
        body.ops.iter().try_for_each(|op| self.op(op))?;
        if body.fails { Err(Stop::Failed(Failed::Own)) } else { Ok(()) }
    }

    fn op(&mut self, op: &Op) -> Flow {
        match op {
            Op::Swallow(op) => match self.op(op) {
                Err(Stop::Failed(_)) => {}
                flow => return flow,
            },
            Op::Scope(scope) => {
                let flow = self.scope(scope);
                return self.got(flow);
            }
            Op::Shield(max, body) => {
                let flow = self.shield(*max, body);
                return self.got(flow);
            }
            Op::Check => {
                let result = self.check(self.innermost());
                return self.got_told(result);
            }
            Op::Require(duration) => {
                let result = self.require(*duration);
                return self.got_told(result);
            }
            Op::Sleep(duration) => {
                let flow = self.sleep(*duration);
                return self.got(flow);
            }
            Op::IsExpired => self.ask_expired(self.innermost()),
            Op::Remaining => self.ask_remaining(self.innermost()),
            Op::Step(step) => self.now += nanos(*step),
            Op::Lent(index) => {
                if let Some(place) = index.checked_rem(self.lent.len()) {
                    // An outer scope answers for itself, in a shield too.
                    let scope = Some(self.lent[self.lent.len() - 1 - place]);
                    self.ask_expired(scope);
                    self.ask_remaining(scope);
                    let result = self.check(scope);
                    self.got_told(result).unwrap_or_default();
                }
            }
            Op::Token => {
                let token = self.innermost().unwrap_or_else(|| self.token(None));
                self.tokens.push(token);
            }
            Op::Cancel(index) => self.cancel(*index),
            Op::AskToken(index) => {
                let token = self.tokens[index % self.tokens.len()];
                let cause = self.verdict(token).map(|end| end.cause);
                self.note(Event::Token(cause));
            }
            Op::CheckToken(index) => {
                let result = self.check(Some(self.tokens[index % self.tokens.len()]));
                return self.got_told(result);
            }
            Op::AskQuota(quota) => self.ask_quota(*quota),
            Op::Drive(body, ticks) => {
                let flow = self.drive(body, ticks);
                return self.got(flow);
            }
            Op::Wait(ticks) => {
                let until = self.ticks.saturating_add(*ticks);
                return self.wait(|model| Ok(model.ticks >= until));
            }
            Op::Block(body) => {
                let driver = self.driver.take();
                let flow = self.body(body);
                self.driver = driver;
                return self.got(flow);
            }
        }
        Ok(())
    }

    fn ask_expired(&mut self, inside: Option<Id>) {
        self.note(Event::IsExpired(self.named(inside).is_some()));
    }

    fn ask_remaining(&mut self, inside: Option<Id>) {
        let deadline = self.expires_at(inside);
        let left = (deadline != NEVER).then(|| Duration::from_nanos(deadline.saturating_sub(self.now)));
        self.note(Event::Remaining(left));
    }

    pub(super) fn ask_quota(&mut self, quota: usize) {
        self.note(Event::Quota(self.left(quota)));
    }

    /// It ends early, with the error, once its scope is over.
    fn sleep(&mut self, duration: Duration) -> Flow {
        let inside = self.innermost();
        let end = self.now + nanos(duration);
        let is_over = |told| Stop::Failed(Failed::Over(told));
        if self.driver.is_some() {
            return self.wait(|model| model.check(inside).map(|()| model.now >= end).map_err(is_over));
        }
        self.check(inside).map_err(is_over)?;
        self.now = end.min(self.expires_at(inside));
        self.check(inside).map_err(is_over)
    }
}

// ===== Futures =====

impl Model {
    fn drive(&mut self, body: &Body, ticks: &[Tick]) -> Flow {
        let lent = std::mem::take(&mut self.lent);
        self.driver = Some(Driver { ticks: ticks.to_vec().into(), outside: self.open.len() });
        let flow = self.future(body);
        (self.driver, self.lent) = (None, lent);
        match flow {
            Err(Stop::Dropped) => Ok(()),
            flow => flow,
        }
    }

    /// A body as a future. Rule 10: it is dropped in its scope.
    pub(super) fn future(&mut self, body: &Body) -> Flow {
        self.note(Event::Began);
        let flow = self.body(body);
        if let Err(Stop::Cut(..) | Stop::Dropped) = &flow {
            let is_expired = self.named(self.innermost()).is_some();
            let checkpoint = self.check(self.innermost()).map_err(Failed::Over);
            self.note(Event::Dropped { is_expired, checkpoint });
        }
        flow
    }

    /// Rule 10: awaits what is `ready` at some time; that is asked before the scopes around look at the clock, the
    /// innermost first.
    fn wait(&mut self, mut ready: impl FnMut(&mut Self) -> Result<bool, Stop>) -> Flow {
        while !ready(self)? {
            let outside = self.driver.as_ref().map_or(0, |driver| driver.outside);
            let mut around = (outside..self.open.len()).rev();
            if let Some(place) = around.find(|&place| self.gives_up(place)) {
                let scope = self.open[place];
                return self.check_body(Some(scope), Was::CutOff).map_err(|told| Stop::Cut(scope, told));
            }
            let tick = self.driver.as_mut().and_then(|driver| driver.ticks.pop_front());
            let Some(tick) = tick else { return Err(Stop::Dropped) };
            self.ticks += 1;
            self.now += nanos(tick.step);
            tick.cancel.into_iter().for_each(|token| self.cancel(token));
        }
        Ok(())
    }

    /// Whether the scope at a place on the stack drops its future, which is pending.
    fn gives_up(&self, place: usize) -> bool {
        let scope = self.open[place];
        let node = &self.nodes[scope];
        if node.kind != Kind::Future || self.named(Some(scope)).is_none() {
            return false;
        }
        // One that is over only by the scope of a future around it leaves it to that.
        let in_future = node.around.is_some_and(|around| self.nodes[around].kind == Kind::Future);
        if self.end(scope).is_none() && in_future {
            return false;
        }
        // Of several that are over the first to end its grace counts; and a shield inside is waited for.
        let graces = self
            .visible(Some(scope))
            .filter_map(|id| Some(self.end(id)?.at.saturating_add(self.nodes[id].grace)));
        let shields = self.open[place..].iter().map(|&id| &self.nodes[id]);
        let shields = shields.filter(|node| node.kind == Kind::Shield).map(|shield| shield.deadline);
        self.now >= graces.min().unwrap_or(NEVER).max(shields.max().unwrap_or(0))
    }
}
