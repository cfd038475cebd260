//! What a fork does to a process with threads, and locks that survive it.
//!
//! Only the forking thread lives on in the child, so a lock that another thread held is held there for ever.
//! Each process in a line of forks has a *generation*; a lock remembers the one it was last used in.

#[cfg(not(timebox_loom))]
use super::SetOnce;
use super::{Mutex, MutexGuard, lock};
#[cfg(not(timebox_loom))]
use std::sync::{
    TryLockError,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

#[cfg(not(timebox_loom))]
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// How many forks lie between the first process that used this crate and this one.
#[inline]
pub(crate) fn generation() -> u32 {
    #[cfg(timebox_loom)]
    return 0;
    // Relaxed: it changes only in a child that has one thread yet.
    #[cfg(not(timebox_loom))]
    GENERATION.load(Ordering::Relaxed)
}

/// Has `restart` called in every forked child from now on, before the fork returns there. The first call counts.
///
/// Nobody waits here for another thread: one that installs it may be lost in a fork. It may be installed twice then,
/// and a fork count as two generations.
#[cfg(not(timebox_loom))]
pub(crate) fn on_child(restart: fn()) {
    static INSTALLED: AtomicBool = AtomicBool::new(false);
    static RESTART: SetOnce<fn()> = SetOnce::new();
    extern "C" fn child() {
        // Relaxed: this is the child's only thread.
        GENERATION.fetch_add(1, Ordering::Relaxed);
        if let Some(restart) = RESTART.get() {
            restart();
        }
    }
    // Acquire: pairs with the Release below.
    if !INSTALLED.load(Ordering::Acquire) {
        RESTART.get_or_init(|| restart);
        at_fork_in_child(child);
        INSTALLED.store(true, Ordering::Release);
    }
}

/// Has `child` called in a forked child, on its only thread.
#[cfg(all(unix, not(timebox_loom)))]
fn at_fork_in_child(child: extern "C" fn()) {
    #[cfg(not(miri))]
    // SAFETY: the function lives as long as the process. Failure (no memory) leaves the crate without fork support.
    unsafe {
        libc::pthread_atfork(None, None, Some(child));
    }
    #[cfg(miri)]
    let _ = child;
}

#[cfg(not(any(unix, timebox_loom)))]
fn at_fork_in_child(_child: extern "C" fn()) {}

/// A mutex that a forked child never waits for in vain.
#[derive(Debug)]
pub(crate) struct ForkMutex<T> {
    /// In which generation it was last used, and how far that has come: see [`Phase`].
    #[cfg(not(timebox_loom))]
    used: AtomicU32,
    inner: Mutex<T>,
}

/// How far a generation has come with a lock from before it. The lower bits of `ForkMutex::used`.
#[cfg(not(timebox_loom))]
#[derive(Clone, Copy)]
enum Phase {
    /// It is a lock like any other.
    Usable = 0,
    /// The first to come is about to find out whether it was held at the fork.
    Adopting = 1,
    /// It was, and will be for ever.
    Lost = 2,
}

#[cfg(not(timebox_loom))]
impl Phase {
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn now(self) -> u32 {
        generation() << 2 | self as u32
    }
}

impl<T> ForkMutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            #[cfg(not(timebox_loom))]
            used: AtomicU32::new(Phase::Usable.now()),
            inner: Mutex::new(value),
        }
    }

    /// Locks; `None` if the holder was lost in a fork, in which case the value is beyond reach for good.
    #[inline]
    pub(crate) fn lock(&self) -> Option<MutexGuard<'_, T>> {
        // Acquire: pairs with the Release in `adopt`; who adopts it has the lock by then.
        #[cfg(not(timebox_loom))]
        if self.used.load(Ordering::Acquire) != Phase::Usable.now() {
            return self.adopt();
        }
        Some(lock(&self.inner))
    }

    /// The value, without locking; `None` as with [`lock`](Self::lock).
    #[inline]
    pub(crate) fn get_mut(&mut self) -> Option<&mut T> {
        #[cfg(not(timebox_loom))]
        if *self.used.get_mut() != Phase::Usable.now() {
            drop(self.adopt()?);
        }
        Some(self.inner.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// The first use in a child: if nobody held it at the fork, it is as good as new.
    ///
    /// Until it is adopted no thread of this process can have locked it; so if it is locked then, it was at the fork.
    #[cfg(not(timebox_loom))]
    #[cold]
    fn adopt(&self) -> Option<MutexGuard<'_, T>> {
        let mut used = self.used.load(Ordering::Acquire);
        loop {
            if used == Phase::Usable.now() {
                return Some(lock(&self.inner));
            }
            if used == Phase::Lost.now() {
                return None;
            }
            if used == Phase::Adopting.now() {
                // By a thread of this process, which waits for nobody: it takes but a moment.
                std::thread::yield_now();
                used = self.used.load(Ordering::Acquire);
                continue;
            }
            // Acquire: as in `lock`.
            let adopting = Phase::Adopting.now();
            match self.used.compare_exchange(used, adopting, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => break,
                Err(other) => used = other,
            }
        }
        let (guard, phase) = match self.inner.try_lock() {
            Ok(guard) => (Some(guard), Phase::Usable),
            Err(TryLockError::Poisoned(guard)) => (Some(guard.into_inner()), Phase::Usable),
            Err(TryLockError::WouldBlock) => (None, Phase::Lost),
        };
        // Release: pairs with the Acquire in `lock`.
        self.used.store(phase.now(), Ordering::Release);
        guard
    }
}
