//! Rule 10: futures that are polled in between, and what an await does in a scope that is over.

use std::collections::VecDeque;

use super::{Flow, Id, Kind, Model, NEVER, Node, Stop, Time, Was};
use crate::program::{Body, Event, Failed, Limit, Tick, Told};

/// Who polls the future that the code here is in.
pub(super) struct Driver {
    ticks: VecDeque<Tick>,
    /// What is open in its future, outermost first.
    layers: Vec<Layer>,
    /// Whether an await in it has given the error in this poll.
    has_told: bool,
}

/// What gets a future polled: the scope of a future, a shield, or a wait.
struct Layer {
    id: Id,
    /// Of a wait.
    stand: Option<Await>,
}

/// What an await knows of the polls before.
#[derive(Clone, Copy, Default)]
pub(super) struct Await {
    /// Whether it was pending when nothing around it was over.
    began_in_time: bool,
    /// Whether it was found to wait for its drop.
    awaits_drop: bool,
}

/// What an await does.
pub(super) enum Stand {
    GoOn,
    Fail,
    Stay,
    /// Its own end does not count any more, unless it had come before that of the scope was first seen.
    AwaitDrop {
        was_in_time: bool,
    },
}

impl Model {
    pub(super) fn drive(&mut self, body: &Body, ticks: &[Tick]) -> Flow {
        let lent = std::mem::take(&mut self.lent);
        self.driver = Some(Driver { ticks: ticks.to_vec().into(), layers: Vec::new(), has_told: false });
        self.polls.pop_front();
        let unlimited = crate::program::Scope::unlimited(body.clone());
        let flow = self.scope(&unlimited);
        (self.driver, self.lent) = (None, lent);
        match flow {
            Err(Stop::Dropped) => Ok(()),
            flow => flow,
        }
    }

    /// A body as a future. It is dropped in its scope.
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

    /// Runs code in what gets it polled.
    pub(super) fn layer(
        &mut self,
        id: Id,
        stand: Option<Await>,
        code: impl FnOnce(&mut Self) -> Flow,
    ) -> Flow {
        self.driver().layers.push(Layer { id, stand });
        let flow = code(self);
        self.driver().layers.pop();
        flow
    }

    fn driver(&mut self) -> &mut Driver {
        self.driver.as_mut().expect("code of a future")
    }

    /// `future::wait`: no scope, what is polled in it sees only the scopes around.
    pub(super) fn wait_for(&mut self, limit: Limit, body: &Body) -> Flow {
        let (deadline, told) = self.begin(limit);
        let around = self.innermost();
        let id = self.push(Node { around, ..Node::new(Kind::Wait, self.now, deadline, told) });
        let spends = self.spend(limit, id);
        let flow = self.layer(id, Some(Await::default()), |model| model.future(body));
        if spends {
            self.bank(limit);
        }
        match flow {
            Err(Stop::Cut(by, told)) if by == id => Err(Stop::Failed(Failed::Over(told))),
            flow => flow,
        }
    }

    /// Awaits what is `ready` at some time; that is asked before the scopes around look at the clock, the innermost
    /// first.
    pub(super) fn wait(&mut self, mut ready: impl FnMut(&mut Self) -> Result<bool, Stop>) -> Flow {
        while !ready(self)? {
            for place in (0..self.driver().layers.len()).rev() {
                self.give_up(place)?;
            }
            let Some(tick) = self.driver().ticks.pop_front() else { return Err(Stop::Dropped) };
            self.ticks += 1;
            self.now += super::nanos(tick.step);
            tick.cancel.into_iter().for_each(|token| self.cancel(token));
            // Where the crate is not polled, nothing may be due for which it had to be.
            if self.polls.pop_front().unwrap_or(true) {
                self.driver().has_told = false;
            }
        }
        Ok(())
    }

    /// Drops the future in a layer, which is pending, if it is time.
    fn give_up(&mut self, place: usize) -> Flow {
        let Layer { id, stand } = self.driver().layers[place];
        match stand {
            Some(mut stand) => {
                let around = self.nodes[id].around;
                let result = match self.look(around, &mut stand) {
                    Stand::Fail => self.check(around),
                    Stand::AwaitDrop { .. } => Ok(()),
                    _ if self.nodes[id].deadline <= self.now => self.check(Some(id)),
                    Stand::Stay | Stand::GoOn => Ok(()),
                };
                self.driver().layers[place].stand = Some(stand);
                result.map_err(|told| Stop::Cut(id, told))
            }
            None if self.is_given_up(place) => self.cut(id),
            None => Ok(()),
        }
    }

    fn cut(&mut self, scope: Id) -> Flow {
        let told: Result<(), Told> = self.check_body(Some(scope), Was::CutOff);
        told.map_err(|told| Stop::Cut(scope, told))
    }

    /// Whether the scope of a layer drops its future, which is pending.
    fn is_given_up(&mut self, place: usize) -> bool {
        let layers: Vec<Id> = self.driver().layers.iter().map(|layer| layer.id).collect();
        let scope = layers[place];
        if self.nodes[scope].kind != Kind::Future || self.named(Some(scope)).is_none() {
            return false;
        }
        // One that is over only by the scope of a future around it leaves it to that.
        let ended = self.ended_at(scope);
        if ended.is_none() && self.futures_around(scope).skip(1).any(|outer| self.drops(outer)) {
            return false;
        }
        // Of several that are over the first to end its grace counts.
        let graces = self.on_stack(Some(scope)).filter_map(|id| self.graced_until(id));
        // A shield inside is waited for, for no longer than its max from the end on.
        let shields = layers[place..].iter().map(|&id| &self.nodes[id]);
        let shields = shields.filter(|node| node.kind == Kind::Shield).map(|shield| {
            let max = shield.deadline - shield.entered;
            shield.deadline.min(ended.unwrap_or(NEVER).saturating_add(max))
        });
        self.now >= graces.min().unwrap_or(NEVER).max(shields.max().unwrap_or(0))
    }

    /// What an await does whose scopes are these. Within a grace, or in a block around, it gives the error, so that the
    /// body can clean up: but of those that begin there one in a poll. Else the future is dropped, and the await is
    /// pending.
    pub(super) fn look(&mut self, inside: Option<Id>, stand: &mut Await) -> Stand {
        if self.named(inside).is_none() {
            *stand = Await { began_in_time: true, awaits_drop: false };
            return Stand::GoOn;
        }
        if self.futures_on_stack(inside).any(|id| self.drops(id)) {
            let awaited = std::mem::replace(&mut stand.awaits_drop, true);
            return Stand::AwaitDrop { was_in_time: stand.began_in_time && !awaited };
        }
        let has_told = std::mem::replace(&mut self.driver().has_told, true);
        if has_told && !stand.began_in_time {
            return Stand::Stay;
        }
        stand.began_in_time = false;
        Stand::Fail
    }

    /// The visible scopes of this stack: not those of a handle.
    fn on_stack(&self, inside: Option<Id>) -> impl Iterator<Item = Id> {
        std::iter::successors(inside, |&id| self.nodes[id].around.filter(|_| !self.nodes[id].by_handle))
    }

    fn futures_on_stack(&self, inside: Option<Id>) -> impl Iterator<Item = Id> {
        self.on_stack(inside).filter(|&id| self.nodes[id].kind == Kind::Future)
    }

    fn futures_around(&self, scope: Id) -> impl Iterator<Item = Id> {
        self.on_stack(Some(scope)).take_while(|&id| self.nodes[id].kind == Kind::Future)
    }

    /// Whether it is over itself, and its grace too.
    fn drops(&self, id: Id) -> bool {
        self.graced_until(id).is_some_and(|until| until <= self.now)
    }

    /// The scopes that it was given by a handle, which are over for it only.
    fn of_handle(&self, id: Id) -> impl Iterator<Item = (Time, Id)> {
        let handle = self.nodes[id].around.filter(|_| self.nodes[id].by_handle);
        self.visible(handle).filter_map(|id| Some((self.end(id)?.at, id)))
    }

    /// Since when it is over, itself or by the handle beneath which it was opened.
    fn ended_at(&self, id: Id) -> Option<Time> {
        let own = self.end(id).map(|end| end.at);
        own.into_iter().chain(self.of_handle(id).map(|(at, _)| at)).min()
    }

    /// Until when what is in it may clean up, if it is over, itself or by a handle. Nobody else drops what a handle
    /// brought here: so its own grace counts from that end, too.
    fn graced_until(&self, id: Id) -> Option<Time> {
        let until = |(at, id): (Time, Id)| at.saturating_add(self.nodes[id].grace);
        let own = self.end(id).map(|end| until((end.at, id)));
        let ended = self.of_handle(id).map(|(at, _)| at).min();
        let by_handle = self.of_handle(id).map(until).min();
        let by_handle = by_handle.zip(ended).map(|(graced, ended)| graced.max(until((ended, id))));
        own.into_iter().chain(by_handle).min()
    }
}
