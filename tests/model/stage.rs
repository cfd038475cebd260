//! Runs a program with the crate, under a mock clock.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use timebox::testing::MockClock;
use timebox::{CancellationToken, Handle, Hook, Quota, Registration, Timebox, TimeoutError, future};

use crate::program::{Body, Event, Failed, Limit, Op, QUOTAS, Scope, Tick, Told};

/// What the crate makes of a program; and at which times it was polled, of those when it could be.
pub(crate) fn run(program: &Body) -> (Vec<Event>, Vec<bool>) {
    MockClock::new().run(|clock| {
        let (first, second) = (CancellationToken::new(), CancellationToken::new());
        let child = first.child_token();
        let stage = Stage {
            clock,
            start: clock.now(),
            quotas: QUOTAS.map(Quota::new),
            tokens: RefCell::new(vec![first, second, child]),
            handles: RefCell::new(vec![Handle::root()]),
            hooks: RefCell::default(),
            trace: RefCell::default(),
            ticks: Cell::new(0),
            polls: RefCell::default(),
            awaited: Cell::new(0),
        };
        stage.got(stage.body(program, None)).unwrap_or_default();
        (0..QUOTAS.len()).for_each(|quota| stage.ask_quota(quota));
        (stage.trace.into_inner(), stage.polls.into_inner())
    })
}

struct Stage<'a> {
    clock: &'a MockClock,
    start: Instant,
    quotas: [Quota; QUOTAS.len()],
    tokens: RefCell<Vec<CancellationToken>>,
    handles: RefCell<Vec<Handle>>,
    /// Of each whether it has run.
    hooks: RefCell<Vec<Arc<AtomicBool>>>,
    trace: RefCell<Vec<Event>>,
    /// How many there have been.
    ticks: Cell<usize>,
    polls: RefCell<Vec<bool>>,
    /// At how many of them the foreign code is done that is awaited.
    awaited: Cell<usize>,
}

/// What a body fails with.
enum Error {
    Over(TimeoutError),
    Own,
}

impl From<TimeoutError> for Error {
    fn from(error: TimeoutError) -> Self {
        Self::Over(error)
    }
}

/// A scope that is lent to the code here.
struct Lent<'a> {
    scope: &'a timebox::Scope,
    outer: Option<&'a Lent<'a>>,
}

type Done = Result<(), Error>;
type DoneLater<'a> = Pin<Box<dyn Future<Output = Done> + 'a>>;

impl Stage<'_> {
    fn note(&self, event: Event) {
        self.trace.borrow_mut().push(event);
    }

    fn got(&self, result: Result<(), impl Into<Error>>) -> Done {
        let result = result.map_err(Into::into);
        self.note(Event::Got(described(&result)));
        result
    }

    // ===== Blocks =====

    fn body(&self, body: &Body, lent: Option<&Lent<'_>>) -> Done {
        let mut registrations = Vec::new();
        let result = body.ops.iter().try_for_each(|op| {
            if let Op::Hook { on_token } = op {
                registrations.push(self.hook(*on_token));
                return Ok(());
            }
            self.op(op, lent)
        });
        if !registrations.is_empty() {
            self.let_hooks_run();
        }
        drop(registrations);
        result?;
        if body.fails { Err(Error::Own) } else { Ok(()) }
    }

    fn hook(&self, on_token: bool) -> Registration {
        let has_run = Arc::new(AtomicBool::new(false));
        self.hooks.borrow_mut().push(Arc::clone(&has_run));
        let hook = Hook::inline(move || has_run.store(true, Ordering::Relaxed));
        if on_token { timebox::token().on_cancel(hook) } else { timebox::on_cancel(hook) }
    }

    /// Returns when the watchdog has dealt with all that was due.
    fn let_hooks_run(&self) {
        if self.hooks.borrow().is_empty() {
            return;
        }
        for _ in 0..2 {
            let (token, (done, wait)) = (CancellationToken::new(), channel());
            let hook = Hook::inline(move || done.send(()).expect("somebody waits"));
            let _registration = token.on_cancel(hook);
            token.cancel();
            wait.recv().expect("the hook runs");
        }
    }

    fn op(&self, op: &Op, lent: Option<&Lent<'_>>) -> Done {
        match op {
            Op::Swallow(op) => drop(self.op(op, lent)),
            Op::Scope(scope) => return self.got(self.scope(scope, lent)),
            Op::Shield(max, body) => {
                self.let_hooks_run();
                return self.got(timebox::shield(*max, || self.body(body, lent)));
            }
            Op::Check => return self.got(timebox::checkpoint()),
            Op::Require(duration) => return self.got(timebox::require(*duration)),
            Op::Sleep(duration) => return self.got(timebox::sleep(*duration)),
            Op::IsExpired => self.note(Event::IsExpired(timebox::is_expired())),
            Op::Remaining => self.note(Event::Remaining(timebox::remaining())),
            Op::Step(step) => self.clock.advance(*step),
            Op::Lent(index) => self.ask_lent(*index, lent),
            Op::Token => self.tokens.borrow_mut().push(timebox::token()),
            Op::Cancel(index) => self.cancel(*index),
            Op::AskToken(index) => {
                let token = self.token(*index);
                assert_eq!(token.is_cancelled(), token.cause().is_some());
                self.note(Event::Token(token.cause()));
            }
            Op::CheckToken(index) => return self.got(self.token(*index).checkpoint()),
            Op::AskQuota(quota) => self.ask_quota(*quota),
            Op::Drive(body, ticks) => return self.got(self.drive(body, ticks)),
            Op::Block(body) => return self.got(self.body(body, None)),
            Op::Handle => self.handles.borrow_mut().push(timebox::handle()),
            Op::AskHooks => {
                self.let_hooks_run();
                let have_run = |hook: &Arc<AtomicBool>| hook.load(Ordering::Relaxed);
                self.note(Event::Hooks(self.hooks.borrow().iter().map(have_run).collect()));
            }
            Op::Hook { .. } => unreachable!("it is for the body"),
            Op::Wait(_) | Op::WaitFor(..) => unreachable!("a block does not await"),
        }
        Ok(())
    }

    fn scope(&self, scope: &Scope, outer: Option<&Lent<'_>>) -> Done {
        let body = |lent: &timebox::Scope| {
            self.note(Event::Began);
            self.body(&scope.body, Some(&Lent { scope: lent, outer }))
        };
        let timebox = match self.timebox(scope) {
            Ok(timebox) => timebox,
            Err(limit) => return timebox::with_timeout(limit, body),
        };
        match &scope.fallback {
            Some(fallback) => timebox.run_or_else(body, |timed_out| {
                self.note(Event::Fallback(Told::from(&timed_out)));
                self.body(fallback, outer)
            }),
            None => timebox.run(body),
        }
    }

    fn limit(&self, limit: Limit) -> timebox::Limit {
        match limit {
            Limit::None => timebox::Limit::NONE,
            Limit::After(duration) => duration.into(),
            Limit::At(at) => (self.start + at).into(),
            Limit::Quota(quota) => (&self.quotas[quota]).into(),
        }
    }

    /// The builder, or the limit alone.
    fn timebox(&self, scope: &Scope) -> Result<Timebox, timebox::Limit> {
        let limit = self.limit(scope.limit);
        if scope.plain {
            return Err(limit);
        }
        let mut timebox = Timebox::new(limit).reserve(scope.reserve).grace(scope.grace);
        if scope.strict {
            timebox = timebox.strict();
        }
        if let Some(handle) = scope.within {
            let handles = self.handles.borrow();
            timebox = timebox.within(&handles[handle % handles.len()]);
        }
        if let Some(label) = scope.label {
            timebox = timebox.label(label.to_string());
        }
        for &token in &scope.cancel_on {
            timebox = timebox.cancel_on(&self.token(token));
        }
        Ok(timebox)
    }

    fn token(&self, index: usize) -> CancellationToken {
        let tokens = self.tokens.borrow();
        tokens[index % tokens.len()].clone()
    }

    fn cancel(&self, index: usize) {
        self.note(Event::Cancelled(self.token(index).cancel_with("cancelled")));
    }

    fn ask_quota(&self, quota: usize) {
        let quota = &self.quotas[quota];
        assert_eq!(quota.is_exhausted(), quota.remaining().is_zero());
        self.note(Event::Quota(quota.remaining()));
    }

    fn ask_lent(&self, index: usize, lent: Option<&Lent<'_>>) {
        let all: Vec<_> = std::iter::successors(lent, |lent| lent.outer).collect();
        if let Some(Lent { scope, .. }) = all.get(index % all.len().max(1)) {
            self.note(Event::IsExpired(scope.is_expired()));
            self.note(Event::Remaining(scope.remaining()));
            self.got(scope.checkpoint()).unwrap_or_default();
        }
    }

    // ===== Futures =====

    fn drive(&self, body: &Body, ticks: &[Tick]) -> Done {
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&woken));
        // In a scope without a limit: a poll of a future in none could not be told from the next.
        let mut future = pin!(future::timeout(timebox::Limit::NONE, self.future(body)));
        let mut poll = |polls| {
            let woken = woken.0.swap(false, Ordering::Relaxed);
            let due = polls || woken || self.awaited.get() <= self.ticks.get();
            self.polls.borrow_mut().push(due);
            if due { future.as_mut().poll(&mut Context::from_waker(&waker)) } else { Poll::Pending }
        };
        let mut done = poll(true);
        for tick in ticks {
            if done.is_ready() {
                break;
            }
            self.ticks.set(self.ticks.get() + 1);
            self.clock.advance(tick.step);
            tick.cancel.into_iter().for_each(|token| self.cancel(token));
            done = poll(tick.polls);
        }
        match done {
            Poll::Ready(result) => result,
            // It is dropped.
            Poll::Pending => Ok(()),
        }
    }

    /// A body as a future.
    fn future<'a>(&'a self, body: &'a Body) -> DoneLater<'a> {
        Box::pin(async move {
            self.note(Event::Began);
            let witness = Witness(self);
            let result = async {
                for op in &body.ops {
                    self.poll_op(op).await?;
                }
                if body.fails { Err(Error::Own) } else { Ok(()) }
            };
            let result = result.await;
            std::mem::forget(witness);
            result
        })
    }

    fn poll_op<'a>(&'a self, op: &'a Op) -> DoneLater<'a> {
        Box::pin(async move {
            match op {
                Op::Swallow(op) => {
                    drop(self.poll_op(op).await);
                    Ok(())
                }
                Op::Scope(scope) => self.got(match self.timebox(scope) {
                    Ok(timebox) => {
                        let body = self.future(&scope.body);
                        match &scope.fallback {
                            Some(fallback) => {
                                let fallback = |timed_out| {
                                    self.note(Event::Fallback(Told::from(&timed_out)));
                                    self.body(fallback, None)
                                };
                                timebox.run_future_or_else(body, fallback).await
                            }
                            None => timebox.run_future(body).await,
                        }
                    }
                    Err(limit) => future::timeout(limit, self.future(&scope.body)).await,
                }),
                Op::Shield(max, body) => self.got(future::shield(*max, self.future(body)).await),
                Op::Sleep(duration) => self.got(future::sleep(*duration).await),
                Op::Wait(ticks) => {
                    self.wait(*ticks).await;
                    Ok(())
                }
                Op::WaitFor(limit, body) => {
                    let result = future::wait(self.limit(*limit), self.future(body)).await;
                    self.got(result.map_err(Error::from).and_then(|done| done))
                }
                op => self.op(op, None),
            }
        })
    }

    async fn wait(&self, ticks: usize) {
        let until = self.ticks.get().saturating_add(ticks);
        poll_fn(|_| {
            self.awaited.set(until);
            if until <= self.ticks.get() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

fn described(result: &Done) -> Result<(), Failed> {
    match result {
        Ok(()) => Ok(()),
        Err(Error::Over(error)) => Err(Failed::Over(Told::from(error))),
        Err(Error::Own) => Err(Failed::Own),
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Notes the drop of a future that is not done.
struct Witness<'a>(&'a Stage<'a>);

impl Drop for Witness<'_> {
    fn drop(&mut self) {
        let is_expired = timebox::is_expired();
        let checkpoint = described(&timebox::checkpoint().map_err(Error::Over));
        self.0.note(Event::Dropped { is_expired, checkpoint });
    }
}
