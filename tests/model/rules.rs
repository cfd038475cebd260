//! The rules, as plainly as they can be said: one clock, a list of all scopes that there ever were, and a stack of
//! those that are open. Nothing is cached, nothing is told: who wants to know whether a scope is over looks it up.

mod awaiting;
mod entering;
mod hooks;
mod running;

use std::collections::VecDeque;
use std::time::Duration;

use timebox::Cause;

use crate::program::{Body, Event, Failed, QUOTAS, Told};
use awaiting::Driver;
use hooks::Hook;

/// In nanoseconds.
type Time = u64;

const NEVER: Time = Time::MAX;
/// Late enough for all that is reckoned back from it.
const START: Time = 1 << 32;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What the rules make of a program. `polls` says when the crate had itself polled: not what it made of that.
pub(crate) fn run(program: &Body, polls: &[bool]) -> Vec<Event> {
    let mut model = Model {
        now: START,
        nodes: Vec::new(),
        open: Vec::new(),
        lent: Vec::new(),
        tokens: Vec::new(),
        quotas: QUOTAS.map(|left| Quota { left: nanos(left), deadline: NEVER, users: 0 }).into(),
        handles: Vec::new(),
        hooks: Vec::new(),
        shields: 0,
        driver: None,
        polls: polls.to_vec().into(),
        ticks: 0,
        turns: 0,
        trace: Vec::new(),
    };
    for parent in [None, None, Some(0)] {
        let token = model.token(parent);
        model.tokens.push(token);
    }
    let root = model.token(None);
    model.handles.push(root);
    let end = model.body(program);
    model.got(end).unwrap_or_default();
    (0..QUOTAS.len()).for_each(|quota| model.ask_quota(quota));
    model.trace
}

/// A scope, a shield, or a token that stands alone.
struct Node {
    kind: Kind,
    /// What counts around it, and is over before it or with it.
    around: Option<Id>,
    /// Whether that came by a handle.
    by_handle: bool,
    entered: Time,
    deadline: Time,
    /// What it is called when that has passed.
    cause: Cause,
    cancelled: Option<(Time, usize)>,
    /// The tokens that cancel it.
    cancel_on: Vec<Id>,
    grace: Time,
    label: Option<String>,
    limit: Option<Duration>,
    /// The last error that named it.
    raised: Option<Told>,
}

/// A place in the list of nodes.
type Id = usize;

/// How a node came to its end.
#[derive(Clone, Copy)]
struct End {
    at: Time,
    /// The how manieth cancel it was; 0 for an expiry.
    turn: usize,
    cause: Cause,
    /// Whose it is: another's if it came by a token.
    of: Id,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Token,
    Block,
    Future,
    Shield,
    /// Of `future::wait`: it is around nothing.
    Wait,
}

struct Quota {
    /// While nobody is in.
    left: Time,
    /// While somebody is.
    deadline: Time,
    users: u32,
}

/// The body of a scope, when an error is raised.
#[derive(Clone, Copy, PartialEq)]
enum Was {
    NotStarted,
    Running,
    CutOff,
}

/// Why a body does not go on.
enum Stop {
    Failed(Failed),
    /// It is dropped by the scope of a future, or by a wait, with an error.
    Cut(Id, Told),
    /// It is dropped by the driver.
    Dropped,
}

type Flow = Result<(), Stop>;

struct Model {
    now: Time,
    nodes: Vec<Node>,
    /// The scopes and shields that are open, innermost last.
    open: Vec<Id>,
    lent: Vec<Id>,
    tokens: Vec<Id>,
    /// Of each the innermost of its scopes. A root has a token of its own.
    handles: Vec<Id>,
    hooks: Vec<Hook>,
    /// How many are open.
    shields: usize,
    quotas: Vec<Quota>,
    /// While the code is that of a future.
    driver: Option<Driver>,
    /// Whether the future is polled, each time that it may be.
    polls: VecDeque<bool>,
    ticks: usize,
    /// How many cancels there were that were first.
    turns: usize,
    trace: Vec<Event>,
}

// ===== What is over, and by what =====

impl Model {
    /// Rule 9: a shield hides what is around it.
    fn visible(&self, inside: Option<Id>) -> impl Iterator<Item = Id> {
        std::iter::successors(inside, |&id| self.nodes[id].around)
    }

    fn innermost(&self) -> Option<Id> {
        self.open.last().copied()
    }

    /// When the scopes around will be over by time alone, or since when they are.
    fn expires_at(&self, inside: Option<Id>) -> Time {
        let at = |id| self.expiry(id).at.min(self.over_since(id).unwrap_or(NEVER));
        self.visible(inside).map(at).min().unwrap_or(NEVER)
    }

    /// Rule 2: the earliest deadline counts.
    fn deadline(&self, inside: Option<Id>) -> Time {
        self.visible(inside).map(|id| self.nodes[id].deadline).min().unwrap_or(NEVER)
    }

    /// How a node itself came to its end, if it did. Rule 3: of its causes the earlier in time. Rule 6: with time this
    /// can only go from no to yes.
    fn end(&self, id: Id) -> Option<End> {
        let node = &self.nodes[id];
        let passed = Some(End { at: node.deadline, turn: 0, cause: node.cause, of: id });
        let passed = passed.filter(|end| end.at <= self.now);
        let cancelled = node.cancelled.map(|(at, turn)| End { at, turn, cause: Cause::Cancelled, of: id });
        // What ends a token ends the scope, for the same cause.
        let tokens = node.cancel_on.iter().filter_map(|&token| self.verdict(token));
        // A cancel at the very deadline is not first.
        passed.into_iter().chain(cancelled).chain(tokens).min_by_key(|end| end.at)
    }

    /// By what a token is over, which does not change: the earliest of all ends around it. Of those at once the
    /// expiries before the cancels, and of expiries the outermost.
    fn verdict(&self, id: Id) -> Option<End> {
        let ends: Vec<End> = self.visible(Some(id)).filter_map(|id| self.end(id)).collect();
        ends.into_iter().rev().min_by_key(|end| (end.at, end.turn))
    }

    fn over_since(&self, id: Id) -> Option<Time> {
        self.visible(Some(id)).filter_map(|id| Some(self.end(id)?.at)).min()
    }

    /// Rule 3: of several that are over the outermost is named.
    fn named(&self, inside: Option<Id>) -> Option<(Id, End)> {
        let over = self.visible(inside).filter_map(|id| self.end(id).map(|end| (id, end)));
        over.last()
    }

    /// The error of code inside a scope, if it is over.
    fn check(&mut self, inside: Option<Id>) -> Result<(), Told> {
        self.check_body(inside, Was::Running)
    }

    fn check_body(&mut self, inside: Option<Id>, body: Was) -> Result<(), Told> {
        match (inside, self.named(inside)) {
            (Some(inside), Some((named, end))) => Err(self.raise(inside, named, end, body)),
            _ => Ok(()),
        }
    }

    fn raise(&mut self, inside: Id, named: Id, end: End, body: Was) -> Told {
        let describe = |id: Id| (self.nodes[id].label.clone(), self.nodes[id].limit);
        // An expiry is told as that expiry, by whatever way it came.
        let of = &self.nodes[if end.cause == Cause::Cancelled { named } else { end.of }];
        let told = Told {
            cause: end.cause,
            label: of.label.clone().or_else(|| self.nodes[named].label.clone()),
            limit: of.limit,
            named: self.visible(Some(inside)).position(|id| id == named).unwrap_or_default(),
            chain: self.visible(Some(inside)).map(describe).collect(),
            elapsed: Duration::from_nanos(self.now - of.entered),
            overshoot: Duration::from_nanos(self.now - end.at),
            started: body != Was::NotStarted,
            settled: body != Was::CutOff,
        };
        self.nodes[named].raised = Some(told.clone());
        told
    }

    /// When a scope will be over by time alone: by its own deadline, or by that of a token.
    fn expiry(&self, id: Id) -> End {
        let node = &self.nodes[id];
        let own = End { at: node.deadline, turn: 0, cause: node.cause, of: id };
        let tokens = node.cancel_on.iter().flat_map(|&token| self.visible(Some(token)));
        let tokens = tokens.map(|id| self.expiry(id));
        [own].into_iter().chain(tokens).min_by_key(|end| end.at).unwrap_or(own)
    }

    /// `require`: names the scope with the earliest deadline, which is not over by it.
    fn require(&mut self, duration: Duration) -> Result<(), Told> {
        let inside = self.innermost();
        self.check(inside)?;
        let expiries: Vec<_> = self.visible(inside).map(|id| (id, self.expiry(id))).collect();
        let earliest = expiries.into_iter().rev().min_by_key(|(_, end)| end.at);
        match (inside, earliest) {
            (Some(inside), Some((named, end))) if end.at != NEVER && end.at - self.now < nanos(duration) => {
                Err(self.raise(inside, named, End { at: self.now, ..end }, Was::Running))
            }
            _ => Ok(()),
        }
    }

    /// Whether this call did it: not if it was over before.
    fn cancel(&mut self, index: usize) {
        let token = self.tokens[index % self.tokens.len()];
        let first = self.over_since(token).is_none();
        if first {
            self.turns += 1;
            self.nodes[token].cancelled = Some((self.now, self.turns));
        }
        self.note(Event::Cancelled(first));
    }

    fn push(&mut self, node: Node) -> Id {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// A token that stands alone, or its child.
    fn token(&mut self, around: Option<Id>) -> Id {
        self.push(Node { around, ..Node::new(Kind::Token, self.now, NEVER, None) })
    }
}

impl Node {
    fn new(kind: Kind, entered: Time, deadline: Time, limit: Option<Duration>) -> Self {
        Self {
            kind,
            around: None,
            by_handle: false,
            entered,
            deadline,
            cause: Cause::Deadline,
            cancelled: None,
            cancel_on: Vec::new(),
            grace: 0,
            label: None,
            limit,
            raised: None,
        }
    }
}

fn nanos(duration: Duration) -> Time {
    Time::try_from(duration.as_nanos()).unwrap_or(NEVER)
}
