//! Forks: handlers in the child, values that each process has for itself, and locks that survive a fork.
//!
//! Only the forking thread lives on in the child, so a lock that another thread held is held there for ever.
//! Each process in a line of forks has a *generation*. Three types build on it:
//!
//! - [`PerProcess`]: process-wide state with plain locks. Each child makes its own state.
//! - [`ForkMutex`]: the lock of an object that parent and child both use. The lock remembers the generation that last
//!   used it.
//! - [`Process`]: the process an object was made in, for objects that a child must leave alone.

use super::once::SetOnce;
use super::primitive::{Mutex, MutexGuard, lock};
#[cfg(not(timebox_loom))]
use std::sync::{
    TryLockError,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

#[cfg(not(timebox_loom))]
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// How many forks have led from the first process that used this crate to this process.
#[inline]
pub(crate) fn generation() -> u32 {
    #[cfg(timebox_loom)]
    return 0;
    // Relaxed: the number changes only while a child has only one thread, so no other thread reads it meanwhile.
    #[cfg(not(timebox_loom))]
    GENERATION.load(Ordering::Relaxed)
}

/// A handler that runs in each forked child before `fork` returns there. Each handler is a `static`.
///
/// `install` waits for no other thread, because that thread could be lost in a fork. So two threads may install the
/// same handler at once. Then a child calls the handler twice, so a second call must do no harm.
#[cfg(not(timebox_loom))]
pub(crate) struct InChild {
    installed: AtomicBool,
    handler: extern "C" fn(),
}

#[cfg(not(timebox_loom))]
impl InChild {
    pub(crate) const fn new(handler: extern "C" fn()) -> Self {
        Self { installed: AtomicBool::new(false), handler }
    }

    /// Makes every child that is forked from now on call the handler. In the handler, [`generation`] is already the
    /// child's own. Further calls of `install` do nothing.
    #[inline]
    pub(crate) fn install(&self) {
        // Acquire: pairs with the Release in `install_now`.
        if !self.installed.load(Ordering::Acquire) {
            self.install_now();
        }
    }

    #[cold]
    fn install_now(&self) {
        if !std::ptr::eq(self, &raw const COUNT) {
            // Handlers run in the order of their installation. `COUNT` is installed first, so a child has its new
            // generation before `self.handler` runs.
            COUNT.install();
        }
        at_fork_in_child(self.handler);
        self.installed.store(true, Ordering::Release);
    }
}

#[cfg(not(timebox_loom))]
static COUNT: InChild = InChild::new(count_generation);

/// From now on, each forked child gets its own [`generation`]. [`PerProcess`] and [`ForkMutex`] need this to notice a
/// fork, so call it before they are used. `InChild::install` calls it too.
#[cfg(all(feature = "report", not(timebox_loom)))]
pub(crate) fn count_forks() {
    COUNT.install();
}

#[cfg(not(timebox_loom))]
extern "C" fn count_generation() {
    // Relaxed: this is the child's only thread.
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

#[cfg(all(unix, not(timebox_loom)))]
fn at_fork_in_child(child: extern "C" fn()) {
    #[cfg(not(miri))]
    // SAFETY: the function lives as long as the process. If the call fails for lack of memory, the crate does not
    // notice forks.
    unsafe {
        libc::pthread_atfork(None, None, Some(child));
    }
    #[cfg(miri)]
    let _ = child;
}

#[cfg(not(any(unix, timebox_loom)))]
fn at_fork_in_child(_child: extern "C" fn()) {}

/// Tells a process from its forked children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(u32);

impl Process {
    #[cfg(feature = "testing")]
    pub(crate) const NONE: Self = Self(u32::MAX);

    #[inline]
    pub(crate) fn current() -> Self {
        Self(generation())
    }

    /// Whether `self` is the process that runs now. `false` in a forked child of `self`.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn is_current(self) -> bool {
        self.0 == generation()
    }

    /// Whether this process was forked from a process that used this crate.
    #[inline]
    pub(crate) fn is_child(self) -> bool {
        self.0 != 0
    }
}

/// A value that each process has for itself. A forked child makes its own value at first use. It does not use the
/// parent's value: a lock in it may be held for ever, by a thread that the child does not have.
pub(crate) struct PerProcess<T> {
    value: T,
    make: fn() -> T,
    /// The value for the processes that are forked from this process.
    next: SetOnce<Self>,
}

impl<T> PerProcess<T> {
    pub(crate) const fn new(value: T, make: fn() -> T) -> Self {
        Self { value, make, next: SetOnce::new() }
    }

    #[inline]
    pub(crate) fn get(&self) -> &T {
        match generation() {
            0 => &self.value,
            generation => self.of(generation),
        }
    }

    #[cold]
    fn of(&self, generation: u32) -> &T {
        let mut process = self;
        for _ in 0..generation {
            process = process.next.get_or_init(|| Self::new((self.make)(), self.make));
        }
        &process.value
    }
}

impl<T> std::fmt::Debug for PerProcess<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PerProcess").finish_non_exhaustive()
    }
}

/// A mutex for processes that fork. If another thread held the lock at the fork, nobody in the child can ever release
/// it. Then the child gets no lock, so that it does not wait for ever.
#[derive(Debug)]
pub(crate) struct ForkMutex<T> {
    /// The upper bits are the [`generation`] of the process that last used the lock. The two lowest bits are the lock's
    /// [`Phase`] in that process.
    #[cfg(not(timebox_loom))]
    used: AtomicU32,
    inner: Mutex<T>,
}

/// What this process knows about a lock that its parent may have used before the fork. Kept in the lower bits of
/// `ForkMutex::used`.
#[cfg(not(timebox_loom))]
#[derive(Clone, Copy)]
enum Phase {
    Usable = 0,
    /// The first thread that uses the lock in this process is finding out whether the lock was held at the fork.
    Adopting = 1,
    /// The lock was held at the fork, and stays held for ever.
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

    /// Locks. `None` in a forked child if the lock was held at the fork: nobody will ever unlock it.
    #[inline]
    pub(crate) fn lock(&self) -> Option<MutexGuard<'_, T>> {
        // Acquire: pairs with the Release in `adopt`. So the lock below is taken after the `try_lock` in `adopt`. In
        // the other order, `try_lock` could fail because of this thread, and `adopt` would take the lock for lost.
        #[cfg(not(timebox_loom))]
        if self.used.load(Ordering::Acquire) != Phase::Usable.now() {
            return self.adopt();
        }
        Some(lock(&self.inner))
    }

    /// The value. The caller has the only reference, so no lock is needed. `None`: the lock's holder was lost in a
    /// fork.
    #[inline]
    pub(crate) fn get_mut(&mut self) -> Option<&mut T> {
        #[cfg(not(timebox_loom))]
        if *self.used.get_mut() != Phase::Usable.now() {
            drop(self.adopt()?);
        }
        Some(self.inner.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Makes the lock usable in a child, at its first use there. If a thread held the lock at the fork, the lock is
    /// lost instead, and the result is `None`.
    ///
    /// No thread of this process can take the lock before this is done. So if the lock is held meanwhile, it was held
    /// at the fork.
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
                // Another thread of this process is adopting the lock. That thread waits for nobody, so this wait takes
                // only a moment.
                std::thread::yield_now();
                used = self.used.load(Ordering::Acquire);
                continue;
            }
            // Acquire: pairs with the Release below, as in `lock`.
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
