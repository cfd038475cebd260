//! How a thread tells the watchdog a deadline, and the words that the threads and the watchdog share for this.

use std::collections::VecDeque;
use std::task::Waker;

use super::deputy::Deputy;
#[cfg(feature = "testing")]
use super::mock::clocks;
use super::settings::Settings;
use super::slots::{FreeSlots, Slot, Slots};
use super::timers::lease::{Lease, Orphans};
use super::timers::{MOST_DUE, Timers};
use crate::sync::alarm::Alarm;
use crate::sync::chunked_vec::ChunkedVec;
#[cfg(not(timebox_loom))]
use crate::sync::fork::InChild;
use crate::sync::fork::PerProcess;
use crate::sync::{AtomicU64, CachePadded, Mutex, Ordering, SetOnce, const_fn, fence, lock, mutant};
#[cfg(not(timebox_loom))]
use crate::sync::{AtomicUsize, compiler_fence};
#[cfg(feature = "testing")]
use crate::test_env::TestEnv;
use crate::time::NEVER;

#[derive(Debug)]
pub(crate) struct Watchdog {
    /// The earliest deadline that the watchdog will notice by itself; 0 while it is awake or being woken.
    pub(super) next_wake: CachePadded<AtomicU64>,
    /// A time that has been reached: a scope is over if its deadline is not after this time.
    reached: CachePadded<AtomicU64>,
    settings: Settings,
    pub(super) alarm: Alarm,
    pub(super) deputy: Deputy,
    /// If no thread could be had for the watchdog: the time of the next try to start it. Otherwise 0.
    #[cfg(not(timebox_loom))]
    pub(super) try_at: AtomicU64,
    #[cfg(not(timebox_loom))]
    pub(super) missing_since: AtomicU64,
    #[cfg(not(timebox_loom))]
    pub(super) on_missing: SetOnce<fn()>,
    pub(crate) slots: Slots,
    #[cfg(not(timebox_loom))]
    slot_count: AtomicUsize,
    #[cfg(feature = "report")]
    pub(super) reports: super::reports::Reports,
    state: PerProcess<State>,
}

pub(super) struct State {
    /// The timers of each thread, by the number of its slot.
    timers: ChunkedVec<SetOnce<Timers>>,
    orphans: Orphans,
    /// Wakers to be woken as soon as possible, in order: posted wakers, and those of timers that are due.
    ///
    /// Nobody allocates or frees memory while the inbox is locked, because the watchdog must not wait for a thread that
    /// is stuck in the allocator. The watchdog itself never needs more room: it puts in at most `MOST_DUE` wakers at a
    /// time, and then takes as many out. `post` always leaves room for them.
    pub(super) inbox: Mutex<VecDeque<Waker>>,
    free_slots: Mutex<FreeSlots>,
}

const_fn! {
    fn new_inbox() -> VecDeque<Waker> {
        // In a model the inbox never grows: the locks of `make_room_in_inbox` would make the model larger.
        #[cfg(timebox_loom)]
        return VecDeque::with_capacity(4 * MOST_DUE);
        #[cfg(not(timebox_loom))]
        VecDeque::new()
    }
}

impl State {
    const_fn! {
        fn new() -> Self {
            Self {
                timers: ChunkedVec::new(),
                orphans: Orphans::new(),
                inbox: Mutex::new(new_inbox()),
                free_slots: Mutex::new(FreeSlots::new()),
            }
        }
    }
}

#[cfg(not(timebox_loom))]
static GLOBAL: Watchdog = Watchdog::new();

#[cfg(not(timebox_loom))]
#[cfg_attr(not(debug_assertions), inline(always))]
pub(crate) fn global() -> &'static Watchdog {
    &GLOBAL
}

#[cfg(timebox_loom)]
pub(crate) fn global() -> &'static Watchdog {
    loom::lazy_static! {
        static ref GLOBAL: Watchdog = Watchdog::new();
    }
    &GLOBAL
}

/// Registers the function that resets the watchdog in a forked child. Called before the first scope, token or timer of
/// the process.
#[cfg(not(timebox_loom))]
pub(crate) fn prepare() {
    static RESTART: InChild = InChild::new(restart);
    extern "C" fn restart() {
        global().restart();
    }
    RESTART.install();
}

#[cfg(timebox_loom)]
pub(crate) fn prepare() {}

impl State {
    pub(super) fn all_timers(&self) -> impl Iterator<Item = &Timers> {
        self.timers.iter().chain([self.orphans.timers()]).filter_map(SetOnce::get)
    }
}

impl Watchdog {
    const_fn! {
        pub(crate) fn new() -> Self {
            Self {
                // As if a watchdog slept for ever. So the first arm calls `wake`, which starts the watchdog.
                next_wake: CachePadded(AtomicU64::new(NEVER)),
                reached: CachePadded(AtomicU64::new(0)),
                settings: Settings::new(),
                alarm: Alarm::new(),
                deputy: Deputy::new(),
                #[cfg(not(timebox_loom))]
                try_at: AtomicU64::new(0),
                #[cfg(not(timebox_loom))]
                missing_since: AtomicU64::new(0),
                #[cfg(not(timebox_loom))]
                on_missing: SetOnce::new(),
                slots: Slots::new(),
                #[cfg(not(timebox_loom))]
                slot_count: AtomicUsize::new(0),
                #[cfg(feature = "report")]
                reports: super::reports::Reports::new(),
                state: PerProcess::new(State::new(), State::new),
            }
        }
    }

    /// The latest time that was recorded by [`reach`](Self::reach). The clock may be later.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn reached(&self) -> u64 {
        // Relaxed: the value says only that time has passed, and publishes no other data.
        self.reached.0.load(Ordering::Relaxed)
    }

    /// Records that the time `now` has been reached. A check that finds an expiry by the clock calls this, so that all
    /// other checks also see the expiry.
    pub(crate) fn reach(&self, now: u64) {
        // The time of a mock clock must not end scopes under other clocks. Checks under a mock clock read the clock
        // each time, so they need no record.
        #[cfg(feature = "testing")]
        if !TestEnv::current().has_real_clock() {
            return;
        }
        // Relaxed: as in `reached`. `fetch_max`, because the time must not go back: a scope that is over stays over.
        self.reached.0.fetch_max(now, Ordering::Relaxed);
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    #[inline]
    pub(crate) fn is_running(&self) -> bool {
        self.alarm.is_running()
    }

    /// Makes the watchdog notice `deadline`, for the thread that owns the slot. `false` if there is no watchdog, and
    /// none can be started.
    #[must_use]
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn arm(&'static self, slot: &Slot, deadline: u64) -> bool {
        slot.set(deadline);
        // README, "Arm": orders the store of the slot before the load of `next_wake`. Pairs with the fence in `pass`.
        if !mutant!(NoArmFence) {
            self.light_fence();
        }
        self.wake_for(deadline)
    }

    /// Arms the outer deadline again when an inner scope has ended. Returns `false` in the same cases as
    /// [`arm`](Self::arm).
    #[must_use]
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn rearm(&'static self, slot: &Slot, deadline: u64) -> bool {
        if mutant!(PlainRestore) {
            slot.set(deadline);
            return true;
        }
        self.arm(slot, deadline)
    }

    /// Wakes the watchdog if it sleeps past `deadline`. Called after a fence. Returns `false` if no thread can be had
    /// for the watchdog.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn wake_for(&'static self, deadline: u64) -> bool {
        // Relaxed: the caller's fence orders the load.
        deadline >= self.next_wake.0.load(Ordering::Relaxed) || self.wake(deadline)
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn light_fence(&self) {
        #[cfg(not(timebox_loom))]
        if self.settings.has(Settings::ASYMMETRIC) {
            compiler_fence(Ordering::SeqCst);
            return;
        }
        // SeqCst: pairs with the fence in `pass`.
        fence(Ordering::SeqCst);
    }

    /// Wakes the watchdog if it sleeps past `deadline`. Starts a watchdog if there is none. Returns `false` if no
    /// thread can be had for the watchdog.
    #[cold]
    #[inline(never)]
    pub(super) fn wake(&'static self, deadline: u64) -> bool {
        // Relaxed throughout: the caller's fence orders what came before, and the alarm orders what comes after.
        let mut next = self.next_wake.0.load(Ordering::Relaxed);
        while deadline < next {
            match self.next_wake.0.compare_exchange(next, 0, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => {
                    return self.alarm.ring() || self.start();
                }
                // `next_wake` has changed since it was read. The loop goes on if the new value is later than
                // `deadline`.
                Err(lowered) => next = lowered,
            }
            if mutant!(SingleCas) {
                break;
            }
        }
        true
    }

    /// Makes the watchdog notice a timer that `Lease::put` has put in. `false` if there is no watchdog, and none can be
    /// started.
    #[must_use]
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn announce(&'static self, lease: &Lease, deadline: u64) -> bool {
        let timers = lease.timers;
        // README, "Timers": orders the stores of `put` before the loads that follow. Pairs with the fence in `pass`.
        if !mutant!(NoTimerFence) {
            self.light_fence();
        }
        if deadline < timers.earliest() {
            timers.lower(deadline);
            // As in `arm`: orders the store of `earliest` before the load of `next_wake`.
            self.light_fence();
        }
        self.wake_for(deadline)
    }

    pub(crate) fn orphans(&'static self) -> &'static Orphans {
        &self.state().orphans
    }

    pub(crate) fn timers_at(&'static self, index: usize) -> &'static Timers {
        self.state().timers.at(index).get_or_init(Timers::default)
    }

    /// Makes the watchdog wake `waker` as soon as possible, after the wakers that were posted before. `false` if there
    /// is no watchdog, and none can be started.
    pub(crate) fn post(&'static self, waker: Waker) -> bool {
        prepare();
        #[cfg(feature = "testing")]
        let waker = clocks::tracked(waker);
        loop {
            let mut inbox = lock(&self.state().inbox);
            if inbox.len() + MOST_DUE < inbox.capacity() {
                inbox.push_back(waker);
                break;
            }
            let len = inbox.len();
            drop(inbox);
            self.make_room_in_inbox(len);
        }
        // `wake` needs a fence before it. The lock of the inbox serves as the fence: README, "Timers", the inbox.
        self.wake(0)
    }

    /// Makes more room in the inbox, which held `len` wakers. Allocates and frees memory without the lock: see
    /// `State::inbox`.
    #[cold]
    pub(super) fn make_room_in_inbox(&'static self, len: usize) {
        if cfg!(timebox_loom) {
            return;
        }
        let mut larger = VecDeque::with_capacity(2 * (len + MOST_DUE));
        let mut inbox = lock(&self.state().inbox);
        if inbox.capacity() < larger.capacity() {
            larger.append(&mut inbox);
            std::mem::swap(&mut larger, &mut inbox);
        }
        drop(inbox);
    }

    #[cfg(not(timebox_loom))]
    pub(crate) fn take_slot(&'static self) -> usize {
        let free = lock(&self.state().free_slots).take();
        // Relaxed: the numbers need only be unique.
        free.unwrap_or_else(|| self.slot_count.fetch_add(1, Ordering::Relaxed))
    }

    #[cfg(not(timebox_loom))]
    pub(crate) fn give_slot_back(&'static self, index: usize) {
        lock(&self.state().free_slots).give_back(index);
    }

    #[inline]
    pub(super) fn state(&'static self) -> &'static State {
        self.state.get()
    }

    /// Called in a forked child, where the parent's watchdog and deputy do not exist.
    #[cfg(not(timebox_loom))]
    fn restart(&'static self) {
        self.alarm.forget();
        self.deputy.restart();
        self.try_at.store(0, Ordering::Relaxed);
        self.settings.set(Settings::ASYMMETRIC, false);
        self.next_wake.0.store(NEVER, Ordering::Relaxed);
        // The other threads are gone, so this records that no slot has a thread. Then the fork handler in
        // `thread/local.rs` records this thread again.
        #[cfg(feature = "report")]
        self.slots.iter().for_each(|slot| slot.set_thread(0, 0));
    }
}
