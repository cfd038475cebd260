//! Switches that break one promise each, to show that the tests of that promise then fail. They exist only under
//! `cfg(timebox_loom)` and `cfg(timebox_mutants)`.

use std::sync::atomic::{AtomicU64, Ordering};

/// Each variant is a fault. The code has the fault while the switch is on.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
#[repr(u64)]
pub enum Mutant {
    /// `arm` has no fence between its store to the slot and its load of the next wake-up.
    NoArmFence = 1,
    /// The watchdog has no fence between its store of the next wake-up and its second look at the slots.
    NoDogFence = 2,
    /// The watchdog does not look at the slots again after it has published its next wake-up.
    NoRescan = 4,
    /// Leaving an inner scope stores the outer deadline without the arm protocol.
    PlainRestore = 8,
    /// Arming tries only once to lower the next wake-up, although the watchdog may have lowered it meanwhile.
    SingleCas = 16,
    /// Ending a hook neither waits for it nor stops it from firing.
    NoRevoke = 32,
    /// A shield does not wait for a hook that runs when the shield is opened.
    NoShieldWait = 64,
    /// A thread that retires does not see that it was rung after its last look.
    BlindRetire = 128,
    /// Arming a timer has no fence between its stores and its load of the next wake-up.
    NoTimerFence = 256,
    /// A timer's waker is claimed by a load and a store, and not by one atomic step.
    PlainTake = 512,
    /// The watchdog's second look at the timers comes before its fence.
    EarlyLook = 1024,
    /// A thread comes for a timer's waker while another thread holds it, and leaves no mark for that other thread.
    SilentMiss = 2048,
    /// A hook begins a run for a future that has left the hook's scope.
    NoRetire = 4096,
    /// A second cancel returns at once, although the first cancel may not have ended all nodes beneath yet.
    NoSecondSpread = 8192,
    /// Nodes are moved to another parent without the lock that orders all moves.
    NoMoveLock = 16384,
    /// A watchdog stays the watchdog after a call, although its deputy has taken over during the call.
    BlindReturn = 32768,
    /// The deputy goes to sleep without a last look whether the watchdog has begun a call.
    DeafDeputy = 65536,
    /// A deputy that takes over looks only at the timers of threads whose `earliest` is due.
    ShortLook = 131_072,
    /// A task checks whether it must wait for a hook, releases the lock, and only then lists its waker.
    LateWaiter = 1 << 20,
    /// Waits are not listed, so a circle of waits is not found.
    NoCircle = 1 << 21,
    /// A token that lists itself with its parent does not check whether the parent has ended its children already.
    NoSecondLook = 1 << 22,
    /// A request is armed with a relaxed store.
    LooseArm = 1 << 23,
    /// The handler looks for requests with a relaxed load.
    LooseLook = 1 << 24,
    /// The handler also serves a request that is for another thread.
    NoThread = 1 << 25,
    /// All requests of a slot have the same number.
    NoNumber = 1 << 26,
    /// The handler claims a request by a load and a store, and not by one atomic step.
    PlainClaim = 1 << 27,
    /// A requester takes a free slot by a load and a store, and not by one atomic step.
    PlainSlot = 1 << 28,
    /// The handler stops after it has served one request.
    FirstOnly = 1 << 29,
    /// The handler says that it has served a request before it has written the value.
    EarlyDone = 1 << 30,
    /// The handler says with a relaxed step that it has served a request.
    LooseDone = 1 << 31,
    /// The handler says with a relaxed step that it has finished a request whose requester has left.
    LooseOver = 1 << 32,
    /// A handler that has finished a request does not look whether the requester has left.
    NoOver = 1 << 33,
    /// A requester that leaves frees its slot, although the handler still writes.
    EarlyFree = 1 << 34,
    /// A slot is freed with a relaxed store.
    LooseFree = 1 << 35,
    /// A request that is dropped does not look whether it was served.
    ForgetfulDrop = 1 << 36,
    /// In a forked child the numbers of requests begin again.
    NumbersAgain = 1 << 37,
}

// This is an atomic of std even under loom, because the switch is no part of the model.
static ON: AtomicU64 = AtomicU64::new(0);

/// Switches a mutant on or off, for the whole process.
pub fn set(mutant: Mutant, on: bool) {
    if on {
        ON.fetch_or(mutant as u64, Ordering::SeqCst);
    } else {
        ON.fetch_and(!(mutant as u64), Ordering::SeqCst);
    }
}

pub(crate) fn is_on(mutant: Mutant) -> bool {
    ON.load(Ordering::SeqCst) & mutant as u64 != 0
}
