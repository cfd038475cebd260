//! A hook that is registered: runs it, fires it again, and ends it.

use std::sync::Arc;
use std::task::{Poll, Wake, Waker};
use std::time::Duration;

use super::{Hook, Plan, Policy, Repeat};
use crate::error::HookFailure;
use crate::pool::{self, Task};
use crate::sync::callback::{Call, Callback, Caller, Failure, Waiters};
use crate::sync::waits::Ending;
use crate::sync::{AtomicBool, ForkMutex, Ordering, mutant, weak_waker};
use crate::test_env::TestEnv;
use crate::thread::{self, without_scopes};
use crate::time::{clock, nanos};
use crate::watchdog::Timer;

/// A hook that is registered in one place.
pub(crate) struct Entry {
    /// Shared with those of the same hook in other places.
    callback: Arc<Callback>,
    policy: Policy,
    then: Vec<(Duration, Arc<Entry>)>,
    /// The timers that will fire it again, or what it escalates to.
    timers: ForkMutex<Vec<Timer>>,
    /// Whether a scope that is over has set it off: from then on only its own timers do.
    set_off: AtomicBool,
    /// Whether a run of it here has ended, or was refused. Set under the callback's lock.
    ended: AtomicBool,
    /// Whether what it escalates to has its timers.
    escalates: AtomicBool,
    /// Whether this is not its place any more: it does not begin to fire. Set under the callback's lock.
    retired: AtomicBool,
    /// On whose clock it fires again.
    env: TestEnv,
}

/// How a hook fires whose maker did not say.
#[derive(Clone, Copy)]
pub(crate) enum Unsaid {
    Once,
    Backoff,
}

impl Entry {
    pub(crate) fn new(plan: Plan, callbacks: &[Arc<Callback>], unsaid: Unsaid) -> Arc<Self> {
        let Plan { index, mut policy, then } = plan;
        if let Repeat::Unsaid = policy.repeat {
            policy.repeat = match unsaid {
                Unsaid::Once => Repeat::Once,
                Unsaid::Backoff => Repeat::Backoff,
            };
        }
        let then =
            then.into_iter().map(|(after, plan)| (after, Entry::new(plan, callbacks, unsaid))).collect();
        Self::made(Arc::clone(&callbacks[index]), policy, then, TestEnv::current())
    }

    fn made(
        callback: Arc<Callback>,
        policy: Policy,
        then: Vec<(Duration, Arc<Entry>)>,
        env: TestEnv,
    ) -> Arc<Self> {
        Arc::new(Self {
            callback,
            policy,
            then,
            timers: ForkMutex::new(Vec::new()),
            set_off: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            escalates: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            env,
        })
    }

    /// The same hook, for another place.
    pub(crate) fn again(&self) -> Arc<Self> {
        let then = self.then.iter().map(|(after, entry)| (*after, entry.again())).collect();
        Self::made(Arc::clone(&self.callback), self.policy, then, self.env.clone())
    }

    /// Registers nothing yet: makes an entry of a hook that borrows nothing.
    pub(crate) fn of(hook: Hook<'static>, unsaid: Unsaid) -> Arc<Self> {
        let (closures, plan) = hook.split();
        let callbacks: Vec<_> =
            closures.into_iter().map(|closure| Arc::new(Callback::new(closure))).collect();
        Entry::new(plan, &callbacks, unsaid)
    }

    pub(crate) fn is_inline(&self) -> bool {
        self.policy.inline
    }

    /// Its scope is over: runs it where it belongs, the first time. Called on the watchdog.
    pub(crate) fn set_off(self: Arc<Self>) {
        if self.claim() {
            self.dispatch();
        }
    }

    /// Leaves it to the caller to have it run the first time; `false` if it was left to another.
    pub(crate) fn claim(&self) -> bool {
        // Relaxed: only one is to be first.
        !self.set_off.swap(true, Ordering::Relaxed)
    }

    /// Runs it where it belongs. Called on the watchdog.
    pub(crate) fn dispatch(self: Arc<Self>) {
        if self.policy.inline {
            self.run();
        } else if self.callback.is_live() {
            pool::run_hook(self);
        }
    }

    /// Runs it here.
    pub(crate) fn run(self: &Arc<Self>) {
        let (fires, failures, due) = match self.callback.call(self) {
            Call::Ran { fires, failures, due, waiters } => {
                wake(waiters);
                (fires, failures, due)
            }
            Call::Later { runs } => {
                // For another place, where it may hang.
                if runs {
                    self.escalate_later();
                }
                return;
            }
            Call::Rejected => {
                wake(self.callback.hold_back(false, || self.ended()));
                // One that was to fire once may have done so elsewhere.
                if self.is_once() && self.callback.fires() > 0 {
                    self.escalate_later();
                }
                return;
            }
        };
        if let Some(due) = due {
            thread::post(due);
        }
        let interval = match self.policy.repeat {
            Repeat::Once | Repeat::Unsaid => return,
            Repeat::Every(interval) => {
                let interval = nanos(interval).max(100_000);
                // Of one that fails each pause is twice the last, up to a second.
                interval.saturating_mul(1 << failures.min(14)).min(interval.max(1_000_000_000))
            }
            Repeat::Backoff => 500_000 << (fires - 1).min(if failures > 0 { 11 } else { 7 }),
        };
        self.schedule(interval, self);
    }

    fn is_once(&self) -> bool {
        matches!(self.policy.repeat, Repeat::Once | Repeat::Unsaid)
    }

    /// At the first firing.
    fn escalate_later(self: &Arc<Self>) {
        // Relaxed: only one is to be first.
        if !self.escalates.swap(true, Ordering::Relaxed) {
            for (after, entry) in &self.then {
                self.schedule(nanos(*after), entry);
            }
        }
    }

    fn schedule(&self, after: u64, entry: &Arc<Entry>) {
        let Some(mut timers) = self.timers.lock() else { return };
        // Checked under the lock that `forget_timers` takes: no timer is left behind.
        if !self.callback.is_live() || self.is_retired() {
            return;
        }
        let weak = Arc::downgrade(entry);
        let time = self.env.reading(clock::now()).saturating_add(after);
        let timer = thread::schedule_on(&self.env, time, weak_waker(weak));
        if timers.len() > self.then.len() {
            // The last is the one that fired it this time.
            timers.pop();
        }
        timers.push(timer);
    }

    fn is_retired(&self) -> bool {
        // Relaxed: ordered by the lock of the callback, or of the timers.
        !mutant!(NoRetire) && self.retired.load(Ordering::Relaxed)
    }

    /// The place is left: it does not begin to fire any more, whatever is on its way; with `wait`, it is not firing
    /// either. In another place it may, [`again`](Self::again).
    pub(crate) fn retire(&self, wait: bool) {
        wake(self.callback.hold_back(wait, || self.retired.store(true, Ordering::Relaxed)));
        self.forget_timers();
        self.then.iter().for_each(|(_, entry)| entry.retire(wait));
    }

    /// Ends it: when this returns no part of it is running, and never will; except from inside itself, or from inside a
    /// hook that it waits for.
    pub(crate) fn revoke(&self, ending: Ending) {
        wake(self.callback.revoke(ending));
        self.forget_timers();
        for (_, entry) in &self.then {
            entry.revoke(ending);
        }
    }

    /// Whether it was ended.
    pub(crate) fn is_revoked(&self) -> bool {
        self.callback.is_revoked()
    }

    /// Whether a part of it is running now, as may be where it was revoked from inside.
    pub(crate) fn is_running(&self) -> bool {
        self.callback.is_running() || self.then.iter().any(|(_, entry)| entry.is_running())
    }

    /// As [`revoke`](Self::revoke), without blocking.
    pub(crate) fn poll_revoke(&self, waker: &Waker) -> Poll<()> {
        self.callback.begin_to_revoke();
        let mut poll = self.callback.poll_idle(std::ptr::from_ref(self).addr(), waker, || false);
        if poll.is_ready() {
            wake(self.callback.revoke(Ending::Scope));
        }
        self.forget_timers();
        for (_, entry) in &self.then {
            if entry.poll_revoke(waker).is_pending() {
                poll = Poll::Pending;
            }
        }
        poll
    }

    /// The future that it is registered with ends: pending until it has run here, or never will, and runs no more. What
    /// `ends` with that future does not begin again here. `waiter` is as in [`Callback::poll_idle`].
    pub(crate) fn poll_first_run(&self, waiter: usize, waker: &Waker, ends: bool) -> Poll<()> {
        let comes = || {
            let ended = self.has_ended();
            if ended && ends {
                self.retired.store(true, Ordering::Relaxed);
            }
            !ended
        };
        let poll = self.callback.poll_idle(waiter, waker, comes);
        if !self.is_retired() {
            return poll;
        }
        self.forget_timers();
        self.then.iter().map(|(_, entry)| entry.poll_retire(waiter, waker)).fold(poll, both)
    }

    /// As [`retire`](Self::retire), without blocking: pending while it runs.
    fn poll_retire(&self, waiter: usize, waker: &Waker) -> Poll<()> {
        let is_to_come = || {
            self.retired.store(true, Ordering::Relaxed);
            false
        };
        let poll = self.callback.poll_idle(waiter, waker, is_to_come);
        self.forget_timers();
        self.then.iter().map(|(_, entry)| entry.poll_retire(waiter, waker)).fold(poll, both)
    }

    fn forget_timers(&self) {
        let timers = self.timers.lock().map(|mut timers| std::mem::take(&mut *timers));
        for timer in timers.unwrap_or_default() {
            timer.cancel();
        }
    }

    /// Whether it has run here, or never will.
    pub(crate) fn has_ended(&self) -> bool {
        // Relaxed: ordered by the lock of the callback, or asked until it is so.
        self.ended.load(Ordering::Relaxed) || self.is_retired()
    }

    /// Keeps it from beginning to fire.
    pub(crate) fn suspend(&self) {
        self.callback.suspend();
        for (_, entry) in &self.then {
            entry.suspend();
        }
    }

    /// Waits for it if it fires.
    pub(crate) fn wait_until_idle(&self) {
        wake(self.callback.wait_until_idle());
        for (_, entry) in &self.then {
            entry.wait_until_idle();
        }
    }

    /// Lets it fire again, and has it fire if that was due meanwhile.
    pub(crate) fn resume(&self) {
        let mut due = Vec::new();
        self.resume_all(&mut due);
        #[cfg(feature = "testing")]
        if TestEnv::is_in_force() && TestEnv::current().injects() {
            // As at the expiry itself: what is tested next finds that they have run.
            return crate::watchdog::mock::carry_out(due);
        }
        due.into_iter().for_each(thread::post);
    }

    /// All before any fires: one may wait for what it escalates to.
    fn resume_all(&self, due: &mut Vec<Waker>) {
        due.extend(self.callback.resume());
        self.then.iter().for_each(|(_, entry)| entry.resume_all(due));
    }

    /// How often it fired, escalations included.
    pub(crate) fn fires(&self) -> u32 {
        self.then.iter().fold(self.callback.fires(), |sum, (_, entry)| sum.saturating_add(entry.fires()))
    }

    /// How it went wrong the last time that it did; of what it escalates to, if that did.
    pub(crate) fn failure(&self) -> Option<HookFailure> {
        let own = || self.callback.failure().map(|Failure { text, is_panic }| HookFailure { text, is_panic });
        self.then.iter().rev().find_map(|(_, entry)| entry.failure()).or_else(own)
    }

    /// Whether a part of it has fired that spoils the result.
    pub(crate) fn has_spoilt(&self) -> bool {
        (self.policy.spoils && self.callback.fires() > 0)
            || self.then.iter().any(|(_, entry)| entry.has_spoilt())
    }
}

impl Caller for Arc<Entry> {
    fn may(&self, fires: u32) -> bool {
        !self.is_retired() && (fires == 0 || !self.is_once())
    }

    fn waker(&self) -> Waker {
        weak_waker(Arc::downgrade(self))
    }

    fn begins(&self) {
        self.escalate_later();
    }

    fn ended(&self) {
        // Relaxed: as in `has_ended`.
        self.ended.store(true, Ordering::Relaxed);
    }
}

/// Wakes tasks that waited for a hook. One that is polled right here sees no scope of this thread.
fn wake(waiters: Waiters) {
    if !waiters.is_empty() {
        without_scopes(|| waiters.wake());
    }
}

fn both(one: Poll<()>, other: Poll<()>) -> Poll<()> {
    if one.is_ready() { other } else { one }
}

/// Its timer has come.
impl Wake for Entry {
    fn wake(self: Arc<Self>) {
        self.dispatch();
    }
}

impl Task for Entry {
    fn run(self: Arc<Self>) {
        Entry::run(&self);
    }
}
