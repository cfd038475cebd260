//! The loops of the watchdog's thread and of its deputy, and what the watchdog does in a pass.

#[cfg(not(timebox_loom))]
use std::cell::Cell;

use super::arm::Watchdog;
use super::settings::Settings;
use super::timers::{Due, MOST_DUE, Timers};
use crate::sync::alarm;
use crate::sync::callback::wake_quietly;
#[cfg(not(timebox_loom))]
use crate::sync::waits;
use crate::sync::{Ordering, fence, lock, mutant, os};
use crate::time::{NEVER, clock};

/// After how long a watchdog with nothing to do ends, in nanoseconds.
const RETIRE_AFTER: u64 = 30_000_000_000;

const BATCHES_PER_PASS: usize = 16;

/// At most this number of wakers is taken from the inbox before the timers are looked at again.
const CALLS_PER_TURN: usize = 1024;
const _: () = assert!(MOST_DUE <= CALLS_PER_TURN, "the inbox must keep room for due timers");

/// If no timer is due within this time, the watchdog registers for the asymmetric fence. In nanoseconds.
const REGISTER_WHEN_IDLE_FOR: u64 = 50_000_000;
/// Once the watchdog has run for this time (in nanoseconds), it registers even if a timer is due soon.
const REGISTER_AFTER: u64 = 1_000_000_000;

#[cfg(not(timebox_loom))]
thread_local!(static IS_WATCHDOG: Cell<bool> = const { Cell::new(false) });

#[cfg(not(timebox_loom))]
pub(crate) fn is_this_thread() -> bool {
    IS_WATCHDOG.get()
}

impl Watchdog {
    fn ensure_deputy(&'static self) {
        if self.deputy.is_there() {
            return;
        }
        // A model starts a deputy itself, or has none.
        #[cfg(not(timebox_loom))]
        self.deputy.start(|| self.stand_by());
    }

    pub(super) fn serve(&'static self) {
        // Allocates all that passes and inline hooks need, because a pass must not allocate.
        #[cfg(not(timebox_loom))]
        waits::prepare_this_thread();
        self.make_room_in_inbox(0);
        #[cfg(feature = "report")]
        self.prepare_looks();
        self.work(false, &mut Vec::with_capacity(MOST_DUE));
    }

    /// Does the watchdog's work, until the watchdog retires or another thread has its place and needs no deputy.
    /// `takes_over`: the thread was the deputy before. `due`: see [`pass`](Self::pass).
    fn work(&'static self, mut takes_over: bool, due: &mut Vec<Due>) {
        os::set_timer_slack(1);
        loop {
            #[cfg(not(timebox_loom))]
            IS_WATCHDOG.set(true);
            let has_retired = self.run(takes_over, due);
            #[cfg(not(timebox_loom))]
            IS_WATCHDOG.set(false);
            if has_retired {
                self.deputy.dismiss();
                return;
            }
            // The deputy has taken over. This thread becomes the deputy of the new watchdog, unless that has another
            // deputy.
            if !self.deputy.appoint() {
                return;
            }
            os::name_this_thread("timebox-deputy");
            if !self.deputy.stand_by(|| self.is_running()) {
                return;
            }
            os::name_this_thread("timebox-watchdog");
            takes_over = true;
        }
    }

    pub(super) fn stand_by(&'static self) {
        os::set_timer_slack(50_000);
        // Allocated now: the watchdog may be stuck in the allocator when this thread takes over.
        #[cfg(not(timebox_loom))]
        waits::prepare_this_thread();
        let mut due = Vec::with_capacity(MOST_DUE);
        if self.deputy.stand_by(|| self.is_running()) {
            os::name_this_thread("timebox-watchdog");
            self.work(true, &mut due);
        }
    }

    /// Makes passes until the watchdog retires: then returns `true`. Returns `false` if the deputy has taken over.
    /// `takes_over`: this thread was the deputy until now, and the former watchdog is stuck in a call.
    fn run(&'static self, mut takes_over: bool, due: &mut Vec<Due>) -> bool {
        let born = clock::now();
        // An earlier watchdog may have registered this process for the asymmetric fence.
        let mut heavy = self.settings().has(Settings::ASYMMETRIC);
        let mut asked = heavy || cfg!(timebox_loom);
        // The planned end of the last sleep. `NEVER` if there was none, or if it had passed before the sleep began.
        let mut planned = NEVER;
        loop {
            let Some((key, until)) = self.pass(heavy, std::mem::take(&mut takes_over), planned, due) else {
                return false;
            };
            let now = clock::now();
            planned = if until > now { until } else { NEVER };
            // Registration blocks for milliseconds. So it waits until no timer is due soon, but not longer than
            // `REGISTER_AFTER`.
            if !asked
                && (until.saturating_sub(now) > REGISTER_WHEN_IDLE_FOR
                    || now.saturating_sub(born) > REGISTER_AFTER)
            {
                asked = true;
                heavy = os::register_barrier();
                self.settings().set(Settings::ASYMMETRIC, heavy);
                self.next_wake.0.store(0, Ordering::Relaxed);
                continue;
            }
            let timers = self.first_timer();
            if timers != NEVER {
                // The deputy is started now, before a call needs it, because starting a thread takes longer than waking
                // one.
                self.ensure_deputy();
            }
            self.deputy.expect_calls(timers);
            if until == NEVER {
                let end = clock::now().saturating_add(RETIRE_AFTER);
                self.alarm.wait(key, end);
                // No arm is missed: `next_wake` is `NEVER` during this sleep, so each arm rings the alarm. If the alarm
                // has been rung, `retire` fails.
                if clock::now() >= end && self.alarm.retire(key) {
                    return true;
                }
            } else {
                self.alarm.wait(key, until);
            }
            // Relaxed: see README, "Sleep".
            self.next_wake.0.store(0, Ordering::Relaxed);
        }
    }

    /// Fires the timers that are due. Returns the key for the sleep that follows, and the time when that sleep must
    /// end. Returns `None` if the deputy has taken over meanwhile. With `takes_over`, looks at all timers: the former
    /// watchdog, which is stuck in a call, may have reset the `earliest` of any of them.
    ///
    /// `due` is an empty list with room for `MOST_DUE` timers. A pass allocates nothing, and takes no lock under which
    /// a thread allocates: a thread that is stuck in the allocator must not hold it up. Only the wakers that it calls
    /// and drops may hold it up.
    fn pass(
        &'static self,
        heavy: bool,
        takes_over: bool,
        planned: u64,
        due: &mut Vec<Due>,
    ) -> Option<(alarm::Key, u64)> {
        // The key is read before the timers. So if the alarm rings after this line, the sleep ends at once.
        let key = self.alarm.key();
        let now = clock::now();
        #[cfg(feature = "report")]
        self.observe(now, planned);
        #[cfg(not(feature = "report"))]
        let _ = planned;
        self.reach(now);
        if takes_over && mutant!(ShortLook) {
            // The mutant does not know which looks the former watchdog has begun.
            self.state().all_timers().for_each(Timers::forget_look);
        }
        self.fire_due(now, takes_over && !mutant!(ShortLook), due)?;

        let first = self.earliest(now);
        // Relaxed, here and below: the fence orders the store.
        self.next_wake.0.store(first, Ordering::Relaxed);
        let fenced = mutant!(NoDogFence) || (heavy && os::heavy_barrier());
        if !fenced {
            if heavy {
                // The barrier worked at registration, so the program has forbidden the system call since then. From now
                // on each arm needs a fence of its own.
                self.settings().set(Settings::ASYMMETRIC, false);
            }
            // SeqCst: pairs with the fence in `light_fence`.
            fence(Ordering::SeqCst);
        }
        if !mutant!(EarlyLook) {
            self.state().all_timers().filter(|timers| timers.is_in_look()).for_each(Timers::end_look);
        }
        let second = if mutant!(NoRescan) { first } else { self.earliest(now) };
        if second < first {
            // Lowering `next_wake` needs no fence. At worst an arm reads the higher value, and wakes the watchdog in
            // vain.
            self.next_wake.0.store(second, Ordering::Relaxed);
        }
        Some((key, first.min(second)))
    }

    /// The time of the watchdog's next work. At most `now` if there is work already: a timer is due, or the inbox is
    /// not empty.
    pub(super) fn earliest(&'static self, now: u64) -> u64 {
        let earliest = self.slots.earliest(now).min(self.first_timer());
        #[cfg(feature = "report")]
        let earliest = earliest.min(self.next_look(now));
        if lock(&self.state().inbox).is_empty() { earliest } else { now }
    }

    /// No timer is due before the returned time. (It may be the time of a timer that was taken back.)
    fn first_timer(&'static self) -> u64 {
        self.state().all_timers().map(Timers::earliest).min().unwrap_or(NEVER)
    }

    /// Wakes the wakers of all timers that are due, in batches, with no lock held. Looks at the `Timers` of each thread
    /// that may have a due timer; with `all`, at the `Timers` of all threads. After its next fence the caller must call
    /// `end_look` on each `Timers` with `is_in_look`. `None` if the deputy has taken over meanwhile.
    fn fire_due(&'static self, now: u64, all: bool, due: &mut Vec<Due>) -> Option<()> {
        let state = self.state();
        self.call_posted()?;
        for timers in state.all_timers().filter(|timers| all || timers.earliest() <= now) {
            timers.begin_look();
            // The number of batches is limited: otherwise the timers of other threads would wait too long. The next
            // pass follows at once, and fires the other due timers.
            for _ in 0..BATCHES_PER_PASS {
                let are_all = timers.take_due(now, due);
                // The mutant ends the look before the fences in the calls, which is too early.
                if mutant!(EarlyLook) {
                    timers.end_look();
                }
                // There is room: see `State::inbox`.
                lock(&state.inbox).extend(due.drain(..).map(|due| due.waker));
                self.call_posted()?;
                if are_all {
                    break;
                }
            }
        }
        Some(())
    }

    /// Wakes the wakers in the inbox, at most `CALLS_PER_TURN` of them. Takes them out one by one: if a call does not
    /// return, the deputy finds the remaining wakers in the inbox. `None` if the deputy has taken over.
    fn call_posted(&'static self) -> Option<()> {
        let inbox = &self.state().inbox;
        for _ in 0..CALLS_PER_TURN {
            let Some(waker) = lock(inbox).pop_front() else { break };
            self.ensure_deputy();
            self.deputy.supervise(|| wake_quietly(waker))?;
        }
        Some(())
    }
}
