//! When a scope is due for a report, and how a report learns where a future waits.
//!
//! A thread that is in a block can be copied from outside. So the block only arms the time at which the watchdog looks.
//! A pending future is on no thread. So its task is woken instead, and the next poll is traced: an observer learns
//! where the future waits.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Waker};

use super::frame::Scope;
use crate::error::ScopeInfo;
use crate::sync::SetOnce;
use crate::thread::Thread;
use crate::time::{NEVER, clock};
use crate::watchdog;

/// Why a report about a future is due. Each value is one bit, so that a `u8` can be a set of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Slow = 1,
    Expired = 2,
    Overdue = 4,
}

/// A future about which a report is due. So its poll is traced.
pub(crate) struct Traced<'a> {
    pub(crate) scope: &'a Scope,
    pub(crate) event: Event,
    pub(crate) now: u64,
    pub(crate) polls: &'a Polls,
    pub(crate) waker: &'a Waker,
}

pub(crate) trait FutureObserver: Sync {
    /// Calls `poll`, which polls the future and returns `true` if the future is still pending. In that case reports
    /// where the future waits. `Some`: the caller must call [`ended`](Ending::ended) as soon as the future ends.
    fn trace(
        &self,
        traced: &Traced<'_>,
        poll: &mut dyn FnMut(&mut Context<'_>) -> bool,
    ) -> Option<Arc<dyn Ending>>;

    /// How many nanoseconds after its expiry a scope is overdue, if it has no `overdue_after` of its own.
    fn overdue_after(&self) -> u64;
}

/// Called when a future ends, if there was a report about that future.
pub(crate) trait Ending: Send + Sync {
    fn ended(&self, now: u64);
}

static OBSERVER: SetOnce<&'static dyn FutureObserver> = SetOnce::new();

pub(crate) fn observe_futures_with(observer: &'static dyn FutureObserver) {
    OBSERVER.get_or_init(|| observer);
}

impl Scope {
    pub(crate) fn infos(&self) -> Vec<ScopeInfo> {
        self.visible().map(Scope::info).collect()
    }
}

/// The polls of a future while reports were on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Polls {
    pub(crate) count: u32,
    /// The number of the thread that made the last poll.
    pub(crate) thread: u32,
    /// When the future was last polled.
    pub(crate) last: u64,
}

impl Polls {
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn add(&mut self, thread: &Thread, scope: &Scope) {
        self.count = self.count.saturating_add(1);
        self.thread = thread.slot().thread().map_or(0, |(id, _)| id);
        // In the first poll, `now` is still the time of the entry, which is recent enough. Later polls read the clock.
        let entered = scope.entered_at();
        self.last = if thread.now.get() == entered { entered } else { clock::now() };
    }
}

/// What was reported about a future. The drop tells `ending` that the future has ended.
#[derive(Default)]
pub(crate) struct ReportHistory {
    events: u8,
    ending: Option<Arc<dyn Ending>>,
}

/// The time and the event of the first report about the future of a scope.
#[cfg_attr(not(debug_assertions), inline(always))]
pub(crate) fn first_event(scope: &Scope) -> (u64, Event) {
    let (own, slow) = (scope.own(), scope.entered_at() + scope.warn_after());
    if slow < own { (slow, Event::Slow) } else { (own, Event::Expired) }
}

/// When the task must be woken for a report that is due at `at`. [`NEVER`] if there is no such report, or if the scope
/// wakes the task at that time anyway.
#[cfg_attr(not(debug_assertions), inline(always))]
pub(crate) fn wake_up_for((at, event): (u64, Event)) -> u64 {
    if matches!(event, Event::Expired) || at >= watchdog::NO_WARNING { NEVER } else { at }
}

impl ReportHistory {
    fn was_reported(&self, event: Event) -> bool {
        self.events & event as u8 != 0
    }

    /// When the next report about the scope is due, and for which event. The answer may change from poll to poll: the
    /// policy may change, and the scope may be outermost in one poll and not in the next.
    pub(crate) fn next(&self, scope: &Scope) -> (u64, Event) {
        let first = first_event(scope);
        if !self.was_reported(first.1) {
            return first;
        }
        let own = scope.own();
        if !self.was_reported(Event::Expired) {
            return (own, Event::Expired);
        }
        if self.was_reported(Event::Overdue) {
            return (NEVER, Event::Overdue);
        }
        let policy = OBSERVER.get().map_or(NEVER, |observer| observer.overdue_after());
        let overdue = scope.extras().map_or(NEVER, |extras| extras.readable.overdue_after);
        (own.saturating_add(if overdue == NEVER { policy } else { overdue }), Event::Overdue)
    }

    /// Polls a future that is due for a report, and traces the poll. If the future is still pending after it (`poll`
    /// returns `true`), reports the places at which the future waits.
    pub(crate) fn trace(
        &mut self,
        scope: &Scope,
        polls: &Polls,
        cx: &mut Context<'_>,
        poll: &mut dyn FnMut(&mut Context<'_>) -> bool,
    ) {
        let (_, event) = self.next(scope);
        let Some(observer) = OBSERVER.get() else {
            poll(cx);
            return;
        };
        let traced = Traced { scope, event, now: clock::now(), polls, waker: cx.waker() };
        let ending = observer.trace(&traced, poll);
        self.events |= event as u8;
        self.ending = ending.or(self.ending.take());
    }
}

impl Drop for ReportHistory {
    fn drop(&mut self) {
        if let Some(ending) = self.ending.take() {
            ending.ended(clock::real_now());
        }
    }
}

impl fmt::Debug for ReportHistory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReportHistory").field("events", &self.events).finish_non_exhaustive()
    }
}
