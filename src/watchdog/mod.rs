//! One thread that notices deadlines.
//!
//! `README.md` beside this file has the protocol (arm, disarm, fire, sleep, end, fork) and the proof that no expiry
//! is lost; `model.rs` runs this code under loom. It knows slots, timers and what to call; it knows
//! no tokens: all it does when a time has come is to wake a waker.

#[cfg(feature = "testing")]
pub(crate) mod mock;
mod mode;
#[cfg(all(test, timebox_loom))]
pub(crate) mod model;
mod pass;
pub(crate) mod pool;
mod shift;
pub(crate) mod slots;
mod start;
pub(crate) mod timers;

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use crate::sync::alarm::Alarm;
#[cfg(not(timebox_loom))]
use crate::sync::compiler_fence;
#[cfg(not(timebox_loom))]
use crate::sync::fork::InChild;
use crate::sync::fork::PerProcess;
use crate::sync::{AtomicU64, AtomicUsize, Mutex, Ordering, Padded, SetOnce, const_fn, fence, lock, mutant};
use crate::test_env::TestEnv;
use crate::time::NEVER;
pub(crate) use mode::Mode;
use pool::{BlockingPool, Task};
use shift::Shift;
use slots::{ChunkedVec, FreeSlots, Slot, Slots};
pub(crate) use start::NAP;
pub(crate) use timers::Timer;
use timers::{Lease, Orphans, Timers};

impl Timer {
    /// Takes it back; it may be running, or have run.
    #[inline]
    pub(crate) fn cancel(self) {
        let waker = self.take(own_timers());
        #[cfg(feature = "testing")]
        let waker = waker.or_else(|| mock::take(self));
        drop(waker);
    }

    /// Has it wake another task; `false` if it has run.
    pub(crate) fn redirect(self, waker: &Waker) -> bool {
        #[cfg(feature = "testing")]
        if self.mocked().is_some() {
            return mock::redirect(self, waker);
        }
        self.replace(waker)
    }
}

/// The calling thread's.
#[cfg(not(timebox_loom))]
#[cfg_attr(not(debug_assertions), inline(always))]
fn own_timers() -> Option<&'static Timers> {
    slots::Thread::with(slots::Thread::timers)
}

#[cfg(timebox_loom)]
fn own_timers() -> Option<&'static Timers> {
    None
}

#[derive(Debug)]
pub(crate) struct Watchdog {
    /// The earliest deadline that the watchdog will notice by itself; 0 while it is awake or being woken.
    next_wake: Padded<AtomicU64>,
    /// The time that has been reached: a scope is over when its deadline is not after it.
    reached: Padded<AtomicU64>,
    mode: Mode,
    alarm: Alarm,
    /// Which thread it is.
    shift: Shift,
    /// When to try again to start it, since no thread could be had; or else 0.
    #[cfg(not(timebox_loom))]
    try_at: AtomicU64,
    /// Since when none can be had.
    #[cfg(not(timebox_loom))]
    missing_since: AtomicU64,
    pub(crate) slots: Slots,
    /// How many slots were ever handed out.
    #[cfg(not(timebox_loom))]
    slot_count: AtomicUsize,
    state: PerProcess<State>,
}

/// What has locks.
struct State {
    /// By the number of the slot whose thread they belong to.
    timers: ChunkedVec<SetOnce<Timers>>,
    orphans: Orphans,
    /// What is to be called as soon as possible, in order: what was posted, and what is due.
    inbox: Mutex<VecDeque<Waker>>,
    free_slots: Mutex<FreeSlots>,
    hooks: BlockingPool,
    abandoned: BlockingPool,
}

impl State {
    const_fn! {
        fn new() -> Self {
            Self {
                timers: ChunkedVec::new(),
                orphans: Orphans::new(),
                inbox: Mutex::new(VecDeque::new()),
                free_slots: Mutex::new(FreeSlots::new()),
                hooks: BlockingPool::for_hooks(),
                abandoned: BlockingPool::for_abandoned(),
            }
        }
    }
}

#[cfg(not(timebox_loom))]
static GLOBAL: Watchdog = Watchdog::new();

/// The process's watchdog.
#[cfg(not(timebox_loom))]
#[cfg_attr(not(debug_assertions), inline(always))]
pub(crate) fn global() -> &'static Watchdog {
    &GLOBAL
}

/// The model's watchdog.
#[cfg(timebox_loom)]
pub(crate) fn global() -> &'static Watchdog {
    loom::lazy_static! {
        static ref GLOBAL: Watchdog = Watchdog::new();
    }
    &GLOBAL
}

/// What must be ready before the first scope, token or timer of a process.
#[cfg(not(timebox_loom))]
pub(crate) fn prepare() {
    static RESTART: InChild = InChild::new(restart);
    extern "C" fn restart() {
        global().restart();
        slots::Thread::with(slots::Thread::restart);
    }
    RESTART.install();
}

#[cfg(timebox_loom)]
pub(crate) fn prepare() {}

/// Whether the calling thread is there for hooks.
#[cfg(not(timebox_loom))]
pub(crate) fn is_for_hooks() -> bool {
    pool::is_for_hooks() || Watchdog::is_this_thread()
}

impl State {
    fn all_timers(&self) -> impl Iterator<Item = &Timers> {
        self.timers.iter().chain([self.orphans.timers()]).filter_map(SetOnce::get)
    }
}

impl Watchdog {
    const_fn! {
        pub(crate) fn new() -> Self {
            Self {
                // As if one slept for ever: the first arm wakes it, and thereby starts it.
                next_wake: Padded(AtomicU64::new(NEVER)),
                reached: Padded(AtomicU64::new(0)),
                mode: Mode::new(),
                alarm: Alarm::new(),
                shift: Shift::new(),
                #[cfg(not(timebox_loom))]
                try_at: AtomicU64::new(0),
                #[cfg(not(timebox_loom))]
                missing_since: AtomicU64::new(0),
                slots: Slots::new(),
                #[cfg(not(timebox_loom))]
                slot_count: AtomicUsize::new(0),
                state: PerProcess::new(State::new(), State::new),
            }
        }
    }

    /// The time that has been reached, as far as anybody said.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn reached(&self) -> u64 {
        // Relaxed: nothing is published through it but that time has passed.
        self.reached.0.load(Ordering::Relaxed)
    }

    /// Says that the time has been reached. Whoever found an expiry by the clock does, so that all agree from then.
    pub(crate) fn reach(&self, now: u64) {
        // A mock clock's time is for who is under it, and they look at that clock each time.
        #[cfg(feature = "testing")]
        if !TestEnv::current().has_real_clock() {
            return;
        }
        // Relaxed: as in `reached`. The maximum, so that no expiry is taken back.
        self.reached.0.fetch_max(now, Ordering::Relaxed);
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn mode(&self) -> &Mode {
        &self.mode
    }

    /// Whether there is a watchdog thread.
    #[inline]
    pub(crate) fn is_running(&self) -> bool {
        self.alarm.is_running()
    }

    /// Whether it runs on the calling thread.
    #[cfg(not(timebox_loom))]
    fn is_this_thread() -> bool {
        slots::Thread::with(|thread| thread.is_watchdog.get())
    }

    /// Has the watchdog notice `deadline`, for the thread that owns the slot.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn arm(&'static self, slot: &Slot, deadline: u64) {
        slot.set(deadline);
        // README, "Arm": orders the store before the load, against the fence in `pass`.
        if !mutant!(NoArmFence) {
            self.light_fence();
        }
        // Relaxed: the fence orders it.
        if deadline < self.next_wake.0.load(Ordering::Relaxed) {
            self.wake(deadline);
        }
    }

    /// Arms an outer deadline again after an inner one.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn rearm(&'static self, slot: &Slot, deadline: u64) {
        if mutant!(PlainRestore) {
            slot.set(deadline);
            return;
        }
        self.arm(slot, deadline);
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn light_fence(&self) {
        #[cfg(not(timebox_loom))]
        if self.mode.has(Mode::ASYMMETRIC) {
            compiler_fence(Ordering::SeqCst);
            return;
        }
        // SeqCst: pairs with the fence in `pass`.
        fence(Ordering::SeqCst);
    }

    /// Wakes the watchdog if it sleeps past `deadline`; starts it if there is none.
    #[cold]
    #[inline(never)]
    fn wake(&'static self, deadline: u64) {
        // Relaxed throughout: the fence came before, and the alarm orders what comes after.
        let mut next = self.next_wake.0.load(Ordering::Relaxed);
        while deadline < next {
            match self.next_wake.0.compare_exchange(next, 0, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => {
                    if !self.alarm.ring() {
                        self.start();
                    }
                    return;
                }
                // Subtle: the watchdog may have lowered it meanwhile, to a time that is still too late.
                Err(lowered) => next = lowered,
            }
            if mutant!(SingleCas) {
                return;
            }
        }
    }

    /// Has something woken at `deadline` on the clock of `env`.
    #[inline]
    pub(crate) fn schedule_on(&'static self, env: &TestEnv, deadline: u64, waker: Waker) -> Timer {
        #[cfg(feature = "testing")]
        if let Some(mock) = env.mock() {
            return mock::schedule(mock, deadline, waker);
        }
        let _ = env;
        self.schedule(deadline, waker)
    }

    /// Has something woken at `deadline`.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn schedule(&'static self, deadline: u64, waker: Waker) -> Timer {
        let lease = Self::lease();
        let timer = lease.put(deadline, waker);
        // While the timers are this thread's: README, "Timers".
        self.announce(lease.timers, deadline);
        timer
    }

    /// Tells the watchdog of a timer that was put in.
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn announce(&'static self, timers: &Timers, deadline: u64) {
        // README, "Timers": orders the stores of `put` before the load, against the fence in `pass`.
        if !mutant!(NoTimerFence) {
            self.light_fence();
        }
        if deadline < timers.earliest() {
            timers.lower(deadline);
            // As in `arm`.
            self.light_fence();
        }
        // Relaxed: the fence orders it.
        if deadline < self.next_wake.0.load(Ordering::Relaxed) {
            self.wake(deadline);
        }
    }

    #[cfg(not(timebox_loom))]
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn lease() -> Lease {
        slots::Thread::with(slots::Thread::lease)
    }

    #[cfg(timebox_loom)]
    fn lease() -> Lease {
        global().orphans().lease()
    }

    fn orphans(&'static self) -> &'static Orphans {
        &self.state().orphans
    }

    /// The timers of the thread that has the slot with this number.
    fn timers_at(&'static self, index: usize) -> &'static Timers {
        self.state().timers.at(index).get_or_init(Timers::default)
    }

    /// Has something called as soon as possible, on the watchdog, after all that was posted before.
    pub(crate) fn post(&'static self, waker: Waker) {
        prepare();
        #[cfg(feature = "testing")]
        let waker = mock::tracked_waker(waker);
        lock(&self.state().inbox).push_back(waker);
        // README, "Timers".
        self.wake(0);
    }

    /// Has a hook run where it may block.
    pub(crate) fn run_hook(&'static self, hook: Arc<dyn Task>) {
        #[cfg(feature = "testing")]
        let hook = mock::tracked_task(hook);
        self.hooks().submit(hook);
    }

    fn hooks(&'static self) -> &'static BlockingPool {
        &self.state().hooks
    }

    /// Has something run where it may block, which nobody waits for.
    #[cfg(feature = "testing")]
    fn run_beside(&'static self, task: Arc<dyn Task>) {
        self.state().hooks.submit(task);
    }

    pub(crate) fn abandoned(&'static self) -> &'static BlockingPool {
        &self.state().abandoned
    }

    fn take_slot(&'static self) -> usize {
        let free = lock(&self.state().free_slots).take();
        // Relaxed: only uniqueness is asked for.
        free.unwrap_or_else(|| self.slot_count.fetch_add(1, Ordering::Relaxed))
    }

    fn give_slot_back(&'static self, index: usize) {
        lock(&self.state().free_slots).give_back(index);
    }

    #[inline]
    fn state(&'static self) -> &'static State {
        self.state.get()
    }

    /// In a forked child: there is no watchdog, and none is being woken.
    #[cfg(not(timebox_loom))]
    fn restart(&'static self) {
        self.alarm.forget();
        self.shift.restart();
        self.try_at.store(0, Ordering::Relaxed);
        self.mode.set(Mode::ASYMMETRIC, false);
        self.next_wake.0.store(NEVER, Ordering::Relaxed);
    }
}
