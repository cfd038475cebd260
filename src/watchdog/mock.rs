//! Timers on the mock clocks of tests (feature `testing`): fired by whoever moves the clock, on the watchdog, which is
//! waited for.
//!
//! Invariants:
//! 1. A clock moves with `TIMERS` locked, and a timer is put in with it locked: either the one who moves the clock
//!    finds the timer, or the one who puts it in finds that its time has come.
//! 2. One thread moves a clock at a time. What runs on its behalf meanwhile is *tracked*, and all that it sets off.

pub(crate) mod presence;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, TryLockError};
use std::task::{Wake, Waker};
use std::time::Duration;

use super::pool::Task;
use super::{Timer, global};
use crate::sync::{Condvar, ForkMutex, Mutex, lock, wait};
use crate::test_env::{Mock, TestEnv};
use crate::time::NEVER;

/// How long, in real time, a move waits for what it has set off before it goes on to what that may wait for.
const PATIENCE: Duration = Duration::from_secs(1);

/// By the number of the clock. Those of a clock that is gone are never fired.
type Timers = BTreeMap<u32, Kept>;

/// What is kept for a clock.
#[derive(Default)]
struct Kept {
    queue: Queue,
    /// Counts what threads under it have set off other than by moving it: a hook by a cancel, or by leaving a shield.
    set_off: Arc<Latch>,
}

#[derive(Default)]
struct Queue {
    /// By deadline, and then in the order they were put in.
    wakers: BTreeMap<(u64, u32), Waker>,
    /// By the same numbers.
    deadlines: BTreeMap<u32, u64>,
    next: u32,
}

impl Queue {
    fn put(&mut self, deadline: u64, waker: Waker) -> u32 {
        let number = self.next;
        self.next = number.wrapping_add(1);
        self.wakers.insert((deadline, number), waker);
        self.deadlines.insert(number, deadline);
        number
    }

    fn take(&mut self, number: u32) -> Option<Waker> {
        self.wakers.remove(&(self.deadlines.remove(&number)?, number))
    }

    fn take_due(&mut self, now: u64) -> Option<Waker> {
        let &(deadline, number) = self.wakers.keys().next()?;
        if deadline <= now { self.take(number) } else { None }
    }

    fn earliest(&self) -> u64 {
        self.wakers.keys().next().map_or(NEVER, |&(deadline, _)| deadline)
    }
}

fn timers() -> &'static ForkMutex<Timers> {
    static TIMERS: OnceLock<ForkMutex<Timers>> = OnceLock::new();
    TIMERS.get_or_init(|| ForkMutex::new(Timers::new()))
}

/// A new clock, with room for its timers.
pub(crate) fn new_clock(now: u64) -> Arc<Mock> {
    let mock = Arc::new(Mock::new(now));
    if let Some(mut timers) = timers().lock() {
        timers.insert(mock.id, Kept::default());
    }
    mock
}

/// Nobody can move the clock any more.
pub(crate) fn forget_clock(mock: &Mock) {
    // Foreign code in the drop: not under the lock.
    let forgotten = timers().lock().and_then(|mut timers| timers.remove(&mock.id));
    drop(forgotten);
}

pub(super) fn schedule(mock: &Arc<Mock>, deadline: u64, waker: Waker) -> Timer {
    // Left here if the clock is gone: to drop it is foreign code, not under the lock.
    let mut waker = Some(waker);
    let put = |queue: &mut Queue| Some((queue.put(deadline, waker.take()?), deadline <= mock.now()));
    let (number, come) = with_queue(mock.id, put).flatten().unwrap_or_default();
    if come {
        global().post(Arc::new(Due(Arc::clone(mock))).into());
    }
    Timer::on_mock(mock.id, number)
}

/// Takes a timer back; `None` if it was called, or is not on a mock clock.
#[cold]
#[inline(never)]
pub(super) fn take(timer: Timer) -> Option<Waker> {
    let (clock, number) = timer.mocked()?;
    with_queue(clock, |queue| queue.take(number))?
}

/// Has it wake another task; `false` if it was called.
#[cold]
pub(super) fn redirect(timer: Timer, waker: &Waker) -> bool {
    let Some((clock, number)) = timer.mocked() else { return false };
    // To clone and to drop a waker is foreign code: not under the lock.
    let mut waker = waker.clone();
    let swap = |queue: &mut Queue| {
        let deadline = *queue.deadlines.get(&number)?;
        queue.wakers.get_mut(&(deadline, number)).map(|before| std::mem::swap(before, &mut waker))
    };
    with_queue(clock, swap).flatten().is_some()
}

/// Calls `f` with the timers of a clock; `None` if it is gone.
fn with_queue<R>(clock: u32, f: impl FnOnce(&mut Queue) -> R) -> Option<R> {
    timers().lock()?.get_mut(&clock).map(|kept| f(&mut kept.queue))
}

fn set_off_under(clock: &Mock) -> Option<Arc<Latch>> {
    Some(Arc::clone(&timers().lock()?.get(&clock.id)?.set_off))
}

/// Moves the clock to `until`, from one due timer to the next, for as long as `go_on` says so. What was set off before
/// has been done when it begins, what the move sets off when it goes on, unless that takes long; all of it when this
/// returns.
///
/// From inside of what is set off it asks the move in progress to go on, if there is one, and returns at once.
///
/// What never comes is far away: see [`reach`].
pub(crate) fn advance(mock: &Arc<Mock>, until: impl Fn(u64) -> u64, mut go_on: impl FnMut() -> bool) {
    let until = |now| reach(now, until(now));
    let is_set_off = tracking().is_some();
    // What has taken long.
    let mut unfinished = Vec::new();
    // Without threads nobody would do it.
    if !is_set_off
        && global().is_running()
        && let Some(latch) = set_off_under(mock)
    {
        unfinished.extend(wait_for(latch, mock, until(mock.now())));
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
        let latch = if go_on() && with_queue(mock.id, step).unwrap_or_else(gone) {
            begin([Arc::new(Due(Arc::clone(mock))).into()])
        } else if unfinished.is_empty() {
            return;
        } else {
            unfinished.pop()
        };
        unfinished.extend(latch.and_then(|latch| wait_for(latch, mock, until)));
    }
}

/// Moves the clock to the next timer, if `go_on` says so once all that was set off before has been done; `false` if there
/// is none.
pub(crate) fn advance_to_next(mock: &Arc<Mock>, go_on: impl FnMut() -> bool) -> bool {
    let next = with_queue(mock.id, |queue| queue.earliest()).unwrap_or(NEVER);
    if next != NEVER {
        advance(mock, |_| next, go_on);
    }
    next != NEVER
}

/// Where a move from `now` to `until` ends. To what never comes it goes half of the way to the end of the scale: past
/// centuries, and still so that limits after it lie on the scale.
fn reach(now: u64, until: u64) -> u64 {
    if until == NEVER { now.midpoint(NEVER) } else { until }
}

/// When the next timer is due on the way to `until`, or to what was asked meanwhile.
fn next_due(queue: &Queue, mock: &Mock, until: u64) -> Option<u64> {
    let next = queue.earliest();
    (next <= until.max(mock.asked()) && next != NEVER).then_some(next)
}

/// Waits until it is done; hands it back where that takes long and a timer is due that it may wait for, as a hook for
/// what it escalates to.
fn wait_for(latch: Arc<Latch>, mock: &Mock, until: u64) -> Option<Arc<Latch>> {
    while !latch.is_done_soon() {
        if with_queue(mock.id, |queue| next_due(queue, mock, until)).flatten().is_some() {
            return Some(latch);
        }
    }
    None
}

/// Has them woken on the watchdog, and waits until that, and all that they have set off, is done.
pub(crate) fn carry_out(wakers: impl IntoIterator<Item = Waker>) {
    if let Some(latch) = begin(wakers) {
        latch.wait();
    }
}

/// Has them woken on the watchdog; counts that, and all that they set off. `None` if this thread is one that is waited for:
/// they are woken here.
fn begin(wakers: impl IntoIterator<Item = Waker>) -> Option<Arc<Latch>> {
    let wakers = wakers.into_iter();
    if tracking().is_some() || ON_WATCHDOG.get() {
        wakers.for_each(Waker::wake);
        return None;
    }
    let latch = Arc::new(Latch::default());
    for waker in wakers {
        let job = Arc::new(Tracked::new(waker, &latch));
        global().post(Arc::clone(&job).into());
        // Without threads there is nobody else.
        if !global().is_running() {
            job.wake();
        }
    }
    Some(latch)
}

/// The timers of a clock whose time has come.
struct Due(Arc<Mock>);

impl Wake for Due {
    fn wake(self: Arc<Self>) {
        let now = self.0.now();
        while let Some(Some(waker)) = with_queue(self.0.id, |queue| queue.take_due(now)) {
            waker.wake();
        }
    }
}

thread_local! {
    static TRACKING: RefCell<Option<Arc<Latch>>> = const { RefCell::new(None) };
    static ON_WATCHDOG: Cell<bool> = const { Cell::new(false) };
}

pub(super) fn this_is_the_watchdog() {
    ON_WATCHDOG.set(true);
}

/// On whose behalf this thread runs something.
fn tracking() -> Option<Arc<Latch>> {
    TRACKING.try_with(|tracking| tracking.borrow().clone()).ok().flatten()
}

/// Counts what is not done yet.
#[derive(Default)]
struct Latch {
    left: Mutex<usize>,
    done: Condvar,
}

impl Latch {
    fn wait(&self) {
        let mut left = lock(&self.left);
        while *left > 0 {
            left = wait(&self.done, left);
        }
    }

    /// Waits for as long as one after another is done in time; whether all are.
    fn is_done_soon(&self) -> bool {
        let mut left = lock(&self.left);
        while *left > 0 {
            let waited = self.done.wait_timeout(left, PATIENCE).unwrap_or_else(PoisonError::into_inner);
            left = waited.0;
            if waited.1.timed_out() {
                break;
            }
        }
        *left == 0
    }
}

/// Something that is waited for.
struct Tracked<T> {
    what: T,
    latch: Arc<Latch>,
    begun: AtomicBool,
    done: AtomicBool,
}

impl<T> Tracked<T> {
    fn new(what: T, latch: &Arc<Latch>) -> Self {
        *lock(&latch.left) += 1;
        let (begun, done) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { what, latch: Arc::clone(latch), begun, done }
    }

    fn begin(&self, run: impl FnOnce(&T)) {
        // Relaxed, here and below: only one is to be first.
        if self.begun.swap(true, Ordering::Relaxed) {
            return;
        }
        let _finish = Finish(self, TRACKING.replace(Some(Arc::clone(&self.latch))));
        run(&self.what);
    }

    fn finish(&self) {
        if !self.done.swap(true, Ordering::Relaxed) {
            *lock(&self.latch.left) -= 1;
            self.latch.done.notify_all();
        }
    }
}

/// However it ends, it is done.
struct Finish<'a, T>(&'a Tracked<T>, Option<Arc<Latch>>);

impl<T> Drop for Finish<'_, T> {
    fn drop(&mut self) {
        TRACKING.set(self.1.take());
        self.0.finish();
    }
}

impl<T> Drop for Tracked<T> {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Wake for Tracked<Waker> {
    fn wake(self: Arc<Self>) {
        self.begin(Waker::wake_by_ref);
    }
}

impl Task for Tracked<Arc<dyn Task>> {
    fn run(self: Arc<Self>) {
        self.begin(|task| Arc::clone(task).run());
    }
}

/// As it is, or to be waited for: by who waits for what this thread runs, or by the next to move its clock.
pub(super) fn tracked_waker(waker: Waker) -> Waker {
    match tracking().or_else(|| TestEnv::current().mock().and_then(|mock| set_off_under(mock))) {
        Some(latch) => Arc::new(Tracked::new(waker, &latch)).into(),
        None => waker,
    }
}

/// As [`tracked_waker`].
pub(super) fn tracked_task(task: Arc<dyn Task>) -> Arc<dyn Task> {
    match tracking() {
        Some(latch) => Arc::new(Tracked::new(task, &latch)),
        None => task,
    }
}
