//! What a fork does to a process with threads, and locks that survive it.
//!
//! Only the forking thread lives on in the child, so a lock that another thread held is held there for ever.
//! Each process in a line of forks has a *generation*; a lock remembers the one it was last used in.

#[cfg(not(timebox_loom))]
use std::sync::{
    TryLockError,
    atomic::{AtomicBool, AtomicU32, Ordering},
};
#[cfg(not(timebox_loom))]
use std::time::Duration;

#[cfg(not(timebox_loom))]
use super::SetOnce;
use super::{Mutex, MutexGuard, lock};

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
        super::os::at_fork_in_child(child);
        INSTALLED.store(true, Ordering::Release);
    }
}

/// A mutex that a forked child never waits for in vain.
#[derive(Debug)]
pub(crate) struct ForkMutex<T> {
    #[cfg(not(timebox_loom))]
    generation: AtomicU32,
    inner: Mutex<T>,
}

impl<T> ForkMutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            #[cfg(not(timebox_loom))]
            generation: AtomicU32::new(generation()),
            inner: Mutex::new(value),
        }
    }

    /// Locks; `None` if the holder was lost in a fork, in which case the value is beyond reach for good.
    #[inline]
    pub(crate) fn lock(&self) -> Option<MutexGuard<'_, T>> {
        // Acquire: pairs with the Release in `adopt`; its holder has the lock by then.
        #[cfg(not(timebox_loom))]
        if self.generation.load(Ordering::Acquire) != generation() {
            return self.adopt();
        }
        Some(lock(&self.inner))
    }

    /// The first use in a child: if nobody held it at the fork, it is as good as new.
    #[cfg(not(timebox_loom))]
    #[cold]
    fn adopt(&self) -> Option<MutexGuard<'_, T>> {
        // A thread of this process that adopts it at the same time needs a moment between the lock and the store.
        for attempt in 0..20 {
            let guard = match self.inner.try_lock() {
                Ok(guard) => guard,
                Err(TryLockError::Poisoned(guard)) => guard.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    if self.generation.load(Ordering::Acquire) == generation() {
                        return Some(lock(&self.inner));
                    }
                    std::thread::sleep(Duration::from_micros(attempt * 10));
                    continue;
                }
            };
            // Release: pairs with the Acquire in `lock`.
            self.generation.store(generation(), Ordering::Release);
            return Some(guard);
        }
        None
    }
}
