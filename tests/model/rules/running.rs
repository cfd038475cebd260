//! Runs a program by the rules.

use std::time::Duration;

use super::awaiting::{Await, Stand};
use super::{Flow, Id, Model, NEVER, Stop, nanos};
use crate::program::{Body, Event, Failed, Op, Told};

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

    pub(super) fn got_told(&mut self, result: Result<(), Told>) -> Flow {
        self.got(result.map_err(|told| Stop::Failed(Failed::Over(told))))
    }

    pub(super) fn body(&mut self, body: &Body) -> Flow {
        let hooks = self.hooks.len();
        let flow = body.ops.iter().try_for_each(|op| self.op(op));
        self.end_hooks(hooks);
        flow?;
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
                let flow = self.block(body);
                return self.got(flow);
            }
            Op::WaitFor(limit, body) => {
                let flow = self.wait_for(*limit, body);
                return self.got(flow);
            }
            Op::Handle => {
                let scope = self.innermost().unwrap_or_else(|| self.token(None));
                self.handles.push(scope);
            }
            Op::Hook { .. } => self.hook(),
            Op::AskHooks => {
                self.fire_hooks();
                let have_run = self.hooks.iter().map(|hook| hook.has_run).collect();
                self.note(Event::Hooks(have_run));
            }
        }
        Ok(())
    }

    /// Code that does not await.
    pub(super) fn block(&mut self, body: &Body) -> Flow {
        let driver = self.driver.take();
        let flow = self.body(body);
        self.driver = driver;
        flow
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
            let (mut stand, mut begins) = (Await::default(), true);
            return self.wait(|model| {
                match model.look(inside, &mut stand) {
                    Stand::Fail => return model.check(inside).map(|()| true).map_err(is_over),
                    Stand::AwaitDrop { was_in_time: false } => {
                        begins = false;
                        return Ok(false);
                    }
                    _ => {}
                }
                // One of no time at all lets others run, too.
                Ok(!std::mem::take(&mut begins) && model.now >= end)
            });
        }
        self.check(inside).map_err(is_over)?;
        self.now = end.min(self.expires_at(inside));
        self.check(inside).map_err(is_over)
    }
}
