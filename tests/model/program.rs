//! What a program is, how one is made up, and what is written down of it.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use timebox::{Cause, TimeoutError};

/// The quotas that there are at the start of a program, in nanoseconds.
pub(crate) const QUOTAS: [Duration; 3] = [Duration::from_nanos(6), Duration::from_nanos(15), Duration::MAX];

/// The tokens that there are at the start: the last is a child of the first. More come by [`Op::Token`].
pub(crate) const TOKENS: usize = 3;

#[derive(Clone, Debug, Default)]
pub(crate) struct Body {
    pub(crate) ops: Vec<Op>,
    /// Whether it ends with an error of its own.
    pub(crate) fails: bool,
}

/// One step of a program. What can fail ends its body when it does, unless it is in a [`Swallow`](Self::Swallow).
///
/// Indices are taken modulo the number of what there is.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Swallow(Box<Op>),
    Scope(Box<Scope>),
    Shield(Duration, Body),
    Check,
    Require(Duration),
    Sleep(Duration),
    IsExpired,
    Remaining,
    /// Time goes by.
    Step(Duration),
    /// Asks a `&Scope` that is lent to the code here, counted from the inside.
    Lent(usize),
    /// Takes the token of the innermost scope.
    Token,
    Cancel(usize),
    AskToken(usize),
    CheckToken(usize),
    AskQuota(usize),
    /// In a block that is in no future: polls a future, and lets time go by in between. When the ticks are used up it
    /// is dropped.
    Drive(Body, Vec<Tick>),
    /// In a future: awaits something foreign, which is there after so many ticks.
    Wait(usize),
    /// In a future: code that does not await.
    Block(Body),
    /// In a future: waits so long for another.
    WaitFor(Limit, Body),
    /// Takes a handle of the innermost scope.
    Handle,
    /// Registers a hook, with the innermost scope or with its token, until the body here ends.
    Hook {
        on_token: bool,
    },
    /// Asks which of the hooks have run.
    AskHooks,
}

#[derive(Clone, Debug)]
pub(crate) struct Scope {
    pub(crate) limit: Limit,
    /// Whether it is opened with a limit and without the builder: then that is all there is to it.
    pub(crate) plain: bool,
    pub(crate) label: Option<u8>,
    pub(crate) reserve: Duration,
    /// Of the tokens that there are at the start.
    pub(crate) cancel_on: Vec<usize>,
    pub(crate) grace: Duration,
    /// Whether a late success is refused.
    pub(crate) strict: bool,
    /// The handle beneath whose scopes it is opened.
    pub(crate) within: Option<usize>,
    /// Code that does not await.
    pub(crate) fallback: Option<Body>,
    pub(crate) body: Body,
}

impl Scope {
    /// One that ends nothing.
    pub(crate) fn unlimited(body: Body) -> Self {
        Self {
            limit: Limit::None,
            plain: true,
            label: None,
            reserve: Duration::ZERO,
            cancel_on: Vec::new(),
            grace: Duration::ZERO,
            strict: false,
            within: None,
            fallback: None,
            body,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    None,
    After(Duration),
    /// So long after the start.
    At(Duration),
    Quota(usize),
}

/// What happens between two polls.
#[derive(Clone, Debug)]
pub(crate) struct Tick {
    pub(crate) step: Duration,
    pub(crate) cancel: Option<usize>,
    /// Whether the future is polled though nobody has woken it.
    pub(crate) polls: bool,
}

// ===== What is written down =====

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// A body has begun.
    Began,
    /// What something that can fail has come to.
    Got(Result<(), Failed>),
    Fallback(Told),
    /// A future is dropped in the middle: what code in its drop finds.
    Dropped {
        is_expired: bool,
        checkpoint: Result<(), Failed>,
    },
    IsExpired(bool),
    Remaining(Option<Duration>),
    /// Whether the call cancelled it.
    Cancelled(bool),
    /// Why it is over.
    Token(Option<Cause>),
    Quota(Duration),
    /// Of each hook, whether it has run.
    Hooks(Vec<bool>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Failed {
    Over(Told),
    Own,
}

/// What an error tells.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Told {
    pub(crate) cause: Cause,
    /// The place in the chain of the scope that it names.
    pub(crate) named: usize,
    pub(crate) label: Option<String>,
    pub(crate) limit: Option<Duration>,
    /// The label and the limit of each scope, innermost first.
    pub(crate) chain: Vec<(Option<String>, Option<Duration>)>,
    pub(crate) elapsed: Duration,
    pub(crate) overshoot: Duration,
    pub(crate) started: bool,
    pub(crate) settled: bool,
}

impl From<&TimeoutError> for Told {
    fn from(error: &TimeoutError) -> Self {
        let named = error.chain().position(|scope| scope.id() == error.scope());
        Self {
            cause: error.cause(),
            named: named.expect("the scope that is named is in the chain"),
            label: error.label().map(Into::into),
            limit: error.limit(),
            chain: error.chain().map(|scope| (scope.label().map(Into::into), scope.limit())).collect(),
            elapsed: error.elapsed(),
            overshoot: error.overshoot(),
            started: error.started(),
            settled: error.settled(),
        }
    }
}

// ===== How one is made up =====

/// Blocks, nested as they come.
pub(crate) fn of_blocks() -> impl Strategy<Value = Body> {
    of(Place::Block, 5)
}

/// Blocks in which futures are polled.
pub(crate) fn of_futures() -> impl Strategy<Value = Body> {
    of(Place::AroundFutures, 1)
}

/// Read from a list of lines: one for each op, and one for the end of each body. So it shrinks well: without a line the
/// program is the same but for one op, or for where a body ends.
fn of(place: Place, depth: u32) -> impl Strategy<Value = Body> {
    vec(any::<Line>(), 0..50).prop_map(move |lines| {
        let mut choices = Choices { lines: lines.into_iter(), line: Line::default().into_iter() };
        let mut program = Body::default();
        while choices.lines.len() > 0 {
            program.ops.extend(choices.body(place, depth).ops);
        }
        program
    })
}

type Line = [u8; 24];

/// What makes the choices: the bytes of the line, and when they are used up zeros, for the least that can be.
struct Choices {
    lines: std::vec::IntoIter<Line>,
    line: std::array::IntoIter<u8, { size_of::<Line>() }>,
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Block,
    AroundFutures,
    Future,
}

impl Choices {
    /// An index below `n`.
    fn index(&mut self, n: usize) -> usize {
        usize::from(self.line.next().unwrap_or_default()) % n
    }

    /// A number below `n`.
    fn below(&mut self, n: u8) -> u8 {
        self.line.next().unwrap_or_default() % n
    }

    fn one_in(&mut self, n: u8) -> bool {
        self.below(n) == n - 1
    }

    fn body(&mut self, place: Place, depth: u32) -> Body {
        let mut ops = Vec::new();
        while let Some(line) = self.lines.next() {
            self.line = line.into_iter();
            if self.one_in(6) {
                return Body { ops, fails: self.one_in(6) };
            }
            ops.push(self.op(place, depth));
        }
        Body { ops, fails: false }
    }

    fn op(&mut self, place: Place, depth: u32) -> Op {
        let swallow = self.one_in(2);
        let op = match (place, self.below(8)) {
            (Place::AroundFutures, 0..=3) => {
                let ticks = self.ticks();
                Op::Drive(self.body(Place::Future, 4), ticks)
            }
            (Place::Future, 0..=1) => Op::Wait(self.pick([1, 1, 1, 2, 2, 3, usize::MAX])),
            (Place::Future, 2) => Op::Block(self.body(Place::Block, 1)),
            (Place::Future, 3) if depth > 0 => Op::WaitFor(self.limit(), self.body(place, depth - 1)),
            (_, 4..=6) if depth > 0 => Op::Scope(Box::new(self.scope(place, depth - 1))),
            (_, 7) if depth > 0 => Op::Shield(self.duration(), self.body(place, depth - 1)),
            _ => self.simple(place),
        };
        let can_fail = matches!(
            op,
            Op::Scope(_) | Op::Check | Op::Require(_) | Op::Sleep(_) | Op::CheckToken(_) | Op::WaitFor(..)
        );
        if can_fail && swallow { Op::Swallow(Box::new(op)) } else { op }
    }

    fn simple(&mut self, place: Place) -> Op {
        match self.below(20) {
            0..=2 => Op::Check,
            3..=6 => Op::Step(self.step()),
            7 => Op::Require(self.duration()),
            8 => Op::Sleep(self.step()),
            9 => Op::IsExpired,
            10 => Op::Remaining,
            11 => Op::Lent(self.index(6)),
            12 => Op::Token,
            13 => Op::Cancel(self.index(6)),
            14 => self.pick([Op::AskToken, Op::CheckToken])(self.index(6)),
            15..=16 => Op::Handle,
            17 if place != Place::Future => Op::Hook { on_token: self.one_in(2) },
            18 => Op::AskHooks,
            _ => Op::AskQuota(self.index(QUOTAS.len())),
        }
    }

    fn scope(&mut self, place: Place, depth: u32) -> Scope {
        let plain = !self.one_in(2);
        let in_future = place == Place::Future;
        let outside = if in_future { Place::Block } else { place };
        Scope {
            limit: self.limit(),
            plain,
            label: (!plain && self.one_in(2)).then(|| self.below(4)),
            reserve: if !plain && self.one_in(3) { self.step() } else { Duration::ZERO },
            cancel_on: if !plain && self.one_in(3) {
                (0..self.index(3)).map(|_| self.index(TOKENS)).collect()
            } else {
                vec![]
            },
            grace: if !plain && self.one_in(3) { self.duration() } else { Duration::ZERO },
            strict: !plain && self.one_in(4),
            within: (!plain && self.one_in(3)).then(|| self.index(6)),
            fallback: (!plain && self.one_in(if in_future { 4 } else { 2 })).then(|| self.body(outside, 0)),
            body: self.body(place, depth),
        }
    }

    fn limit(&mut self) -> Limit {
        match self.below(8) {
            0..=3 => Limit::After(self.duration()),
            4 => Limit::None,
            5 => Limit::At(Duration::from_nanos(self.below(30).into())),
            _ => Limit::Quota(self.index(QUOTAS.len())),
        }
    }

    fn ticks(&mut self) -> Vec<Tick> {
        (0..self.below(14)).map(|_| self.tick()).collect()
    }

    /// From a single byte.
    fn tick(&mut self) -> Tick {
        let choice = self.below(128);
        let cancel = Some(usize::from(choice / 16)).filter(|&token| (1..3).contains(&token));
        Tick { step: Duration::from_nanos((choice % 8).into()), cancel, polls: choice / 8 % 2 == 1 }
    }

    /// Short enough for several to be over at once, and equal now and then.
    fn step(&mut self) -> Duration {
        Duration::from_nanos(self.below(8).into())
    }

    fn duration(&mut self) -> Duration {
        match self.below(22) {
            21 => Duration::MAX,
            nanos => Duration::from_nanos(nanos.into()),
        }
    }

    fn pick<T, const N: usize>(&mut self, from: [T; N]) -> T {
        let index = self.index(N);
        from.into_iter().nth(index).expect("an index below the length")
    }
}
