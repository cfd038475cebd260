//! Reports: when a scope is due for a look, and who looks at a future.
//!
//! A block is looked at from outside its thread, so all that it does for a report is to arm the time of the look. A future
//! that is pending is on no thread. It is woken instead, and its next poll is traced: an observer learns where it waits.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Waker};

use super::frame::Scope;
use crate::error::ScopeInfo;
use crate::sync::SetOnce;
use crate::thread::Thread;
use crate::time::{NEVER, clock};
use crate::watchdog;

/// Why a scope is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Slow = 1,
    Expired = 2,
    Overdue = 4,
}

/// A future whose poll is traced.
pub(crate) struct Traced<'a> {
    pub(crate) scope: &'a Scope,
    pub(crate) event: Event,
    /// The time now.
    pub(crate) now: u64,
    pub(crate) polls: &'a Polls,
    pub(crate) waker: &'a Waker,
}

/// Who is told about futures.
pub(crate) trait FutureObserver: Sync {
    /// Calls `poll`, which polls the future and returns whether it is still pending. If it is, reports where the future
    /// waits. Returns whom to tell when the future ends, if anybody.
    fn trace(
        &self,
        traced: &Traced<'_>,
        poll: &mut dyn FnMut(&mut Context<'_>) -> bool,
    ) -> Option<Arc<dyn Ending>>;

    /// How long after its expiry a scope is overdue, in nanoseconds, if the scope does not say so itself.
    fn overdue_after(&self) -> u64;
}

/// Is told when a future ends, if there was a report about the future.
pub(crate) trait Ending: Send + Sync {
    fn ended(&self, now: u64);
}

static OBSERVER: SetOnce<&'static dyn FutureObserver> = SetOnce::new();

/// Sets who is told about futures. Only the first call counts.
pub(crate) fn observe_futures_with(observer: &'static dyn FutureObserver) {
    OBSERVER.get_or_init(|| observer);
}

impl Scope {
    /// What a report says of this scope and of the scopes around it, innermost first.
    pub(crate) fn infos(&self) -> Vec<ScopeInfo> {
        self.visible().map(Scope::info).collect()
    }
}

/// The polls of a future, and the reports about it.
#[derive(Default)]
pub(crate) struct Polls {
    pub(crate) count: u32,
    /// The thread of the last poll.
    pub(crate) thread: u32,
    /// When the last poll began; 0 if that is not known.
    pub(crate) last: u64,
    told: Option<Box<Told>>,
}

/// The reports about a future.
#[derive(Default)]
struct Told {
    /// The [`Event`]s that were reported.
    events: u8,
    ending: Option<Arc<dyn Ending>>,
}

impl Polls {
    /// The polls of a future that was polled once. Nothing else was kept about it.
    pub(crate) fn after_one() -> Self {
        Self { count: 1, thread: 0, last: 0, told: None }
    }

    /// Whether more must be kept than that the future was polled once.
    pub(crate) fn is_worth_keeping(&self) -> bool {
        self.count > 1 || self.told.is_some()
    }

    fn was_told(&self, event: Event) -> bool {
        self.told.as_ref().is_some_and(|told| told.events & event as u8 != 0)
    }

    /// When the scope is due for the next report, and for which.
    fn next(&self, scope: &Scope) -> (u64, Event) {
        let own = scope.own();
        if !self.was_told(Event::Expired) {
            let slow = scope.entered_at() + scope.warn_after();
            if slow < own && !self.was_told(Event::Slow) {
                return (slow, Event::Slow);
            }
            return (own, Event::Expired);
        }
        if self.was_told(Event::Overdue) {
            return (NEVER, Event::Overdue);
        }
        let policy = OBSERVER.get().map_or(NEVER, |observer| observer.overdue_after());
        let overdue = scope.extras().map_or(NEVER, |extras| extras.readable.overdue_after);
        (own.saturating_add(if overdue == NEVER { policy } else { overdue }), Event::Overdue)
    }

    /// When the task must be woken for a report; [`NEVER`] if the scope wakes it in time.
    pub(crate) fn next_look(&self, scope: &Scope) -> u64 {
        match self.next(scope) {
            // The scope itself wakes the task at its deadline.
            (_, Event::Expired) => NEVER,
            (at, _) if at < watchdog::NO_WARNING => at,
            _ => NEVER,
        }
    }

    /// Polls a future while reports are on. `poll` returns whether the future is still pending.
    #[inline(never)]
    pub(crate) fn poll(
        &mut self,
        scope: &Scope,
        cx: &mut Context<'_>,
        poll: &mut dyn FnMut(&mut Context<'_>) -> bool,
    ) {
        let thread = Thread::current();
        // Found anew for each poll: the policy may change, and the scope may be outermost in one poll and not in the
        // next.
        let (at, event) = self.next(scope);
        if at <= watchdog::global().reached()
            && let Some(observer) = OBSERVER.get()
        {
            let now = clock::now();
            let traced = Traced { scope, event, now, polls: self, waker: cx.waker() };
            let ending = observer.trace(&traced, poll);
            let told = self.told.get_or_insert_default();
            told.events |= event as u8;
            told.ending = ending.or(told.ending.take());
        } else {
            poll(cx);
        }
        self.count = self.count.saturating_add(1);
        self.thread = thread.slot().thread().map_or(0, |(id, _)| id);
        self.last = thread.now.get();
    }
}

impl Drop for Polls {
    /// The future has ended.
    fn drop(&mut self) {
        if let Some(ending) = self.told.take().and_then(|told| told.ending) {
            ending.ended(clock::real_now());
        }
    }
}

impl fmt::Debug for Polls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Polls").field("count", &self.count).finish_non_exhaustive()
    }
}
