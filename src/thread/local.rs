//! A thread's own state, and the thread's registration with the watchdog.
//!
//! Invariants:
//! 1. `Thread::flag` points to `NO_FLAG`, or to the flag of a node. A frame that is open on this thread keeps the node
//!    alive. Only `scope/frame.rs` and `without_scopes` set `Thread::flag`.
//! 2. A registered thread has one slot, and the timers with the slot's number, until it ends. While the destructors of
//!    its thread-locals run, a thread cannot be registered. Its slot is then `ORPHANS`, which the watchdog does not
//!    read, and it shares the timers of `Watchdog::orphans` with all such threads.

use std::cell::Cell;

#[cfg(feature = "profile")]
use super::profile_id::ProfileId;
use crate::sync::fork::InChild;
#[cfg(feature = "report")]
use crate::sync::os;
#[cfg(all(feature = "report", target_os = "linux", not(any(miri, timebox_loom))))]
use crate::sync::signal_stack;
use crate::sync::{AtomicBool, Ordering};
#[cfg(feature = "testing")]
use crate::test_env::TestEnv;
use crate::time::{NEVER, clock};
use crate::watchdog::slots::Slot;
use crate::watchdog::timers::Timers;
use crate::watchdog::timers::lease::Lease;
use crate::watchdog::{self, global};

/// A thread's own state. No other thread reads it.
#[derive(Debug)]
pub(crate) struct Thread {
    /// Counts checks down: the check that finds 1 here reads the clock.
    left: Cell<u32>,
    /// `left` is set to this number after a reading of the clock. So one of `stride` checks reads the clock.
    stride: Cell<u32>,
    /// When `look` or `end_look` last ran. From this, `look` learns how fast checks come.
    looked: Cell<u64>,
    /// The latest reading of the clock by a check, or by the entry of a scope, on this thread.
    pub(crate) now: Cell<u64>,
    /// The thread's deadline: see `scope/frame.rs`, invariant 4.
    pub(crate) deadline: Cell<u64>,
    /// The flag that checks read: see [`is_flagged`](Self::is_flagged) and invariant 1.
    flag: Cell<*const AtomicBool>,
    slot: Cell<Option<&'static Slot>>,
    /// The innermost frame; `scope/frame.rs` knows its type.
    pub(crate) frame: Cell<*const ()>,
    /// The thread's timers (invariant 2); `None` before the thread arms a timer.
    timers: Cell<Option<&'static Timers>>,
    /// The number of the last poll. Polls are numbered while reports are on.
    #[cfg(feature = "report")]
    polls: Cell<u64>,
    /// The profile of the code that the thread runs now; `NONE` if that code is not profiled.
    #[cfg(feature = "profile")]
    pub(super) profile: Cell<ProfileId>,
}

/// A pointer to the calling thread's state. It is not `Send`, so it stays on that thread.
#[derive(Clone, Copy)]
pub(crate) struct CurrentThread(*const Thread);

impl std::ops::Deref for CurrentThread {
    type Target = Thread;

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn deref(&self) -> &Thread {
        // SAFETY: the pointer is to a thread-local of this thread. A thread-local without a destructor lives as long as
        // its thread.
        unsafe { &*self.0 }
    }
}

static NO_FLAG: AtomicBool = AtomicBool::new(false);
static ORPHANS: Slot = Slot::new();

thread_local! {
    // `THREAD` has no destructor. So the destructors of other thread-locals can use it, and an access need not check
    // that it exists.
    static THREAD: Thread = const {
        Thread {
            left: Cell::new(1),
            stride: Cell::new(1),
            looked: Cell::new(0),
            now: Cell::new(0),
            deadline: Cell::new(NEVER),
            flag: Cell::new(&raw const NO_FLAG),
            slot: Cell::new(None),
            frame: Cell::new(std::ptr::null()),
            timers: Cell::new(None),
            #[cfg(feature = "report")]
            polls: Cell::new(0),
            #[cfg(feature = "profile")]
            profile: Cell::new(ProfileId::NONE),
        }
    };
    static REGISTRATION: Registration = const { Registration(Cell::new(None)) };
}

/// How much time should pass between two checks that read the clock, in nanoseconds.
const LOOK_EVERY: u64 = 50_000;

/// Whether this thread is in a test's environment. Then no check takes the fast path, because the fast path reads no
/// clock and calls no `Probe`. The test may have a mock clock and a `Probe` of its own.
fn is_in_test_env() -> bool {
    #[cfg(feature = "testing")]
    return !TestEnv::current().is_real();
    #[cfg(not(feature = "testing"))]
    false
}

impl Thread {
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn with<R>(f: impl FnOnce(&Thread) -> R) -> R {
        f(&Thread::current())
    }

    /// The calling thread's state. Returned as a pointer, because code in a closure of `LocalKey::with` would not be
    /// inlined.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn current() -> CurrentThread {
        CurrentThread(THREAD.with(std::ptr::from_ref))
    }

    /// The fast half of a check, which does not read the clock. `false`: something may have expired, or it is time to
    /// read the clock.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn is_quiet(&self) -> bool {
        !self.is_clock_due() && self.deadline.get() > global().reached() && !self.is_flagged()
    }

    /// Counts one check. `true`: this check must read the clock, with [`look`](Self::look).
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn is_clock_due(&self) -> bool {
        let left = self.left.get().wrapping_sub(1);
        self.left.set(left);
        left == 0
    }

    /// Whether the nearest node that no shield hides is over (`scope/frame.rs`, invariant 4).
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn is_flagged(&self) -> bool {
        // SAFETY: invariant 1.
        // Relaxed: a caller that finds the flag set takes the node's lock before it acts. So it sees what was done
        // under the lock before the flag was set.
        unsafe { (*self.flag.get()).load(Ordering::Relaxed) }
    }

    /// Reads the clock, for a check of something that expires at `deadline`. Then sets how many checks may skip the
    /// clock, so that the next reading comes about [`LOOK_EVERY`] later.
    #[cold]
    pub(crate) fn look(&self, deadline: impl FnOnce() -> u64) -> u64 {
        let now = clock::now();
        self.now.set(now);
        let passed = now.saturating_sub(self.looked.replace(now)).max(1);
        let deadline = deadline();
        let stride = u64::from(self.stride.get());
        // The stride at most doubles, because the next checks may come more slowly than the checks before.
        let aimed =
            (stride.saturating_mul(LOOK_EVERY) / passed).clamp(1, stride.saturating_mul(2).min(1 << 20));
        if global().is_missing() {
            global().try_to_start();
        }
        let alone = is_in_test_env() || deadline.min(self.deadline.get()) != NEVER && self.is_alone();
        let aimed = if alone { 1 } else { u32::try_from(aimed).unwrap_or(1) };
        self.stride.set(aimed);
        self.left.set(aimed);
        now
    }

    /// Ends a check that did more work after its [`look`](Self::look). Otherwise the next `look` would count that work
    /// as time between checks. If the work takes long (with very many tokens), the stride would fall to 1, and each
    /// check would read the clock.
    pub(crate) fn end_look(&self) {
        self.looked.set(clock::now());
    }

    /// Makes the next check read the clock.
    pub(crate) fn look_again(&self) {
        self.left.set(1);
    }

    /// Whether no watchdog notices this thread's deadline, so that every check must read the clock.
    fn is_alone(&self) -> bool {
        !global().is_running() || self.slot.get().is_some_and(|slot| std::ptr::eq(slot, &raw const ORPHANS))
    }

    /// The thread's slot. The first call registers the thread.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn slot(&self) -> &'static Slot {
        match self.slot.get() {
            Some(slot) => slot,
            None => self.register(),
        }
    }

    #[cold]
    #[inline(never)]
    fn register(&self) -> &'static Slot {
        static RESTART: InChild = InChild::new(restart);
        extern "C" fn restart() {
            Thread::with(Thread::restart);
        }
        watchdog::prepare();
        RESTART.install();
        // `try_with` fails once `REGISTRATION` has been destroyed, at the end of the thread. It is then too late to
        // register.
        let index = REGISTRATION.try_with(|registration| {
            let index = global().take_slot();
            registration.0.set(Some(index));
            #[cfg(feature = "report")]
            {
                self.show_at(global().slots.at(index));
                global().make_room_for_looks(index);
                #[cfg(all(target_os = "linux", not(any(miri, timebox_loom))))]
                signal_stack::ensure();
            }
            index
        });
        let slot = match index {
            Ok(index) => global().slots.at(index),
            Err(_) => {
                self.restart();
                &ORPHANS
            }
        };
        self.slot.set(Some(slot));
        slot
    }

    #[cfg(feature = "report")]
    fn show_at(&self, slot: &Slot) {
        slot.set_thread(os::thread_id(), self.frame.as_ptr().addr());
    }

    /// The right to arm the thread's own timers. A thread that is ending gets the orphans' timers (invariant 2).
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn lease(&self) -> Lease {
        match self.timers.get() {
            // SAFETY: invariant 2.
            Some(timers) => unsafe { Lease::of_own(timers) },
            None => self.find_timers(),
        }
    }

    #[cold]
    #[inline(never)]
    fn find_timers(&self) -> Lease {
        // `slot` registers the thread, and makes the process ready for forks.
        self.slot();
        match REGISTRATION.try_with(|registration| registration.0.get()) {
            Ok(Some(index)) => {
                self.timers.set(Some(global().timers_at(index)));
                self.lease()
            }
            // The thread is ending, and has no timers of its own any more: invariant 2.
            _ => global().orphans().lease(),
        }
    }

    /// Makes the watchdog notice `deadline` for this thread. If there is no watchdog and none can be started, the next
    /// check reads the clock instead.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn arm(&self, deadline: u64) {
        if !global().arm(self.slot(), deadline) {
            self.look_again();
        }
    }

    /// Gives a number to the poll that begins. Called only while reports are on.
    #[cfg(feature = "report")]
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn next_poll(&self) -> u64 {
        let number = self.polls.get().wrapping_add(1);
        self.polls.set(number);
        number
    }

    /// Makes the watchdog's observer look at this thread at the time `at`. Called only while reports are on.
    #[cfg(feature = "report")]
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn arm_look(&self, at: u64) {
        if !global().arm_look(self.slot(), at) {
            self.look_again();
        }
    }

    /// Does the work of [`arm`](Self::arm) and [`arm_look`](Self::arm_look), but wakes the watchdog only for the look.
    /// So the look must not be later than the deadline.
    #[cfg(feature = "report")]
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn arm_with_look(&self, deadline: u64, look: u64) {
        let slot = self.slot();
        slot.set(deadline);
        if !global().arm_look(slot, look) {
            self.look_again();
        }
    }

    /// Makes `deadline` the thread's deadline again, at the end of an inner scope that had another deadline.
    ///
    /// If the inner deadline has passed, the watchdog no longer waits for this slot, and may sleep for ever. So the
    /// slot is armed again.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn restore(&self, deadline: u64) {
        let inner = self.deadline.replace(deadline);
        if deadline != NEVER && !clock::is_mocked() {
            if inner <= global().reached() || inner > deadline {
                // Nothing checked `deadline` during the inner scope. It may have passed, so the next check reads the
                // clock.
                self.look_again();
            }
            if !global().rearm(self.slot(), deadline) {
                self.look_again();
            }
        }
    }

    /// Sets the flag that this thread's checks read; `None` if they read no node's flag.
    ///
    /// # Safety
    ///
    /// Invariant 1: the flag must live until it is replaced here.
    pub(crate) unsafe fn set_flag(&self, flag: Option<&AtomicBool>) {
        self.flag.set(flag.map_or(&raw const NO_FLAG, std::ptr::from_ref));
    }

    /// Forgets the timers, and makes the next check read the clock, because no watchdog knows this thread's deadline.
    /// Called in a forked child, and at the end of a thread, which can no longer register.
    fn restart(&self) {
        #[cfg(feature = "report")]
        if let Some(slot) = self.slot.get()
            && !std::ptr::eq(slot, &raw const ORPHANS)
        {
            // In a forked child the thread has another number, and `Watchdog::restart` has cleared the slot, so the
            // slot is filled again.
            self.show_at(slot);
        }
        self.timers.set(None);
        self.stride.set(1);
        self.left.set(1);
    }
}

#[cfg_attr(not(debug_assertions), inline(always))]
pub(super) fn lease() -> Lease {
    Thread::with(Thread::lease)
}

#[cfg_attr(not(debug_assertions), inline(always))]
pub(super) fn own_timers() -> Option<&'static Timers> {
    Thread::with(|thread| thread.timers.get())
}

pub(super) fn look_again() {
    Thread::with(Thread::look_again);
}

/// Runs foreign code as if this thread were in no scope. For example, a waker may run its task on this thread at once,
/// and the scopes of this thread must not end that task.
pub(crate) fn without_scopes<R>(f: impl FnOnce() -> R) -> R {
    struct Restore {
        frame: *const (),
        deadline: u64,
        flag: *const AtomicBool,
    }
    impl Drop for Restore {
        fn drop(&mut self) {
            Thread::with(|thread| {
                thread.frame.set(self.frame);
                thread.flag.set(self.flag);
                // A scope of the foreign code may have armed the slot with another deadline. On leaving, that scope did
                // not see the thread's old deadline, so it could not arm it again. This does it.
                thread.restore(self.deadline);
            });
        }
    }
    // The present flag may be the flag of a node. The frame that keeps the node alive stays open during `f`, so the
    // flag may be put back afterwards (invariant 1).
    let _restore = Thread::with(|thread| Restore {
        frame: thread.frame.replace(std::ptr::null()),
        deadline: thread.deadline.replace(NEVER),
        flag: thread.flag.replace(&raw const NO_FLAG),
    });
    f()
}

struct Registration(Cell<Option<usize>>);

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(index) = self.0.take() {
            Thread::with(|thread| {
                thread.slot.set(None);
                thread.timers.set(None);
            });
            let slot = global().slots.at(index);
            slot.set(NEVER);
            #[cfg(feature = "report")]
            {
                slot.set_look(NEVER);
                slot.set_thread(0, 0);
                #[cfg(feature = "profile")]
                slot.set_visit(0);
            }
            global().give_slot_back(index);
        }
    }
}
