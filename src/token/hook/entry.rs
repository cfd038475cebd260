use std::sync::Arc;
use std::task::{Poll, Wake, Waker};
use std::time::Duration;

use super::builder::{Hook, Plan, Policy, Repeat};
use crate::error::HookFailure;
use crate::pool::{self, Task};
use crate::sync::callback::{Call, Callback, Caller, Failure, Waiters};
use crate::sync::waits::Ending;
use crate::sync::{AtomicBool, ForkMutex, Ordering, mutant, weak_waker};
use crate::test_env::TestEnv;
use crate::thread::{self, without_scopes};
use crate::time::{clock, nanos};
use crate::watchdog::Timer;

/// A hook that is registered with one call or one scope.
///
/// A future carries its hook from scope to scope. It makes an entry for each scope ([`again`](Self::again)), and
/// retires the entry of the scope that it leaves.
pub(crate) struct Entry {
    callback: Arc<Callback>,
    policy: Policy,
    then: Vec<(Duration, Arc<Entry>)>,
    timers: ForkMutex<Timers>,
    /// Whether the first run has been claimed ([`claim`](Self::claim)), so that it is started only once.
    triggered: AtomicBool,
    /// Whether a run of this entry has ended, or the callback has rejected a run. Set under the callback's lock.
    ended: AtomicBool,
    /// Whether the timers of the hooks in `then` were armed.
    escalates: AtomicBool,
    /// If `true`, the entry begins no further run: its future has left the scope, or has ended. Set under the
    /// callback's lock.
    retired: AtomicBool,
    env: TestEnv,
}

#[derive(Default)]
struct Timers {
    then: Vec<Timer>,
    /// For the entry's own next run.
    next: Option<Timer>,
}

#[derive(Clone, Copy)]
pub(crate) enum DefaultRepeat {
    Once,
    Backoff,
}

impl Entry {
    pub(crate) fn new(plan: Plan, callbacks: &[Arc<Callback>], default: DefaultRepeat) -> Arc<Self> {
        let Plan { index, mut policy, then } = plan;
        if let Repeat::Default = policy.repeat {
            policy.repeat = match default {
                DefaultRepeat::Once => Repeat::Once,
                DefaultRepeat::Backoff => Repeat::Backoff,
            };
        }
        let then =
            then.into_iter().map(|(after, plan)| (after, Entry::new(plan, callbacks, default))).collect();
        Self::build(Arc::clone(&callbacks[index]), policy, then, TestEnv::current())
    }

    fn build(
        callback: Arc<Callback>,
        policy: Policy,
        then: Vec<(Duration, Arc<Entry>)>,
        env: TestEnv,
    ) -> Arc<Self> {
        Arc::new(Self {
            callback,
            policy,
            then,
            timers: ForkMutex::new(Timers::default()),
            triggered: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            escalates: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            env,
        })
    }

    pub(crate) fn again(&self) -> Arc<Self> {
        let then = self.then.iter().map(|(after, entry)| (*after, entry.again())).collect();
        Self::build(Arc::clone(&self.callback), self.policy, then, self.env.clone())
    }

    pub(crate) fn from_hook(hook: Hook<'static>, default: DefaultRepeat) -> Arc<Self> {
        let (closures, plan) = hook.split();
        let callbacks: Vec<_> =
            closures.into_iter().map(|closure| Arc::new(Callback::new(closure))).collect();
        Entry::new(plan, &callbacks, default)
    }

    pub(crate) fn is_inline(&self) -> bool {
        self.policy.inline
    }

    /// Starts the first run, unless it was claimed before. Called on the watchdog, when the entry's scope is over.
    pub(crate) fn trigger(self: Arc<Self>) {
        if self.claim() {
            self.dispatch();
        }
    }

    /// Returns `true` for the first caller, which must start the first run. `false` for all others.
    pub(crate) fn claim(&self) -> bool {
        // Relaxed: the flag publishes no other data.
        !self.triggered.swap(true, Ordering::Relaxed)
    }

    /// Runs an inline hook on this thread. Gives any other hook to a runner thread. Called on the watchdog.
    pub(crate) fn dispatch(self: Arc<Self>) {
        if self.policy.inline {
            self.run();
        } else if self.callback.is_live() {
            pool::run_hook(self);
        }
    }

    pub(crate) fn run(self: &Arc<Self>) {
        let (fires, failures, due) = match self.callback.call(self) {
            Call::Ran { fires, failures, due, waiters } => {
                wake(waiters);
                (fires, failures, due)
            }
            Call::Later { runs } => {
                // `runs`: another entry of this hook is running the closure. That run may hang, so this entry escalates
                // without waiting for it.
                if runs {
                    self.escalate_later();
                }
                return;
            }
            Call::Rejected => {
                wake(self.callback.hold_back(false, || self.ended()));
                // If the hook fires only once, another entry may have run it. That run did not start this entry's
                // escalation, so the escalation is started here.
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
            Repeat::Once | Repeat::Default => return,
            Repeat::Every(interval) => {
                let interval = nanos(interval).max(100_000);
                // Each failure in a row doubles the pause, up to a second. An interval of more than a second stays as
                // it is.
                interval.saturating_mul(1 << failures.min(14)).min(interval.max(1_000_000_000))
            }
            Repeat::Backoff => 500_000 << (fires - 1).min(if failures > 0 { 11 } else { 7 }),
        };
        // The timer before this one has fired.
        self.schedule(interval, self, |timers, timer| timers.next = Some(timer));
    }

    fn is_once(&self) -> bool {
        matches!(self.policy.repeat, Repeat::Once | Repeat::Default)
    }

    fn escalate_later(self: &Arc<Self>) {
        // Relaxed: the flag publishes no other data.
        if !self.escalates.swap(true, Ordering::Relaxed) {
            for (after, entry) in &self.then {
                self.schedule(nanos(*after), entry, |timers, timer| timers.then.push(timer));
            }
        }
    }

    fn schedule(&self, after: u64, entry: &Arc<Entry>, keep: impl FnOnce(&mut Timers, Timer)) {
        let Some(mut timers) = self.timers.lock() else { return };
        // Checked under the lock of `timers`, because `cancel_timers` takes this lock. Otherwise a timer could be added
        // just after `cancel_timers`, and nobody would cancel it.
        if !self.callback.is_live() || self.is_retired() {
            return;
        }
        let weak = Arc::downgrade(entry);
        let time = self.env.reading(clock::now()).saturating_add(after);
        keep(&mut timers, thread::schedule_on(&self.env, time, weak_waker(weak)));
    }

    fn is_retired(&self) -> bool {
        // Relaxed: the lock of the callback, or of the timers, orders this load.
        !mutant!(NoRetire) && self.retired.load(Ordering::Relaxed)
    }

    /// Called when the future leaves the entry's scope. After this call the entry begins no run. With `wait`, this call
    /// also waits for a run that is in progress. Later the hook may run for [another](Self::again) entry.
    pub(crate) fn retire(&self, wait: bool) {
        wake(self.callback.hold_back(wait, || self.retired.store(true, Ordering::Relaxed)));
        self.cancel_timers();
        self.then.iter().for_each(|(_, entry)| entry.retire(wait));
    }

    /// Ends the hook and its `then` hooks. When this returns, none of them is running, and none will run again.
    /// Exception: a call from inside the hook, or from inside another hook that this hook waits for, does not wait for
    /// the run.
    pub(crate) fn revoke(&self, ending: Ending) {
        wake(self.callback.revoke(ending));
        self.cancel_timers();
        for (_, entry) in &self.then {
            entry.revoke(ending);
        }
    }

    pub(crate) fn is_revoked(&self) -> bool {
        self.callback.is_revoked()
    }

    /// Whether this hook or a hook in `then` is running. A hook that revokes itself counts as running until its run
    /// ends.
    pub(crate) fn is_running(&self) -> bool {
        self.callback.is_running() || self.then.iter().any(|(_, entry)| entry.is_running())
    }

    /// Like [`revoke`](Self::revoke), but does not block. `Pending` while another thread runs the hook or one of its
    /// `then` hooks: then `waker` will be woken.
    pub(crate) fn poll_revoke(&self, waker: &Waker) -> Poll<()> {
        self.callback.begin_to_revoke();
        let mut poll = self.callback.poll_idle(std::ptr::from_ref(self).addr(), waker, || false);
        if poll.is_ready() {
            wake(self.callback.revoke(Ending::Scope));
        }
        self.cancel_timers();
        for (_, entry) in &self.then {
            if entry.poll_revoke(waker).is_pending() {
                poll = Poll::Pending;
            }
        }
        poll
    }

    /// Called when the future of this entry ends. Pending until this entry has run, and while another thread runs the
    /// hook. Ready if the entry cannot run, for example because a shield suspends the hook. If `ends` is `true`, the
    /// hook ends with the future: the entry begins no second run. `waiter` is a number for the waiting future. A new
    /// waker with the same number replaces the earlier one ([`Callback::poll_idle`]).
    pub(crate) fn poll_first_run(&self, waiter: usize, waker: &Waker, ends: bool) -> Poll<()> {
        let is_to_come = || {
            let ended = self.has_ended();
            if ended && ends {
                self.retired.store(true, Ordering::Relaxed);
            }
            !ended
        };
        let poll = self.callback.poll_idle(waiter, waker, is_to_come);
        if !self.is_retired() {
            return poll;
        }
        self.cancel_timers();
        self.then.iter().map(|(_, entry)| entry.poll_retire(waiter, waker)).fold(poll, both)
    }

    /// Like [`retire`](Self::retire), but does not block: `Pending` while another thread runs the hook or one of its
    /// `then` hooks.
    fn poll_retire(&self, waiter: usize, waker: &Waker) -> Poll<()> {
        let is_to_come = || {
            self.retired.store(true, Ordering::Relaxed);
            false
        };
        let poll = self.callback.poll_idle(waiter, waker, is_to_come);
        self.cancel_timers();
        self.then.iter().map(|(_, entry)| entry.poll_retire(waiter, waker)).fold(poll, both)
    }

    fn cancel_timers(&self) {
        let timers = self.timers.lock().map(|mut timers| std::mem::take(&mut *timers));
        let Timers { then, next } = timers.unwrap_or_default();
        then.into_iter().chain(next).for_each(Timer::cancel);
    }

    /// Whether this entry has run, was refused a run, or is retired. If so, there is no first run to wait for.
    pub(crate) fn has_ended(&self) -> bool {
        // Relaxed: the callback's lock orders this load. A caller without that lock asks again.
        self.ended.load(Ordering::Relaxed) || self.is_retired()
    }

    pub(crate) fn suspend(&self) {
        self.callback.suspend();
        for (_, entry) in &self.then {
            entry.suspend();
        }
    }

    pub(crate) fn wait_until_idle(&self) {
        wake(self.callback.wait_until_idle());
        for (_, entry) in &self.then {
            entry.wait_until_idle();
        }
    }

    /// Undoes [`suspend`](Self::suspend). Starts the runs that became due during the suspension.
    pub(crate) fn resume(&self) {
        let mut due = Vec::new();
        self.resume_all(&mut due);
        #[cfg(feature = "testing")]
        if TestEnv::is_in_force() && TestEnv::current().injects() {
            // `expire_at_checkpoint` promises that the hooks have run when this returns.
            return crate::watchdog::mock::carry_out(due);
        }
        due.into_iter().for_each(thread::post);
    }

    /// Resumes this hook and the hooks in `then`. Appends to `due` the wakers of the runs that can begin now. The
    /// caller wakes them only when all hooks are resumed, because a run may wait for the run of a hook in `then`.
    fn resume_all(&self, due: &mut Vec<Waker>) {
        due.extend(self.callback.resume());
        self.then.iter().for_each(|(_, entry)| entry.resume_all(due));
    }

    pub(crate) fn fires(&self) -> u32 {
        self.then.iter().fold(self.callback.fires(), |sum, (_, entry)| sum.saturating_add(entry.fires()))
    }

    /// The failure of the last `then` hook that has failed. If no `then` hook has failed, the last failure of this hook
    /// itself.
    pub(crate) fn failure(&self) -> Option<HookFailure> {
        let own = || self.callback.failure().map(|Failure { text, is_panic }| HookFailure { text, is_panic });
        self.then.iter().rev().find_map(|(_, entry)| entry.failure()).or_else(own)
    }

    /// Whether this hook or a hook in `then` has fired, and was made with `Hook::spoils`. Then an `Ok` of the call
    /// counts as an error.
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

/// Wakes tasks that waited for a hook. An executor may poll a task during this call, and the task must not see this
/// thread's scopes.
fn wake(waiters: Waiters) {
    if !waiters.is_empty() {
        without_scopes(|| waiters.wake());
    }
}

fn both(one: Poll<()>, other: Poll<()>) -> Poll<()> {
    if one.is_ready() { other } else { one }
}

/// Called when a timer of the entry is due, or when a run that was put off can begin.
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
