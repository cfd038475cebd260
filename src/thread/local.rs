//! A thread's own state, and the thread's registration with the watchdog.
//!
//! Invariants:
//! 1. `Thread::flag` points to `NO_FLAG`, or to the flag of a node that a frame open on this thread keeps alive.
//!    Only `scope/frame.rs` sets it.
//! 2. From its registration to its end a thread has the slot and the timers that have the same number. While the destructors
//!    of its thread-locals run, a thread cannot be registered: then its slot is `ORPHANS`, which the watchdog does not read,
//!    and its timers are the orphans', which all such threads share.

use std::cell::Cell;

use crate::sync::fork::InChild;
use crate::sync::{AtomicBool, Ordering};
#[cfg(feature = "testing")]
use crate::test_env::TestEnv;
use crate::time::{NEVER, clock};
use crate::watchdog::slots::Slot;
use crate::watchdog::timers::{Lease, Timers};
use crate::watchdog::{self, global};

/// A thread's own state. No other thread reads it.
#[derive(Debug)]
pub(crate) struct Thread {
    /// Counts checks down: the check that finds 1 here reads the clock.
    left: Cell<u32>,
    /// `left` starts again from this number after a reading: of so many checks one reads the clock.
    stride: Cell<u32>,
    /// When a check last read the clock.
    looked: Cell<u64>,
    /// The latest reading of the clock by this thread, for whatever reason.
    pub(crate) now: Cell<u64>,
    /// The effective deadline of the innermost scope.
    pub(crate) deadline: Cell<u64>,
    /// The flag that checks read: see [`is_flagged`](Self::is_flagged) and invariant 1.
    flag: Cell<*const AtomicBool>,
    slot: Cell<Option<&'static Slot>>,
    /// The innermost frame; `scope/frame.rs` knows its type.
    pub(crate) frame: Cell<*const ()>,
    /// The thread's timers, once it has armed one. Invariant 2.
    timers: Cell<Option<&'static Timers>>,
}

/// A pointer to the calling thread's state. It is not `Send`, so it stays on that thread.
#[derive(Clone, Copy)]
pub(crate) struct CurrentThread(*const Thread);

impl std::ops::Deref for CurrentThread {
    type Target = Thread;

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn deref(&self) -> &Thread {
        // SAFETY: the pointer is to a thread-local of this thread. A thread-local without a destructor lives as long as its
        // thread.
        unsafe { &*self.0 }
    }
}

static NO_FLAG: AtomicBool = AtomicBool::new(false);
static ORPHANS: Slot = Slot::new();

thread_local! {
    // No destructor: so it can be used in the destructors of other thread-locals, and an access needs no check that it exists.
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
        }
    };
    static REGISTRATION: Registration = const { Registration(Cell::new(None)) };
}

/// How much time should pass between two checks that read the clock, in nanoseconds.
const LOOK_EVERY: u64 = 50_000;

/// Whether this thread is in a test's environment. Each check must then leave the fast path, to ask the test's clock
/// and probe.
fn is_in_test_env() -> bool {
    #[cfg(feature = "testing")]
    return !TestEnv::current().is_real();
    #[cfg(not(feature = "testing"))]
    false
}

impl Thread {
    /// Runs `f` with the calling thread's state.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn with<R>(f: impl FnOnce(&Thread) -> R) -> R {
        f(&Thread::current())
    }

    /// The calling thread's state. (Code inside a closure of `LocalKey::with` would not be inlined.)
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn current() -> CurrentThread {
        CurrentThread(THREAD.with(std::ptr::from_ref))
    }

    /// The fast half of a check: `true` if nothing has expired, as far as can be told without reading the clock. Now and
    /// then it is `false` so that the caller reads the clock.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn is_quiet(&self) -> bool {
        !self.is_clock_due() && self.deadline.get() > global().reached() && !self.is_flagged()
    }

    /// Counts one check. Returns whether this check should read the clock, with [`look`](Self::look).
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn is_clock_due(&self) -> bool {
        let left = self.left.get().wrapping_sub(1);
        self.left.set(left);
        left == 0
    }

    /// Whether the nearest node of the innermost scope is over.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn is_flagged(&self) -> bool {
        // SAFETY: invariant 1.
        // Relaxed: code that acts on the flag takes the node's lock.
        unsafe { (*self.flag.get()).load(Ordering::Relaxed) }
    }

    /// Reads the clock, for a check of something that expires at `deadline`. Then sets how many checks may skip the clock, so
    /// that the next reading comes about [`LOOK_EVERY`] later.
    #[cold]
    pub(crate) fn look(&self, deadline: impl FnOnce() -> u64) -> u64 {
        let now = clock::now();
        self.now.set(now);
        let passed = now.saturating_sub(self.looked.replace(now)).max(1);
        let deadline = deadline();
        let stride = u64::from(self.stride.get());
        // The next checks may come more slowly than the last: so the stride at most doubles.
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

    /// Ends a check that did more work after its [`look`](Self::look). The time of that work does not count as time between
    /// checks: else, with very many tokens, the stride would fall to 1, and each check would read the clock.
    pub(crate) fn end_look(&self) {
        self.looked.set(clock::now());
    }

    /// Has the next check read the clock, however many checks are left.
    pub(crate) fn look_again(&self) {
        self.left.set(1);
    }

    /// Whether no watchdog looks after this thread, so that every check must read the clock.
    fn is_alone(&self) -> bool {
        !global().is_running() || self.slot.get().is_some_and(|slot| std::ptr::eq(slot, &raw const ORPHANS))
    }

    /// This thread's slot. The first call registers the thread.
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
        // This fails once `REGISTRATION` is destroyed, in the destructors of thread-locals: it is too late to register.
        let index = REGISTRATION.try_with(|registration| {
            let index = global().take_slot();
            registration.0.set(Some(index));
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

    /// The right to arm timers: the thread's own, or the orphans'.
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
        // Registers the thread, which also makes the process ready for forks.
        self.slot();
        match REGISTRATION.try_with(|registration| registration.0.get()) {
            Ok(Some(index)) => {
                self.timers.set(Some(global().timers_at(index)));
                self.lease()
            }
            // The destructors of thread-locals run: invariant 2.
            _ => global().orphans().lease(),
        }
    }

    /// Has the watchdog notice `deadline`, for this thread.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn arm(&self, deadline: u64) {
        if !global().arm(self.slot(), deadline) {
            self.look_again();
        }
    }

    /// Makes `deadline` the thread's deadline again, at the end of an inner scope that had another. The slot must be armed
    /// again too: the watchdog may have consumed the inner deadline and gone to sleep for ever.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn restore(&self, deadline: u64) {
        let inner = self.deadline.replace(deadline);
        if deadline != NEVER && !clock::is_mocked() {
            if inner <= global().reached() || inner > deadline {
                // `deadline` may have passed during the inner scope without being noticed.
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

    /// Starts over: the next check reads the clock. For a thread that no watchdog looks after: in a forked child until the
    /// thread arms again, or where it is too late to register.
    fn restart(&self) {
        self.timers.set(None);
        self.stride.set(1);
        self.left.set(1);
    }
}

/// The right of the calling thread to arm timers.
#[cfg_attr(not(debug_assertions), inline(always))]
pub(super) fn lease() -> Lease {
    Thread::with(Thread::lease)
}

/// The calling thread's timers, if it has any.
#[cfg_attr(not(debug_assertions), inline(always))]
pub(super) fn own_timers() -> Option<&'static Timers> {
    Thread::with(|thread| thread.timers.get())
}

/// Has the calling thread's next check read the clock.
pub(super) fn look_again() {
    Thread::with(Thread::look_again);
}

/// Runs foreign code that must see no scope of this thread: a waker, say, which may run its task inline.
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
                // The foreign code may have armed the slot for a scope of its own. At the end of that scope there was no
                // outer deadline to restore, so it is restored here.
                thread.restore(self.deadline);
            });
        }
    }
    // Invariant 1 holds for the flag that is put back: the frame that keeps its node alive stays open meanwhile.
    let _restore = Thread::with(|thread| Restore {
        frame: thread.frame.replace(std::ptr::null()),
        deadline: thread.deadline.replace(NEVER),
        flag: thread.flag.replace(&raw const NO_FLAG),
    });
    f()
}

/// Gives the thread's slot back when the thread ends.
struct Registration(Cell<Option<usize>>);

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(index) = self.0.take() {
            Thread::with(|thread| {
                thread.slot.set(None);
                thread.timers.set(None);
            });
            global().slots.at(index).set(NEVER);
            global().give_slot_back(index);
        }
    }
}
