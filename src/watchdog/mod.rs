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
pub(crate) mod runners;
mod shift;
pub(crate) mod slots;
mod start;

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use crate::sync::alarm::{self, Alarm};
use crate::sync::callback::wake_quietly;
#[cfg(not(timebox_loom))]
use crate::sync::compiler_fence;
use crate::sync::{AtomicU64, Mutex, Ordering, Padded, SetOnce, const_fn, fence, fork, lock, mutant, os};
use crate::time::seam::Seam;
use crate::time::{NEVER, clock};
pub(crate) use mode::Mode;
use runners::{Runners, Task};
use shift::Shift;
pub(crate) use slots::timers::Timer;
use slots::timers::{Lease, Orphans, Timers};
use slots::{FreeSlots, Numbered, Slot, Slots};
pub(crate) use start::NAP;

/// How long a watchdog with nothing to do stays, in nanoseconds.
const IDLE: u64 = 30_000_000_000;

/// How many batches of a thread's timers are fired in one pass.
const BATCHES: usize = 16;

/// How long nothing must be due for the watchdog to see to the asymmetric fence, and when it does so in any case.
const QUIET: u64 = 50_000_000;
const LOUD: u64 = 1_000_000_000;

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
#[inline(always)]
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
    epoch: Epoch,
}

/// What has locks, and is made anew in a forked child.
struct Epoch {
    /// By the number of the slot whose thread they belong to.
    timers: Numbered<SetOnce<Timers>>,
    orphans: Orphans,
    /// What is to be called as soon as possible, in order: what was posted, and what is due.
    inbox: Mutex<VecDeque<Waker>>,
    free_slots: Mutex<FreeSlots>,
    /// Slots ever made.
    made_slots: Mutex<usize>,
    hooks: Runners,
    abandoned: Runners,
    next: SetOnce<Epoch>,
}

impl std::fmt::Debug for Epoch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Epoch").finish_non_exhaustive()
    }
}

impl Epoch {
    const_fn! {
        fn new(made_slots: usize) -> Self {
            Self {
                timers: Numbered::new(),
                orphans: Orphans::new(),
                inbox: Mutex::new(VecDeque::new()),
                free_slots: Mutex::new(FreeSlots::new()),
                made_slots: Mutex::new(made_slots),
                hooks: Runners::for_hooks(),
                abandoned: Runners::for_abandoned(),
                next: SetOnce::new(),
            }
        }
    }
}

#[cfg(not(timebox_loom))]
static GLOBAL: Watchdog = Watchdog::new();

/// The process's watchdog.
#[cfg(not(timebox_loom))]
#[inline(always)]
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
    fork::on_child(|| {
        global().restart();
        slots::Thread::with(slots::Thread::restart);
    });
}

#[cfg(timebox_loom)]
pub(crate) fn prepare() {}

/// Whether the calling thread is there for hooks.
#[cfg(not(timebox_loom))]
pub(crate) fn is_for_hooks() -> bool {
    runners::is_for_hooks() || Watchdog::is_this_thread()
}

impl Epoch {
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
                epoch: Epoch::new(0),
            }
        }
    }

    /// The time that has been reached, as far as anybody said.
    #[inline(always)]
    pub(crate) fn reached(&self) -> u64 {
        // Relaxed: nothing is published through it but that time has passed.
        self.reached.0.load(Ordering::Relaxed)
    }

    /// Says that the time has been reached. Whoever found an expiry by the clock does, so that all agree from then.
    pub(crate) fn reach(&self, now: u64) {
        // A mock clock's time is for who is under it, and they look at that clock each time.
        #[cfg(feature = "testing")]
        if !Seam::current().has_real_clock() {
            return;
        }
        // Relaxed: as in `reached`. The maximum, so that no expiry is taken back.
        self.reached.0.fetch_max(now, Ordering::Relaxed);
    }

    #[inline(always)]
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
    #[inline(always)]
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
    #[inline(always)]
    pub(crate) fn rearm(&'static self, slot: &Slot, deadline: u64) {
        if mutant!(PlainRestore) {
            slot.set(deadline);
            return;
        }
        self.arm(slot, deadline);
    }

    #[inline(always)]
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

    /// Has somebody there who takes over if a call takes long.
    fn have_deputy(&'static self) {
        if self.shift.has_deputy() {
            return;
        }
        // A model has one where it starts it.
        #[cfg(not(timebox_loom))]
        self.shift.start_deputy(|| self.stand_by());
    }

    /// The life of a thread that is the watchdog; or its deputy, that has taken over.
    fn serve(&'static self, mut takes_over: bool) {
        os::set_timer_slack(1);
        #[cfg(feature = "testing")]
        mock::this_is_the_watchdog();
        loop {
            #[cfg(not(timebox_loom))]
            slots::Thread::with(|thread| thread.is_watchdog.set(true));
            if self.run(takes_over) {
                self.shift.dismiss_deputy();
                return;
            }
            #[cfg(not(timebox_loom))]
            slots::Thread::with(|thread| thread.is_watchdog.set(false));
            // Another has taken over, who may need a deputy now.
            if !self.shift.become_deputy() || !self.shift.stand_by(|| self.is_running()) {
                return;
            }
            takes_over = true;
        }
    }

    /// The life of a deputy.
    fn stand_by(&'static self) {
        os::set_timer_slack(50_000);
        if self.shift.stand_by(|| self.is_running()) {
            os::name_this_thread("timebox-watchdog");
            self.serve(true);
        }
    }

    /// The watchdog's life; `false` if another has taken over. `takes_over`: from one that is stuck in a call.
    fn run(&'static self, mut takes_over: bool) -> bool {
        let born = clock::now();
        // A watchdog before this one may have asked for it.
        let mut heavy = self.mode.has(Mode::ASYMMETRIC);
        let mut asked = heavy || cfg!(timebox_loom);
        loop {
            let Some((key, until)) = self.pass(heavy, std::mem::take(&mut takes_over)) else { return false };
            let now = clock::now();
            // It blocks for milliseconds: when nothing is due for a while, or else after a second.
            if !asked && (until.saturating_sub(now) > QUIET || now.saturating_sub(born) > LOUD) {
                asked = true;
                heavy = os::register_barrier();
                self.mode.set(Mode::ASYMMETRIC, heavy);
                self.next_wake.0.store(0, Ordering::Relaxed);
                continue;
            }
            if until == NEVER {
                let end = clock::now().saturating_add(IDLE);
                self.alarm.wait(key, end);
                // `next_wake` says "never" all the while, so that every arm rings, and a ring makes this fail.
                if clock::now() >= end && self.alarm.retire(key) {
                    return true;
                }
            } else {
                // Before it is needed: to start a thread takes longer than to wake one.
                if self.has_timers() {
                    self.have_deputy();
                }
                self.alarm.wait(key, until);
            }
            // Relaxed: see README, "Sleep".
            self.next_wake.0.store(0, Ordering::Relaxed);
        }
    }

    /// Fires what is due, and finds out until when to sleep; `None` if another has taken over meanwhile. Who has just taken
    /// over looks at all timers, since the one before may have been at any of them.
    fn pass(&'static self, heavy: bool, takes_over: bool) -> Option<(alarm::Key, u64)> {
        // Before the first look: a ring after it cuts the sleep short.
        let key = self.alarm.key();
        let now = clock::now();
        self.reach(now);
        let looked_at = self.fire_due(now, takes_over && !mutant!(ShortLook))?;

        if mutant!(EarlyLook) {
            looked_at.iter().for_each(|timers| timers.end_look());
        }
        let first = self.earliest(now);
        // Relaxed, here and below: the fence orders it.
        self.next_wake.0.store(first, Ordering::Relaxed);
        let fenced = mutant!(NoDogFence) || (heavy && os::heavy_barrier());
        if !fenced {
            if heavy {
                // It worked before: somebody has forbidden it.
                self.mode.set(Mode::ASYMMETRIC, false);
            }
            // SeqCst: pairs with the fence in `light_fence`.
            fence(Ordering::SeqCst);
        }
        if !mutant!(EarlyLook) {
            looked_at.iter().for_each(|timers| timers.end_look());
        }
        let second = if mutant!(NoRescan) { first } else { self.earliest(now) };
        if second < first {
            // Lowering it needs no fence: an arm that reads the higher value wakes in vain at worst.
            self.next_wake.0.store(second, Ordering::Relaxed);
        }
        Some((key, first.min(second)))
    }

    /// The earliest deadline after `now` that anybody waits for; `now` or before if there is something to do at once.
    fn earliest(&'static self, now: u64) -> u64 {
        let epoch = self.epoch();
        let timers = epoch.all_timers().map(Timers::earliest).min().unwrap_or(NEVER);
        let earliest = self.slots.earliest(now).min(timers);
        if lock(&epoch.inbox).is_empty() { earliest } else { now }
    }

    /// Whether any timer may be waited for.
    fn has_timers(&'static self) -> bool {
        self.epoch().all_timers().any(|timers| timers.earliest() != NEVER)
    }

    /// Calls everything that is due, in batches, with no lock held. The timers among which there was something due are to
    /// be looked at again; or `all` of them. `None` if another has taken over meanwhile.
    fn fire_due(&'static self, now: u64, all: bool) -> Option<Vec<&'static Timers>> {
        let epoch = self.epoch();
        self.call_posted()?;
        let looked_at: Vec<_> = epoch.all_timers().filter(|timers| all || timers.earliest() <= now).collect();
        for timers in &looked_at {
            timers.begin_look();
            // So many that those of other threads do not wait for all of this one's; the next pass follows at once.
            for _ in 0..BATCHES {
                let (due, are_all) = timers.take_due(now);
                lock(&epoch.inbox).extend(due.into_iter().map(|(_, waker)| waker));
                self.call_posted()?;
                if are_all {
                    break;
                }
            }
        }
        Some(looked_at)
    }

    /// Calls what is in the inbox, but for what comes meanwhile. Each on its own: what a call that does not return keeps from
    /// being called is left to who takes over. `None` if somebody has.
    fn call_posted(&'static self) -> Option<()> {
        let inbox = &self.epoch().inbox;
        let count = lock(inbox).len();
        for _ in 0..count {
            let Some(waker) = lock(inbox).pop_front() else { break };
            self.have_deputy();
            self.shift.call(|| wake_quietly(waker))?;
        }
        Some(())
    }

    /// Has something woken at `deadline` on the clock of `seam`.
    #[inline]
    pub(crate) fn schedule_on(&'static self, seam: &Seam, deadline: u64, waker: Waker) -> Timer {
        #[cfg(feature = "testing")]
        if let Some(mock) = seam.mock() {
            return mock::schedule(mock, deadline, waker);
        }
        let _ = seam;
        self.schedule(deadline, waker)
    }

    /// Has something woken at `deadline`.
    #[inline(always)]
    pub(crate) fn schedule(&'static self, deadline: u64, waker: Waker) -> Timer {
        let lease = Self::lease();
        let timer = lease.put(deadline, waker);
        // While the timers are this thread's: README, "Timers".
        self.announce(lease.timers, deadline);
        timer
    }

    /// Tells the watchdog of a timer that was put in.
    #[inline(always)]
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
    #[inline(always)]
    fn lease() -> Lease {
        slots::Thread::with(slots::Thread::lease)
    }

    #[cfg(timebox_loom)]
    fn lease() -> Lease {
        global().orphans().lease()
    }

    fn orphans(&'static self) -> &'static Orphans {
        &self.epoch().orphans
    }

    /// The timers of the thread that has the slot with this number.
    fn timers_at(&'static self, index: usize) -> &'static Timers {
        self.epoch().timers.at(index).get_or_init(Timers::default)
    }

    /// Has something called as soon as possible, on the watchdog, after all that was posted before.
    pub(crate) fn post(&'static self, waker: Waker) {
        prepare();
        #[cfg(feature = "testing")]
        let waker = mock::tracked_waker(waker);
        lock(&self.epoch().inbox).push_back(waker);
        // README, "Timers".
        self.wake(0);
    }

    /// Has a hook run where it may block.
    pub(crate) fn run_hook(&'static self, hook: Arc<dyn Task>) {
        #[cfg(feature = "testing")]
        let hook = mock::tracked_task(hook);
        self.hooks().submit(hook);
    }

    fn hooks(&'static self) -> &'static Runners {
        &self.epoch().hooks
    }

    /// Has something run where it may block, which nobody waits for.
    #[cfg(feature = "testing")]
    fn run_beside(&'static self, task: Arc<dyn Task>) {
        self.epoch().hooks.submit(task);
    }

    pub(crate) fn abandoned(&'static self) -> &'static Runners {
        &self.epoch().abandoned
    }

    fn take_slot(&'static self) -> usize {
        let epoch = self.epoch();
        if let Some(index) = lock(&epoch.free_slots).take() {
            return index;
        }
        let mut made = lock(&epoch.made_slots);
        let index = *made;
        *made += 1;
        index
    }

    fn give_slot_back(&'static self, index: usize) {
        lock(&self.epoch().free_slots).give_back(index);
    }

    /// What has locks, in this process.
    #[inline]
    fn epoch(&'static self) -> &'static Epoch {
        match fork::generation() {
            0 => &self.epoch,
            generation => self.epoch_of(generation),
        }
    }

    #[cold]
    fn epoch_of(&'static self, generation: u32) -> &'static Epoch {
        let mut epoch = &self.epoch;
        for _ in 0..generation {
            epoch = epoch.next.get_or_init(|| Epoch::new(self.slots.iter().count()));
        }
        epoch
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
