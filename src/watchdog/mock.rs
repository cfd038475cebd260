//! Timers on the mock clocks of tests (feature `testing`). The thread that moves a clock makes the watchdog fire the
//! due timers, and waits until the work that they set off is done.
//!
//! Invariants:
//! 1. A clock moves with the lock of `clocks.rs` held, and a timer is put in with the same lock held. So either the thread that
//!    moves the clock finds the timer, or the thread that puts the timer in finds that the timer is due.
//! 2. One thread moves a clock at a time. The wakers that this thread has woken are *tracked*, and so is all the work that they
//!    set off.

pub(super) mod clocks;
pub(crate) mod tracking;

use std::sync::{Arc, TryLockError};
use std::task::{Wake, Waker};

use super::arm::global;
use super::pass;
use super::timers::Timer;
use crate::sync::lock;
use crate::test_env::Mock;
use crate::time::NEVER;
use clocks::{Queue, set_off_under, with_queue};
use tracking::{Tracked, WaitGroup, tracking};

pub(crate) fn new_clock(now: u64) -> Arc<Mock> {
    let mock = Arc::new(Mock::new(now));
    clocks::add(mock.id);
    mock
}

pub(crate) fn forget_clock(mock: &Mock) {
    clocks::remove(mock.id);
}

pub(crate) fn schedule(mock: &Arc<Mock>, deadline: u64, waker: Waker) -> Timer {
    // If the clock is gone, the waker stays in `waker`, and is dropped outside the lock: the drop of a waker is foreign
    // code.
    let mut waker = Some(waker);
    let put = |queue: &mut Queue| Some((queue.put(deadline, waker.take()?), deadline <= mock.now()));
    let (number, come) = with_queue(mock.id, put).flatten().unwrap_or_default();
    if come {
        global().post(Arc::new(Due(Arc::clone(mock))).into());
    }
    Timer::on_mock(mock.id, number)
}

/// Takes a timer on a mock clock back, and returns its waker. `None` if the timer has fired, or is not on a mock clock.
#[cold]
#[inline(never)]
pub(crate) fn take(timer: Timer) -> Option<Waker> {
    let (clock, number) = timer.mocked()?;
    with_queue(clock, |queue| queue.take(number))?
}

/// Makes a timer on a mock clock wake another task. `false` if the timer has fired, or is not on a mock clock.
#[cold]
pub(crate) fn redirect(timer: Timer, waker: &Waker) -> bool {
    let Some((clock, number)) = timer.mocked() else { return false };
    // The clone and the drop of a waker are foreign code. So both happen outside the lock: `swap` leaves the old waker
    // in `waker`, which is dropped at the end.
    let mut waker = waker.clone();
    let swap = |queue: &mut Queue| {
        let deadline = *queue.deadlines.get(&number)?;
        queue.wakers.get_mut(&(deadline, number)).map(|before| std::mem::swap(before, &mut waker))
    };
    with_queue(clock, swap).flatten().is_some()
}

/// Moves the clock to the time that `until` makes of the time now. Goes from one due timer to the next, while `go_on`
/// returns `true`.
///
/// Before the first step, waits for the work that threads under the clock have set off already. After each step, waits
/// for the work that this step has set off. If such work takes long and a timer is due, the clock moves on all the
/// same, because the work may wait for that timer. When this returns, all the work is done.
///
/// If tracked work calls this during a move, that move goes on to the new time, and this returns at once.
///
/// For a move to "never" see [`reach`].
pub(crate) fn advance(mock: &Arc<Mock>, until: impl Fn(u64) -> u64, mut go_on: impl FnMut() -> bool) {
    let until = |now| reach(now, until(now));
    let is_set_off = tracking().is_some();
    // The groups of work that took long, so that the clock moved on before the work was done. The loop ends only when
    // this work is done.
    let mut unfinished = Vec::new();
    // Waits for the work that threads under the clock have set off. A thread that runs tracked work itself
    // (`is_set_off`) does not wait, because it could wait for its own work. Without a watchdog nobody does the work, so
    // the wait would never end.
    if !is_set_off
        && global().is_running()
        && let Some(group) = set_off_under(mock)
    {
        unfinished.extend(wait_for(group, mock, until(mock.now())));
    }
    let _turn = match mock.turn.try_lock() {
        Ok(turn) => turn,
        Err(TryLockError::WouldBlock) if is_set_off => return mock.ask(until(mock.now())),
        Err(_) => lock(&mock.turn),
    };
    mock.begin();
    let until = until(mock.now());
    loop {
        let step = |queue: &mut Queue| {
            let next = next_due(queue, mock, until);
            mock.move_to(next.unwrap_or(until.max(mock.asked())));
            next.is_some()
        };
        let gone = || {
            mock.move_to(until);
            false
        };
        let group = if go_on() && with_queue(mock.id, step).unwrap_or_else(gone) {
            begin([Arc::new(Due(Arc::clone(mock))).into()])
        } else if unfinished.is_empty() {
            return;
        } else {
            unfinished.pop()
        };
        unfinished.extend(group.and_then(|group| wait_for(group, mock, until)));
    }
}

/// Moves the clock to the next timer, as [`advance`] does, and returns `true`. Returns `false` at once if there is no
/// timer.
pub(crate) fn advance_to_next(mock: &Arc<Mock>, go_on: impl FnMut() -> bool) -> bool {
    let next = with_queue(mock.id, |queue| queue.earliest()).unwrap_or(NEVER);
    if next != NEVER {
        advance(mock, |_| next, go_on);
    }
    next != NEVER
}

/// The time at which a move from `now` to `until` ends. A move to [`NEVER`] ends halfway, centuries after `now`. So a
/// limit that is set after the move still ends before [`NEVER`].
fn reach(now: u64, until: u64) -> u64 {
    if until == NEVER { now.midpoint(NEVER) } else { until }
}

/// When the next timer is due. `None` if there is no timer, or if it is due after `until` and after the time that
/// tracked work has asked for.
fn next_due(queue: &Queue, mock: &Mock, until: u64) -> Option<u64> {
    let next = queue.earliest();
    (next <= until.max(mock.asked()) && next != NEVER).then_some(next)
}

/// Waits until the group's work is done, and returns `None`. If the work takes long and a timer is due, returns the
/// group instead: the work may wait for that timer. For instance, a hook may wait for the hook that it escalates to.
fn wait_for(group: Arc<WaitGroup>, mock: &Mock, until: u64) -> Option<Arc<WaitGroup>> {
    while !group.is_done_soon() {
        if with_queue(mock.id, |queue| next_due(queue, mock, until)).flatten().is_some() {
            return Some(group);
        }
    }
    None
}

/// Makes the watchdog wake the wakers, and waits for all the work that they set off.
pub(crate) fn carry_out(wakers: impl IntoIterator<Item = Waker>) {
    if let Some(group) = begin(wakers) {
        group.wait();
    }
}

/// Makes the watchdog wake the wakers, and returns the group that counts this work. A thread that runs tracked work or
/// is the watchdog wakes the wakers itself: then returns `None`.
fn begin(wakers: impl IntoIterator<Item = Waker>) -> Option<Arc<WaitGroup>> {
    let wakers = wakers.into_iter();
    if tracking().is_some() || pass::is_this_thread() {
        wakers.for_each(Waker::wake);
        return None;
    }
    let group = Arc::new(WaitGroup::default());
    for waker in wakers {
        let job = Arc::new(Tracked::new(waker, &group));
        global().post(Arc::clone(&job).into());
        // If no thread can be had for the watchdog, nobody else would run the job, so this thread does.
        if !global().is_running() {
            job.wake();
        }
    }
    Some(group)
}

struct Due(Arc<Mock>);

impl Wake for Due {
    fn wake(self: Arc<Self>) {
        let now = self.0.now();
        while let Some(Some(waker)) = with_queue(self.0.id, |queue| queue.take_due(now)) {
            waker.wake();
        }
    }
}
